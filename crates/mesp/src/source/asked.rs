//! What a model asks a source for.

use std::cell::RefCell;

use mesp_device::Weight;

use crate::model::WeightSource;
use crate::{Error, Result};

/// Passes a model's questions on and keeps them: names and shapes, in order.
pub(crate) struct Asked<'a> {
    source: &'a dyn WeightSource,
    found: RefCell<Vec<(String, Vec<usize>)>>,
}

impl<'a> Asked<'a> {
    pub(crate) fn new(source: &'a dyn WeightSource) -> Self {
        Self { source, found: RefCell::default() }
    }

    /// What was asked for and found.
    pub(crate) fn found(self) -> Vec<(String, Vec<usize>)> {
        self.found.into_inner()
    }
}

impl WeightSource for Asked<'_> {
    fn matrix(&self, name: &str, rows: usize, cols: usize) -> Result<Option<Weight>> {
        let weight = self.source.matrix(name, rows, cols)?;
        if weight.is_some() {
            self.found.borrow_mut().push((name.to_owned(), vec![rows, cols]));
        }
        Ok(weight)
    }

    fn vector(&self, name: &str, len: usize) -> Result<Option<Vec<f32>>> {
        let values = self.source.vector(name, len)?;
        if values.is_some() {
            self.found.borrow_mut().push((name.to_owned(), vec![len]));
        }
        Ok(values)
    }

    fn missing(&self, name: &str) -> Error {
        self.source.missing(name)
    }
}
