//! A program that brings tokens: everything here also passes without the default features, where the library has neither
//! tokenizers nor chat templates.

use std::fs;
use std::path::Path;

use mesp::data::{Example, Examples};
use mesp::generate::Sampling;
use mesp::init_model::{preset, write};
use mesp::{Dataset, Generator, Model, Trainer};
use mesp_formats::Dtype;

/// Rows of tokens that repeat themselves, so that there is something to learn; the first two are not trained.
const ROWS: usize = 8;
const LENGTH: u32 = 16;

fn row(i: u32) -> (Vec<u32>, Vec<i32>) {
    let tokens: Vec<u32> = (0..LENGTH).map(|t| 3 + (i + t) % 5).collect();
    let labels = tokens.iter().enumerate().map(|(t, id)| if t < 2 { -100 } else { id.cast_signed() });
    (tokens.clone(), labels.collect())
}

fn model(dir: &Path) -> Model {
    let path = dir.join("model");
    write(&path, &preset("tiny").expect("a preset"), Dtype::F32, 1, &mut |_, _| {}).expect("written");
    Model::open(path).expect("a model")
}

fn file(dir: &Path) -> std::path::PathBuf {
    let lines = (0..ROWS as u32)
        .map(row)
        .map(|(tokens, labels)| format!("{{\"input_ids\": {tokens:?}, \"labels\": {labels:?}}}\n"));
    let path = dir.join("rows.jsonl");
    fs::write(&path, lines.collect::<String>()).expect("written");
    path
}

/// Rows of a file of tokens are planned, trained, evaluated, and what was learned is saved and generates.
#[test]
fn tokens_are_trained_and_generated() {
    let dir = tempfile::tempdir().expect("a folder");
    let model = model(dir.path());
    let data = Dataset::read(file(dir.path()), &model).expect("rows");
    let held_out = Dataset::from_examples(vec![Example::of(row(9).0)]);
    let data = data.with_eval(&held_out);
    // Blocks of random weights say little; an adapter of the head learns which token follows which.
    let builder = Trainer::builder(&model, &data)
        .rank(4)
        .target_modules("q_proj,v_proj,down_proj,lm_head")
        .steps(100)
        .batch_size(4)
        .threads(1)
        .learning_rate(0.02);
    let planned = builder.plan().expect("a plan").planned();
    let mut trainer = builder.build().expect("a trainer");
    assert_eq!(trainer.plan().planned(), planned);
    let before = trainer.evaluate().expect("losses").loss();
    while trainer.step().expect("a step").is_some() {}
    let after = trainer.evaluate().expect("losses").loss();
    assert!(after < 0.5 * before, "{before} to {after}");

    let adapter = dir.path().join("adapter");
    trainer.save(&adapter).expect("saved");
    let mut generator = Generator::new(&model, Some(&adapter), 32, Some(1)).expect("a generator");
    let made = generator.generate(&row(0).0[..8], 4, Sampling::GREEDY).expect("tokens");
    assert_eq!(made, row(0).0[8..12], "the rows go on like this");
    let refused = generator.generate(&[], 4, Sampling::GREEDY).expect_err("no prompt");
    assert!(refused.to_string().contains("0 tokens, expected 1 to 31"), "{refused}");
}

/// Rows of a file and the same in memory are the same rows.
#[test]
fn rows_of_a_file_and_in_memory_are_alike() {
    let dir = tempfile::tempdir().expect("a folder");
    let model = model(dir.path());
    let read = Dataset::read(file(dir.path()), &model).expect("rows");
    let given = (0..ROWS as u32).map(row).map(|(tokens, labels)| Example { labels, ..Example::of(tokens) });
    let given = Dataset::from_examples(given.collect());
    assert_eq!(read.rows().train.count(), ROWS);
    for i in 0..ROWS {
        let [a, b] = [&read, &given].map(|data| data.rows().train.read(i).expect("a row"));
        assert_eq!((a.tokens, a.labels), (b.tokens, b.labels));
    }
}

/// What is wrong with a row of tokens is said with its line, and so is a row of text, which takes a tokenizer.
#[test]
fn rows_that_cannot_be_used_are_named() {
    let dir = tempfile::tempdir().expect("a folder");
    let model = model(dir.path());
    let good = "{\"input_ids\": [3, 4, 5]}\n";
    let path = dir.path().join("rows.jsonl");
    let refused = |bad: &str| {
        fs::write(&path, format!("{good}{bad}\n")).expect("written");
        Dataset::read(&path, &model).expect_err(bad).to_string()
    };
    let beyond = refused("{\"input_ids\": [3, 999999]}");
    assert!(beyond.contains("rows.jsonl:2: `input_ids[1]` is 999999"), "{beyond}");
    let text = refused("{\"text\": \"a text\"}");
    if cfg!(feature = "text") {
        assert!(text.contains("tokenizer.json"), "{text}");
    } else {
        assert!(text.contains("rows.jsonl:2: expected a tokenized row, found text"), "{text}");
        assert!(text.contains("`text`") && text.contains("input_ids"), "{text}");
    }
}
