use super::super::test_util::{encoder, write};
use super::super::{
    BatchSize, Batches, Examples, Gathered, RaggedBatch, ReadOptions, ReferenceFile, ReferenceWriter,
    ReferencedRows, UNTRAINED,
};
use super::*;
use crate::preference::Side;

fn options() -> ReadOptions {
    ReadOptions { append_eos: false, preferences: true, ..ReadOptions::new(262) }
}

fn read_with(lines: &[&str], options: &ReadOptions) -> Result<Gathered> {
    let dir = write("rows.jsonl", lines.join("\n"));
    let encoder = encoder();
    Gathered::read(&dir.path().join("rows.jsonl"), Some(&encoder), options, dir.path())
}

fn read(lines: &[&str]) -> Result<Arc<dyn Examples>> {
    read_with(lines, &options()).map(|gathered| gathered.rows)
}

/// Tokens of each sequence of a row, how many of them are trained, and which it is.
fn laid_out(rows: &dyn Examples, row: usize) -> Vec<(Vec<u32>, usize, Side)> {
    let mut batch = RaggedBatch::default();
    rows.append(row, &mut batch).unwrap();
    sequences(&batch)
}

fn sequences(batch: &RaggedBatch) -> Vec<(Vec<u32>, usize, Side)> {
    let trained =
        |range: std::ops::Range<usize>| batch.labels[range].iter().filter(|l| **l != UNTRAINED).count();
    batch
        .offsets
        .windows(2)
        .zip(&batch.preferences)
        .map(|(w, label)| (batch.tokens[w[0]..w[1]].to_vec(), trained(w[0]..w[1]), label.side))
        .collect()
}

#[test]
fn texts_and_tokens_are_the_same_pairs() {
    let texts = r#"{"prompt": "xy", "chosen": "pq", "rejected": "r"}"#;
    let tokens =
        r#"{"prompt_input_ids": [120, 121], "chosen_input_ids": [112, 113], "rejected_input_ids": [114]}"#;
    let rows = read(&[texts, tokens]).unwrap();
    assert_eq!(rows.count(), 2);
    let expected =
        vec![(vec![120, 121, 112, 113], 2, Side::Chosen), (vec![120, 121, 114], 1, Side::Rejected)];
    assert_eq!(laid_out(&*rows, 0), expected);
    assert_eq!(laid_out(&*rows, 1), expected);
    let size = rows.size(1).unwrap();
    assert_eq!((size.tokens, size.targets), (7, 3));
}

