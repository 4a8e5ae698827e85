//! What an adapter adds to the matrices of its base.

use std::collections::BTreeMap;
use std::path::Path;

use mesp_formats::peft::Matrix;

use super::adapter::{AdapterFile, reordered};
use crate::Result;
use crate::arch::{Config, EMBEDDING, HEAD};

/// An adapter by the checkpoint names of what it changes.
pub(crate) struct Change {
    file: AdapterFile,
    names: BTreeMap<String, usize>,
}

impl Change {
    pub(crate) fn open(path: &Path, config: &Config) -> Result<Self> {
        let file = AdapterFile::open(path, Some(config))?;
        let names =
            file.lora().pairs.iter().enumerate().map(|(i, p)| (format!("{}.weight", p.path()), i)).collect();
        Ok(Self { file, names })
    }

    /// Holds whole tables that the adapter's file has against the base's.
    ///
    /// # Errors
    /// When one differs.
    pub(crate) fn check_tables(&self, base: &Path) -> Result<()> {
        self.file.check_tables_of(base)
    }

    /// The names of weights that are changed.
    pub(crate) fn names(&self) -> impl Iterator<Item = &String> {
        self.names.keys()
    }

    /// Whether a weight is changed.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.names.contains_key(name)
    }

    /// Whether a model's head is no longer its embeddings afterwards.
    pub(crate) fn unties(&self, config: &Config) -> bool {
        config.tied && (self.has(HEAD) || self.has(EMBEDDING))
    }

    /// Weights that are changed.
    pub(crate) fn len(&self) -> usize {
        self.names.len()
    }

    /// The change of a weight; row `r` is that of the checkpoint's row `rows[r]`, if given.
    pub(crate) fn of(&self, name: &str, rows: Option<&[usize]>) -> Result<Option<Delta>> {
        let Some(&i) = self.names.get(name) else { return Ok(None) };
        let pair = &self.file.lora().pairs[i];
        let (a, mut b) = (self.file.values(i, Matrix::A)?, self.file.values(i, Matrix::B)?);
        let mut m = if pair.magnitudes { Some(self.file.values(i, Matrix::M)?) } else { None };
        if let Some(rows) = rows {
            b = reordered(&b, pair.rank, rows);
            m = m.map(|m| reordered(&m, 1, rows));
        }
        Ok(Some(Delta { a, b, m, rank: pair.rank, scale: pair.scale as f32 }))
    }
}

/// s·B·A, and magnitudes where there are any, row by row.
pub(crate) struct Delta {
    a: Vec<f32>,
    b: Vec<f32>,
    m: Option<Vec<f32>>,
    rank: usize,
    scale: f32,
}

impl Delta {
    /// `x ← x + s·B·A` of a row, with magnitudes `m·(x + s·B·A)/‖x + s·B·A‖`; gives the sum of squares of the change.
    pub(crate) fn apply(&self, row: usize, x: &mut [f32], scratch: &mut [f32]) -> f64 {
        scratch.fill(0.0);
        for (b, a) in self.b[row * self.rank..][..self.rank].iter().zip(self.a.chunks_exact(x.len())) {
            for (d, a) in scratch.iter_mut().zip(a) {
                *d += b * a;
            }
        }
        let mut gain = 1.0;
        if let Some(m) = &self.m {
            let square = |(x, d): (&f32, &f32)| f64::from(*x + self.scale * d).powi(2);
            gain = f64::from(m[row]) / x.iter().zip(&*scratch).map(square).sum::<f64>().sqrt();
        }
        let mut change = 0.0;
        for (x, d) in x.iter_mut().zip(scratch) {
            let mut new = *x + self.scale * *d;
            if self.m.is_some() {
                new = (f64::from(new) * gain) as f32;
                change += f64::from(new - *x).powi(2);
            } else {
                change += f64::from(self.scale * *d).powi(2);
            }
            *x = new;
        }
        change
    }
}

/// What is said where [`Change::unties`].
pub(crate) const UNTIED: &str = "the base's head is its embeddings, and the adapter changes them apart: the merged model has \
     a head of its own, one table larger than the base";
