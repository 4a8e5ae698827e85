//! What is written of a run: checkpoints on the way, and what it came to, however it ended.

use std::fmt::Write as _;
use std::path::Path;

use mesp_device::Backend;

use super::Run;
use crate::train::progress::Evaluated;
use crate::train::{Event, Notice, Update, checkpoint, full};
use crate::{Error, Result};

impl<B: Backend> Run<B> {
    /// Writes a checkpoint, and removes those that are too many.
    pub(super) fn checkpoint(&mut self, best: bool, emit: &mut dyn FnMut(&Event)) -> Result<()> {
        let Some(dir) = &self.config.output else { return Ok(()) };
        self.summary.checkpoint = Some(self.save_state(dir)?);
        let path = checkpoint::name(self.progress.step);
        self.tell(Notice::Checkpoint { path, best }, emit);
        if let Some(limit) = self.config.save_total_limit {
            let best = self.progress.best.map(|b| b.step);
            for step in checkpoint::prune(dir, limit, best)? {
                self.tell(Notice::Removed { path: checkpoint::name(step) }, emit);
            }
        }
        Ok(())
    }

    /// Makes the run directory again when it has vanished, and writes a checkpoint, as the others went with it.
    pub(super) fn see_folder(&mut self, emit: &mut dyn FnMut(&Event)) -> Result<()> {
        let Some(dir) = self.config.output.as_ref().filter(|dir| !dir.is_dir()) else { return Ok(()) };
        mesp_formats::atomic::create_dir_all(dir)?;
        self.tell(Notice::FolderMadeAgain, emit);
        self.checkpoint(false, emit)
    }

    /// Writes what the run came to, however it ended. Where that fails, the state goes to another folder.
    pub(super) fn keep(&mut self, outcome: Result<()>, emit: &mut dyn FnMut(&Event)) -> Result<()> {
        let Some(dir) = self.config.output.clone() else { return outcome };
        let written = self.write(&dir, &outcome, emit);
        let cause = match (outcome, written) {
            (Ok(()), Ok(())) => return Ok(()),
            (Err(e), Ok(())) if !matches!(e, Error::File(_)) => return Err(e),
            (Err(e), _) | (Ok(()), Err(e)) => e,
        };
        let left = self.rescue(&dir);
        Err(Error::Ended { cause: Box::new(cause), left })
    }

    fn write(&mut self, dir: &Path, outcome: &Result<()>, emit: &mut dyn FnMut(&Event)) -> Result<()> {
        let best = self.progress.best.filter(|_| self.config.load_best_at_end && outcome.is_ok());
        if let (false, Some(Evaluated { step, loss: Some(loss), .. })) = (self.summary.interrupted, best) {
            self.summary.best_loaded = true;
            if step != self.progress.step {
                // The last adapter is kept too: as a checkpoint.
                self.checkpoint(false, emit)?;
                checkpoint::load_trained(&mut self.session, &dir.join(checkpoint::name(step)))?;
            }
            self.tell(Notice::BestLoaded { best_step: step, best_loss: loss }, emit);
        }
        if !self.session.options().trains_model() {
            self.save(dir)?;
        } else if outcome.is_ok() && !self.summary.interrupted {
            // Of a run that goes on, or failed, the checkpoint is the model: it is written once.
            let base = self.config.base_model.as_deref().unwrap_or_default();
            full::save(&self.session, Path::new(base), &dir.join(checkpoint::MODEL))?;
        }
        // A step that was refused before it was used can be tried again, in another way.
        let accumulates = self.session.options().update == Update::Accumulate && self.progress.step > 0;
        let refused = accumulates && matches!(outcome, Err(Error::NonFinite { .. } | Error::Spike { .. }));
        if self.summary.interrupted || refused {
            self.summary.checkpoint = Some(self.save_state(dir)?);
        }
        Ok(())
    }

    /// After a file could not be written: says what there is, and writes a checkpoint elsewhere.
    fn rescue(&self, dir: &Path) -> String {
        let step = self.progress.step;
        let mut left = match checkpoint::latest(dir) {
            Ok(path) => format!("step {step} was reached; the last checkpoint is {}", path.display()),
            Err(_) => format!("step {step} was reached; there is no checkpoint in {}", dir.display()),
        };
        let there = checkpoint::latest(dir).is_ok_and(|path| path.ends_with(checkpoint::name(step)));
        // The session may hold the best adapter by now, which is a checkpoint already.
        if there || step == 0 || self.summary.best_loaded {
            return left;
        }
        let elsewhere = std::env::temp_dir().join(format!("mesp-rescued-{}", std::process::id()));
        match self.save_state(&elsewhere) {
            Ok(path) => {
                let _ = write!(
                    left,
                    "; the state of step {step} was written to {}: ‘resume’ with this folder goes on from it",
                    path.display()
                );
            }
            Err(e) => {
                let _ = std::fs::remove_dir_all(&elsewhere);
                let _ = write!(left, "; the state of step {step} could not be written elsewhere either: {e}");
            }
        }
        left
    }
}
