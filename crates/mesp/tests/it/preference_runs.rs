//! Runs on preferences: the reference, evaluations, resume, and what fits what.

use mesp::preference::LossType;
use mesp::settings::Settings;
use mesp::train::Event;
use mesp::{Dataset, Model, Trainer, TrainerBuilder};

use crate::support::golden;

fn rows(model: &Model, loss_type: LossType) -> Dataset {
    let name = if loss_type.is_paired() { "pairs.jsonl" } else { "marked.jsonl" };
    Dataset::read_preferences(golden("preference").join(name), model).expect("rows")
}

fn model() -> Model {
    Model::open(golden("qwen2/model")).expect("a model")
}

fn settings<'a>(model: &'a Model, data: &'a Dataset, loss_type: LossType) -> TrainerBuilder<'a> {
    Trainer::builder(model, data)
        .preference(loss_type)
        .rank(4)
        .steps(6)
        .batch_size(2)
        .threads(2)
        .learning_rate(0.01)
        .seed(3)
}

/// A builder with other settings.
fn edited(builder: TrainerBuilder<'_>, edit: impl FnOnce(&mut Settings)) -> TrainerBuilder<'_> {
    let mut all = builder.chosen().clone();
    edit(&mut all);
    builder.settings(all)
}

/// With a new adapter the model is its own reference: no completion is ahead, by the formula of each loss. Then the better
/// one is, and as the events tell it.
#[test]
fn a_run_starts_at_its_reference_and_leaves_it() {
    let model = model();
    for (loss_type, first) in [
        (LossType::Sigmoid, 2f64.ln()),
        (LossType::Hinge, 1.0),
        (LossType::Ipo, (0.5 / 0.1) * (0.5 / 0.1)),
        (LossType::Kto, 0.5),
        (LossType::Simpo, f64::NAN),
        (LossType::Orpo, f64::NAN),
    ] {
        let data = rows(&model, loss_type);
        let data = data.clone().with_eval(&data);
        let mut trainer = settings(&model, &data, loss_type).build().expect("a trainer");
        let (mut losses, mut evals) = (Vec::new(), Vec::new());
        let summary = trainer
            .run(&mut |event| match event {
                Event::Train { loss, preference, .. } => {
                    assert!(preference.is_some(), "{loss_type:?}");
                    losses.push(*loss);
                }
                Event::Eval { eval_loss, preference, .. } => {
                    evals.push((*eval_loss, preference.expect("rewards")));
                }
                _ => {}
            })
            .expect("a run");
        let [(before, was), (after, is)] = evals[..] else { panic!("two evaluations") };
        if first.is_finite() {
            // Sums of some log-probabilities in single precision, which the policy and the reference share to the bit.
            assert!(
                (losses[0] - first).abs() <= 1e-12 && (before - first).abs() <= 1e-12,
                "{loss_type:?}: {losses:?}"
            );
            assert_eq!(was.rewards_margins, Some(0.0));
        }
        assert!(after < before, "{loss_type:?}: {before} {after}");
        assert!(is.rewards_margins > was.rewards_margins, "{loss_type:?}: {is:?}");
        assert_eq!((summary.preference_before, summary.preference_after), (Some(was), Some(is)));
        assert_eq!(is.rewards_accuracies.is_some(), loss_type.is_paired());
    }
}

/// A checkpoint in the middle, and the rest of the run to the bit; κ of kto and the reference are found again.
#[test]
fn a_resumed_run_is_the_uninterrupted_one() {
    let model = model();
    for loss_type in [LossType::Sigmoid, LossType::Kto, LossType::Orpo] {
        let data = rows(&model, loss_type);
        let build = || settings(&model, &data, loss_type).build().expect("a trainer");
        let adapter = |of: &Trainer| {
            of.flat_parameters().expect("values").iter().map(|x| x.to_bits()).collect::<Vec<_>>()
        };
        let (mut whole, mut first) = (build(), build());
        while whole.step().expect("a step").is_some() {}
        for _ in 0..3 {
            first.step().expect("a step");
        }
        let folder = tempfile::tempdir().expect("a folder");
        let state = first.save_state(folder.path()).expect("a checkpoint");
        let mut rest = build();
        rest.load_state(&state).expect("the checkpoint");
        while rest.step().expect("a step").is_some() {}
        assert!(adapter(&rest) == adapter(&whole), "{loss_type:?}");
        let other = edited(settings(&model, &data, loss_type), |s| s.objective.beta = Some(0.3));
        let refused =
            other.build().expect("a trainer").load_state(&state).expect_err("another run").to_string();
        assert!(refused.contains("beta"), "{refused}");
    }
    // Labels are a part of the rows.
    let (data, path) = (rows(&model, LossType::Kto), golden("preference/marked.jsonl"));
    let text = std::fs::read_to_string(path).expect("rows");
    let folder = tempfile::tempdir().expect("a folder");
    let turned = folder.path().join("turned.jsonl");
    let text = text.replace("true", "maybe").replace("false", "true").replace("maybe", "false");
    std::fs::write(&turned, text).expect("written");
    let turned = Dataset::read_preferences(&turned, &model).expect("rows");
    let mut first = settings(&model, &data, LossType::Kto).build().expect("a trainer");
    first.step().expect("a step");
    let state = first.save_state(folder.path()).expect("a checkpoint");
    let mut other = settings(&model, &turned, LossType::Kto).build().expect("a trainer");
    let refused = other.load_state(&state).expect_err("other labels").to_string();
    assert!(refused.contains("rows to train on"), "{refused}");
}

/// Where all weights are trained, the reference is the model as it is stored: reward / β is log-probability less that of
/// before, at any time.
#[test]
fn the_reference_does_not_move_with_the_weights() {
    let model = model();
    let data = rows(&model, LossType::Sigmoid);
    let data = data.clone().with_eval(&data);
    let full = |s: &mut Settings| {
        s.adapter.rank = None;
        s.directions.full = true;
        s.method.method = Some("mezo".to_owned());
        s.training.learning_rate = Some(1e-4);
    };
    for reference in ["base", "start"] {
        let builder = edited(settings(&model, &data, LossType::Sigmoid), full);
        let builder = edited(builder, |s| s.objective.reference = Some(reference.to_owned()));
        let mut trainer = builder.build().expect("a trainer");
        let rewards = |trainer: &mut Trainer| {
            trainer.evaluate().expect("an evaluation").preferences.expect("a preference loss").metrics()
        };
        let before = rewards(&mut trainer);
        while trainer.step().expect("a step").is_some() {}
        let after = rewards(&mut trainer);
        let stored = before.logps_chosen.expect("chosen");
        let moved = after.logps_chosen.expect("chosen") - stored;
        assert!(moved.abs() > 1e-3, "the weights move: {moved}");
        assert!((after.rewards_chosen.expect("a reward") - 0.1 * moved).abs() < 1e-9, "{before:?} {after:?}");
    }
}

/// `start` is the adapter that the run starts from, `base` the model without it, a path that adapter.
#[test]
fn a_reference_is_what_was_asked_for() {
    let model = model();
    let data = rows(&model, LossType::Sigmoid);
    let adapter = golden("qwen2/adapter");
    let first = |reference: &str| {
        let builder = edited(settings(&model, &data, LossType::Sigmoid), |s| {
            s.adapter.rank = None;
            s.adapter.adapter = Some(adapter.clone());
            s.objective.reference = Some(reference.to_owned());
        });
        builder.build().expect("a trainer").step().expect("a step").expect("the first").loss
    };
    let same = first("start");
    assert_eq!(same, 2f64.ln());
    assert_eq!(first(&adapter.display().to_string()), same);
    assert!((first("base") - same).abs() > 1e-3);
    // Without a reference all completions are equally likely under it: Δ = P_c − P_r.
    assert!((first("none") - same).abs() > 1e-3);
}

#[test]
fn rows_and_losses_have_to_fit() {
    let model = model();
    let text = |error: mesp::Error| error.to_string();
    let (pairs, labeled) = (rows(&model, LossType::Sigmoid), rows(&model, LossType::Kto));
    let plain = Dataset::read(golden("qwen2/rows.jsonl"), &model).expect("rows");
    for (data, loss_type, words) in [
        (
            &labeled,
            LossType::Sigmoid,
            "expected pairs of a chosen and a rejected completion, found completions with a label",
        ),
        (&pairs, LossType::Kto, "expected completions with a label, found pairs"),
        (&plain, LossType::Sigmoid, "expected rows of preferences, found rows for the next-token loss"),
    ] {
        let refused = text(settings(&model, data, loss_type).build().expect_err("rows of another kind"));
        assert!(refused.contains(words), "{refused}");
    }
    let refused = text(Trainer::builder(&model, &pairs).rank(4).build().expect_err("pairs"));
    assert!(refused.contains("‘objective’ sft does not take these rows"), "{refused}");
    for (edit, words) in [
        ((|s| s.objective.beta = Some(0.0)) as fn(&mut Settings), "‘beta’ is 0, expected a positive number"),
        (|s| s.objective.simpo_gamma = Some(1.0), "‘loss_type’ sigmoid has no ‘simpo_gamma’"),
        (|s| s.objective.label_smoothing = Some(0.5), "‘label_smoothing’ is 0.5"),
        (|s| s.objective.objective = None, "‘loss_type’ is of preference losses"),
        (
            |s| {
                (s.objective.loss_type, s.objective.reference) =
                    (Some(LossType::Orpo), Some("base".to_owned()));
            },
            "‘loss_type’ orpo compares with none",
        ),
        (
            |s| (s.objective.loss_type, s.objective.rpo_alpha) = (Some(LossType::Kto), Some(1.0)),
            "‘loss_type’ kto has no ‘rpo_alpha’",
        ),
    ] {
        let builder = edited(settings(&model, &pairs, LossType::Sigmoid), edit);
        let refused = text(builder.build().expect_err("settings that do not fit"));
        assert!(refused.contains(words), "{refused}");
    }
}
