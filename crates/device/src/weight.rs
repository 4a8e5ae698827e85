//! Weights: parts of mapped files, bytes held in memory, or buffers of a backend that training moves.

use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use mesp_kernels::{Dtype, Noise, WeightView};

use crate::{Act, Elem, View};

use crate::signals::{Registered, register};

/// A file mapped read-only.
#[derive(Debug)]
pub struct Mapping {
    /// Before the mapping itself: forgotten before it goes.
    _registered: Registered,
    map: memmap2::Mmap,
}

impl Mapping {
    /// Maps a whole file.
    ///
    /// # Errors
    /// When the file cannot be opened or mapped; an empty file cannot be, and nothing but a regular one.
    pub fn open(path: &Path) -> std::io::Result<Self> {
        // Before it is opened, which of a pipe waits for somebody who writes to it.
        if !std::fs::metadata(path)?.is_file() {
            return Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, "it is no regular file"));
        }
        let file = File::open(path)?;
        // SAFETY: the mapping is read-only and private. Another process that truncates the file under us
        // ends this one by a signal, which `report_signals` explains; it cannot make us write.
        let map = unsafe { memmap2::Mmap::map(&file)? };
        Ok(Self { _registered: register(&map, path), map })
    }

    /// The file's bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// Lets pages go: they are read from the file again when they are needed.
    pub fn let_go(&self, range: Range<usize>) {
        // SAFETY: the mapping is of a file and never written, so that dropped pages come back with the
        // same content.
        let _ = unsafe {
            self.map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, range.start, range.len())
        };
    }
}

/// Bytes of a mapped weight that are used at a time where its pages are minded: few, so that little is resident,
/// and enough to keep all threads at work.
const STRETCH: usize = 4 << 20;
/// Rows of a stretch are a multiple of this: whole panels of a product, and an even depth, since pairs of bf16
/// are summed together. Where a product is cut otherwise changes no bit.
const ROWS: usize = 448;

/// Values of a weight that are moved along a direction at a time, in a tile beside it: 1 MB.
const TILE: usize = 256 << 10;
/// Rows of such a tile are a multiple of this: the widest panel of a product.
const PANEL: usize = 64;

/// How far a weight is from where it lies: it stands for `W + by·z`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Motion {
    /// By how much.
    pub by: f64,
    /// z.
    pub noise: Noise,
    /// Values of the buffer before z's first.
    pub from: usize,
}

/// A weight in a backend's buffer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Held {
    /// The values: those of some rows of the buffer.
    pub(crate) place: View<'static>,
    pub(crate) motion: Option<Motion>,
}

/// Some rows of a weight.
pub(crate) struct Stretch {
    pub(crate) weight: Weight,
    /// Which they are.
    pub(crate) rows: Range<usize>,
}

/// A matrix `[rows, cols]` that inputs are multiplied with, in whatever type it is stored.
#[derive(Debug, Clone)]
pub struct Weight {
    dtype: Dtype,
    rows: usize,
    cols: usize,
    storage: Storage,
}

#[derive(Debug, Clone)]
enum Storage {
    /// Shape only, for planning; whether it would be held in memory.
    Nothing {
        resident: bool,
    },
    Mapped(Arc<Mapping>, Range<usize>),
    Owned(Arc<[u8]>, Range<usize>),
    /// In a buffer of the backend that computes with it.
    Held(Held),
}

impl Weight {
    /// A weight that has a shape and no values: enough for [`crate::Dry`].
    pub fn shape_only(dtype: Dtype, rows: usize, cols: usize) -> Self {
        Self { dtype, rows, cols, storage: Storage::Nothing { resident: false } }
    }

    /// The same of a weight that will be held in memory: [`resident_bytes`](Self::resident_bytes) counts it.
    pub fn shape_held(dtype: Dtype, rows: usize, cols: usize) -> Self {
        Self { dtype, rows, cols, storage: Storage::Nothing { resident: true } }
    }

    /// A range of a mapped file.
    ///
    /// # Panics
    /// When the range is not in the file or not as long as the shape needs: parsers check both first.
    pub fn mapped(dtype: Dtype, rows: usize, cols: usize, map: Arc<Mapping>, range: Range<usize>) -> Self {
        assert!(
            range.end <= map.bytes().len() && range.len() == rows * dtype.row_bytes(cols),
            "weight range"
        );
        Self { dtype, rows, cols, storage: Storage::Mapped(map, range) }
    }

    /// Bytes in memory.
    ///
    /// # Panics
    /// When they are not as many as the shape needs.
    pub fn owned(dtype: Dtype, rows: usize, cols: usize, bytes: Vec<u8>) -> Self {
        assert_eq!(bytes.len(), rows * dtype.row_bytes(cols), "weight bytes");
        let range = 0..bytes.len();
        Self { dtype, rows, cols, storage: Storage::Owned(bytes.into(), range) }
    }

    /// The values of a buffer, read where they are by the buffer's backend and no other: what is written there is
    /// the weight from then on.
    pub fn held(act: &Act) -> Self {
        let dtype = if act.elem() == Elem::Bf16 { Dtype::Bf16 } else { Dtype::F32 };
        let held = Held { place: act.place(), motion: None };
        Self { dtype, rows: act.rows(), cols: act.cols(), storage: Storage::Held(held) }
    }

