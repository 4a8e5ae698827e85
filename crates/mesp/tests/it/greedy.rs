//! Greedy text against transformers: the same 64 tokens, with the adapter and without, windows in the cache too.

use std::sync::Arc;

use mesp::adapter::{AdapterConfig, peft};
use mesp::generate::{Finish, Generator, Sampler, Sampling, plan_generation};
use mesp_device::{Cpu, Threads};

use crate::support::{ARCHS, Case};

/// `greedy.json` of a golden.
#[derive(serde::Deserialize)]
struct Golden {
    adapted: Run,
    base: Run,
}

#[derive(serde::Deserialize)]
struct Run {
    prompt_ids: Vec<u32>,
    token_ids: Vec<u32>,
}

fn generator(case: &Case, adapter: &AdapterConfig, capacity: usize) -> Generator<Cpu<f32>> {
    let plan = plan_generation(&case.model, adapter, capacity, 4, 1).expect("a plan");
    let pool = Threads::new(1).expect("threads");
    let be = Cpu::<f32>::new(plan, Arc::new(pool));
    let mut generator = Generator::new(be, Arc::clone(&case.model), adapter, capacity);
    if !adapter.targets.is_empty() {
        let (be, params) = generator.params_mut();
        peft::read_tensors(be, &case.adapter_file(), params, &case.model.config).expect("the golden adapter");
    }
    generator
}

/// Greedy tokens, and why they ended.
fn tokens(
    generator: &mut Generator<Cpu<f32>>,
    prompt: &[u32],
    most: usize,
    stop: &[u32],
) -> (Vec<u32>, Finish) {
    let mut tokens = Vec::new();
    let mut sampler = Sampler::new(Sampling::GREEDY);
    let finish = generator.generate(prompt, most, &mut sampler, stop, &mut |token| {
        tokens.push(token);
        true
    });
    (tokens, finish.expect("logits that are numbers"))
}

fn text(case: &Case, adapter: &AdapterConfig, run: &Run) -> Vec<u32> {
    let capacity = run.prompt_ids.len() + run.token_ids.len();
    tokens(&mut generator(case, adapter, capacity), &run.prompt_ids, run.token_ids.len(), &[]).0
}

#[test]
fn greedy_tokens_equal_transformers() {
    for arch in ARCHS {
        let case = Case::load(arch);
        let file = std::fs::read_to_string(case.dir.join("greedy.json")).expect("greedy.json");
        let golden: Golden = serde_json::from_str(&file).expect("a golden");
        assert_eq!(golden.base.token_ids.len(), 64);
        assert_ne!(golden.base.token_ids, golden.adapted.token_ids, "{arch}: the adapter says something");
        assert_eq!(text(&case, &case.adapter, &golden.adapted), golden.adapted.token_ids, "{arch}, adapted");
        assert_eq!(text(&case, &AdapterConfig::none(), &golden.base), golden.base.token_ids, "{arch}, base");
    }
}

#[test]
fn an_adapter_without_scale_is_the_base() {
    let case = Case::load("qwen2");
    let golden: Golden =
        serde_json::from_str(&std::fs::read_to_string(case.dir.join("greedy.json")).expect("greedy.json"))
            .expect("a golden");
    assert_eq!(text(&case, &case.adapter.clone().scaled(0.0), &golden.base), golden.base.token_ids);
    assert_eq!(text(&case, &case.adapter.clone().scaled(1.0), &golden.adapted), golden.adapted.token_ids);
}

/// A conversation goes on in the cache: what a new prompt has in common with the sequence is not computed again,
/// and the logits are those of a fresh start, to the bit.
#[test]
fn a_kept_beginning_changes_no_bit() {
    for arch in ARCHS {
        let case = Case::load(arch);
        // Longer than a chunk, and than every window.
        let word = |i: usize| ((i * i + 3 * i) % 89) as u32;
        let first: Vec<u32> = (0..80).map(word).collect();
        let mut second = first[..70].to_vec();
        second.extend((0..20).map(|i| word(i + 7)));
        let mut kept = generator(&case, &case.adapter, 200);
        tokens(&mut kept, &first, 8, &[]);
        assert_eq!(kept.keep_common(&second), 70, "{arch}");
        let warm = kept.feed(&second[70..]).to_vec();
        let mut fresh = generator(&case, &case.adapter, 200);
        assert_eq!(fresh.keep_common(&second), 0);
        let cold = fresh.feed(&second).to_vec();
        assert!(warm.iter().zip(&cold).all(|(a, b)| a.to_bits() == b.to_bits()), "{arch}");
        // The same prompt again: its last token is computed, since its logits are wanted.
        assert_eq!(kept.keep_common(&second), second.len() - 1);
    }
}

#[test]
fn why_a_text_ends_and_what_it_needs() {
    let case = Case::load("qwen2");
    let mut g = generator(&case, &case.adapter, 140);
    let prompt: Vec<u32> = (0..130).collect::<Vec<u32>>().iter().map(|t| t % 97).collect();
    let (all, finish) = tokens(&mut g, &prompt, 50, &[]);
    // The last one needs no place: nothing follows it.
    assert_eq!((all.len(), finish), (11, Finish::Full));
    assert_eq!(
        (g.room(), g.backend().reached_bytes()),
        (0, g.backend().plan().bytes()),
        "the peak is planned"
    );
    assert_eq!(tokens(&mut g, &prompt, 4, &[]), (all[..4].to_vec(), Finish::Length));
    let stop = all[2];
    let before = all.iter().position(|t| *t == stop).expect("it is there");
    assert_eq!(tokens(&mut g, &prompt, 50, &[1000, stop]), (all[..before].to_vec(), Finish::Stop));
    let mut taken = 0;
    let told = g.generate(&prompt, 50, &mut Sampler::new(Sampling::GREEDY), &[], &mut |_| {
        taken += 1;
        taken < 3
    });
    assert_eq!((told.expect("numbers"), taken), (Finish::Told, 3));
}
