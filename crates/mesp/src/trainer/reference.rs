//! The log-probabilities of a reference model: computed once, before a run, and kept in a file.

use std::hash::Hasher as _;
use std::io::{BufWriter, IntoInnerError, Seek as _, Write};
use std::path::Path;
use std::sync::Arc;

use mesp_device::{Real, Threads};
use mesp_formats::Error as FileError;
use mesp_formats::atomic::{create_dir_all, write_atomic_with};
use mesp_formats::regular;
use twox_hash::XxHash64;

use super::Evaluator;
use crate::Result;
use crate::data::{
    BatchSize, Batches, Examples, RaggedBatch, ReferenceFile, ReferenceWriter, ReferencedRows, Rows, Subset,
};
use crate::model::ModelWeights;
use crate::settings::{Numbers, Setup};
use crate::source::fingerprint::{self, Extent};
use crate::train::{ObjectiveKind, Staging, log_probabilities};
use crate::{Error, ErrorKind};

/// The reference of a preference loss, and how its log-probabilities are computed and kept.
#[derive(Debug, Clone, Copy)]
pub struct ReferenceModel<'a> {
    /// The model, with weights as they are stored, and its adapter.
    pub model: Evaluator<'a>,
    /// Rows that are computed at once.
    pub size: BatchSize,
    /// The folder in which the values are kept for later runs; without one they go with the process.
    pub cache: Option<&'a Path>,
    /// The folder of the temporary file.
    pub beside: &'a Path,
}

impl Setup {
    /// The rows of a run with the log-probabilities of its reference, where its loss reads some: those that the run
    /// comes to, and all that are held out. `arena` is what the run takes: with a memory budget the reference takes no
    /// more. The values are kept in the folder `cache`, or go with the process, in a temporary file in `beside`. `done` is
    /// told how many rows of how many were computed.
    ///
    /// # Errors
    /// When a row or the reference's adapter cannot be read, the values cannot be written, or there is no memory.
    pub fn referenced<R: Real>(
        &self,
        rows: Rows,
        (model, arena): (&Arc<ModelWeights>, u64),
        numbers: Numbers,
        pool: &Arc<Threads>,
        (cache, beside): (Option<&Path>, &Path),
        done: &mut dyn FnMut(usize, usize),
    ) -> Result<Rows> {
        if self.options.objective.preference().is_none_or(|preference| !preference.has_reference()) {
            return Ok(rows);
        }
        let model = Evaluator {
            model,
            adapter: self.reference_adapter(),
            policy: self.options.policy,
            numbers,
            pool,
            advice: self.has_budget(),
            limit: self.has_budget().then_some(arena),
        };
        let reference = ReferenceModel { model, size: self.run.micro_batch(), cache, beside };
        let wanted = self.visited(&rows)?;
        let train = reference.rows::<R>(rows.train, wanted.as_ref(), done)?;
        let eval =
            if rows.eval.count() > 0 { reference.rows::<R>(rows.eval, None, done)? } else { rows.eval };
        Ok(Rows { train, eval, ..rows })
    }

    /// The rows that a run of less than an epoch comes to.
    fn visited(&self, rows: &Rows) -> Result<Option<Subset>> {
        let mut batches = Batches::new(&*rows.train, self.run.micro_batch(), self.run.seed)?;
        let (_, count) = self.run.steps(&mut batches)?;
        if count >= batches.per_epoch()? {
            return Ok(None);
        }
        let mut visited = Subset::none_of(rows.train.count());
        for batch in 0..count {
            for place in batches.places(0, batch)? {
                visited.choose(batches.row(place));
            }
        }
        visited.finish();
        Ok(Some(visited))
    }
}

