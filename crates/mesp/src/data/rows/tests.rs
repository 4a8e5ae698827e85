use proptest::prelude::*;
use serde_json::json;

use super::super::test_util::{BOS, EOS, IM_END, IM_START, VOCAB, encoder, encoder_with, info};
use super::super::{Conversation, PromptStyle, TokenizerInfo, TrainOn};
use super::*;

fn read(row: &Value) -> Result<Row> {
    let encoder = encoder();
    RowReader::new(Some(&encoder), &ReadOptions::new(VOCAB)).read(row)
}

fn problem(row: &Value) -> String {
    read(row).unwrap_err().to_string()
}

fn trained(row: &Row) -> Vec<u32> {
    row.labels.iter().filter(|&&label| label != UNTRAINED).map(|&label| label.cast_unsigned()).collect()
}

fn ids(text: &str) -> Vec<u32> {
    text.bytes().map(u32::from).collect()
}

#[test]
fn tokenized_rows_are_used_as_they_are() {
    let row =
        read(&json!({"input_ids": [5, 6, 7], "labels": [-100, 9, 7], "attention_mask": [1, 1, 1]})).unwrap();
    assert_eq!((row.form, row.tokens, row.labels), (Form::Tokens, vec![5, 6, 7], vec![-100, 9, 7]));
    let row = read(&json!({"input_ids": [5, 6], "labels": null, "text": "ignored"})).unwrap();
    assert_eq!((row.tokens, row.labels), (vec![5, 6], vec![5, 6]));
    assert!(RowReader::new(None, &ReadOptions::new(7)).read(&json!({"input_ids": [6]})).is_ok());
}

#[test]
fn tokenized_rows_that_are_wrong_say_where() {
    for (row, words) in [
        (json!({"input_ids": [1, 262]}), ["`input_ids[1]` is 262", "from 0 to 261"]),
        (json!({"input_ids": [-1]}), ["`input_ids[0]` is -1", "expected an integer"]),
        (json!({"input_ids": [-100]}), ["`input_ids[0]` is -100", "expected an integer"]),
        (json!({"input_ids": [1.5]}), ["`input_ids[0]` is 1.5", "expected an integer"]),
        (json!({"input_ids": ["a"]}), ["`input_ids[0]` is a text", "expected an integer"]),
        (json!({"input_ids": 3}), ["`input_ids` is a number", "expected a list"]),
        (json!({"input_ids": []}), ["`input_ids` is empty", "at least one token"]),
        (json!({"input_ids": [1], "labels": [-5]}), ["`labels[0]` is -5", "or -100 (not trained)"]),
        (json!({"input_ids": [1], "labels": [300]}), ["`labels[0]` is 300", "from 0 to 261"]),
        (
            json!({"input_ids": [1, 2], "labels": [1]}),
            ["`labels` has 1 values and `input_ids` has 2", "one label"],
        ),
        (
            json!({"input_ids": [1, 2], "attention_mask": [1, 0]}),
            ["`attention_mask[1]` is 0", "without padding"],
        ),
    ] {
        let problem = problem(&row);
        assert!(words.iter().all(|word| problem.contains(word)), "{row}: {problem}");
    }
}

#[test]
fn a_text_is_trained_with_its_end() {
    let row = read(&json!({"text": "xy"})).unwrap();
    assert_eq!(row.tokens, [120, 121, EOS]);
    assert_eq!(trained(&row), row.tokens);
    assert_eq!(read(&json!({"text": "xy<|endoftext|>"})).unwrap().tokens, [120, 121, EOS]);
    let with = encoder_with(info(), true);
    let options = ReadOptions { append_eos: false, ..ReadOptions::new(VOCAB) };
    assert_eq!(
        RowReader::new(Some(&with), &options).read(&json!({"text": "<s>x"})).unwrap().tokens,
        [BOS, 120]
    );
}

#[test]
fn a_completion_is_trained_with_its_end() {
    let row = read(&json!({"prompt": "2+2=", "completion": " 4"})).unwrap();
    assert_eq!(row.tokens, [ids("2+2=").as_slice(), &[257, EOS]].concat());
    assert_eq!(trained(&row), [257, EOS]);
    let row = read(&json!({"prompt": "é", "completion": "é"})).unwrap();
    assert_eq!(trained(&row), [0xC3, 0xA9, EOS]);
    let begun = encoder_with(info(), true);
    let options = ReadOptions::new(VOCAB);
    let row = RowReader::new(Some(&begun), &options).read(&json!({"prompt": "", "completion": "x"})).unwrap();
    assert_eq!((row.tokens.clone(), trained(&row)), (vec![BOS, 120, EOS], vec![120, EOS]));
    let options = ReadOptions { train_on: TrainOn::All, ..ReadOptions::new(VOCAB) };
    let row =
        RowReader::new(Some(&begun), &options).read(&json!({"prompt": "a", "completion": "x"})).unwrap();
    assert_eq!(trained(&row), row.tokens);
}

