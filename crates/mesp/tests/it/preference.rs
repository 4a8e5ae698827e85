//! Preference losses through the whole engine: against PyTorch (`golden/preference.py` made the numbers), against
//! differences, and against what every objective promises.

use std::path::Path;

use mesp::adapter::{AdapterConfig, peft};
use mesp::arch::Module;
use mesp::method::{Directional, Estimator, Method};
use mesp::model::Batch;
use mesp::preference::{LossType, Preference, PreferenceLabel, Side, Totals};
use mesp::tape::{Policy, Tiles};
use mesp::train::{ObjectiveKind, Options, Session, Shapes, Total, Update, plan};
use mesp_device::{Cpu, Mapping, Real};
use mesp_formats::peft::parse_tensor_name;
use mesp_formats::safetensors_file;
use serde_json::Value;

use crate::support::{
    Case, bits, derivative_of_matrix, eval_shapes, golden, gradient, gradients, mesp_policy, parameters,
    randomize_adapters, relative, session_for, shapes,
};

const CASES: [&str; 7] = ["sigmoid", "sigmoid_smoothed_rpo", "hinge", "ipo", "simpo", "orpo", "kto"];

/// Adapters in the blocks alone, and on the head and the embeddings too.
const ADAPTERS: [(&str, &str, &str); 2] =
    [("qwen2", "qwen2", "qwen2/adapter"), ("llama_head", "llama", "head/llama")];

fn rows(name: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(golden("preference").join(name)).expect("rows");
    text.lines().map(|line| serde_json::from_str(line).expect("a row")).collect()
}

fn ids(row: &Value, key: &str) -> Vec<u32> {
    serde_json::from_value(row[key].clone()).expect("token ids")
}

/// A prompt, a completion of it, and which it is.
type Sequence = (Vec<u32>, Vec<u32>, Side);

fn sequences(loss_type: LossType) -> Vec<Sequence> {
    let of = |row: &Value, key: &str, side| (ids(row, "prompt_input_ids"), ids(row, key), side);
    if loss_type.is_paired() {
        let pair = |row: &Value| {
            [("chosen_input_ids", Side::Chosen), ("rejected_input_ids", Side::Rejected)]
                .map(|(key, side)| of(row, key, side))
        };
        return rows("pairs.jsonl").iter().flat_map(pair).collect();
    }
    let marked = |row: &Value| {
        let side = if row["label"] == true { Side::Chosen } else { Side::Rejected };
        of(row, "completion_input_ids", side)
    };
    rows("marked.jsonl").iter().map(marked).collect()
}

/// Each prompt with the completion of the row before it.
fn mismatched(of: &[Sequence]) -> Vec<Sequence> {
    let before = |i: usize| of[(i + of.len() - 1) % of.len()].1.clone();
    of.iter().enumerate().map(|(i, (prompt, _, side))| (prompt.clone(), before(i), *side)).collect()
}

fn to_batch(of: &[Sequence], reference: &[f64]) -> Batch {
    let (mut tokens, mut targets, mut offsets) = (Vec::new(), Vec::new(), vec![0]);
    for (prompt, completion, _) in of {
        tokens.extend(prompt.iter().chain(completion));
        targets.extend(std::iter::repeat_n(-100, prompt.len() - 1));
        targets.extend(completion.iter().map(|id| id.cast_signed()).chain([-100]));
        offsets.push(tokens.len());
    }
    let mut batch = Batch::default();
    batch.fill(&tokens, &targets, &offsets);
    let labels: Vec<PreferenceLabel> = of
        .iter()
        .zip(reference)
        .map(|((.., side), &reference)| PreferenceLabel { side: *side, reference })
        .collect();
    batch.set_preferences(&labels);
    batch
}

/// Log-probabilities under the model without an adapter.
fn base<R: Real>(case: &Case, of: &[Sequence]) -> Vec<f64> {
    let batch = to_batch(of, &vec![0.0; of.len()]);
    let options = Options { adapter: AdapterConfig::none(), training: false, ..case.options(mesp_policy()) };
    session_for::<R>(&case.model, options, &eval_shapes(&batch), 1).log_probabilities(&batch).collect()
}

fn options(case: &Case, preference: Preference) -> Options {
    Options { objective: ObjectiveKind::Preference(preference), ..case.options(mesp_policy()) }
}

/// Mean log-ratio of mismatched completions.
fn divergence<R: Real>(case: &Case, session: &mut Session<Cpu<R>>, of: &[Sequence]) -> f64 {
    let of = mismatched(of);
    let reference = base::<R>(case, &of);
    let batch = to_batch(&of, &reference);
    let policy = session.log_probabilities(&batch);
    policy.zip(&reference).map(|(p, r)| p - r).sum::<f64>() / of.len() as f64
}