    /// Says how far a held weight is from where it lies. It is moved tile by tile as it is used.
    ///
    /// # Panics
    /// When it is not held.
    pub fn set_motion(&mut self, motion: Option<Motion>) {
        match &mut self.storage {
            Storage::Held(held) => held.motion = motion,
            _ => panic!("a frozen weight was to be moved"),
        }
    }

    pub(crate) fn as_held(&self) -> Option<Held> {
        if let Storage::Held(held) = self.storage { Some(held) } else { None }
    }

    /// Values of a tile that is moved at a time; 0 where nothing moves.
    pub(crate) fn tile(&self) -> usize {
        let moves = self.as_held().is_some_and(|held| held.motion.is_some());
        if moves { (self.tile_rows() * self.cols).next_multiple_of(PANEL) } else { 0 }
    }

    fn tile_rows(&self) -> usize {
        (TILE / self.cols.max(1) / PANEL * PANEL).max(PANEL).min(self.rows)
    }

    /// Some of its rows, in place.
    ///
    /// # Panics
    /// When it has fewer.
    #[must_use]
    pub fn rows_range(&self, rows: Range<usize>) -> Self {
        assert!(rows.start <= rows.end && rows.end <= self.rows, "rows {rows:?} of {}", self.rows);
        let bytes = self.dtype.row_bytes(self.cols);
        let part = |range: &Range<usize>| range.start + rows.start * bytes..range.start + rows.end * bytes;
        let storage = match &self.storage {
            Storage::Nothing { resident } => Storage::Nothing { resident: *resident },
            Storage::Mapped(map, range) => Storage::Mapped(Arc::clone(map), part(range)),
            Storage::Owned(data, range) => Storage::Owned(Arc::clone(data), part(range)),
            Storage::Held(held) => {
                Storage::Held(Held { place: held.place.part(rows.clone()), motion: held.motion })
            }
        };
        Self { dtype: self.dtype, rows: rows.len(), cols: self.cols, storage }
    }

    /// Stored type.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Output features, or vocabulary entries.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Input features.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Bytes as stored.
    pub fn bytes(&self) -> usize {
        self.rows * self.dtype.row_bytes(self.cols)
    }

    /// Bytes of memory that it holds itself; a mapped weight holds none.
    pub fn resident_bytes(&self) -> usize {
        let resident = matches!(self.storage, Storage::Owned(..) | Storage::Nothing { resident: true });
        if resident { self.bytes() } else { 0 }
    }

    /// Cuts it into ranges of rows that are used one after another, so that few of its pages are needed at a
    /// time, or into tiles that are moved. Whole if its pages are not to be minded (`advise`), or not mapped.
    pub(crate) fn stretches(&self, advise: bool) -> impl Iterator<Item = Stretch> {
        let fit = STRETCH / self.dtype.row_bytes(self.cols).max(1);
        let rows = if self.tile() > 0 {
            self.tile_rows().max(1)
        } else if advise && self.is_mapped() {
            (fit / ROWS * ROWS).max(ROWS)
        } else {
            self.rows.max(1)
        };
        (0..self.rows).step_by(rows).map(move |start| {
            let rows = start..(start + rows).min(self.rows);
            Stretch { weight: self.rows_range(rows.clone()), rows }
        })
    }

    /// Whether it lies in a file.
    pub(crate) fn is_mapped(&self) -> bool {
        matches!(self.storage, Storage::Mapped(..))
    }

    /// Asks the system to fetch its pages.
    pub(crate) fn will_need(&self) {
        if let Storage::Mapped(map, range) = &self.storage {
            // Advice may be ignored; nothing depends on it.
            let _ = map.map.advise_range(memmap2::Advice::WillNeed, range.start, range.len());
        }
    }

    /// Maps its pages at once, which costs less than a fault for every sixteen of them; also, what a product asks
    /// for ahead is not fetched from a page that is not mapped.
    pub(crate) fn populate(&self) {
        #[cfg(target_os = "linux")]
        if let Storage::Mapped(map, range) = &self.storage {
            // Older systems do not know it: then pages come by faults.
            let _ = map.map.advise_range(memmap2::Advice::PopulateRead, range.start, range.len());
        }
    }

    /// Lets its pages go: they are read from the file again when they are needed.
    pub fn done_with(&self) {
        if let Storage::Mapped(map, range) = &self.storage {
            map.let_go(range.clone());
        }
    }

    /// Where its bytes are in memory, if it has any.
    pub(crate) fn addresses(&self) -> Option<Range<usize>> {
        let (bytes, range) = match &self.storage {
            Storage::Mapped(map, range) => (map.bytes(), range),
            Storage::Owned(bytes, range) => (&**bytes, range),
            Storage::Nothing { .. } | Storage::Held(_) => return None,
        };
        let start = bytes.as_ptr().addr();
        Some(start + range.start..start + range.end)
    }

    /// The values.
    ///
    /// # Panics
    /// When there are none ([`Weight::shape_only`]), or a backend has them ([`Weight::held`]).
    pub fn view(&self) -> WeightView<'_> {
        let data = match &self.storage {
            Storage::Mapped(map, range) => &map.bytes()[range.clone()],
            Storage::Owned(bytes, range) => &bytes[range.clone()],
            Storage::Nothing { .. } => panic!("a weight without values was used to compute"),
            Storage::Held(_) => panic!("a weight that is trained was used as a frozen one"),
        };
        WeightView { dtype: self.dtype, data, rows: self.rows, cols: self.cols }
    }
}