/// The rule of transformers' `return_assistant_tokens_mask`: a token with a character of a piece is in the mask.
#[test]
fn the_token_in_which_a_completion_begins_is_trained() {
    // Joined, `a` + `b` and ` ` + `4` are one token each, and the second has its white space in the prompt.
    let row = read(&json!({"prompt": "a", "completion": "bc"})).unwrap();
    assert_eq!(
        (row.tokens.clone(), trained(&row), row.inside),
        (vec![256, 99, EOS], vec![256, 99, EOS], true)
    );
    let row = read(&json!({"prompt": "= ", "completion": "4!"})).unwrap();
    assert_eq!(
        (row.tokens.clone(), trained(&row), row.inside),
        (vec![61, 257, 33, EOS], vec![257, 33, EOS], true)
    );
    let row = read(&json!({"prompt": "=", "completion": " 4"})).unwrap();
    assert_eq!((trained(&row), row.inside), (vec![257, EOS], false));
    for empty in [json!({"prompt": "ab", "completion": ""}), json!({"prompt": "", "completion": ""})] {
        let row = read(&empty).unwrap();
        assert_eq!((trained(&row), row.inside), (vec![EOS], false), "{empty}");
    }
    let options = ReadOptions { train_on: TrainOn::All, ..ReadOptions::new(VOCAB) };
    let encoder = encoder();
    let row =
        RowReader::new(Some(&encoder), &options).read(&json!({"prompt": "a", "completion": "b"})).unwrap();
    assert!(!row.inside, "the prompt is trained too");
}

/// With and without the template's own marks; of the end of a turn the same is true.
#[test]
fn the_token_in_which_a_turn_begins_is_trained() {
    for turn in ["{{ m.content }}", "{% generation %}{{ m.content }}{% endgeneration %}"] {
        let template = format!(
            "{{% for m in messages %}}{{% if m.role == 'assistant' %}}: {turn}{{% else %}}{{{{ m.content }}}}{{% endif %}}\
             {{% if not loop.last %}}b{{% endif %}}{{% endfor %}}{{% if add_generation_prompt %}}b: {{% endif %}}"
        );
        let info = TokenizerInfo { chat_template: Some(template), ..info() };
        let encoder = encoder_with(info, false);
        let messages = json!([{"role": "user", "content": "u"}, {"role": "assistant", "content": "4"},
                              {"role": "user", "content": "v"}, {"role": "assistant", "content": "xa"},
                              {"role": "user", "content": "w"}]);
        let row = RowReader::new(Some(&encoder), &ReadOptions::new(VOCAB))
            .read(&json!({"messages": messages}))
            .unwrap();
        // `ub: 4bvb: xabw`: ` 4` and `ab` are tokens.
        let colon = u32::from(b':');
        let b = u32::from(b'b');
        let all = [117, b, colon, 257, b, 118, b, colon, 32, 120, 256, 119];
        assert_eq!(row.tokens, all, "{turn}");
        assert_eq!((trained(&row), row.inside), (vec![257, 120, 256], true), "{turn}");
    }
}

#[test]
fn a_conversation_is_trained_where_the_assistant_speaks() {
    let messages = json!([{"role": "user", "content": "u"}, {"role": "assistant", "content": "xy"},
                          {"role": "user", "content": [{"type": "text", "text": "v"}]},
                          {"role": "assistant", "content": "z", "weight": 1}]);
    let row = read(&json!({"messages": messages})).unwrap();
    let head = |role: &str| [&[IM_START], ids(role).as_slice(), &[10]].concat();
    let tail = [IM_END, 10];
    let all = [
        head("user").as_slice(),
        &ids("u"),
        &tail,
        &head("assistant"),
        &ids("xy"),
        &tail,
        &head("user"),
        &ids("v"),
        &tail,
        &head("assistant"),
        &ids("z"),
        &tail,
    ]
    .concat();
    assert_eq!(row.tokens, all);
    assert_eq!(trained(&row), [120, 121, IM_END, 122, IM_END]);

    let row =
        read(&json!({"prompt": &messages.as_array().unwrap()[..3], "completion": [messages[3]]})).unwrap();
    assert_eq!((row.form, row.tokens.clone(), trained(&row)), (Form::Prompt, all, vec![122, IM_END]));

    let quiet = json!([{"role": "assistant", "content": "a", "weight": 0}, {"role": "user", "content": "b"}]);
    assert!(trained(&read(&json!({"messages": quiet})).unwrap()).is_empty());

    let encoder = encoder();
    let options = ReadOptions { prompt_style: PromptStyle::Chat, ..ReadOptions::new(VOCAB) };
    let row =
        RowReader::new(Some(&encoder), &options).read(&json!({"prompt": "u", "completion": "z"})).unwrap();
    assert_eq!(trained(&row), [122, IM_END]);
}

