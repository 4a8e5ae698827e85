//! `mesp data show`.

use std::fmt::Write as _;
use std::io::IsTerminal;

use anyhow::Result;
use mesp::data::{Example, Examples, Gathered, RaggedBatch, TextEncoder, UNTRAINED};
use mesp::preference::{PreferenceLabel, Side};
use mesp::source::shape_source;
use serde_json::{Value, json};

use crate::args::ShowArgs;
use crate::{inputs, tokens, ui};

/// How trained text is set off.
struct Marks {
    begin: &'static str,
    end: &'static str,
}

const COLOURED: Marks = Marks { begin: "\x1b[1;32m", end: "\x1b[0m" };
const PLAIN: Marks = Marks { begin: "{+", end: "+}" };

pub(super) fn run(args: &ShowArgs) -> Result<()> {
    for (option, number) in [("--rows", args.rows), ("--from-line", args.from_line)] {
        if number == 0 {
            return Err(crate::failure::usage(
                format!("{option} is 0, expected 1 or more"),
                "leave it out for the default",
            ));
        }
    }
    let model = inputs::given_model(args.model.as_deref())?;
    let data = inputs::data_file(&args.data)?;
    let options = super::shown_options(data, &shape_source(model)?.config, (&args.data, args.objective));
    inputs::is_there(data)?;
    let encoder = inputs::encoder(model)?;
    let Gathered { about, rows: all } = match tokens::given(data, options.vocab_size)? {
        Some(rows) => rows,
        None => Gathered::read(data, Some(&encoder), &options, &std::env::temp_dir())?,
    };
    if data.is_dir() {
        inputs::tell_files(data, data, None)?;
    }
    for note in &about.notes {
        ui::note(format!("{}: {note}", about.path.display()));
    }
    let mut rows = Vec::new();
    for row in 0..all.count() {
        if rows.len() == args.rows {
            break;
        }
        let shown = sequences(&*all, row)?;
        rows.extend((shown[0].1.origin.line >= args.from_line).then_some(shown));
    }
    let rows: Vec<_> = rows.into_iter().flatten().collect();
    if rows.is_empty() {
        let problem = format!("{}: no row from line {} on", about.path.display(), args.from_line);
        return Err(crate::failure::usage(problem, "give --from-line a line of the file"));
    }
    if args.shared.json {
        let rows = rows.iter().map(|row| document(row, &encoder)).collect::<Result<Vec<_>>>()?;
        return ui::json(
            &json!({ "path": about.path.display().to_string(), "rows": rows, "notes": about.notes }),
        );
    }
    let terminal =
        std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    let marks = if terminal { COLOURED } else { PLAIN };
    let mut out = String::new();
    for (side, row) in &rows {
        let (n, trained) = (row.tokens.len(), row.targets());
        let side = side.map_or_else(String::new, |side| format!("{}, ", name(side)));
        let _ = writeln!(
            out,
            "{}: {side}{n} tokens, {trained} of them trained, marked {}so{}",
            ui::visible(&row.origin.to_string()),
            marks.begin,
            marks.end
        );
        for (text, trained) in runs(row, &encoder)? {
            let text = ui::visible(&text);
            if trained {
                out.extend([marks.begin, &text, marks.end]);
            } else {
                out += &text;
            }
        }
        out += if out.ends_with('\n') { "\n" } else { "\n\n" };
        if args.ids {
            for (i, id) in row.tokens.iter().enumerate() {
                let text = encoder.decode(&[*id], false)?;
                let mark = if trained_at(row, i) { "+" } else { " " };
                let _ = writeln!(out, "{mark} {id:>7} {text:?}");
            }
            out.push('\n');
        }
    }
    ui::print_raw(&out)
}

/// The sequences of a row: one, or the completions of a pair, or one with a label; and which each is.
fn sequences(all: &dyn Examples, row: usize) -> Result<Vec<(Option<Side>, Example)>> {
    let mut batch = RaggedBatch::default();
    all.append(row, &mut batch)?;
    if batch.preferences.is_empty() {
        return Ok(vec![(None, all.read(row)?)]);
    }
    let sequence = |(i, label): (usize, &PreferenceLabel)| {
        let range = batch.offsets[i]..batch.offsets[i + 1];
        // In a batch a label stands one place before its token.
        let labels = std::iter::once(UNTRAINED).chain(batch.labels[range.clone()].iter().copied());
        let (tokens, origin) = (batch.tokens[range.clone()].to_vec(), batch.origins[i].clone());
        (Some(label.side), Example { labels: labels.take(range.len()).collect(), tokens, origin })
    };
    Ok(batch.preferences.iter().enumerate().map(sequence).collect())
}

fn name(side: Side) -> &'static str {
    match side {
        Side::Chosen => "chosen",
        Side::Rejected => "rejected",
    }
}

/// Whether the token at a place is predicted and trained. Nothing predicts the first.
fn trained_at(row: &Example, place: usize) -> bool {
    place > 0 && row.labels[place] != UNTRAINED
}

/// The row's text in stretches that are trained or not. What a token says may depend on those before it, so each
/// stretch is what its tokens add to the text so far.
fn runs(row: &Example, encoder: &TextEncoder) -> Result<Vec<(String, bool)>> {
    let mut runs = Vec::new();
    let (mut start, mut before) = (0, String::new());
    while start < row.tokens.len() {
        let trained = trained_at(row, start);
        let end =
            (start..row.tokens.len()).find(|i| trained_at(row, *i) != trained).unwrap_or(row.tokens.len());
        let text = encoder.decode(&row.tokens[..end], false)?;
        // Half a character at the seam is told as such; the next stretch shows it whole.
        let shared = before.bytes().zip(text.bytes()).take_while(|(a, b)| a == b).count();
        let shared = (0..=shared).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        runs.push((text[shared..].to_owned(), trained));
        (start, before) = (end, text);
    }
    Ok(runs)
}

fn document((side, row): &(Option<Side>, Example), encoder: &TextEncoder) -> Result<Value> {
    let trained: Vec<String> =
        runs(row, encoder)?.into_iter().filter(|(_, trained)| *trained).map(|(text, _)| text).collect();
    Ok(json!({
        "line": row.origin.line,
        "side": side.map(name),
        "text": encoder.decode(&row.tokens, false)?,
        "trained": trained,
        "target_tokens": row.targets(),
        "tokens": row.tokens,
        "labels": row.labels,
    }))
}
