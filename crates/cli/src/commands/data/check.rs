//! `mesp data check`.

use std::collections::HashMap;
use std::fmt::Write as _;

use anyhow::Result;
use mesp::data::{Checked, FileRows, Form, Grouping, all_files, unused};
use mesp::source::shape_source;
use serde_json::{Value, json};

use crate::args::CheckArgs;
use crate::failure::Elsewhere;
use crate::flags::spelled;
use crate::sizes::count;
use crate::{inputs, ui};

pub(super) fn run(args: &CheckArgs) -> Result<()> {
    let model = inputs::given_model(args.model.as_deref())?;
    let data = inputs::data_file(&args.data)?;
    let source = shape_source(model)?;
    let options = super::shown_options(data, &source.config, (&args.data, args.objective));
    inputs::is_there(data)?;
    let files = all_files(data)?;
    if data.is_dir() {
        let unused = unused(data, &files)?;
        if !unused.is_empty() {
            let unused = inputs::listed(&unused);
            ui::note(format!("{}: not used in training, and not checked: {unused}", data.display()));
        }
    }
    let mut encoder = None;
    let mut all = Vec::new();
    for file in files {
        ui::note(format!("{}: reading", file.display()));
        if encoder.is_none() && FileRows::needs_tokenizer(&file, &options)? {
            encoder = Some(inputs::encoder(model)?);
        }
        all.push(FileRows::check(&file, encoder.as_ref(), &options, &source.file_config.eos_token_ids)?);
    }
    if args.shared.json {
        ui::json(
            &json!({ "files": all.iter().map(|c| document(c, options.max_seq_len)).collect::<Vec<_>>() }),
        )?;
    } else {
        ui::print(&all.iter().map(|c| text(c, options.max_seq_len)).collect::<Vec<_>>().join("\n"))?;
    }
    let bad: usize = all.iter().map(|c| c.bad.len()).sum();
    let empty = all.iter().find(|c| c.bad.is_empty() && c.trained == 0);
    if bad == 0 && empty.is_none() {
        return Ok(());
    }
    let message = match empty {
        _ if bad == 1 => "1 row cannot be used; it is named above".to_owned(),
        _ if bad > 1 => format!("{bad} rows cannot be used; they are named above"),
        Some(file) => format!("{}: nothing in it can be trained", file.path.display()),
        None => String::new(),
    };
    Err(Elsewhere { message, status: 2 }.into())
}

fn share(checked: &Checked) -> f64 {
    if checked.tokens == 0 { 0.0 } else { checked.trained as f64 / checked.tokens as f64 }
}

const PERCENTILES: [(&str, f64); 6] =
    [("min", 0.0), ("p50", 0.5), ("p90", 0.9), ("p95", 0.95), ("p99", 0.99), ("max", 1.0)];

fn text(c: &Checked, limit: Option<usize>) -> String {
    let mut text = format!("{}\n", c.path.display());
    let kinds: Vec<String> = c.forms.iter().map(|(form, n)| plural(*n, form.name())).collect();
    let rows = match &c.grouping {
        _ if c.rows == 0 => None,
        Grouping::Single => None,
        Grouping::Pairs => Some(plural(c.rows, "pair") + " of a chosen and a rejected completion"),
        Grouping::Labeled(labels) => {
            let [_, desirable] = labels.counts();
            Some(format!("{}, {desirable} desirable", plural(c.rows, "completion") + " with a label"))
        }
    };
    let kinds = if let Some(rows) = rows {
        rows
    } else if c.document {
        plural(c.rows, "window") + " of plain text"
    } else {
        kinds.join(", ")
    };
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "  {name:<18}{value}");
    };
    line("rows", if kinds.is_empty() { "none".to_owned() } else { kinds });
    let shown = format!(
        "{}, {} ({:.1}%) of them trained",
        count(c.tokens as u64),
        count(c.trained as u64),
        100.0 * share(c)
    );
    line("tokens", shown);
    let lengths: Vec<String> = PERCENTILES.iter().map(|(n, p)| format!("{n} {}", c.percentile(*p))).collect();
    line("tokens in a row", lengths.join(", "));
    if let Some(limit) = limit {
        line(
            "longer than limit",
            if c.long.is_empty() { format!("none (limit {limit})") } else { lines(&c.long) },
        );
    }
    if !c.document {
        let pairs: Vec<String> =
            c.duplicates.iter().map(|(line, first)| format!("{line} (as {first})")).collect();
        line("duplicates", listed(&pairs));
        line("no stop token", lines(&c.unstopped));
        line("begin in a token", lines(&c.inside));
        line("nothing to train", lines(&c.bare));
        line("not all in text", lines(&c.left_out));
    }
    line("unusable", if c.bad.is_empty() { "none".to_owned() } else { c.bad.len().to_string() });
    for note in &c.notes {
        let _ = writeln!(text, "  note: {}", spelled(note));
    }
    text + &problems(&c.bad)
}