#[test]
fn conversations_that_are_wrong_say_where() {
    let message = |message: Value| json!({"messages": [{"role": "user", "content": "u"}, message]});
    for (row, words) in [
        (json!({"messages": []}), "`messages` is an empty list"),
        (json!({"messages": "hi"}), "`messages` is a text"),
        (message(json!("hi")), "`messages[1]` is a text"),
        (message(json!({"content": "x"})), "`messages[1].role` is missing"),
        (message(json!({"role": "", "content": "x"})), "`messages[1].role` is an empty text"),
        (message(json!({"role": "user", "content": 7})), "`messages[1].content` is a number"),
        (message(json!({"role": "user", "content": null})), "`messages[1]` has no content"),
        (message(json!({"role": "user", "content": [{"type": "image"}]})), "content[0]` is of type image"),
        (message(json!({"role": "assistant", "content": "x", "weight": 0.5})), "`messages[1].weight` is 0.5"),
        (json!({"messages": [{"role": "user", "content": "u"}], "tools": "?"}), "`tools` is a text"),
    ] {
        let problem = problem(&row);
        assert!(problem.contains(words), "{row}: {problem}");
    }
    // An empty list of calls says no more than none.
    for calls in [json!([]), json!(null), json!("")] {
        let problem = problem(&message(json!({"role": "assistant", "content": null, "tool_calls": calls})));
        assert!(problem.contains("`messages[1]` has no content"), "{problem}");
    }
    for (calls, words) in [
        (json!(7), "`messages[1].tool_calls` is a number, expected a list of calls"),
        (json!([{"function": {"arguments": {}}}]), "`messages[1].tool_calls[0]` names no function"),
        (json!(["f"]), "`messages[1].tool_calls[0]` names no function"),
    ] {
        let problem = problem(&message(json!({"role": "assistant", "content": "", "tool_calls": calls})));
        assert!(problem.contains(words), "{problem}");
    }
}

#[test]
fn other_shapes_are_told_what_to_become() {
    for (row, words) in [
        (json!({"q": "q", "a": "a"}), "found the keys `q`, `a`\n  a row is {\"messages\": [...]}"),
        (json!({"input": "i", "output": "o"}), "rename `input` to `prompt` and `output` to `completion`"),
        (json!({"prompt": "c", "response": "d"}), "\n  rename `response` to `completion`"),
        (json!({"prompt": "c", "output": "d"}), "\n  rename `output` to `completion`"),
        (json!({"instruction": "c", "response": "d"}), "\n  rename `response` to `output`"),
        (json!({"instruction": "c", "completion": "d"}), "\n  rename `completion` to `output`"),
        (
            json!({"instruction": "c", "context": "ctx", "response": "d", "category": "qa"}),
            "\n  rename `context` to `input` and `response` to `output`",
        ),
        (
            json!({"problem": "p", "solution": "s"}),
            "rename `problem` to `prompt` and `solution` to `completion`",
        ),
        (json!({"content": "t"}), "rename `content` to `text`"),
        (json!({"conversation": []}), "rename `conversation` to `messages`"),
        (json!({"conversations": []}), "`conversations` is an empty list"),
        (
            json!({"conversations": [{"from": "human", "value": "x"}], "chosen": {}, "rejected": {}}),
            "give ‘objective’ preference",
        ),
        (json!({"conversations": [{"from": "alien", "value": "x"}]}), "`conversations[0].from` is \"alien\""),
        (json!({"conversations": [{"from": "human"}]}), "`conversations[0].value` is missing"),
        (json!({"conversations": [{"from": "function_call", "value": "x"}]}), "no call of a function"),
        (json!({"instruction": "i", "instances": []}), "a list of one object"),
        (json!({"instruction": "i", "output": 3}), "`output` is a number"),
        (json!({"instruction": "i", "output": "o", "history": [["a"]]}), "`history` is not a list of pairs"),
        (
            json!({"messages": [{"role": "user", "content": "x"}], "chat_template_kwargs": 1}),
            "`chat_template_kwargs` is a number",
        ),
        (json!({"prompt": "p"}), "found the keys `prompt`"),
        (json!({"prompt": "p", "chosen": "a", "rejected": "b"}), "give ‘objective’ preference"),
        (json!({"text": null}), "found the keys `text` (null)"),
        (json!({}), "found the keys none"),
        (json!([1]), "the row is a list, expected a JSON object"),
        (json!({"text": 5}), "`text` is a number, expected a text"),
        (json!({"prompt": "p", "completion": ["c"]}), "`completion` is a list, expected a text"),
    ] {
        let problem = problem(&row);
        assert!(problem.contains(words), "{row}: {problem}");
    }
    let options = ReadOptions::new(VOCAB);
    let problem = RowReader::new(None, &options).read(&json!({"text": "a"})).unwrap_err().to_string();
    assert!(problem.contains("no tokenizer.json"), "{problem}");
    let encoder = encoder();
    let options = ReadOptions::new(100);
    let problem =
        RowReader::new(Some(&encoder), &options).read(&json!({"text": "x"})).unwrap_err().to_string();
    assert!(problem.contains("token 120; the model's vocabulary has 100"), "{problem}");
}