/// A batch of both shapes.
fn all_shapes(of: &[Sequence], batch: &Batch) -> Shapes {
    let other = to_batch(&mismatched(of), &vec![0.0; of.len()]);
    let mut eval = if other.rows() > batch.rows() { other.clone() } else { batch.clone() };
    if other.targets() > eval.targets() {
        eval.target_rows = other.target_rows;
        eval.target_labels = other.target_labels;
    }
    Shapes { train: Some(batch.clone()), eval: Some(eval) }
}

fn compare<R: Real>((name, arch, adapter): (&str, &str, &str), stem: &str, tolerance: f64) {
    let case = Case::load(arch);
    let adapter = golden(adapter);
    let config = mesp::source::load_adapter_config(&adapter).expect("PEFT's settings");
    let case = Case { adapter: config, ..case };
    let path = golden("preference").join(name).join(format!("{stem}.safetensors"));
    let map = Mapping::open(&path).expect("golden");
    let header = safetensors_file::parse(&path, map.bytes()).expect("golden header");
    let text = &header.metadata;
    let number = |key: &str| text.get(key).map(|value| value.parse::<f64>().expect(key));
    let loss_type = LossType::ALL.into_iter().find(|loss| loss.name() == text["loss_type"]).expect("a loss");
    let plain = Preference::new(loss_type);
    let preference = Preference {
        beta: number("beta").unwrap_or(plain.beta),
        simpo_gamma: number("simpo_gamma").unwrap_or(plain.simpo_gamma),
        label_smoothing: number("label_smoothing").unwrap_or(0.0),
        rpo_alpha: number("rpo_alpha").unwrap_or(0.0),
        ..plain
    };
    let of = sequences(loss_type);
    let batch = to_batch(&of, &base::<R>(&case, &of));
    let options = options(&case, preference);
    let mut session = session_for::<R>(&case.model, options, &all_shapes(&of, &batch), 2);
    let (be, params, _) = session.state_mut();
    peft::read_tensors(be, &adapter.join(peft_file()), params, &case.model.config).expect("tensors");
    let close = |what: &str, ours: f64, golden: f64| {
        assert!(
            (ours - golden).abs() <= 1e-5 * golden.abs().max(0.1),
            "{name} {stem} {what}: {ours} {golden}"
        );
    };
    if let Some(kl) = number("kl") {
        let ours = divergence(&case, &mut session, &of);
        close("kl", ours.max(0.0), kl);
        session.set_kl(ours);
    }
    let total = session.options().objective.total(&batch);
    let outcome = session.accumulate(&batch, total);
    close("loss", outcome.loss(), number("loss").expect("a loss"));
    let metrics = session.score().expect("a preference loss").metrics();
    let metrics = serde_json::to_value(metrics).expect("JSON");
    let metrics = metrics.as_object().expect("an object");
    for (key, ours) in metrics {
        close(key, ours.as_f64().expect("a number"), number(key).expect(key));
    }
    assert_eq!(metrics.len(), text.keys().filter(|key| key.contains('/')).count(), "all are reported");
    for t in &header.tensors {
        let (layer, module, matrix) = parse_tensor_name(&t.name).expect("PEFT's name");
        let p = Module::from_name(&module).expect("a projection");
        let mut ours = gradient(&session, p.list_index(layer, &case.model.config), p, matrix);
        if p == Module::Embed {
            let [cols, rows] = [t.shape[0], t.shape[1]];
            ours = (0..rows * cols).map(|i| ours[i % rows * cols + i / rows]).collect();
        }
        let theirs = safetensors_file::read_f32(&path, map.bytes(), t).expect("values");
        let theirs: Vec<f64> = theirs.into_iter().map(f64::from).collect();
        let error = relative(&ours, &theirs);
        assert!(error <= tolerance, "{name} {stem} {}: {error:e}", t.name);
    }
    assert_eq!(header.tensors.len(), gradients(&session).len(), "every gradient has a golden");
}

fn peft_file() -> &'static Path {
    Path::new(mesp_formats::peft::MODEL_FILE)
}

#[test]
fn f32_losses_and_gradients_equal_pytorch() {
    for adapter in ADAPTERS {
        for case in CASES {
            compare::<f32>(adapter, case, 1e-5);
        }
    }
}

#[test]
fn f64_losses_and_gradients_equal_pytorch() {
    // As next-token training: angles are single precision, and so is the golden as stored.
    for adapter in ADAPTERS {
        for case in CASES {
            compare::<f64>(adapter, case, 2e-6);
        }
    }
}

