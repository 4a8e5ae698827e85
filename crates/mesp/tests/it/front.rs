//! The front door: a model, its rows, a trainer; the same run however it is driven.

use std::path::PathBuf;

use mesp::data::{Example, Examples};
use mesp::settings::Settings;
use mesp::train::{Event, Notice};
use mesp::{ByteSize, Dataset, Error, Model, Trainer, TrainerBuilder};

use crate::support::golden;

fn open() -> (Model, Dataset) {
    let model = Model::open(golden("qwen2/model")).expect("a model");
    let data = Dataset::read(golden("qwen2/rows.jsonl"), &model).expect("rows");
    (model, data)
}

fn settings<'a>(model: &'a Model, data: &'a Dataset) -> TrainerBuilder<'a> {
    Trainer::builder(model, data).rank(4).steps(6).batch_size(2).threads(2).learning_rate(0.01).seed(3)
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

fn adapter(trainer: &Trainer) -> Vec<u32> {
    bits(trainer.flat_parameters().expect("an adapter in single precision"))
}

/// Steps one by one, all at once, and gradient by gradient are the same run to the bit.
#[test]
fn a_run_is_the_same_however_it_is_driven() {
    let (model, data) = open();
    let mut by_steps = settings(&model, &data).build().expect("a trainer");
    let begun = adapter(&by_steps);
    let mut losses = Vec::new();
    while let Some(step) = by_steps.step().expect("a step") {
        assert_eq!(step.number, losses.len() + 1);
        losses.push(step.loss);
    }
    assert_eq!(losses.len(), 6);
    assert!(losses[5] < losses[0] && adapter(&by_steps) != begun, "{losses:?}");

    let mut at_once = settings(&model, &data).build().expect("a trainer");
    let mut told = Vec::new();
    let summary = at_once
        .run(&mut |event| {
            if let Event::Train { loss, .. } = event {
                told.push(*loss);
            }
        })
        .expect("a run");
    assert_eq!((told, summary.steps), (losses.clone(), 6));
    assert_eq!(adapter(&at_once), adapter(&by_steps));

    let mut by_hand = settings(&model, &data).build().expect("a trainer");
    for (number, loss) in losses.iter().enumerate() {
        assert_eq!(by_hand.backward().expect("a gradient"), *loss);
        assert_eq!(by_hand.progress().step, number);
        by_hand.apply().expect("a step");
    }
    assert_eq!(adapter(&by_hand), adapter(&by_steps));
    assert!(matches!(by_hand.backward(), Err(Error::Usage { .. })), "all steps were made");
}

/// Gradients by name are the column's, a changed column is what is stepped along, and a mean of columns what two machines
/// would step along.
#[test]
fn gradients_are_read_and_changed() {
    let (model, data) = open();
    let mut trainer = settings(&model, &data).build().expect("a trainer");
    trainer.backward().expect("a gradient");
    let column = trainer.flat_gradients().expect("a column").to_vec();
    let mut place = 0;
    for (param, gradient) in trainer.gradients() {
        let [rows, cols] = param.shape;
        assert_eq!(gradient.len(), rows * cols);
        assert_eq!(&column[place..place + gradient.len()], gradient, "{}", param.name());
        place += gradient.len().next_multiple_of(16);
    }
    assert!(column.iter().any(|x| *x != 0.0));
    let names: Vec<String> = trainer.gradients().map(|(param, _)| param.name()).collect();
    assert!(names[0].starts_with("base_model.model.model.layers.0.self_attn.q_proj.lora_A"), "{}", names[0]);

    let before = adapter(&trainer);
    trainer.flat_gradients_mut().expect("a column").fill(0.0);
    trainer.apply().expect("a step");
    assert_eq!(adapter(&trainer), before, "AdamW does not move along nothing");
    trainer.flat_parameters_mut().expect("a column")[0] = 7.0;
    assert_eq!(trainer.flat_parameters().expect("a column")[0], 7.0);
}

/// A state that was left and taken up again gives the uninterrupted run.
#[test]
fn a_state_is_taken_up_again() {
    let (model, data) = open();
    let dir = tempfile::tempdir().expect("a folder");
    let mut whole = settings(&model, &data).build().expect("a trainer");
    let mut checkpoint = PathBuf::new();
    while let Some(step) = whole.step().expect("a step") {
        if step.number == 3 {
            checkpoint = whole.save_state(dir.path()).expect("a checkpoint");
        }
    }
    let mut resumed = settings(&model, &data).build().expect("a trainer");
    resumed.load_state(&checkpoint).expect("a state");
    assert_eq!(resumed.progress().step, 3);
    while resumed.step().expect("a step").is_some() {}
    assert_eq!(adapter(&resumed), adapter(&whole));
    let mut other = settings(&model, &data).learning_rate(0.02).build().expect("a trainer");
    assert!(other.load_state(&checkpoint).is_err(), "of another run");
}

/// What was saved is an adapter to start from, and with an output directory a run leaves it there.
#[test]
fn an_adapter_is_saved_and_started_from() {
    let (model, data) = open();
    let dir = tempfile::tempdir().expect("a folder");
    let (output, saved) = (dir.path().join("run"), dir.path().join("adapter"));
    let mut trainer = settings(&model, &data).output(&output).build().expect("a trainer");
    let mut checkpoints = 0;
    trainer
        .run(&mut |event| {
            checkpoints +=
                usize::from(matches!(event, Event::Notice { what: Notice::Checkpoint { .. }, .. }));
        })
        .expect("a run");
    trainer.save(&saved).expect("an adapter");
    assert_eq!(checkpoints, 0, "nothing was interrupted");
    let read = |path: PathBuf| std::fs::read(path.join("adapter_model.safetensors")).expect("an adapter");
    assert_eq!(read(saved.clone()), read(output));
    let again = Trainer::builder(&model, &data).adapter(&saved).threads(2).build().expect("a trainer");
    assert_eq!(adapter(&again), adapter(&trainer));
}

#[test]
fn a_run_is_cancelled_from_another_thread() {
    let (model, data) = open();
    let mut trainer = settings(&model, &data).build().expect("a trainer");
    let cancel = trainer.cancel();
    trainer.step().expect("a step").expect("the first");
    std::thread::spawn(move || cancel.cancel()).join().expect("a thread");
    assert!(trainer.step().expect("no step").is_none());
    let summary = trainer.summary();
    assert!(summary.interrupted && summary.steps == 1);
}

/// Held-out rows are evaluated and never trained; a share of the rows can be held out.
#[test]
fn rows_are_held_out() {
    let (model, data) = open();
    let row = |first: u32| Example::of((first..first + 8).collect());
    let few = Dataset::from_examples((0..20).map(row).collect()).hold_out(0.25, 1).expect("two parts");
    assert_eq!((few.rows().train.count(), few.rows().eval.count()), (15, 5));
    let both = data.clone().with_eval(&data);
    let mut trainer = settings(&model, &both).build().expect("a trainer");
    let before = trainer.evaluate().expect("losses").loss();
    while trainer.step().expect("a step").is_some() {}
    let summary = trainer.summary();
    assert_eq!(summary.eval_before, Some(before));
    assert_eq!(summary.eval_after, Some(trainer.evaluate().expect("losses").loss()));
    assert!(summary.eval_after < summary.eval_before);
}

/// A state that is read while the run is under way begins no second run for whoever watches it.
#[test]
fn a_run_is_begun_once() {
    let (model, data) = open();
    let dir = tempfile::tempdir().expect("a folder");
    let mut trainer = settings(&model, &data).build().expect("a trainer");
    let checkpoint = trainer.save_state(dir.path()).expect("a checkpoint");
    trainer.load_state(&checkpoint).expect("a state");
    let mut begun = 0;
    let mut count = |event: &Event| begun += usize::from(matches!(event, Event::Run { .. }));
    trainer.run(&mut count).expect("a run");
    trainer.load_state(&checkpoint).expect("a state");
    let summary = trainer.run(&mut count).expect("the same again");
    assert_eq!((begun, summary.steps), (1, 6));
}

/// The plan is known before the run is built, and a budget that is too small is an error with figures.
#[test]
fn a_budget_is_kept_or_refused() {
    let (model, data) = open();
    let builder = settings(&model, &data);
    let plan = builder.plan().expect("a plan");
    let trainer = builder.build().expect("a trainer");
    assert_eq!(plan.planned(), trainer.plan().planned());
    assert!(trainer.plan().to_string().contains("scratch"), "{}", trainer.plan());
    let refused = settings(&model, &data).memory_budget(ByteSize(100_000)).build().expect_err("too small");
    let Error::OverBudget(over) = &refused else { panic!("{refused}") };
    let least = over.least.expect("a budget that would do");
    assert!(over.needs > 100_000 && least > over.needs / 2, "{over:?}");
    assert!(refused.to_string().contains("the smallest budget that would do"), "{refused}");
    assert!(!refused.to_string().contains("--"), "no options of the program: {refused}");
    settings(&model, &data).memory_budget(ByteSize(2 * least)).build().expect("enough");
}

/// Messages name a setting by its field; what no file says is written as it is read.
#[test]
fn settings_are_one_description() {
    let (model, data) = open();
    let refused = settings(&model, &data).learning_rate(-1.0).build().expect_err("no rate");
    assert!(refused.to_string().starts_with("‘learning_rate’ is -1, expected 0 or more"), "{refused}");
    let mut chosen = Settings::default();
    chosen.adapter.rank = Some(4);
    chosen.method.memory_budget = Some(ByteSize::mb(500));
    chosen.training.steps = Some(2);
    let text = serde_json::to_string(&chosen).expect("JSON");
    assert_eq!(serde_json::from_str::<Settings>(&text).expect("settings"), chosen);
    let short = r#"{"rank": 4, "memory_budget": "500MB", "steps": 2}"#;
    assert_eq!(serde_json::from_str::<Settings>(short).expect("settings"), chosen);
    let mut trainer = Trainer::builder(&model, &data).settings(chosen).build().expect("a trainer");
    assert_eq!(trainer.total_steps(), 2);
    assert!(trainer.step().expect("a step").is_some());
}

#[test]
fn what_is_missing_is_said() {
    let missing = Model::open("no/such-model").expect_err("none");
    assert!(missing.to_string().contains("no/such-model"), "{missing}");
    let (model, _) = open();
    let dir = tempfile::tempdir().expect("a folder");
    let text = dir.path().join("rows.jsonl");
    std::fs::write(&text, "{\"text\": \"a\"}\n").expect("written");
    let refused = Dataset::read(&text, &model).expect_err("no tokenizer");
    assert!(refused.to_string().contains("tokenizer.json"), "{refused}");
}
