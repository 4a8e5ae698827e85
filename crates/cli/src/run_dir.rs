//! The run directory: what may be written where, and where a run goes on.

use std::fs::{self, File, TryLockError};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Result;
use mesp::train::{checkpoint, replay};
use mesp_formats::Error as FileError;
use mesp_formats::atomic::{create_dir_all, remove_leftovers};
use mesp_formats::peft::{CONFIG_FILE, MODEL_FILE};
use mesp_formats::regular;

use crate::args::CommonArgs;
use crate::failure::usage;
use crate::interrupt::{self, Undo};
use crate::outputs::{self, Inputs};
use crate::replaced::{Replaced, is_of_run};
use crate::run_files::{self, CHECKPOINTS, LOCK};
use crate::{metrics, tokens, ui};

/// The directory of a run that names none.
pub(crate) const DEFAULT: &str = "mesp-out";

/// Where a run goes, and how it begins there.
pub(crate) struct RunDir {
    pub(crate) path: PathBuf,
    /// The checkpoint to go on from.
    pub(crate) resume: Option<PathBuf>,
    /// Whether a run that is there goes.
    replace: bool,
    /// The run that was there, until this one has something to show. Put back before the folder is let go.
    old: Option<Replaced>,
    held: Option<Held>,
}

/// A folder that a run writes to: no other may until this goes, however the process ends.
struct Held {
    place: Arc<Place>,
    /// The mark, locked; none where the file system has no locks, which is no reason to refuse.
    _lock: Option<File>,
    _undo: Undo,
}

/// What is undone of a folder when its run ends, or is refused before it has begun.
struct Place {
    folder: PathBuf,
    /// It was not there before. In one that was, tokens stay for the next try.
    fresh: AtomicBool,
}

impl Place {
    /// In this order: tokens go while nobody else may make some, and the folder only if nobody has taken it since.
    fn undo(&self) {
        let fresh = self.fresh.load(Ordering::Relaxed);
        // An error is on its way to the user already. Only what this program made goes.
        if fresh {
            let _ = fs::remove_dir_all(self.folder.join(tokens::FOLDER));
        } else {
            let _ = remove_leftovers(&self.folder.join(tokens::FOLDER));
        }
        let _ = fs::remove_file(self.folder.join(LOCK));
        if fresh {
            let _ = fs::remove_dir(&self.folder);
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // Before the lock is let go.
        self.place.undo();
    }
}

impl Held {
    /// Takes a folder; none where it is gone. `fresh` says that this process made it.
    fn take(folder: &Path, fresh: bool) -> Result<Option<Self>> {
        let path = folder.join(LOCK);
        regular::refuse_other(&path)?;
        let lock = loop {
            let open = File::options().create(true).append(true).open(&path);
            let mut file = match open {
                Err(e) if e.kind() == ErrorKind::NotFound && !folder.exists() => return Ok(None),
                open => open.map_err(|e| FileError::io("create", &path, e))?,
            };
            match file.try_lock() {
                // Whoever held it before may have removed the name in between: then this is nobody's lock.
                Ok(()) if outputs::is_at(&file, &path) => {
                    // For others to read; that they cannot is no reason to refuse.
                    let _ = file.set_len(0).and_then(|()| writeln!(file, "{}", this_process()));
                    break Some(file);
                }
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Err(taken(folder)),
                Err(TryLockError::Error(_)) => break None,
            }
        };
        let place = Arc::new(Place { folder: folder.to_path_buf(), fresh: AtomicBool::new(fresh) });
        let undone = Arc::clone(&place);
        Ok(Some(Self { place, _lock: lock, _undo: interrupt::undo(move || undone.undo()) }))
    }
}

/// Says who writes to a folder.
fn taken(folder: &Path) -> anyhow::Error {
    // Its number is written just after the lock is taken.
    let told = (0..20).find_map(|turn| {
        if turn > 0 {
            std::thread::sleep(Duration::from_millis(5));
        }
        let text = regular::read_text(&folder.join(LOCK), 1000).ok()?;
        Some(text.trim().to_owned()).filter(|text| !text.is_empty())
    });
    let holder = told.unwrap_or_else(|| "its number is not known".to_owned());
    let problem = format!("{}: another run is writing there ({holder})", folder.display());
    usage(problem, "wait for it to end, or name another folder with --output")
}

/// This process, as another may look for it.
fn this_process() -> String {
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let at = if host.trim().is_empty() { String::new() } else { format!(" on {}", host.trim()) };
    format!("process {}{at}", std::process::id())
}

impl RunDir {
    /// Looks at the directory and changes nothing. A run that is there is neither overwritten nor mixed with a
    /// new one, unless that is asked for; `replaceable` says of a directory that its run may go anyhow. `read` is
    /// what the run reads: no part of a run that is replaced may be among it.
    pub(crate) fn look(
        args: &CommonArgs,
        read: &Inputs,
        replaceable: impl FnOnce(&Path) -> bool,
    ) -> Result<Self> {
        let path = place(args)?;
        let shown = path.display();
        // A run that was killed before its first checkpoint is begun again.
        let mut begun = false;
        let resume = match &args.output.resume {
            None => None,
            Some(None) => match checkpoint::latest(&path) {
                Err(error)
                    if error.kind() == mesp::ErrorKind::Missing && path.join(metrics::FILE).is_file() =>
                {
                    ui::note(format!("{shown}: the run had no checkpoint yet; it begins again at step 0"));
                    begun = true;
                    None
                }
                found => Some(found?),
            },
            Some(Some(given)) if !given.is_dir() => {
                let found = regular::other_than_file(given).unwrap_or("none");
                let problem = format!("{}: expected a checkpoint folder, found {found}", given.display());
                return Err(usage(problem, "checkpoints are in checkpoints/step-N/ of a run's folder"));
            }
            Some(Some(given)) if outputs::is_same_file(given, &path) => {
                let problem = format!("{shown}: a checkpoint, expected the folder of the run that it is of");
                return Err(usage(problem, "name the run's folder with --output"));
            }
            Some(Some(given)) => Some(given.clone()),
        };
        let mut replace = args.output.overwrite;
        if let (Some(found), None, false) = (run_in(&path).filter(|_| !begun), &resume, replace) {
            if !replaceable(&path) {
                return Err(usage(
                    format!("{shown}: a run is there already (found {found})"),
                    "go on with it by --resume, replace it by --overwrite, or name another folder with --output",
                ));
            }
            replace = true;
        }
        if resume.is_none() {
            // Of a folder `model` that is there before a first run nothing is replaced.
            let kept = |name: &&str| replace || *name != checkpoint::MODEL;
            for name in Replaced::NAMES.into_iter().filter(kept) {
                read.spared_by(&path.join(name))?;
            }
        }
        let model = path.join(checkpoint::MODEL);
        if args.full() && model.exists() && !is_of_run(&path, checkpoint::MODEL) {
            let problem = format!(
                "{}: something is there already, and no run of this folder wrote it",
                model.display()
            );
            return Err(usage(problem, "name another folder with --output, or move that away"));
        }
        Ok(Self { path, resume, replace, old: None, held: None })
    }