/// The losses as they are by default, with smoothing and a share of the ordinary loss where they have it.
fn all_losses() -> impl Iterator<Item = Preference> {
    LossType::ALL.into_iter().map(|loss_type| Preference {
        label_smoothing: if loss_type.smooths() { 0.1 } else { 0.0 },
        rpo_alpha: if loss_type.takes_rpo_alpha() { 0.4 } else { 0.0 },
        ..Preference::new(loss_type)
    })
}

/// Adapters in the blocks alone, where the words are gone through once, and on the head too, where it is twice.
fn placements(case: &Case) -> [AdapterConfig; 2] {
    let mut targets = case.adapter.targets.clone();
    targets.push(Module::Head);
    [case.adapter.clone(), AdapterConfig { targets, ..case.adapter.clone() }]
}

/// A batch whose reference is near the policy's log-probabilities, and not at them.
fn batch_for(loss_type: LossType) -> (Vec<Sequence>, Batch) {
    let of = sequences(loss_type);
    let reference: Vec<f64> = of
        .iter()
        .enumerate()
        .map(|(i, (_, tokens, _))| -4.5 * tokens.len() as f64 + i as f64 % 3.0)
        .collect();
    let batch = to_batch(&of, &reference);
    (of, batch)
}

/// κ of kto where it is not estimated.
const KL: f64 = 0.4;

/// The loss of a batch from an evaluation of it.
fn evaluated<R: Real>(session: &mut Session<Cpu<R>>, batch: &Batch, total: Total) -> f64 {
    let preference = *session.options().objective.preference().expect("a preference loss");
    let completions: Vec<_> = preference.completions(batch, session.evaluate(batch)).collect();
    let totals = Totals { examples: total.count, chosen_tokens: total.chosen_tokens };
    preference.score(&completions, totals, KL, &mut vec![0.0; completions.len()]).mean_loss()
}

#[test]
fn gradients_equal_differences() {
    const STEP: f64 = 1e-3;
    let case = Case::load("qwen2");
    for adapter in placements(&case) {
        for preference in all_losses() {
            let (_, batch) = batch_for(preference.loss_type);
            let options = Options { adapter: adapter.clone(), ..options(&case, preference) };
            let mut session = session_for::<f64>(&case.model, options, &shapes(&batch), 2);
            randomize_adapters(&mut session);
            session.set_kl(KL);
            let total = session.options().objective.total(&batch);
            let loss = |session: &mut Session<Cpu<f64>>| evaluated(session, &batch, total);
            let outcome = session.accumulate(&batch, total);
            assert_eq!(outcome.loss().to_bits(), loss(&mut session).to_bits(), "one forward");
            let (exact, start) = (gradients(&session), parameters(&session));
            let (mut ours, mut numeric) = (Vec::new(), Vec::new());
            // Some matrices of every block, and the last ones, which are the head's where it has an adapter.
            let last = exact.len() - 2;
            for (m, gradient) in exact.iter().enumerate().filter(|(m, _)| m % 5 == 0 || *m >= last) {
                let sign = |i: usize| if (i * 5 + m).is_multiple_of(3) { 1.0 } else { -1.0 };
                let d: Vec<f64> =
                    (0..gradient.len()).map(|i| sign(i) / (gradient.len() as f64).sqrt()).collect();
                numeric.push(derivative_of_matrix(&mut session, (m, &start[m], &d), STEP, loss));
                ours.push(gradient.iter().zip(&d).map(|(g, d)| g * d).sum::<f64>());
            }
            // The stencil's error; on the head, weights of rows are single precision.
            let error = relative(&ours, &numeric);
            assert!(error <= 1e-7, "{preference:?}: {error:e}");
        }
    }
}

/// Policies, tiles and threads change no bit.
#[test]
fn policies_agree() {
    let case = Case::load("qwen2");
    for adapter in placements(&case) {
        let (_, batch) = batch_for(LossType::Sigmoid);
        let run = |policy: Policy, threads: usize| {
            let preference = Preference { rpo_alpha: 0.4, ..Preference::new(LossType::Sigmoid) };
            let options = Options { adapter: adapter.clone(), policy, ..options(&case, preference) };
            let mut session = session_for::<f32>(&case.model, options, &shapes(&batch), threads);
            randomize_adapters(&mut session);
            let total = session.options().objective.total(&batch);
            let outcome = session.accumulate(&batch, total);
            (outcome.nats.to_bits(), bits(&gradients(&session)))
        };
        let reference = run(mesp_policy(), 1);
        let small = Tiles { mlp_rows: 7, head_rows: 5, ..Tiles::UNTILED };
        for method in Method::ALL {
            for tiles in [method.policy().tiles, small] {
                assert!(run(Policy { tiles, ..method.policy() }, 2) == reference, "{}", method.name());
            }
        }
    }
}

