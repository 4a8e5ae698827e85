//! `mesp bench generate`: tokens one after another, against the rate at which the machine reads.
//!
//! A token needs every weight once and little arithmetic for each, so memory bounds it: what is asked is how near its
//! bytes a second come to those of a plain sum over the same bytes by as many threads, in the same run.

use std::fmt::Write as _;
use std::hint::black_box;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use mesp::Model;
use mesp::generate::{Sampler, Sampling};
use mesp::model::ModelWeights;
use mesp::rng;
use mesp::settings::{Numbers, threads};
use mesp::source::Base;
use mesp_console::failure::usage;
use mesp_console::outputs::{self, Inputs};
use mesp_console::sizes::bytes;
use mesp_console::ui;
use mesp_device::{Par, Threads, Weight, process_cpu_time};
use mesp_formats::atomic::{create_dir_all, write_atomic};
use serde_json::{Value, json};

use super::step::median;
use super::{machine, models};
use crate::args::BenchGenerateArgs;

/// What each figure is.
const DEFINITIONS: [(&str, &str); 7] = [
    (
        "weights",
        "bytes of frozen matrices that a token reads, as they are stored: all but the embedding's other rows",
    ),
    ("tokens/s", "one over the median time of a token, its choice included"),
    ("GB/s", "weights over the median time of a token"),
    (
        "read GB/s",
        "weights over the median time of summing their bytes as 64-bit words, all threads, in turns with tokens",
    ),
    ("share", "GB/s over read GB/s"),
    ("cpu ms", "processor time of a token, all threads, the mean of a round, the median of rounds"),
    (
        "cpu share",
        "weights over a token's processor time, over the same of a sum; it stays when others use the machine",
    ),
];

/// One model, measured.
struct Measured {
    ty: String,
    compute: &'static str,
    weights: usize,
    /// Seconds of each token.
    seconds: Vec<f64>,
    /// Seconds of each sum.
    sums: Vec<f64>,
    /// Processor time of a token, and of a sum: means of each round.
    cpu: Vec<f64>,
    sums_cpu: Vec<f64>,
    /// Seconds of each prompt.
    prompts: Vec<f64>,
    planned: usize,
}

impl Measured {
    fn rate(&self) -> f64 {
        self.weights as f64 / median(&self.seconds)
    }

    fn cpu_share(&self) -> f64 {
        median(&self.sums_cpu) / median(&self.cpu)
    }

    fn read_rate(&self) -> f64 {
        self.weights as f64 / median(&self.sums)
    }
}

pub(super) fn run(args: &BenchGenerateArgs) -> Result<()> {
    for (option, n) in
        [("--tokens", args.tokens), ("--rounds", args.rounds), ("--prompt-tokens", args.prompt_tokens)]
    {
        if n == 0 {
            return Err(usage(format!("{option} is 0, expected 1 or more"), "leave it out for the default"));
        }
    }
    let name = machine::name(args.results.name.as_deref())?;
    outputs::files(
        &args.results.output,
        &[&format!("generate-{name}.json")],
        &Inputs::default().model(args.model.as_deref()).adapter("--adapter", args.adapter.as_deref()),
        args.results.replace.overwrite,
    )?;
    create_dir_all(&args.results.output)?;
    let pool = threads(args.shared.threads)?;
    let mut all = Vec::new();
    for (ty, path) in chosen(args)? {
        let m = measure(args, ty, &path, &pool)?;
        ui::note(format!(
            "{}: {:.1} tokens/s, {:.0}% of the read rate",
            m.ty,
            1.0 / median(&m.seconds),
            100.0 * m.rate() / m.read_rate()
        ));
        all.push(m);
    }
    let document = document(args, &all, pool.count());
    let results = args.results.output.join(format!("generate-{name}.json"));
    write_atomic(&results, |out| writeln!(out, "{document:#}"))?;
    ui::result(args.shared.json, &text(args, &all, pool.count()))?;
    if args.shared.json {
        ui::json(&document)?;
    }
    ui::note(format!("results: {}", results.display()));
    Ok(())
}

/// The models: the one named, or random weights in several types.
fn chosen(args: &BenchGenerateArgs) -> Result<Vec<(String, PathBuf)>> {
    if let Some(path) = &args.model {
        let name = path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        return Ok(vec![(name, path.clone())]);
    }
    let preset = args.preset.as_deref().unwrap_or("qwen2.5-0.5b");
    mesp::init_model::preset(preset)?;
    let cache = models::cache(args.results.cache.as_deref())?;
    let types = if args.types.is_empty() {
        ["bf16", "q8_0", "q4_0"].map(str::to_owned).to_vec()
    } else {
        args.types.clone()
    };
    types
        .into_iter()
        .map(|ty| models::random(&models::program()?, &cache, preset, &ty).map(|path| (ty, path)))
        .collect()
}

