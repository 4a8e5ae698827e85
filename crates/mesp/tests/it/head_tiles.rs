//! The vocabulary in tiles: the same loss and gradients to the bit as with whole rows of logits.

use std::sync::Arc;

use mesp::arch::Module;
use mesp::model::ModelWeights;
use mesp::rng;
use mesp::tape::{Policy, Tiles};

use crate::support::{
    Case, MemorySource, answer, mesp_policy, random_batch, randomize_adapters, session_for, shapes,
};

/// Not a multiple of the tile, and of neither the vectors' width.
const VOCAB: usize = 2 * 1024 + 451;

#[test]
fn tiles_of_the_vocabulary_change_no_bit() {
    let case = Case::load("qwen2");
    let mut source = MemorySource::read(&case.dir.join("model"));
    let mut config = case.model.config.clone();
    config.vocab_size = VOCAB;
    let d = config.hidden_size;
    let table = (0..VOCAB * d).map(|i| rng::normal(5, 0, i as u64) as f32 * 0.3).collect();
    source.tensors.insert("model.embed_tokens.weight".to_owned(), (vec![VOCAB, d], table));
    let model = Arc::new(ModelWeights::load(config, &source).expect("a model"));
    let batch = random_batch(&[70, 1, 33], VOCAB, 4);
    let run = |targets: &[Module], threads, head_rows, head_vocab| {
        let tiles = Tiles { head_rows, head_vocab, ..Tiles::DEFAULT };
        let mut options = case.options(Policy { tiles, ..mesp_policy() });
        options.adapter.targets = targets.to_vec();
        let mut session = session_for::<f32>(&model, options, &shapes(&batch), threads);
        randomize_adapters(&mut session);
        answer(&mut session, &batch)
    };
    for targets in [&Module::ALL[..], &Module::MODULES[9..]] {
        let whole = run(targets, 2, usize::MAX, usize::MAX);
        for (rows, vocab) in [(usize::MAX, 1024), (usize::MAX, 2048), (16, 1024), (7, usize::MAX)] {
            assert!(run(targets, 2, rows, vocab) == whole, "{targets:?}: {rows} rows, {vocab} words");
        }
        assert!(run(targets, 1, 16, 1024) == whole, "{targets:?}: one thread");
        assert!(run(targets, 3, 16, 2048) == whole, "{targets:?}: three threads");
    }
}
