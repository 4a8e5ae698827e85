//! A run that another one replaces: put aside when that one begins, dropped when it has a checkpoint or ends well, and
//! put back when it does neither.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::Result;
use mesp::train::{checkpoint, replay};
use mesp_formats::Error as FileError;
use mesp_formats::atomic::create_dir_all;
use mesp_formats::peft::{CONFIG_FILE, MODEL_FILE};
use mesp_formats::regular;
use serde_json::Value;

use crate::run_files::{self, CHECKPOINTS, LOCK};
use crate::{metrics, run_json, tensorboard, ui};

/// A run that was put aside, in a folder of the run directory.
pub(crate) struct Replaced {
    /// The run directory.
    run: PathBuf,
    settled: bool,
}

/// Says that all of the run was put aside: what has its names beside the folder is the new run's.
const ALL: &str = "all";

impl Replaced {
    /// Where it lies meanwhile.
    pub(crate) const FOLDER: &str = ".mesp-replaced";

    /// What a run writes.
    pub(crate) const NAMES: [&str; 8] = [
        MODEL_FILE,
        CONFIG_FILE,
        metrics::FILE,
        run_files::DOCUMENT,
        replay::FILE,
        CHECKPOINTS,
        checkpoint::MODEL,
        tensorboard::FOLDER,
    ];

    /// Puts a run aside; none where nothing of one is there.
    pub(crate) fn put_aside(run: &Path) -> Result<Option<Self>> {
        let names: Vec<_> = Self::NAMES.into_iter().filter(|name| is_of_run(run, name)).collect();
        if names.is_empty() {
            return Ok(None);
        }
        ui::note(format!("{}: the run that is there is replaced: {}", run.display(), names.join(", ")));
        let aside = run.join(Self::FOLDER);
        create_dir_all(&aside)?;
        let old = Self { run: run.to_path_buf(), settled: false };
        for name in names {
            rename(&run.join(name), &aside.join(name))?;
        }
        let mark = aside.join(ALL);
        File::create(&mark).map_err(|e| FileError::io("create", &mark, e))?;
        Ok(Some(old))
    }

    /// Where one lies that a process which is gone was about to replace.
    pub(crate) fn left_in(run: &Path) -> Option<PathBuf> {
        let aside = Some(run.join(Self::FOLDER)).filter(|folder| folder.is_dir())?;
        let held = regular::open(&run.join(LOCK)).is_ok_and(|lock| lock.try_lock().is_err());
        (!held).then_some(aside)
    }

    /// What a process that was killed had put aside: put back, or dropped where its own run has a checkpoint. One that
    /// goes on with the killed run keeps it aside.
    pub(crate) fn recover(run: &Path, resumes: bool) -> Option<Self> {
        if !run.join(Self::FOLDER).is_dir() {
            return None;
        }
        let old = Self { run: run.to_path_buf(), settled: false };
        let begun = old.run.join(Self::FOLDER).join(ALL).exists();
        if begun && checkpoint::latest(run).is_ok() {
            old.drop_it();
        } else if begun && resumes && run.join(metrics::FILE).is_file() {
            return Some(old);
        }
        // Else it goes back as it is dropped.
        None
    }

    /// Removes it.
    pub(crate) fn drop_it(mut self) {
        self.settled = true;
        let aside = self.run.join(Self::FOLDER);
        if let Err(e) = fs::remove_dir_all(&aside) {
            ui::note(format!("{}: the run that was replaced cannot be removed: {e}", aside.display()));
        }
    }

    fn put_back(&self) -> mesp_formats::Result<()> {
        let aside = self.run.join(Self::FOLDER);
        let mark = aside.join(ALL);
        if mark.exists() {
            // A folder `model` may be the user's, unless the run that is put back has one too.
            let new = |name: &&str| *name != checkpoint::MODEL || aside.join(name).exists();
            for name in Self::NAMES.into_iter().filter(new) {
                remove(&self.run.join(name))?;
            }
            remove(&mark)?;
        }
        for name in Self::NAMES.into_iter().filter(|name| fs::symlink_metadata(aside.join(name)).is_ok()) {
            rename(&aside.join(name), &self.run.join(name))?;
        }
        fs::remove_dir(&aside).map_err(|e| FileError::io("remove the folder", &aside, e))
    }
}

impl Drop for Replaced {
    fn drop(&mut self) {
        if self.settled {
            return;
        }
        let shown = self.run.display();
        ui::note(match self.put_back() {
            Ok(()) => format!("{shown}: the run that was there before is put back"),
            Err(e) => format!("{shown}: the run that was there before is in {}: {e}", Self::FOLDER),
        });
    }
}

/// Whether what has one of the names is a run's: a folder `model` only where the run that is there trained one.
pub(crate) fn is_of_run(run: &Path, name: &str) -> bool {
    let trained_model = || {
        let text = regular::read(&run.join(run_files::DOCUMENT), run_json::LIMIT).unwrap_or_default();
        serde_json::from_slice::<Value>(&text).is_ok_and(|document| document["full"].is_object())
    };
    fs::symlink_metadata(run.join(name)).is_ok() && (name != checkpoint::MODEL || trained_model())
}

fn rename(from: &Path, to: &Path) -> mesp_formats::Result<()> {
    fs::rename(from, to).map_err(|e| FileError::io("rename", from, e))
}

fn remove(path: &Path) -> mesp_formats::Result<()> {
    let gone =
        if path.is_dir() && !path.is_symlink() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match gone {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(FileError::io("remove", path, e)),
        _ => Ok(()),
    }
}
