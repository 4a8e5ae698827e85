//! The page.

use std::fmt::Write as _;

use serde_json::Value;

use super::super::published;
use super::Documents;

pub(super) fn text(documents: &Documents) -> String {
    let mut page = String::from(OPENING);
    let machine = &documents.memory["machine"];
    let _ = writeln!(
        page,
        "\nMeasured on {} ({} cores), {}; commit {}, weights in {}. Times are those of this machine and say nothing of a phone.\n",
        machine["cpu"].as_str().unwrap_or("an unnamed processor"),
        machine["cores"],
        documents.memory["date"].as_str().unwrap_or("on an unknown day"),
        documents.memory["commit"].as_str().unwrap_or("unknown"),
        documents.memory["settings"]["base_type"].as_str().unwrap_or("?"),
    );
    let memory = Memory(&documents.memory);
    memory.mesp(&mut page);
    page.push_str(DIFFERENCES);
    memory.mebp(&mut page);
    gradients(&mut page, &documents.gradients);
    convergence(&mut page, &documents.convergence);
    page.push_str(LEFT_OUT);
    page
}

/// Configurations of `mesp bench memory`.
struct Memory<'a>(&'a Value);

impl Memory<'_> {
    fn find(&self, model: &str, tokens: u64, rank: u64, rung: &str) -> Option<&Value> {
        self.0["configurations"]
            .as_array()?
            .iter()
            .find(|c| c["model"] == model && c["tokens"] == tokens && c["rank"] == rank && c["rung"] == rung)
    }

    /// Anonymous memory in MB, or the plan with a mark.
    fn megabytes(&self, model: &str, tokens: u64, rank: u64, rung: &str) -> String {
        let Some(c) = self.find(model, tokens, rank, rung) else { return "–".to_owned() };
        let number = |key: &str| c[key].as_u64().map(|bytes| bytes as f64 / 1e6);
        match (c["measured"].as_bool(), number("rss_anon_peak_bytes"), number("planned_bytes")) {
            (Some(true), Some(mb), _) => short(mb),
            (Some(true), None, Some(mb)) | (_, _, Some(mb)) => format!("~{}", short(mb)),
            _ => "failed".to_owned(),
        }
    }

    fn seconds(&self, model: &str, tokens: u64, rank: u64, rung: &str) -> String {
        let c = self.find(model, tokens, rank, rung);
        c.and_then(|c| c["step_seconds"].as_f64()).map_or_else(|| "–".to_owned(), |s| format!("{s:.2}"))
    }

    fn published(&self, model: &str, tokens: u64, rank: u64, rung: &str) -> String {
        let c = self.find(model, tokens, rank, rung);
        c.and_then(|c| c["published_mb"].as_f64()).map_or_else(|| "–".to_owned(), |mb| format!("{mb:.1}"))
    }

    /// The MeSP paper's tables.
    fn mesp(&self, page: &mut String) {
        const SMALL: &str = "qwen2.5-0.5b";
        const LARGE: &str = "qwen2.5-3b";
        page.push_str("## MeSP, Tables 1 to 3: memory\n\nMB. ~ marks the plan of what was not run; anonymous memory exceeds it by about 1 MB.\n\n");
        page.push_str("| | MeBP, published | mebp here | MeSP, published | mesp-paper here | mesp | mesp, least budget |\n|---|---|---|---|---|---|---|\n");
        let models = [(SMALL, "0.5B"), ("qwen2.5-1.5b", "1.5B"), (LARGE, "3B")];
        let mut rows: Vec<(String, &str, u64, u64)> =
            models.iter().map(|(model, name)| (format!("Table 1: {name}"), *model, 256, 8)).collect();
        rows.extend([128, 256, 512, 1024].map(|t| (format!("Table 2: 0.5B, {t} tokens"), SMALL, t, 8)));
        rows.extend([4, 8, 16, 32].map(|r| (format!("Table 3: 0.5B, rank {r}"), SMALL, 256, r)));
        for (name, model, tokens, rank) in rows {
            let mb = |rung| self.megabytes(model, tokens, rank, rung);
            let published = |rung| self.published(model, tokens, rank, rung);
            let _ = writeln!(
                page,
                "| {name} | {} | {} | {} | {} | **{}** | **{}** |",
                published("mebp"),
                mb("mebp"),
                published("mesp-paper"),
                mb("mesp-paper"),
                mb("mesp"),
                mb("mesp-least"),
            );
        }
        page.push_str("\n## MeSP, Table 1: seconds a step\n\n| | MeBP, iPhone 17 Pro | MeSP, iPhone 17 Pro | mebp here | mesp-paper here | mesp here |\n|---|---|---|---|---|---|\n");
        for ((model, name), theirs) in
            models.iter().zip([("0.68", "0.86"), ("1.66", "2.17"), ("3.21", "4.09")])
        {
            let s = |rung| self.seconds(model, 256, 8, rung);
            let _ = writeln!(
                page,
                "| {name} | {} | {} | {} | {} | {} |",
                theirs.0,
                theirs.1,
                s("mebp"),
                s("mesp-paper"),
                s("mesp")
            );
        }
        let mb = |rung| self.megabytes(LARGE, 256, 8, rung);
        let _ = writeln!(
            page,
            "\n## MeSP, Table 5: h stored or rebuilt, 3B\n\n| | published MB | here |\n|---|---|---|\n| MeBP | 637.6 | {} |\n| h stored | 398.5 | {} |\n| h rebuilt | 368.4 | {} |\n\nAll seven h of a block are 57 kB in f32 at rank 8 and 256 tokens, 1 MB over all blocks of the 3B model: storing them cannot cost 30 MB, and here it does not.",
            mb("mebp"),
            mb("mesp-paper-store-h"),
            mb("mesp-paper")
        );
    }

    /// The MeBP paper's table.
    fn mebp(&self, page: &mut String) {
        page.push_str("\n## MeBP's table: MeZO and exact gradients\n\nPublished: iPhone 15 Pro Max, INT4 weights. Its rank is given as 16 by some; the numbers of trainable values are those of rank 8.\n\n| | MeZO, published | MeBP, published | mezo here | mebp here | mesp here | mesp, least budget |\n|---|---|---|---|---|---|---|\n");
        for (model, mezo, mebp) in published::phone() {
            let theirs = |f: published::Figure| {
                format!("{:.0} MB, {:.2} s", f.megabytes, f.seconds.unwrap_or(f64::NAN))
            };
            let ours = |rung| match self.megabytes(model, 256, 8, rung) {
                none if none == "–" => none,
                mb => format!("{mb} MB, {} s", self.seconds(model, 256, 8, rung)),
            };
            let _ = writeln!(
                page,
                "| {model} | {} | {} | {} | {} | {} | {} |",
                theirs(mezo),
                theirs(mebp),
                ours("mezo"),
                ours("mebp"),
                ours("mesp"),
                ours("mesp-least")
            );
        }
        page.push_str("\nThe published MeZO needs as much memory as the published MeBP, since both hold the logits of all tokens. Computed in tiles of words, a forward pass needs far less than either; what a step of exact gradients holds beyond it are the inputs of the blocks and one block at work.\n");
    }
}