/// Pairs one by one are the batch of them, and stepping each block at once is stepping all at the end.
#[test]
fn parts_of_a_step_are_the_step() {
    let case = Case::load("qwen2");
    for preference in all_losses() {
        let (of, batch) = batch_for(preference.loss_type);
        let reference: Vec<f64> = batch.preferences.iter().map(|label| label.reference).collect();
        let size = preference.loss_type.completions();
        let run = |batches: &[Batch]| {
            let mut session = session_for::<f64>(&case.model, options(&case, preference), &shapes(&batch), 2);
            randomize_adapters(&mut session);
            let mut total = Total::default();
            for batch in batches {
                total += session.options().objective.total(batch);
            }
            let sum: f64 = batches.iter().map(|batch| session.accumulate(batch, total).nats).sum();
            (sum, gradients(&session), *session.score().expect("a preference loss"))
        };
        let parts: Vec<Batch> =
            of.chunks(size).zip(reference.chunks(size)).map(|(of, r)| to_batch(of, r)).collect();
        let (whole, apart) = (run(std::slice::from_ref(&batch)), run(&parts));
        assert!((whole.0 - apart.0).abs() <= 1e-12 * whole.0.abs(), "{preference:?}");
        assert!(relative(&whole.1.concat(), &apart.1.concat()) <= 1e-12, "{preference:?}");
        assert_eq!(whole.2.examples, apart.2.examples);

        let stepped = [Update::Accumulate, Update::PerBlock].map(|update| {
            let options = Options { update, ..options(&case, preference) };
            let mut session = session_for::<f32>(&case.model, options, &shapes(&batch), 2);
            randomize_adapters(&mut session);
            if update == Update::PerBlock {
                session.step_fused(&batch, 0.01, None);
            } else {
                let total = session.options().objective.total(&batch);
                session.accumulate(&batch, total);
                session.apply(0.01, 1.0);
            }
            bits(&parameters(&session))
        });
        assert!(stepped[0] == stepped[1], "{preference:?}");
    }
}

/// No second model, and nothing on the device beside next-token training.
#[test]
fn memory_is_that_of_next_token_training() {
    let case = Case::load("qwen2");
    let (_, batch) = batch_for(LossType::Sigmoid);
    for policy in Method::ALL.map(mesp::method::Method::policy) {
        let bytes = |objective| {
            let options = Options { objective, policy, ..case.options(mesp_policy()) };
            let plan = plan(&case.model, &options, &shapes(&batch), 4, 1).expect("a plan");
            (plan.programs[0].bytes, plan.programs[0].entries.len())
        };
        let preference = ObjectiveKind::Preference(Preference::new(LossType::Sigmoid));
        assert_eq!(bytes(preference), bytes(ObjectiveKind::Sft));
    }
}

/// ⟨∇L, z⟩ from tangents and from losses beside the adapters.
#[test]
fn estimates_see_the_loss() {
    let case = Case::load("qwen2");
    for preference in all_losses() {
        let (_, batch) = batch_for(preference.loss_type);
        let with = |estimator| {
            let options = Options { estimator, ..options(&case, preference) };
            let mut session = session_for::<f64>(&case.model, options, &shapes(&batch), 2);
            randomize_adapters(&mut session);
            session
        };
        let mut exact = with(Estimator::Exact);
        let total = exact.options().objective.total(&batch);
        let loss = exact.accumulate(&batch, total).loss();
        let (forward, mezo) = (Directional::FORWARD, Directional::MEZO);
        let direction = forward.direction(5, 1, 0);
        let mut here = with(Estimator::Directional(forward));
        let (outcome, derivative) = here.derivative(&batch, total, direction);
        assert!((outcome.loss() - loss).abs() <= 1e-12 * loss.abs());
        here.perturb_in_place(0.0, 1.0, direction);
        let z = parameters(&here).concat();
        let gradient = gradients(&exact).concat();
        let expected: f64 = gradient.iter().zip(&z).map(|(g, z)| g * z).sum();
        let norm = gradient.iter().map(|g| g * g).sum::<f64>().sqrt();
        assert!((derivative - expected).abs() <= 1e-9 * norm, "{preference:?}: {derivative} {expected}");
        let mut beside = with(Estimator::Directional(mezo));
        let [up, down] = [1e-4, -1e-4].map(|by| beside.probe(&batch, by, direction).loss());
        let difference = (up - down) / 2e-4;
        assert!((difference - expected).abs() <= 1e-4 * norm, "{preference:?}: {difference} {expected}");
    }
}
