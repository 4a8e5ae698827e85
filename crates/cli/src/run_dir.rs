//! The run directory: what may be written where, and where a run goes on.

use std::cell::Cell;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use anyhow::Result;
use mesp::train::{checkpoint, replay};
use mesp_formats::Error as FileError;
use mesp_formats::atomic::{create_dir_all, remove_leftovers};
use mesp_formats::peft::{CONFIG_FILE, MODEL_FILE};

use crate::args::OutputArgs;
use crate::inputs::usage;
use crate::{metrics, run_json, tensorboard, tokens, ui};

/// The directory of a run that names none.
pub(crate) const DEFAULT: &str = "mesp-out";

const CHECKPOINTS: &str = "checkpoints";
const LOCK: &str = "run.lock";

/// Where a run goes, and how it begins there.
pub(crate) struct RunDir {
    pub(crate) path: PathBuf,
    /// The checkpoint to go on from.
    pub(crate) resume: Option<PathBuf>,
    /// Held while the run writes.
    lock: Option<File>,
    /// Whether a run that is there goes.
    replace: bool,
    fresh: Fresh,
}

/// A folder that was not there before: it goes again when the run is refused before it has begun.
struct Fresh(Cell<Option<PathBuf>>);

impl Drop for Fresh {
    fn drop(&mut self) {
        if let Some(path) = self.0.take() {
            // An error is on its way to the user already. Only what this program made goes.
            let _ = fs::remove_dir_all(path.join(tokens::FOLDER));
            let _ = fs::remove_dir(&path);
        }
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        if self.lock.is_some() {
            // Gone before the lock is; a file that stays does no harm.
            let _ = fs::remove_file(self.path.join(LOCK));
        }
    }
}

impl RunDir {
    /// Looks at the directory and changes nothing. A run that is there is neither overwritten nor mixed with a
    /// new one, unless that is asked for; `replaceable` says of a directory that its run may go anyhow.
    pub(crate) fn look(args: &OutputArgs, replaceable: impl FnOnce(&Path) -> bool) -> Result<Self> {
        let path = args.output.clone().unwrap_or_else(|| PathBuf::from(DEFAULT));
        let shown = path.display();
        if path.exists() && !path.is_dir() {
            let problem = format!("{shown}: expected a folder to write the run to, found a file");
            return Err(usage(problem, "name another folder with --output"));
        }
        // A run that was killed before its first checkpoint is begun again.
        let mut begun = false;
        let resume = match &args.resume {
            None => None,
            Some(None) => match checkpoint::latest(&path) {
                Err(mesp::Error::Usage { .. }) if path.join(metrics::FILE).is_file() => {
                    ui::note(format!("{shown}: the run had no checkpoint yet; it begins again at step 0"));
                    begun = true;
                    None
                }
                found => Some(found?),
            },
            Some(Some(given)) if given.is_dir() => Some(given.clone()),
            Some(Some(given)) => {
                let problem = format!("{}: expected a checkpoint folder, found none", given.display());
                return Err(usage(problem, "checkpoints are in checkpoints/step-N/ of a run's folder"));
            }
        };
        let taken =
            [MODEL_FILE, run_json::FILE, CHECKPOINTS].into_iter().find(|name| path.join(name).exists());
        let mut replace = args.overwrite;
        if let (Some(found), None, false) = (taken.filter(|_| !begun), &resume, replace) {
            if !replaceable(&path) {
                return Err(usage(
                    format!("{shown}: a run is there already (found {found})"),
                    "go on with it by --resume, replace it by --overwrite, or name another folder with --output",
                ));
            }
            replace = true;
        }
        let fresh = Fresh(Cell::new((!path.exists()).then(|| path.clone())));
        Ok(Self { path, resume, lock: None, replace, fresh })
    }

    /// Makes the directory and takes it: no other run may write there until this process ends, however it ends.
    /// What killed processes have left half-written goes.
    pub(crate) fn make(&mut self) -> Result<()> {
        create_dir_all(&self.path)?;
        let path = self.path.join(LOCK);
        let open = File::options().create(true).append(true).open(&path);
        let lock = open.map_err(|e| FileError::io("create", &path, e))?;
        match lock.try_lock() {
            Ok(()) => self.lock = Some(lock),
            Err(TryLockError::WouldBlock) => {
                let problem = format!("{}: another run is writing there", self.path.display());
                return Err(usage(problem, "wait for it to end, or name another folder with --output"));
            }
            // A file system without locks is no reason to refuse.
            Err(TryLockError::Error(_)) => {}
        }
        for folder in ["", CHECKPOINTS, tokens::FOLDER] {
            remove_leftovers(&self.path.join(folder))?;
        }
        Ok(())
    }

    /// Removes what an earlier run of this program wrote there, if it is to go. From here on the folder stays.
    pub(crate) fn begin(&self) -> Result<()> {
        self.fresh.0.take();
        if self.replace {
            for name in [
                MODEL_FILE,
                CONFIG_FILE,
                metrics::FILE,
                run_json::FILE,
                replay::FILE,
                CHECKPOINTS,
                checkpoint::MODEL,
                tensorboard::FOLDER,
            ] {
                remove(&self.path.join(name))?;
            }
        }
        Ok(())
    }
}

fn remove(path: &Path) -> mesp::Result<()> {
    let gone =
        if path.is_dir() && !path.is_symlink() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match gone {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(FileError::io("remove", path, e).into()),
        _ => Ok(()),
    }
}