fn gradients(page: &mut String, document: &Value) {
    let values = document["reference"]["values"].as_u64().unwrap_or(0);
    let _ = writeln!(
        page,
        "\n## The quality of gradients\n\nThe MeSP paper gives about 0.001 for the cosine between MeZO's estimate and the gradient and takes it for a defect of MeZO. It is what counting dimensions says: for one random direction z in d dimensions the root mean square of the cosine is 1/√d, whatever the model, and of d = {values} values that is {:.2e}. {}, {} tokens, rank {}; the exact gradient in {}.\n",
        1.0 / (values as f64).sqrt(),
        document["settings"]["model"].as_str().unwrap_or("?"),
        document["settings"]["tokens"],
        document["settings"]["rank"],
        document["settings"]["reference"].as_str().unwrap_or("?"),
    );
    page.push_str("| | estimates | cosine, root mean square | 1/√d, or for n directions | error ‖ĝ − g‖/‖g‖ | theory |\n|---|---|---|---|---|---|\n");
    for m in document["methods"].as_array().into_iter().flatten() {
        let n = |key: &str| m[key].as_f64().map_or_else(|| "–".to_owned(), scientific);
        let _ = writeln!(
            page,
            "| {} | {} | {} | {} | {} | {} |",
            m["name"].as_str().unwrap_or("?"),
            m["seeds"],
            n("cosine_rms"),
            n("cosine_rms_theory"),
            n("relative_error"),
            n("relative_error_theory")
        );
    }
    page.push_str("\n`mesp` is computed in single precision and `mesp-bf16` with products in bf16; they do not depend on a seed. `forward` has the exact slope along its direction and no better direction: its cosine is MeZO's. The picture beside the figures, [gradients-paper.svg](../results/gradients-paper.svg), shows the cosine of every tensor on the same line.\n");
}

