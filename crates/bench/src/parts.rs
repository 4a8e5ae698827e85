//! What is measured: the ladder, and the paper's tables.

use anyhow::Result;
use mesp::init_model::preset;
use mesp_console::failure::usage;

use crate::args::BenchMemoryArgs;

/// A way to train, from the most memory to the least.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rung {
    StoreAll,
    Mebp,
    PaperStoreH,
    Paper,
    Mesp,
    MespBf16,
    MespFile,
    /// Under the least budget that the plan allows.
    Least,
    /// Two forward passes, no backward.
    Mezo,
}

impl Rung {
    pub(super) const ALL: [Self; 9] = [
        Self::StoreAll,
        Self::Mebp,
        Self::PaperStoreH,
        Self::Paper,
        Self::Mesp,
        Self::MespBf16,
        Self::MespFile,
        Self::Least,
        Self::Mezo,
    ];

    /// The name in options and results.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::StoreAll => "store-all",
            Self::Mebp => "mebp",
            Self::PaperStoreH => "mesp-paper-store-h",
            Self::Paper => "mesp-paper",
            Self::Mesp => "mesp",
            Self::MespBf16 => "mesp-bf16-checkpoints",
            Self::MespFile => "mesp-file-checkpoints",
            Self::Least => "mesp-least",
            Self::Mezo => "mezo",
        }
    }

    /// The options that ask `mesp train` or `mesp plan` for it; a budget comes on top for [`Rung::Least`].
    pub(super) const fn options(self) -> &'static [&'static str] {
        // In the released code every gradient waits for the end of the step; it holds what blocks are
        // rebuilt from in memory.
        match self {
            Self::StoreAll => &["--method=store-all", "--update=accumulate", "--checkpoints=f32"],
            Self::Mebp => &["--method=mebp", "--update=accumulate", "--checkpoints=f32"],
            Self::PaperStoreH => &["--method=mesp-paper-store-h", "--update=accumulate", "--checkpoints=f32"],
            Self::Paper => &["--method=mesp-paper", "--update=accumulate", "--checkpoints=f32"],
            Self::Mesp => &["--method=mesp", "--update=per-block", "--checkpoints=f32"],
            Self::MespBf16 => &["--method=mesp", "--update=per-block", "--checkpoints=bf16"],
            Self::MespFile => &["--method=mesp", "--update=per-block", "--checkpoints=file"],
            Self::Least => &["--method=auto", "--update=per-block"],
            Self::Mezo => &["--method=mezo"],
        }
    }

    /// Whether it is one of this engine's own.
    pub(super) const fn ours(self) -> bool {
        matches!(self, Self::Mesp | Self::MespBf16 | Self::MespFile | Self::Least)
    }
}

/// One configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Setup {
    pub(super) model: String,
    pub(super) tokens: usize,
    pub(super) rank: usize,
    pub(super) rung: Rung,
}

/// Configurations that belong together. What stands in two tables is measured once.
pub(super) struct Table {
    pub(super) name: &'static str,
    pub(super) title: String,
    pub(super) rows: Vec<Setup>,
}

/// The paper's rank and length where a table varies something else.
const RANK: usize = 8;
const TOKENS: usize = 256;

const PARTS: [&str; 6] = ["ladder", "table-1", "table-2", "table-3", "table-5", "mebp"];

/// The models of the MeBP paper's table that the published shapes have.
const PHONE: [&str; 4] = ["qwen2.5-0.5b", "qwen2.5-1.5b", "qwen2.5-3b", "gemma-3-1b"];