    /// The same, and takes the directory: no other run may write there until this process ends, however it ends.
    /// What killed processes have left half-written goes, and a run that one of them was about to replace is back.
    pub(crate) fn take(
        args: &CommonArgs,
        read: &Inputs,
        mut replaceable: impl FnMut(&Path) -> bool,
    ) -> Result<Self> {
        let path = place(args)?;
        let held = loop {
            let mut fresh = false;
            if !path.is_dir() {
                // Nothing is made for a command that is refused.
                Self::look(args, read, &mut replaceable)?;
                if let Some(above) = path.parent().filter(|above| !above.as_os_str().is_empty()) {
                    create_dir_all(above)?;
                }
                match fs::create_dir(&path) {
                    Ok(()) => fresh = true,
                    // Another process was faster; whose folder it is, the lock says.
                    Err(e) if e.kind() == ErrorKind::AlreadyExists && (path.is_dir() || !path.exists()) => {}
                    Err(e) => return Err(FileError::io("create the folder", &path, e).into()),
                }
            }
            // One that was refused has taken its folder away again: once more.
            let held = Held::take(&path, fresh).inspect_err(|_| {
                if fresh {
                    let _ = fs::remove_dir(&path);
                }
            })?;
            if let Some(held) = held {
                break held;
            }
        };
        let old = Replaced::recover(&path, args.output.resume.is_some());
        for folder in ["", CHECKPOINTS, tokens::FOLDER] {
            remove_leftovers(&path.join(folder))?;
        }
        let looked = Self::look(args, read, replaceable)?;
        Ok(Self { old, held: Some(held), ..looked })
    }

    /// Puts what an earlier run of this program wrote there aside, if it is to go. From here on the folder stays.
    pub(crate) fn begin(&mut self) -> Result<()> {
        if let Some(held) = &self.held {
            held.place.fresh.store(false, Ordering::Relaxed);
        }
        if self.replace {
            self.old = Replaced::put_aside(&self.path)?;
        }
        Ok(())
    }

    /// The run has a checkpoint, or has ended well: the one that was there before is not needed any more.
    pub(crate) fn settle(&mut self) {
        if let Some(old) = self.old.take() {
            old.drop_it();
        }
    }

    /// [`settle`](Self::settle), if the run left something to go on from.
    pub(crate) fn end(&mut self, well: bool) {
        if well || (self.old.is_some() && checkpoint::latest(&self.path).is_ok()) {
            self.settle();
        }
    }
}

/// The directory, if it is one that a run may be written to.
fn place(args: &CommonArgs) -> Result<PathBuf> {
    let path = args.output.output.clone().unwrap_or_else(|| PathBuf::from(DEFAULT));
    let shown = path.display();
    if path.exists() && !path.is_dir() {
        let problem = format!("{shown}: expected a folder to write the run to, found a file");
        return Err(usage(problem, "name another folder with --output"));
    }
    if outputs::is_model(&path) {
        let problem = format!(
            "{shown}: expected a folder to write the run to, found a model (config.json and weights)"
        );
        return Err(usage(problem, "name another folder with --output"));
    }
    Ok(path)
}

/// What says that a run is in a folder.
fn run_in(path: &Path) -> Option<&'static str> {
    let names = [MODEL_FILE, CONFIG_FILE, run_files::DOCUMENT, CHECKPOINTS, replay::FILE, Replaced::FOLDER];
    let filled =
        || fs::metadata(path.join(metrics::FILE)).is_ok_and(|there| there.is_file() && there.len() > 0);
    names.into_iter().find(|name| path.join(name).exists()).or_else(|| filled().then_some(metrics::FILE))
}