fn measure(args: &BenchGenerateArgs, ty: String, path: &Path, pool: &Arc<Threads>) -> Result<Measured> {
    let model = Model::open_as(path, Base::Mapped)?;
    ui::note_once(model.notes());
    let numbers = Numbers::single(args.compute, model.dtype())?;
    let capacity = args.prompt_tokens + args.tokens;
    let mut generator = model.generator(args.adapter.as_deref(), 1.0, capacity, numbers, pool)?;
    let weights = matrices(model.weights());
    let vocabulary = model.config().vocab_size as u64;
    let prompt: Vec<u32> =
        (0..args.prompt_tokens as u64).map(|i| (rng::bits(1, 0, i) % vocabulary) as u32).collect();
    let mut measured = Measured {
        ty,
        compute: numbers.name(),
        weights: weights.iter().map(|w| w.bytes()).sum(),
        seconds: Vec::new(),
        sums: Vec::new(),
        cpu: Vec::new(),
        sums_cpu: Vec::new(),
        prompts: Vec::new(),
        planned: generator.backend().plan().bytes(),
    };
    // A round more than counts: the first meets pages that were never read.
    for round in 0..=args.rounds {
        generator.reset();
        let (mut first, mut last) = (None, Instant::now());
        let mut cpu = Stretch::begin();
        let mut times = Vec::with_capacity(args.tokens);
        generator.generate(
            &prompt,
            args.tokens + 1,
            &mut Sampler::new(Sampling::GREEDY),
            &[],
            &mut |_| {
                let time = last.elapsed().as_secs_f64();
                last = Instant::now();
                match first {
                    None => {
                        first = Some(time);
                        cpu = Stretch::begin();
                    }
                    Some(_) => times.push(time),
                }
                true
            },
        )?;
        let token_cpu = cpu.each(args.tokens);
        let cpu = Stretch::begin();
        let sums: Vec<f64> = (0..SUMS).map(|_| sum(&weights, pool)).collect();
        let sum_cpu = cpu.each(SUMS);
        if round > 0 {
            measured.prompts.extend(first);
            measured.seconds.extend(times);
            measured.sums.extend(sums);
            measured.cpu.extend(token_cpu);
            measured.sums_cpu.extend(sum_cpu);
        }
    }
    Ok(measured)
}

/// Sums of a round.
const SUMS: usize = 3;

/// Processor time from here on, where the system tells.
struct Stretch(Option<Duration>);

impl Stretch {
    fn begin() -> Self {
        Self(process_cpu_time())
    }

    /// Processor seconds of each of so many.
    fn each(&self, n: usize) -> Option<f64> {
        let spent = process_cpu_time()?.saturating_sub(self.0?);
        Some(spent.as_secs_f64() / n as f64)
    }
}

/// The matrices that a token is multiplied with.
fn matrices(model: &ModelWeights) -> Vec<&Weight> {
    let blocks = model.blocks.iter().flat_map(|block| block.linears.iter().map(|linear| &linear.weight));
    blocks.chain([model.head()]).collect()
}

/// Seconds of a sum over the bytes of all of them.
fn sum(weights: &[&Weight], pool: &Threads) -> f64 {
    /// Bytes that a thread takes at a time.
    const PART: usize = 1 << 20;
    let parts: Vec<&[u8]> = weights.iter().flat_map(|w| w.view().data.chunks(PART)).collect();
    let started = Instant::now();
    let total = AtomicU64::new(0);
    Par::on(pool).tasks(parts.len(), |part, _| {
        let words = parts[part].as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word));
        total.fetch_add(words.fold(0u64, u64::wrapping_add), Ordering::Relaxed);
    });
    black_box(total);
    started.elapsed().as_secs_f64()
}

fn document(args: &BenchGenerateArgs, all: &[Measured], threads: usize) -> Value {
    let one = |m: &Measured| {
        json!({
            "type": m.ty,
            "compute": m.compute,
            "weight_bytes_per_token": m.weights,
            "token_seconds": m.seconds,
            "sum_seconds": m.sums,
            "token_cpu_seconds": m.cpu,
            "sum_cpu_seconds": m.sums_cpu,
            "prompt_seconds": m.prompts,
            "tokens_per_second": 1.0 / median(&m.seconds),
            "prompt_tokens_per_second": args.prompt_tokens as f64 / median(&m.prompts),
            "bytes_per_second": m.rate(),
            "read_bytes_per_second": m.read_rate(),
            "share_of_read_rate": m.rate() / m.read_rate(),
            "share_of_read_rate_cpu": Some(m.cpu_share()).filter(|share| share.is_finite()),
            "planned_bytes": m.planned,
        })
    };
    machine::document(
        "generate",
        json!({
            "settings": {
                "model": if args.model.is_some() { None } else { Some(args.preset.as_deref().unwrap_or("qwen2.5-0.5b")) },
                "prompt_tokens": args.prompt_tokens,
                "tokens": args.tokens,
                "rounds": args.rounds,
                "threads": threads,
                "adapter": args.adapter.is_some(),
            },
            "definitions": machine::definitions(&DEFINITIONS),
            "models": all.iter().map(one).collect::<Vec<_>>(),
        }),
    )
}

fn text(args: &BenchGenerateArgs, all: &[Measured], threads: usize) -> String {
    let mut text = format!(
        "{} tokens one after another, after a prompt of {}, {threads} threads, {} rounds\n\n",
        args.tokens, args.prompt_tokens, args.rounds
    );
    let head = [
        "",
        "compute",
        "weights",
        "tokens/s",
        "GB/s",
        "read GB/s",
        "share",
        "cpu ms",
        "cpu share",
        "prompt tokens/s",
        "planned",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    rows.extend(all.iter().map(|m| {
        vec![
            m.ty.clone(),
            m.compute.to_owned(),
            bytes(m.weights as u64),
            format!("{:.1}", 1.0 / median(&m.seconds)),
            format!("{:.1}", m.rate() / 1e9),
            format!("{:.1}", m.read_rate() / 1e9),
            format!("{:.0}%", 100.0 * m.rate() / m.read_rate()),
            format!("{:.1}", 1e3 * median(&m.cpu)),
            format!("{:.0}%", 100.0 * m.cpu_share()),
            format!("{:.0}", args.prompt_tokens as f64 / median(&m.prompts)),
            bytes(m.planned as u64),
        ]
    }));
    text.push_str(&ui::table(&rows));
    text.push('\n');
    for (name, definition) in DEFINITIONS {
        let _ = writeln!(text, "{name}: {definition}");
    }
    text
}