fn convergence(page: &mut String, document: &Value) {
    let s = &document["settings"];
    let _ = writeln!(
        page,
        "\n## Convergence\n\nThe MeBP paper finds first-order steps ahead after 100 steps and MeZO behind them even after 100,000. Here: {} model and data, batch {}, rank {}, the best of a few constant learning rates each; {} steps with backward passes, {} times as many of estimates. `lcsb` is a surrogate: it goes back through half of the blocks, drawn anew each step, and takes the others for constants.\n",
        s["model"].as_str().unwrap_or("?"),
        s["batch_size"],
        s["rank"],
        s["steps"],
        s["factor"]
    );
    let levels: Vec<f64> =
        document["levels"].as_array().into_iter().flatten().filter_map(|l| l["loss"].as_f64()).collect();
    let methods: Vec<&Value> = document["methods"].as_array().into_iter().flatten().collect();
    let heads: Vec<String> = levels.iter().map(|l| format!("steps to {l:.3}")).collect();
    let _ = writeln!(
        page,
        "| | rate | lowest held-out loss | last | steps taken | {} | s a step |\n|---|---|---|---|---|{}---|",
        heads.join(" | "),
        "---|".repeat(levels.len())
    );
    for m in &methods {
        let reached =
            (0..levels.len()).map(|i| match (reached(m, i), methods.first().and_then(|f| reached(f, i))) {
                (Some(step), Some(first)) if m["estimate"] == true => {
                    format!("{step} ({:.0}x)", step as f64 / first.max(1) as f64)
                }
                (Some(step), _) => step.to_string(),
                (None, _) => format!(">{}", m["steps"]),
            });
        let reached: Vec<String> = reached.collect();
        let last = m["points"].as_array().and_then(|p| p.last()?["loss"].as_f64());
        let _ = writeln!(
            page,
            "| {} | {} | {:.4} | {:.4} | {} | {} | {:.4} |",
            m["name"].as_str().unwrap_or("?"),
            m["learning_rate"],
            m["best_loss"].as_f64().unwrap_or(f64::NAN),
            last.unwrap_or(f64::NAN),
            m["steps"],
            reached.join(" | "),
            m["step_seconds"].as_f64().unwrap_or(f64::NAN)
        );
    }
    page.push_str("\nRates of estimates are those that were best after a tenth of the steps; where the last loss is far above the lowest, that rate is too high for all of them, and a lower one goes further, more slowly.\n\n![Held-out loss against steps, tokens, seconds and multiply-adds](../results/convergence-paper.svg)\n");
}

/// The step at which a method reached the i-th level.
fn reached(method: &Value, i: usize) -> Option<u64> {
    method["reached"].get(i)?["step"].as_u64()
}

fn short(mb: f64) -> String {
    if mb < 99.95 { format!("{mb:.1}") } else { format!("{mb:.0}") }
}

fn scientific(x: f64) -> String {
    if (0.01..1000.0).contains(&x.abs()) { format!("{x:.3}") } else { format!("{x:.2e}") }
}

const OPENING: &str = "# The papers' tables, run again

Every table of MeSP (Park et al. 2026, arXiv 2602.13069) and MeBP (Song and Tang 2025, arXiv 2510.03425) that needs no phone, ours beside theirs. This page is written by `mesp bench paper` from the files `memory-paper.json`, `gradients-paper.json` and `convergence-paper.json` in [results](../results/README.md); their definitions hold here. Ours is *anonymous memory* of the whole process, a high-water mark, in MB of 10⁶ bytes; theirs is `phys_footprint`, sampled. `mebp`, `mesp-paper` and `mesp-paper-store-h` are the published methods as policies of this engine, `mesp` is its own.
";

const DIFFERENCES: &str = "
## What differs, and why

- **Published peaks are samples.** The released app reads `phys_footprint` twice a second and between steps of 0.7 s to 0.9 s. Logits of all tokens with their gradient and the 4-bit head need 232 MB at 256 tokens in bf16, above the published 136.2 MB; likewise at 512 and 1024 tokens. Our figures of the published methods contain the logits, in f32.
- **The cache of freed buffers.** `phys_footprint` counts the allocator's cache. In the released code MeSP clears it after each block and MeBP does not, so part of the published difference between the two is cache policy. Here both run in one planned arena, and where the logits set the peak they need the same.
- **The published backward.** The released on-device code rebuilds q, k and v without the biases that Qwen2 has and without rotary embedding in either direction, so the gradients of q_proj and k_proj are not those of the model. With B = 0 at the start and a rate of 1e-4 the losses of the first steps do not show it. Here every gradient equals double precision's central differences and PyTorch's.
- **The scale of adapters** is 2 in the released runner and 20 in its exporter; here alpha/rank is the adapter's own, 2 unless asked otherwise.
- **Number types.** Theirs: activations and adapters in bf16, 4-bit weights with a scale and a bias for each 64 values, counted while they are in memory. Ours: activations and adapters in f32 unless asked otherwise, Q4_0, mapped and never converted whole; mapped pages are in no figure here, and in the *resident* one of the memory file.
- **Gradients** of all adapters wait for the end of the step in the published methods, as in the released code; `mesp` steps each block as soon as its gradients are finished.
- **Time.** A step of ours is timed on the machine named above.
";

const LEFT_OUT: &str = "
## Not run

Energy and temperature, decompression as a share of a step, and anything else that is a phone's. Gemma 3 4B, for which `init-model` has no preset. The 100,000 steps of MeZO on WikiText-2 with a 0.5B model. LCSB's quality on five models (arXiv 2602.13073), which needs their weights. MeSP's Tables 4, 6 and 7 were not found; the last mixes one measured point with interpolated ones.
";