/// The text of a row, and what of it is trained.
fn shown(row: &Value, options: &ReadOptions) -> (String, String) {
    let encoder = encoder();
    let row = RowReader::new(Some(&encoder), options).read(row).unwrap();
    let text = |ids: &[u32]| encoder.decode(ids, false).unwrap();
    (text(&row.tokens), text(&trained(&row)))
}

#[test]
fn instructions_stand_under_headings_where_there_is_no_template() {
    let options = ReadOptions::new(VOCAB);
    let row = json!({"instruction": "Add.", "input": "1 2", "output": "3", "text": "ignored"});
    let text = "### Instruction:\nAdd.\n\n### Input:\n1 2\n\n### Response:\n3<|endoftext|>";
    assert_eq!(shown(&row, &options), (text.into(), "3<|endoftext|>".into()));
    let row = json!({"instruction": "Go.", "instances": [{"input": "", "output": "x"}], "system": "S"});
    let text = "S\n\n### Instruction:\nGo.\n\n### Response:\nx<|endoftext|>";
    assert_eq!(shown(&row, &options), (text.into(), "x<|endoftext|>".into()));
    let row = json!({"question": "2+2?", "answer": "4"});
    let text = "Question: 2+2?\nAnswer: 4<|endoftext|>";
    assert_eq!(shown(&row, &options), (text.into(), " 4<|endoftext|>".into()));
}

#[test]
fn instructions_are_turns_where_they_may_be() {
    let options = ReadOptions { prompt_style: PromptStyle::Chat, ..ReadOptions::new(VOCAB) };
    let row =
        json!({"instruction": "Add.", "input": "1 2", "output": "3", "system": "S", "history": [["u", "v"]]});
    let text = "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nu<|im_end|>\n<|im_start|>assistant\nv<|im_end|>\n\
                <|im_start|>user\nAdd.\n1 2<|im_end|>\n<|im_start|>assistant\n3<|im_end|>\n";
    assert_eq!(shown(&row, &options), (text.into(), "v<|im_end|>3<|im_end|>".into()));
    let question = json!({"question": "q", "answer": "a"});
    assert_eq!(shown(&question, &options).1, "a<|im_end|>");
    // Left to the program, the model's template decides.
    let info = TokenizerInfo {
        chat_template: Some(
            "{% for m in messages %}<{{ m.role }}>{{ m.content }}<|im_end|>{% endfor %}".into(),
        ),
        ..info()
    };
    let with = encoder_with(info, false);
    let row = RowReader::new(Some(&with), &ReadOptions::new(VOCAB)).read(&question).unwrap();
    assert_eq!(with.decode(&row.tokens, false).unwrap(), "<user>q<|im_end|><assistant>a<|im_end|>");
    let pair = RowReader::new(Some(&with), &ReadOptions::new(VOCAB))
        .read(&json!({"prompt": "p", "completion": "c"}))
        .unwrap();
    assert_eq!(with.decode(&pair.tokens, false).unwrap(), "pc<|endoftext|>");
}