impl ReferenceModel<'_> {
    /// Rows with their log-probabilities under the reference: all of them, or those that are `wanted`.
    ///
    /// # Errors
    /// When a row or the adapter cannot be read, the values cannot be written, or there is no memory.
    pub fn rows<R: Real>(
        &self,
        rows: Arc<dyn Examples>,
        wanted: Option<&Subset>,
        done: &mut dyn FnMut(usize, usize),
    ) -> Result<Arc<dyn Examples>> {
        let (key, count) = (self.key::<R>(&*rows, wanted)?, rows.count());
        let values = match self.cache {
            None => {
                let failed =
                    |e| FileError::io("keep log-probabilities in a temporary file in", self.beside, e);
                let file = tempfile::tempfile_in(self.beside).map_err(failed)?;
                let mut out = BufWriter::new(file);
                self.write::<R>(&*rows, wanted, (key, self.beside), &mut out, done)?;
                let mut file = out.into_inner().map_err(IntoInnerError::into_error).map_err(failed)?;
                file.rewind().map_err(failed)?;
                ReferenceFile::open(self.beside, file, key, count)?
            }
            Some(folder) => {
                let path = folder.join(format!("{key:032x}.reference"));
                let open = || -> Result<Option<ReferenceFile>> {
                    if !path.exists() {
                        return Ok(None);
                    }
                    ReferenceFile::open(&path, regular::open(&path)?, key, count)
                };
                if let Some(found) = open()? {
                    Some(found)
                } else {
                    create_dir_all(folder)?;
                    write_atomic_with(&path, |out| -> Result<()> {
                        self.write::<R>(&*rows, wanted, (key, &path), out, done)
                    })?;
                    open()?
                }
            }
        };
        let Some(values) = values else {
            let place = self.cache.unwrap_or(self.beside);
            return Err(FileError::invalid(place, ErrorKind::Malformed)
                .what("the log-probabilities that were written there cannot be read again")
                .into());
        };
        Ok(Arc::new(ReferencedRows { rows, values: Arc::new(values) }))
    }

    /// What the values depend on.
    fn key<R: Real>(&self, rows: &dyn Examples, wanted: Option<&Subset>) -> Result<u128> {
        let mut hash = [0, 1].map(XxHash64::with_seed);
        let mut take = |bytes: &[u8]| hash.iter_mut().for_each(|half| half.write(bytes));
        let Evaluator { model, adapter, numbers, policy, .. } = self.model;
        let adapter = adapter.map(fingerprint::adapter).transpose()?;
        let model = fingerprint::weights(model, Extent::Samples);
        let with = (size_of::<R>(), numbers.name(), policy.activations().name());
        take(format!("{model} {} {with:?}", adapter.unwrap_or_default()).as_bytes());
        let mut batch = RaggedBatch::default();
        for row in 0..rows.count() {
            batch.clear();
            rows.append(row, &mut batch)?;
            rows.append_mismatched(row, &mut batch)?;
            let wanted = wanted.is_none_or(|wanted| wanted.has(row));
            take(&[u8::from(wanted)]);
            batch.offsets.iter().for_each(|offset| take(&offset.to_le_bytes()));
            batch.tokens.iter().for_each(|token| take(&token.to_le_bytes()));
            batch.labels.iter().for_each(|label| take(&label.to_le_bytes()));
        }
        let [high, low] = hash.map(|half| u128::from(half.finish()));
        Ok(high << 64 | low)
    }

    /// Computes the values and writes their file; `path` is for messages.
    fn write<R: Real>(
        &self,
        rows: &dyn Examples,
        wanted: Option<&Subset>,
        (key, path): (u128, &Path),
        out: &mut dyn Write,
        done: &mut dyn FnMut(usize, usize),
    ) -> Result<()> {
        let failed = |e| FileError::io("write", path, e);
        let mut session = self.model.session::<R>(rows, self.size, ObjectiveKind::Sft)?;
        let (count, mut row) = (rows.count(), 0);
        let mut writer = ReferenceWriter::new(out, key, count).map_err(failed)?;
        let (all, mut computed) = (wanted.map_or(count, Subset::count), 0);
        let wanted = |row: usize| wanted.is_none_or(|wanted| wanted.has(row));
        let mut staging = Staging::default();
        log_probabilities(&mut session, rows, &wanted, self.size, &mut staging, &mut |values| {
            if wanted(row) && !values.iter().all(|value| value.is_finite()) {
                let origin = rows.read(row)?.origin;
                let problem = format!("{origin}: a log-probability under the reference is {values:?}");
                return Err(Error::usage(ErrorKind::NotFinite, problem)
                    .hint("look at the weights of the reference, and at its adapter"));
            }
            computed += usize::from(wanted(row));
            row += 1;
            done(computed, all);
            Ok(writer.row(values).map_err(failed)?)
        })?;
        writer.finish().map_err(failed)?;
        Ok(())
    }
}
