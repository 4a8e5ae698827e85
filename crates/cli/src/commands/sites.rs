//! The table of named intermediates: what a policy does with each.

use mesp::adapter::block_pairs;
use mesp::memory::Workload;
use mesp::model::{Batch, BlockRun, ModelWeights};
use mesp::tape::{Rules, SavedAs, Site, SiteSet};
use mesp::train::Options;
use mesp_device::{Backend, Class, Dry, Elem, Label};
use serde_json::{Value, json};

use crate::sizes::bytes;

/// What becomes of an intermediate between the forward and its last reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kept {
    /// From the block's forward until its backward, in every block.
    Across,
    /// The same, in a file.
    File,
    /// From the block's replay until its backward, in one block at a time.
    Within,
    /// Made again where it is read.
    Rebuilt,
}

/// One intermediate.
pub(crate) struct SiteRow {
    site: Site,
    kept: Kept,
    elem: Elem,
    /// Bytes of one block's.
    block_bytes: u64,
    /// Bytes of memory of all that exist together.
    bytes: u64,
}

/// The intermediates that a block of this model has, in the order in which they are computed.
pub(crate) fn sites(model: &ModelWeights, options: &Options, work: &Workload) -> Vec<SiteRow> {
    let (Some(batch), Some(block)) = (&work.shapes.train, model.blocks.first()) else { return Vec::new() };
    let (config, policy) = (&model.config, options.policy);
    let mut dry = Dry::new(work.value_bytes, work.threads);
    let label = Label::new(Class::Adapter, "lora");
    // A layer that has adapters shows what they keep.
    let layer = options.adapter.layers.as_ref().and_then(|layers| layers.first().copied()).unwrap_or(0);
    let pairs = block_pairs(config, &options.adapter, layer, |_, r, c| dry.persist(r, c, label));
    let run = BlockRun {
        config,
        block,
        pairs: &pairs,
        batch,
        saved: policy.saved,
        tiles: policy.tiles,
        dropout: None,
    };
    let across = policy.across.with(Site::BlockIn);
    let row = |site: Site| {
        let kept = if site == Site::BlockIn && policy.inputs() == SavedAs::File {
            Kept::File
        } else if across.has(site) {
            Kept::Across
        } else if policy.within.has(site) {
            Kept::Within
        } else {
            Kept::Rebuilt
        };
        let rows = tile(site, kept, batch, options);
        let (r, c) = <BlockRun<'_> as Rules<Dry>>::shape(&run, site, rows);
        let elem = <BlockRun<'_> as Rules<Dry>>::elem(&run, site).on(work.value_bytes);
        let block_bytes = (r * c * elem.bytes(work.value_bytes)) as u64;
        let halved = site == Site::BlockIn && policy.inputs() == SavedAs::Bf16;
        let bytes = match kept {
            Kept::Across if halved => (r * c * Elem::Bf16.bytes(work.value_bytes) * config.layers) as u64,
            Kept::Across => block_bytes * config.layers as u64,
            _ => block_bytes,
        };
        // As it waits; in its block's turn it is whole again.
        let elem = if halved { Elem::Bf16 } else { elem };
        SiteRow { site, kept, elem, block_bytes, bytes }
    };
    // Probabilities that are not kept are never there together.
    let whole = |row: &SiteRow| row.block_bytes > 0 && (row.site != Site::Probs || row.kept != Kept::Rebuilt);
    run.existing(SiteSet::ALL).iter().map(row).filter(whole).collect()
}

/// Tokens that an intermediate covers at a time.
fn tile(site: Site, kept: Kept, batch: &Batch, options: &Options) -> usize {
    let tiled = kept == Kept::Rebuilt && SiteSet::MLP.has(site);
    if tiled { options.policy.tiles.mlp_rows.min(batch.rows()) } else { batch.rows() }
}

/// For people.
pub(crate) fn table(rows: &[SiteRow]) -> Vec<Vec<String>> {
    let row = |r: &SiteRow| {
        let all = if r.kept == Kept::Across { bytes(r.bytes) } else { String::new() };
        let [site, kept, elem] = [r.site.name(), r.kept.name(), r.elem.name()].map(str::to_owned);
        vec![site, kept, elem, bytes(r.block_bytes), all]
    };
    let head = ["", "", "", "a block", "all blocks"].map(str::to_owned).to_vec();
    [head].into_iter().chain(rows.iter().map(row)).collect()
}

impl SiteRow {
    pub(crate) fn json(&self) -> Value {
        json!({
            "site": self.site.name(),
            "kept": self.kept.name(),
            "type": self.elem.name(),
            "block_bytes": self.block_bytes,
            "bytes": self.bytes,
        })
    }
}

impl Kept {
    fn name(self) -> &'static str {
        match self {
            Self::Across => "across",
            Self::File => "file",
            Self::Within => "within",
            Self::Rebuilt => "rebuilt",
        }
    }
}
