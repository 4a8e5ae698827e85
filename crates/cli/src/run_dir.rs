//! The run directory: what may be written where, and where a run goes on.

use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::Result;
use mesp::train::{checkpoint, replay};
use mesp_formats::Error as FileError;
use mesp_formats::atomic::{create_dir_all, remove_leftovers};
use mesp_formats::peft::{CONFIG_FILE, MODEL_FILE};

use crate::args::CommonArgs;
use crate::inputs::usage;
use crate::outputs::{self, Inputs};
use crate::replaced::{Replaced, is_of_run};
use crate::{metrics, run_json, tokens, ui};

/// The directory of a run that names none.
pub(crate) const DEFAULT: &str = "mesp-out";

pub(crate) const CHECKPOINTS: &str = "checkpoints";
pub(crate) const LOCK: &str = "run.lock";

/// Where a run goes, and how it begins there.
pub(crate) struct RunDir {
    pub(crate) path: PathBuf,
    /// The checkpoint to go on from.
    pub(crate) resume: Option<PathBuf>,
    /// Whether a run that is there goes.
    replace: bool,
    /// The run that was there, until this one has something to show.
    old: Option<Replaced>,
    /// Held while the run writes; let go before what is fresh goes.
    _lock: Option<Lock>,
    fresh: Fresh,
}

/// A folder that was not there before: it goes again when the run is refused before it has begun. In one that was,
/// tokens stay for the next try.
#[derive(Default)]
struct Fresh(Option<PathBuf>);

impl Drop for Fresh {
    fn drop(&mut self) {
        if let Some(folder) = self.0.take() {
            // An error is on its way to the user already. Only what this program made goes.
            let _ = fs::remove_dir_all(folder.join(tokens::FOLDER));
            let _ = fs::remove_dir(&folder);
        }
    }
}

/// The mark of a folder that a run writes to; it goes with this, however the process ends.
struct Lock {
    path: PathBuf,
    _file: File,
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Gone before the lock is; a file that stays does no harm.
        let _ = fs::remove_file(&self.path);
    }
}

impl Lock {
    /// No other run may write to a folder until this goes. A file system without locks is no reason to refuse.
    fn take(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(LOCK);
        loop {
            let open = File::options().create(true).append(true).open(&path);
            let file = open.map_err(|e| FileError::io("create", &path, e))?;
            match file.try_lock() {
                // Whoever held it before may have removed the name in between: then this is nobody's lock.
                Ok(()) if outputs::is_at(&file, &path) => return Ok(Some(Self { path, _file: file })),
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    let problem = format!("{}: another run is writing there", folder.display());
                    return Err(usage(problem, "wait for it to end, or name another folder with --output"));
                }
                Err(TryLockError::Error(_)) => return Ok(None),
            }
        }
    }
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
                Err(mesp::Error::Usage { .. }) if path.join(metrics::FILE).is_file() => {
                    ui::note(format!("{shown}: the run had no checkpoint yet; it begins again at step 0"));
                    begun = true;
                    None
                }
                found => Some(found?),
            },
            Some(Some(given)) if !given.is_dir() => {
                let problem = format!("{}: expected a checkpoint folder, found none", given.display());
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
        if args.zeroth.full && model.exists() && !is_of_run(&path, checkpoint::MODEL) {
            let problem = format!(
                "{}: something is there already, and no run of this folder wrote it",
                model.display()
            );
            return Err(usage(problem, "name another folder with --output, or move that away"));
        }
        Ok(Self { path, resume, replace, old: None, _lock: None, fresh: Fresh::default() })
    }

    /// The same, and takes the directory: no other run may write there until this process ends, however it ends.
    /// What killed processes have left half-written goes, and a run that one of them was about to replace is back.
    pub(crate) fn take(
        args: &CommonArgs,
        read: &Inputs,
        mut replaceable: impl FnMut(&Path) -> bool,
    ) -> Result<Self> {
        let path = place(args)?;
        let mut fresh = Fresh::default();
        if !path.is_dir() {
            // Nothing is made for a command that is refused.
            Self::look(args, read, &mut replaceable)?;
            if let Some(above) = path.parent().filter(|above| !above.as_os_str().is_empty()) {
                create_dir_all(above)?;
            }
            match fs::create_dir(&path) {
                Ok(()) => fresh.0 = Some(path.clone()),
                // Another process was faster; whose folder it is, the lock says.
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                Err(e) => return Err(FileError::io("create the folder", &path, e).into()),
            }
        }
        let lock = Lock::take(&path)?;
        let old = Replaced::recover(&path, args.output.resume.is_some());
        for folder in ["", CHECKPOINTS, tokens::FOLDER] {
            remove_leftovers(&path.join(folder))?;
        }
        let looked = Self::look(args, read, replaceable)?;
        Ok(Self { old, _lock: lock, fresh, ..looked })
    }

    /// Puts what an earlier run of this program wrote there aside, if it is to go. From here on the folder stays.
    pub(crate) fn begin(&mut self) -> Result<()> {
        self.fresh.0.take();
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
    let names = [MODEL_FILE, CONFIG_FILE, run_json::FILE, CHECKPOINTS, replay::FILE, Replaced::FOLDER];
    let filled =
        || fs::metadata(path.join(metrics::FILE)).is_ok_and(|there| there.is_file() && there.len() > 0);
    names.into_iter().find(|name| path.join(name).exists()).or_else(|| filled().then_some(metrics::FILE))
}