#[test]
fn conversations_with_and_without_a_prompt_are_the_same_pairs() {
    let user = r#"{"role": "user", "content": "q"}"#;
    let [good, bad] = ["yes", "no"].map(|text| format!(r#"{{"role": "assistant", "content": "{text}"}}"#));
    let with = format!(r#"{{"prompt": [{user}], "chosen": [{good}], "rejected": [{bad}]}}"#);
    let without = format!(r#"{{"chosen": [{user}, {good}], "rejected": [{user}, {bad}]}}"#);
    let named = format!(r#"{{"prompt": "q", "chosen": [{user}, {good}], "rejected": [{user}, {bad}]}}"#);
    let rows = read(&[&with, &without, &named]).unwrap();
    let first = laid_out(&*rows, 0);
    assert!(first.iter().all(|(_, trained, _)| *trained >= 2), "{first:?}");
    assert_eq!(laid_out(&*rows, 1), first);
    assert_eq!(laid_out(&*rows, 2), first);
}

/// Completions with a label, and of each the prompt with the completion of the row before.
#[test]
fn completions_with_a_label_have_mismatched_ones() {
    let row = |prompt: &str, completion: &str, label: &str| {
        format!(r#"{{"prompt": "{prompt}", "completion": "{completion}", "label": {label}}}"#)
    };
    let lines = [row("a", "p", "true"), row("c", "qq", "false"), row("d", "rrr", "1")];
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let rows = read(&lines).unwrap();
    assert_eq!(rows.count(), 3);
    let text = |text: &str| text.bytes().map(u32::from).collect::<Vec<u32>>();
    for (row, (matched, side, other)) in
        [("ap", Side::Chosen, "arrr"), ("cqq", Side::Rejected, "cp"), ("drrr", Side::Chosen, "dqq")]
            .into_iter()
            .enumerate()
    {
        assert_eq!(laid_out(&*rows, row), [(text(matched), matched.len() - 1, side)]);
        let mut batch = RaggedBatch::default();
        assert!(rows.append_mismatched(row, &mut batch).unwrap());
        let found = sequences(&batch);
        assert_eq!((found.len(), &found[0].0, found[0].1), (1, &text(other), other.len() - 1));
    }
}

/// Rows as LLaMA-Factory writes them are the same pairs, and the same completions with a label.
#[test]
fn other_spellings_are_the_same_rows() {
    let trl = r#"{"prompt": [{"role": "user", "content": "q"}], "chosen": [{"role": "assistant", "content": "yes"}],
        "rejected": [{"role": "assistant", "content": "no"}]}"#;
    let turns = r#"{"conversations": [{"from": "human", "value": "q"}], "chosen": {"from": "gpt", "value": "yes"},
        "rejected": {"from": "gpt", "value": "no"}}"#;
    let instruction = r#"{"instruction": "q", "chosen": "yes", "rejected": "no"}"#;
    let one_line = |row: &str| row.replace('\n', " ");
    let rows = read(&[&one_line(trl), &one_line(turns), instruction]).unwrap();
    let first = laid_out(&*rows, 0);
    assert_eq!(laid_out(&*rows, 1), first);
    let written = laid_out(&*rows, 2);
    let prompt: Vec<u32> = "### Instruction:\nq\n\n### Response:\n".bytes().map(u32::from).collect();
    assert!(written[0].0.starts_with(&prompt) && written[0].1 >= 3 && written[1].1 >= 2, "{written:?}");

    let trl = r#"{"prompt": [{"role": "user", "content": "q"}], "completion": [{"role": "assistant", "content": "yes"}], "label": true}"#;
    let messages = r#"{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "yes"}], "label": false}"#;
    let tag = r#"{"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "yes"}], "kto_tag": true}"#;
    let rows = read(&[trl, messages, tag]).unwrap();
    let of = |row| laid_out(&*rows, row).remove(0);
    assert_eq!((of(1).0, of(1).1), (of(0).0, of(0).1));
    assert_eq!((of(0).2, of(1).2, of(2)), (Side::Chosen, Side::Rejected, of(0)));
}

/// The partner of a completion answers another prompt, where there is one.
#[test]
fn mismatched_completions_are_of_other_prompts() {
    let row = |prompt: u32, completion: u32, label: bool| {
        format!(
            r#"{{"prompt_input_ids": [{prompt}], "completion_input_ids": [{completion}], "label": {label}}}"#
        )
    };
    let lines = [row(1, 10, true), row(1, 11, false), row(2, 20, true), row(2, 21, false)];
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let rows = read(&lines).unwrap();
    let mut batch = RaggedBatch::default();
    (0..4).for_each(|row| assert!(rows.append_mismatched(row, &mut batch).unwrap()));
    // The second row has no other before it.
    assert_eq!(batch.tokens, [1, 21, 1, 10, 2, 11, 2, 11]);
    let pairs = r#"{"prompt_input_ids": [1], "chosen_input_ids": [10], "rejected_input_ids": [11]}"#;
    let other = r#"{"prompt_input_ids": [2], "chosen_input_ids": [20], "rejected_input_ids": [21]}"#;
    let unpaired = read_with(&[pairs, other], &ReadOptions { unpair: true, ..options() }).unwrap().rows;
    let mut again = RaggedBatch::default();
    (0..4).for_each(|row| assert!(unpaired.append_mismatched(row, &mut again).unwrap()));
    assert_eq!((again.tokens, again.preferences.len()), (batch.tokens, 4));
}

/// Shuffled and in any batch, a pair's completions stand side by side with their own reference.
#[test]
fn pairs_stay_together() {
    let lines: Vec<String> = (0..7)
        .map(|i| {
            format!(
                r#"{{"prompt_input_ids": [1], "chosen_input_ids": [{}], "rejected_input_ids": [{}]}}"#,
                10 + i,
                30 + i
            )
        })
        .collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let rows = read(&lines).unwrap();
    let mut file = tempfile::tempfile().unwrap();
    let mut writer = ReferenceWriter::new(&mut file, 9, 7).unwrap();
    (0..7).for_each(|row| writer.row([2 * row, 2 * row + 1].map(|place| -f64::from(place))).unwrap());
    writer.finish().unwrap();
    let open = |key, rows| {
        std::io::Seek::rewind(&mut &file).unwrap();
        ReferenceFile::open("values".as_ref(), file.try_clone().unwrap(), key, rows).unwrap()
    };
    assert!(open(8, 7).is_none() && open(9, 6).is_none(), "another key, other rows");
    let rows = ReferencedRows { rows, values: Arc::new(open(9, 7).expect("the file")) };
    let mut batches = Batches::new(rows, BatchSize::rows(3), 5).unwrap();
    let (mut batch, mut seen) = (RaggedBatch::default(), Vec::new());
    for step in 0..3 {
        batches.fill(step, &mut batch).unwrap();
        for (pair, labels) in sequences(&batch).chunks(2).zip(batch.preferences.chunks(2)) {
            let row = pair[0].0[1] - 10;
            assert_eq!(pair[1].0[1], 30 + row);
            assert_eq!((pair[0].2, pair[1].2), (Side::Chosen, Side::Rejected));
            let places = [2 * row, 2 * row + 1];
            assert_eq!([labels[0].reference, labels[1].reference], places.map(|place| -f64::from(place)));
            seen.push(row);
        }
    }
    seen.sort_unstable();
    assert_eq!(seen, [0, 1, 2, 3, 4, 5, 6]);
}

fn problem(lines: &[&str], options: &ReadOptions) -> String {
    read_with(lines, options).map(|_| ()).unwrap_err().to_string()
}

#[test]
fn rows_that_train_nothing_are_refused_with_their_line() {
    let good = r#"{"prompt": "x", "chosen": "y", "rejected": "z"}"#;
    let short = ReadOptions { max_seq_len: Some(4), ..options() };
    for (row, words, options) in [
        (r#"{"prompt": "x", "chosen": "y", "rejected": "y"}"#, "are the same", options()),
        (r#"{"prompt": "x", "chosen": "", "rejected": "y"}"#, "`chosen` is empty", options()),
        (r#"{"prompt": "x", "chosen": "y", "rejected": " "}"#, "`rejected` is empty", options()),
        (
            r#"{"prompt": "xxxx", "chosen": "y", "rejected": "z"}"#,
            "the prompt fills the length of 4 tokens",
            short.clone(),
        ),
        (r#"{"prompt": "x", "chosen": "yyyz", "rejected": "yyyx"}"#, "the same up to ‘max_seq_len’", short),
        (r#"{"prompt": "x", "completion": "y"}"#, "no `chosen`", options()),
        (
            r#"{"prompt_input_ids": [], "chosen_input_ids": [1], "rejected_input_ids": [2]}"#,
            "`prompt_input_ids` is empty",
            options(),
        ),
        (
            r#"{"prompt_input_ids": [1], "chosen_input_ids": [], "rejected_input_ids": [2]}"#,
            "`chosen_input_ids` is empty",
            options(),
        ),
        (
            r#"{"prompt_input_ids": [1], "chosen_input_ids": [999], "rejected_input_ids": [2]}"#,
            "`chosen_input_ids[0]` is 999",
            options(),
        ),
        (r#"{"chosen": "y", "rejected": "z"}"#, "no `prompt`", options()),
    ] {
        let told = problem(&[good, row], &options);
        assert!(told.contains("rows.jsonl:2") && told.contains(words), "{row}: {told}");
    }
    let labeled = r#"{"prompt": "x", "completion": "y", "label": true}"#;
    for (row, words, line) in [
        (r#"{"prompt": "x", "completion": "", "label": false}"#, "`completion` is empty", 2),
        (r#"{"prompt": "x", "completion": "y", "label": 0.5}"#, "`label` is 0.5", 2),
        (r#"{"prompt": "x", "completion": "y"}"#, "no `label`", 2),
        // All of one kind: named at the first row.
        (r#"{"prompt": "x", "completion": "z", "label": true}"#, "`label` is true in all 2 rows", 1),
    ] {
        let told = problem(&[labeled, row], &options());
        assert!(told.contains(&format!("rows.jsonl:{line}")) && told.contains(words), "{row}: {told}");
    }
}

/// As tokens in a file, rows are the same, and what belongs together stays so.
#[test]
fn a_token_file_keeps_rows_together() {
    use super::super::token_file::{TokenFile, TokenKey, TokenWriter};
    let pair = r#"{"prompt": "x", "chosen": "y", "rejected": "z"}"#;
    let labeled = |completion: &str, label: bool| {
        format!(r#"{{"prompt": "x", "completion": "{completion}", "label": {label}}}"#)
    };
    let labeled: Vec<String> = (0..70).map(|i| labeled(&"y".repeat(1 + i % 5), i % 3 == 0)).collect();
    let labeled: Vec<&str> = labeled.iter().map(String::as_str).collect();
    for lines in [&[pair, pair][..], &labeled] {
        let dir = write("rows.jsonl", lines.join("\n"));
        let (encoder, path) = (encoder(), dir.path().join("rows.jsonl"));
        let mut bytes = Vec::new();
        let mut writer = TokenWriter::new(&mut bytes, TokenKey(1), dir.path()).unwrap();
        let about = super::super::FileRows::each(&path, Some(&encoder), &options(), &mut |row| {
            writer.row(&row).unwrap();
            Ok(())
        })
        .unwrap();
        writer.finish(&about).unwrap();
        let file = dir.path().join("rows.tokens");
        std::fs::write(&file, bytes).unwrap();
        let open = || TokenFile::open(&file, std::fs::File::open(&file).unwrap(), 262).unwrap();
        let again: Gathered = open().try_into().unwrap();
        let rows = read(lines).unwrap();
        assert_eq!((again.rows.count(), again.about.grouping), (rows.count(), about.grouping));
        for row in 0..rows.count() {
            assert_eq!(laid_out(&*again.rows, row), laid_out(&*rows, row));
        }
    }
}

#[test]
fn long_pairs_are_cut_alike_and_counted() {
    let short = ReadOptions { max_seq_len: Some(4), ..options() };
    let row = r#"{"prompt": "x", "chosen": "pqrst", "rejected": "z"}"#;
    let Gathered { rows, about } = read_with(&[row], &short).unwrap();
    assert_eq!(laid_out(&*rows, 0).iter().map(|(tokens, ..)| tokens.len()).collect::<Vec<_>>(), [4, 2]);
    assert!(about.notes.iter().any(|note| note.contains("cut to 4 tokens")), "{:?}", about.notes);
}