#[test]
fn sharegpt_turns_are_messages() {
    let row = json!({"system": "S", "conversations": [
        {"from": "human", "value": "u"},
        {"from": "gpt", "value": "v", "weight": 0},
        {"from": "human", "value": "w"},
        {"from": "gpt", "value": "x"}]});
    let (text, trained) = shown(&row, &ReadOptions::new(VOCAB));
    assert!(text.starts_with("<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nu<|im_end|>\n"), "{text}");
    assert_eq!(trained, "x<|im_end|>");
    let calls = json!({"conversations": [
        {"from": "human", "value": "u"},
        {"from": "function_call", "value": "{\"name\": \"f\", \"arguments\": {\"a\": 1}}"},
        {"from": "observation", "value": "1"},
        {"from": "gpt", "value": "x"}]});
    let conversation = Conversation::from_sharegpt(calls.as_object().unwrap()).unwrap();
    assert_eq!(conversation.messages[1]["tool_calls"][0]["function"]["arguments"]["a"], 1);
    assert_eq!(conversation.role(2), "tool");
    assert_eq!(conversation.trained, [false, true, false, true]);
    // Some files have messages under this name.
    let other =
        json!({"conversations": [{"role": "user", "content": "u"}, {"role": "assistant", "content": "v"}]});
    assert_eq!(shown(&other, &ReadOptions::new(VOCAB)).1, "v<|im_end|>");
}

#[test]
fn what_is_trained_can_be_chosen() {
    let row = json!({"messages": [
        {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"}, {"role": "assistant", "content": "d", "reasoning": null},
        {"role": "user", "content": "e"}, {"role": "assistant", "content": "f", "train": false}]});
    let with = |train_on| shown(&row, &ReadOptions { train_on, ..ReadOptions::new(VOCAB) });
    assert_eq!(with(TrainOn::Assistant).1, "b<|im_end|>d<|im_end|>");
    assert_eq!(with(TrainOn::Last).1, "d<|im_end|>");
    let (text, all) = with(TrainOn::All);
    assert_eq!(text, all);
}

#[test]
fn strings_are_texts() {
    assert_eq!(read(&json!("xy")).unwrap().tokens, [120, 121, EOS]);
}

#[test]
fn without_markers_turns_end_with_a_token_that_ends() {
    let Some(path) = super::super::test_util::shared("models/TinyStories-656K/tokenizer.json") else {
        return;
    };
    let eos = Some("<|end_story|>".to_owned());
    let info = TokenizerInfo { eos_token: eos, ..TokenizerInfo::default() };
    let encoder = TextEncoder::from_file(&path, info).unwrap();
    let options = ReadOptions { prompt_style: PromptStyle::Chat, ..ReadOptions::new(2048) };
    let row = json!({"prompt": "Hi", "completion": "Hello"});
    let row = RowReader::new(Some(&encoder), &options).read(&row).unwrap();
    assert_eq!(trained(&row).last().copied(), encoder.eos_id());
    let chat = ChatFormat::for_encoder(&encoder).unwrap();
    assert!(chat.stop_ids(&encoder).contains(&encoder.eos_id().unwrap()));
}

proptest! {
    /// Counted another way: the bytes of a completion, less merged pairs, and the end.
    #[test]
    fn as_many_tokens_are_trained_as_the_completion_has(prompt in "[c-z é日]{0,12}", completion in "[c-z é日]{0,12}") {
        let row = read(&json!({"prompt": prompt, "completion": completion})).unwrap();
        prop_assert_eq!(trained(&row).len(), completion.len() + 1);
        prop_assert_eq!(row.tokens.len(), prompt.len() + completion.len() + 1);
    }

    #[test]
    fn as_many_tokens_are_trained_as_the_assistant_says(turns in prop::collection::vec((any::<bool>(), "[c-z é]{0,8}"), 1..6)) {
        let messages: Vec<Value> = turns
            .iter()
            .map(|(assistant, text)| json!({"role": if *assistant { "assistant" } else { "user" }, "content": text}))
            .collect();
        let row = read(&json!({"messages": messages})).unwrap();
        let expected: usize = turns.iter().filter(|turn| turn.0).map(|turn| turn.1.len() + 1).sum();
        prop_assert_eq!(trained(&row).len(), expected);
    }
}
