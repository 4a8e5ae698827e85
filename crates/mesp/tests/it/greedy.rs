//! Greedy text against transformers: the same 64 tokens, with the adapter and without, windows in the cache too.

use std::sync::Arc;

use mesp::adapter::{AdapterConfig, peft};
use mesp::generate::{Generator, Sampling, plan_generation};
use mesp_device::Cpu;

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

fn text(case: &Case, adapter: &AdapterConfig, run: &Run) -> Vec<u32> {
    let capacity = run.prompt_ids.len() + run.token_ids.len();
    let plan = plan_generation(&case.model, adapter, capacity, 4, 1);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("a pool");
    let be = Cpu::<f32>::new(plan, Arc::new(pool));
    let mut generator = Generator::new(be, Arc::clone(&case.model), adapter.clone(), capacity);
    if !adapter.targets.is_empty() {
        let (be, params) = generator.params_mut();
        peft::read_tensors(be, &case.adapter_file(), params, &case.model.config).expect("the golden adapter");
    }
    let mut tokens = Vec::new();
    generator.generate(&run.prompt_ids, run.token_ids.len(), Sampling::GREEDY, &[], &mut |token| {
        tokens.push(token);
        true
    });
    tokens
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