/// What was asked for.
pub(super) fn tables(args: &BenchMemoryArgs) -> Result<Vec<Table>> {
    let models = some_or(&args.models, &["qwen2.5-0.5b", "qwen2.5-1.5b", "qwen2.5-3b"].map(str::to_owned));
    let lengths = some_or(&args.tokens, &[128, 256, 512, 1024]);
    let ranks = some_or(&args.ranks, &[4, 8, 16, 32]);
    for model in &models {
        preset(model)?;
    }
    if lengths.contains(&0) || lengths.contains(&1) || ranks.contains(&0) {
        let problem = "--tokens and --ranks: expected lengths of 2 or more and ranks of 1 or more";
        return Err(usage(problem, "leave them out for the paper's"));
    }
    let mut rungs = Vec::new();
    for name in &args.rungs {
        rungs.push(Rung::ALL.into_iter().find(|r| r.name() == name).ok_or_else(|| {
            let known = Rung::ALL.map(Rung::name).join(", ");
            usage(format!("--rungs: {name:?} is unknown"), format!("expected {known}"))
        })?);
    }
    let rungs = some_or(&rungs, &Rung::ALL);
    if let Some(part) = args.parts.iter().find(|p| !PARTS.contains(&p.as_str())) {
        return Err(usage(format!("--parts: {part:?} is unknown"), format!("expected {}", PARTS.join(", "))));
    }
    let parts =
        if args.quick { vec!["ladder".to_owned()] } else { some_or(&args.parts, &PARTS.map(str::to_owned)) };

    let length = if lengths.contains(&TOKENS) { TOKENS } else { lengths[0] };
    let first = models[0].as_str();
    // The models of the paper's tables 2, 3 and 5, or the nearest there are.
    let small = models.iter().find(|m| *m == "qwen2.5-0.5b").map_or(first, String::as_str);
    let large = models.iter().find(|m| *m == "qwen2.5-3b").map(String::as_str);
    let rows = |models: &[&str], lengths: &[usize], ranks: &[usize], wanted: &[Rung]| {
        let mut rows = Vec::new();
        for model in models {
            for &tokens in lengths {
                for &rank in ranks {
                    for &rung in wanted.iter().filter(|r| rungs.contains(r)) {
                        rows.push(Setup { model: (*model).to_owned(), tokens, rank, rung });
                    }
                }
            }
        }
        rows
    };
    let all: Vec<&str> = models.iter().map(String::as_str).collect();
    let phone: &[&str] = if args.models.is_empty() { &PHONE } else { &all };
    let compared = [Rung::Mebp, Rung::Paper, Rung::Mesp, Rung::Least];
    let table = |name| match name {
        "ladder" => Some(Table {
            name,
            title: format!("The ladder: {first}, {length} tokens, rank {RANK}"),
            rows: rows(&[first], &[length], &[RANK], &Rung::ALL),
        }),
        "table-1" => Some(Table {
            name,
            title: format!("The paper's Table 1: models, at {length} tokens and rank {RANK}"),
            rows: rows(&all, &[length], &[RANK], &compared),
        }),
        "table-2" => Some(Table {
            name,
            title: format!("The paper's Table 2: tokens, of {small} at rank {RANK}"),
            rows: rows(&[small], &lengths, &[RANK], &compared),
        }),
        "table-3" => Some(Table {
            name,
            title: format!("The paper's Table 3: ranks, of {small} at {length} tokens"),
            rows: rows(&[small], &[length], &ranks, &compared),
        }),
        "mebp" => Some(Table {
            name,
            title: format!("The MeBP paper's table: models, at {length} tokens and rank {RANK}"),
            rows: rows(phone, &[length], &[RANK], &[Rung::Mezo, Rung::Mebp, Rung::Mesp, Rung::Least]),
        }),
        _ => large.map(|large| Table {
            name,
            title: format!("The paper's Table 5: h stored or rebuilt, {large} at {length} tokens"),
            rows: rows(
                &[large],
                &[length],
                &[RANK],
                &[Rung::Mebp, Rung::PaperStoreH, Rung::Paper, Rung::Mesp],
            ),
        }),
    };
    let wanted = PARTS.into_iter().filter(|p| parts.iter().any(|part| part == p));
    Ok(wanted.filter_map(table).filter(|t| !t.rows.is_empty()).collect())
}

fn some_or<T: Clone>(given: &[T], default: &[T]) -> Vec<T> {
    if given.is_empty() { default.to_vec() } else { given.to_vec() }
}

/// What a row is called in its table: that which varies, and the method.
pub(super) fn label(table: &Table, setup: &Setup) -> String {
    let name = setup.rung.name();
    match table.name {
        "table-1" | "mebp" => format!("{} {name}", setup.model),
        "table-2" => format!("{} tokens {name}", setup.tokens),
        "table-3" => format!("rank {} {name}", setup.rank),
        _ => name.to_owned(),
    }
}