/// Every problem with its lines: where several rows have the same one, it is written once.
fn problems(bad: &[mesp::Error]) -> String {
    let mut groups: Vec<(&mesp::Error, Vec<usize>)> = Vec::new();
    let mut known = HashMap::new();
    for error in bad {
        let mesp::Error::Data { line: Some(line), problem, .. } = error else {
            groups.push((error, Vec::new()));
            continue;
        };
        let at = *known.entry(problem).or_insert(groups.len());
        if at == groups.len() {
            groups.push((error, Vec::new()));
        }
        groups[at].1.push(*line);
    }
    let mut text = String::new();
    for (first, places) in groups {
        let _ = writeln!(text, "{}", spelled(&first.to_string()));
        if places.len() > 1 {
            let _ = writeln!(text, "  rows with this problem: {}", lines(&places));
        }
    }
    text
}

fn lines(lines: &[usize]) -> String {
    listed(&lines.iter().map(usize::to_string).collect::<Vec<_>>())
}

/// How many, and on which lines: the first ten.
fn listed(lines: &[String]) -> String {
    if lines.is_empty() {
        return "none".to_owned();
    }
    let more = if lines.len() > 10 { ", ..." } else { "" };
    let word = if lines.len() == 1 { "line" } else { "lines" };
    format!("{} ({word} {}{more})", lines.len(), lines[..lines.len().min(10)].join(", "))
}

fn plural(n: usize, noun: &str) -> String {
    format!("{n} {noun}{}", if n == 1 { "" } else { "s" })
}

fn document(c: &Checked, limit: Option<usize>) -> Value {
    let bad = |error: &mesp::Error| match error {
        mesp::Error::Data { line, problem, .. } => {
            let advice = problem.hint.as_deref().map(spelled);
            json!({ "line": line, "problem": spelled(&problem.message()), "advice": advice })
        }
        other => json!({ "line": null, "problem": spelled(&other.to_string()), "advice": null }),
    };
    let lengths: serde_json::Map<String, Value> =
        PERCENTILES.iter().map(|(name, p)| ((*name).to_owned(), c.percentile(*p).into())).collect();
    let forms: serde_json::Map<String, Value> =
        c.forms.iter().map(|(form, n)| (key(*form).to_owned(), (*n).into())).collect();
    json!({
        "path": c.path.display().to_string(),
        "rows": c.rows,
        "forms": forms,
        "plain_text": c.document,
        "preferences": match &c.grouping {
            Grouping::Single => Value::Null,
            Grouping::Pairs => "pairs".into(),
            Grouping::Labeled(_) => "labels".into(),
        },
        "tokens": c.tokens,
        "target_tokens": c.trained,
        "share_trained": share(c),
        "max_seq_len": limit,
        "lengths": lengths,
        "long": c.long,
        "duplicates": c.duplicates.iter().map(|(line, first)| json!({ "line": line, "first": first })).collect::<Vec<_>>(),
        "no_stop_token": c.unstopped,
        "begin_inside_a_token": c.inside,
        "nothing_to_train": c.bare,
        "left_out_by_template": c.left_out,
        "unusable": c.bad.iter().map(bad).collect::<Vec<_>>(),
        "notes": c.notes.iter().map(|note| spelled(note)).collect::<Vec<_>>(),
    })
}

fn key(form: Form) -> &'static str {
    match form {
        Form::Tokens => "input_ids",
        Form::Messages => "messages",
        Form::ShareGpt => "conversations",
        Form::Prompt => "prompt_completion",
        Form::Instruction => "instruction",
        Form::Text => "text",
        Form::Question => "question_answer",
        _ => "other",
    }
}
