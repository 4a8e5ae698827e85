//! `tokenizer_config.json` and the files beside it: what `tokenizer.json` does not say.

use std::path::Path;

use serde_json::{Map, Value};

use crate::json::{Fields, parse_object, read_text_if_present, shown};
use crate::regular::TOKENIZER_CONFIG_LIMIT as LIMIT;
use crate::{ErrorKind, Result};

const TEMPLATE_FILE: &str = "chat_template.jinja";
const TOOL_TEMPLATE_FILE: &str = "additional_chat_templates/tool_use.jinja";
const CONFIG_FILE: &str = "tokenizer_config.json";
const MAP_FILE: &str = "special_tokens_map.json";
/// Files of the model that name the tokens that end a text by their numbers.
const MODEL_FILES: [&str; 2] = ["config.json", "generation_config.json"];

/// How texts begin and end, and how a conversation becomes a text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TokenizerConfig {
    /// Whether a text begins with the begin token; none where `tokenizer.json` decides.
    pub add_bos_token: Option<bool>,
    /// The begin token's text.
    pub bos_token: Option<String>,
    /// The end token's text.
    pub eos_token: Option<String>,
    /// The Jinja template of a conversation.
    pub chat_template: Option<String>,
    /// Another one for conversations with tools: `tool_use` of a list, or of `additional_chat_templates/`.
    pub tool_template: Option<String>,
    /// Special tokens by name, such as `pad_token`: transformers' `special_tokens_map`, but for what the tokenizer's
    /// class adds to it.
    pub named_tokens: Vec<(String, String)>,
    /// The texts of all special tokens that the files name.
    pub special_tokens: Vec<String>,
    /// The texts of all end tokens that the files name; they differ where a model was changed.
    pub end_tokens: Vec<String>,
    /// The tokens that end a text by the model's configuration.
    pub end_ids: Vec<u32>,
    /// The class of transformers that reads the tokenizer.
    pub tokenizer_class: Option<String>,
    /// Whether that class treats spaces as its first versions did.
    pub legacy: Option<bool>,
    /// Whether that class puts a space before a text.
    pub add_prefix_space: Option<bool>,
    /// The model's own type.
    pub model_type: Option<String>,
}

impl TokenizerConfig {
    /// The file of a model folder that names its special tokens first.
    pub const FILE: &str = CONFIG_FILE;
    /// The one with the chat template, where it is not in [`FILE`](Self::FILE).
    pub const TEMPLATE: &str = TEMPLATE_FILE;
    /// The one that names the tokens at which generation ends, where `config.json` does not.
    pub const GENERATION: &str = MODEL_FILES[1];
    /// The files of a model folder that [`read`](Self::read) reads where they are there.
    pub const FILES: [&str; 6] =
        [CONFIG_FILE, MAP_FILE, MODEL_FILES[0], MODEL_FILES[1], TEMPLATE_FILE, TOOL_TEMPLATE_FILE];

    /// Reads the files of a model folder; all of them may be missing.
    ///
    /// # Errors
    /// When a file cannot be read, or a key is of another kind than expected.
    pub fn read(dir: &Path) -> Result<Self> {
        let object = |name: &str| -> Result<Option<Map<String, Value>>> {
            let path = dir.join(name);
            read_text_if_present(&path, LIMIT)?.map(|text| parse_object(&path, &text)).transpose()
        };
        let map = object(CONFIG_FILE)?.unwrap_or_default();
        let mut config = Self::of(&dir.join(CONFIG_FILE), &map)?;
        if let Some(names) = object(MAP_FILE)? {
            config.add_names(&dir.join(MAP_FILE), &names, &map)?;
        }
        for name in MODEL_FILES {
            let Some(map) = object(name)? else { continue };
            let path = dir.join(name);
            let f = Fields::new(&path, &map);
            config.model_type = config.model_type.or(f.str("model_type")?.map(str::to_owned));
            let mut ids = f.token_ids("eos_token_id")?;
            // A model of text and images keeps the part for texts apart.
            if let (true, Some(map)) = (ids.is_empty(), f.object("text_config")?) {
                ids = Fields { prefix: "text_config.", map, ..f }.token_ids("eos_token_id")?;
            }
            for id in ids {
                if !config.end_ids.contains(&id) {
                    config.end_ids.push(id);
                }
            }
        }
        // Newer versions of transformers write this file and read it before the key.
        if let Some(template) = read_text_if_present(&dir.join(TEMPLATE_FILE), LIMIT)? {
            (config.chat_template, config.tool_template) = (Some(template), None);
        }
        if let Some(template) = read_text_if_present(&dir.join(TOOL_TEMPLATE_FILE), LIMIT)? {
            config.tool_template = Some(template);
        }
        Ok(config)
    }

    /// Parses the text of a `tokenizer_config.json`; `path` is for error messages only.
    ///
    /// # Errors
    /// When the text is not JSON, or a key is of another kind than expected.
    pub fn parse(path: &Path, json: &str) -> Result<Self> {
        Self::of(path, &parse_object(path, json)?)
    }

    fn of(path: &Path, map: &Map<String, Value>) -> Result<Self> {
        let f = Fields::new(path, map);
        let (chat_template, tool_template) = templates(&f)?;
        let eos_token = token(&f, "eos_token")?;
        Ok(Self {
            add_bos_token: f.bool("add_bos_token")?,
            bos_token: token(&f, "bos_token")?,
            end_tokens: eos_token.iter().cloned().collect(),
            eos_token,
            chat_template,
            tool_template,
            named_tokens: by_name(map),
            special_tokens: named(map),
            tokenizer_class: f.str("tokenizer_class")?.map(str::to_owned),
            legacy: f.bool("legacy")?,
            add_prefix_space: f.bool("add_prefix_space")?,
            ..Self::default()
        })
    }

    /// Adds what `special_tokens_map.json` names. As in transformers it comes before `tokenizer_config.json` where
    /// that does not list the added tokens, which newer versions do, and else stands in for keys that are not there.
    fn add_names(
        &mut self,
        path: &Path,
        names: &Map<String, Value>,
        config: &Map<String, Value>,
    ) -> Result<()> {
        let f = Fields::new(path, names);
        let first = !config.contains_key("added_tokens_decoder");
        for (key, place) in [("bos_token", &mut self.bos_token), ("eos_token", &mut self.eos_token)] {
            let found = token(&f, key)?;
            if found.is_some() && (first || !config.contains_key(key)) {
                place.clone_from(&found);
            }
            if let Some(text) = found.filter(|text| key == "eos_token" && !self.end_tokens.contains(text)) {
                self.end_tokens.push(text);
            }
        }
        if first {
            for (name, text) in by_name(names) {
                match self.named_tokens.iter_mut().find(|(known, _)| *known == name) {
                    Some((_, known)) => *known = text,
                    None => self.named_tokens.push((name, text)),
                }
            }
        }
        for text in named(names) {
            if !self.special_tokens.contains(&text) {
                self.special_tokens.push(text);
            }
        }
        Ok(())
    }
}

/// A token as a string, or as an object with its text under `content`.
fn text_of(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value.get("content")?.as_str())
}

/// The special tokens in a file that have names: keys that end in `_token`, and those of `extra_special_tokens` where
/// that is an object.
fn by_name(map: &Map<String, Value>) -> Vec<(String, String)> {
    let token = |(name, value): (&String, &Value)| Some((name.clone(), text_of(value)?.to_owned()));
    let extra = map.get("extra_special_tokens").and_then(Value::as_object);
    let keys = map.iter().filter(|(key, _)| key.ends_with("_token"));
    keys.chain(extra.into_iter().flatten()).filter_map(token).collect()
}

/// The texts of the special tokens in a file: under keys that end in `_token`, in the lists and maps of further
/// ones, and among the added tokens those that are special.
fn named(map: &Map<String, Value>) -> Vec<String> {
    fn text(value: &Value) -> Option<&str> {
        text_of(value).filter(|text| !text.is_empty())
    }
    let mut found: Vec<&str> = Vec::new();
    for (key, value) in map {
        match (key.as_str(), value) {
            ("additional_special_tokens" | "extra_special_tokens", Value::Array(list)) => {
                found.extend(list.iter().filter_map(text));
            }
            ("extra_special_tokens", Value::Object(map)) => found.extend(map.values().filter_map(text)),
            ("added_tokens_decoder", Value::Object(map)) => {
                let special = |token: &&Value| token.get("special") == Some(&Value::Bool(true));
                found.extend(map.values().filter(special).filter_map(text));
            }
            (key, value) if key.ends_with("_token") => found.extend(text(value)),
            _ => {}
        }
    }
    let mut texts: Vec<String> = Vec::new();
    for text in found {
        if !texts.iter().any(|known| known == text) {
            texts.push(text.to_owned());
        }
    }
    texts
}

/// The token of a key.
fn token(f: &Fields<'_>, key: &str) -> Result<Option<String>> {
    let Some(value) = f.value(key) else { return Ok(None) };
    let Some(text) = text_of(value) else {
        return Err(f
            .error(key, ErrorKind::WrongType)
            .expected("a string or an object with a `content`")
            .found(shown(value)));
    };
    Ok(Some(text.to_string()))
}

/// A template as a string, or the ones named `default` and `tool_use` of a list; where the list has one only,
/// that one.
fn templates(f: &Fields<'_>) -> Result<(Option<String>, Option<String>)> {
    let key = "chat_template";
    let wrong = |found: &Value| {
        f.error(key, ErrorKind::WrongType)
            .expected("a string or a list of {name, template}")
            .found(shown(found))
    };
    let list = match f.value(key) {
        None => return Ok((None, None)),
        Some(Value::String(text)) => return Ok((Some(text.clone()), None)),
        Some(Value::Array(list)) => list,
        Some(other) => return Err(wrong(other)),
    };
    let (mut chosen, mut tools) = (None, None);
    for entry in list {
        let part = |key| entry.get(key).and_then(Value::as_str);
        let (Some(name), Some(text)) = (part("name"), part("template")) else { return Err(wrong(entry)) };
        if name == "default" || list.len() == 1 {
            chosen = Some(text.to_string());
        } else if name == "tool_use" {
            tools = Some(text.to_string());
        }
    }
    Ok((chosen, tools))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(json: &str) -> Result<TokenizerConfig> {
        TokenizerConfig::parse(Path::new("tokenizer_config.json"), json)
    }

    #[test]
    fn tokens_are_strings_or_objects() {
        let config =
            parse(r#"{"add_bos_token":true,"bos_token":"<s>","eos_token":{"content":"</s>"}}"#).unwrap();
        assert_eq!(config.add_bos_token, Some(true));
        assert_eq!(config.bos_token.as_deref(), Some("<s>"));
        assert_eq!(config.eos_token.as_deref(), Some("</s>"));
        assert_eq!(parse(r#"{"bos_token":null}"#).unwrap(), TokenizerConfig::default());
    }

    /// The order of the files is that of `PreTrainedTokenizerBase._from_pretrained` in transformers 5.24.
    #[test]
    fn all_files_name_tokens() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, json: &str| std::fs::write(dir.path().join(name), json).unwrap();
        let read = || TokenizerConfig::read(dir.path()).unwrap();
        write("special_tokens_map.json", r#"{"eos_token":{"content":"<e>"},"pad_token":"<p>"}"#);
        assert_eq!(read().eos_token.as_deref(), Some("<e>"));
        assert_eq!(read().special_tokens, ["<e>", "<p>"]);
        write("tokenizer_config.json", r#"{"bos_token":"<b>","eos_token":"<x>","add_bos_token":true}"#);
        assert_eq!(read().eos_token.as_deref(), Some("<e>"), "without a list of added tokens");
        assert_eq!(read().end_tokens, ["<x>", "<e>"]);
        write(
            "tokenizer_config.json",
            r#"{"bos_token":null,"eos_token":"<x>","extra_special_tokens":{"image_token":"<i>"},"tokenizer_class":"T",
                "added_tokens_decoder":{"5":{"content":"<s>","special":true},"6":{"content":"word","special":false}}}"#,
        );
        assert_eq!(read().eos_token.as_deref(), Some("<x>"));
        let mut special = read().special_tokens;
        special.sort();
        assert_eq!(special, ["<e>", "<i>", "<p>", "<s>", "<x>"]);
        write("config.json", r#"{"model_type":"m","eos_token_id":7}"#);
        write("generation_config.json", r#"{"eos_token_id":[8,7]}"#);
        assert_eq!((read().end_ids, read().model_type.as_deref()), (vec![7, 8], Some("m")));
        write("config.json", r#"{"text_config":{"eos_token_id":[3]}}"#);
        assert_eq!(read().end_ids, [3, 8, 7]);
        write("config.json", r#"{"eos_token_id":"x"}"#);
        let error = TokenizerConfig::read(dir.path()).unwrap_err().to_string();
        assert!(error.contains("config.json") && error.contains("`eos_token_id`"), "{error}");
    }

    /// What a template sees of these files in transformers 5.24, with `PreTrainedTokenizerFast`.
    #[test]
    fn tokens_have_names() {
        let dir = tempfile::tempdir().unwrap();
        let tokens = |config: &str, map: &str| {
            for (name, json) in [(CONFIG_FILE, config), (MAP_FILE, map)] {
                std::fs::write(dir.path().join(name), json).unwrap();
            }
            let mut tokens = TokenizerConfig::read(dir.path()).unwrap().named_tokens;
            tokens.sort();
            tokens.iter().map(|(name, text)| format!("{name}={text}")).collect::<Vec<_>>().join(" ")
        };
        let listed = r#""added_tokens_decoder":{"0":{"content":"<e>","special":true}}"#;
        for (config, map, expected) in [
            (
                r#"{"pad_token":"<e>","eos_token":"<i>","unk_token":null,"add_bos_token":false}"#,
                "{}",
                "eos_token=<i> pad_token=<e>",
            ),
            (
                r#"{"pad_token":{"content":"<e>"},"mask_token":"<m>","cls_token":"<c>","sep_token":"<s>",
                    "additional_special_tokens":["<x>"],"foo_token":"<foo>"}"#,
                "{}",
                "cls_token=<c> foo_token=<foo> mask_token=<m> pad_token=<e> sep_token=<s>",
            ),
            (
                r#"{"extra_special_tokens":{"image_token":"<i>","boi":"<b>"}}"#,
                "{}",
                "boi=<b> image_token=<i>",
            ),
            (
                r#"{"pad_token":"<e>"}"#,
                r#"{"pad_token":"<p>","unk_token":{"content":"<u>"},"foo_token":"<f>"}"#,
                "foo_token=<f> pad_token=<p> unk_token=<u>",
            ),
            (
                &format!(r#"{{"pad_token":"<e>",{listed}}}"#),
                r#"{"pad_token":"<p>","unk_token":"<u>"}"#,
                "pad_token=<e>",
            ),
            (
                &format!(r#"{{"foo_token":"<foo>",{listed}}}"#),
                r#"{"pad_token":"<p>","extra_special_tokens":{"image_token":"<i>"}}"#,
                "foo_token=<foo>",
            ),
            ("{}", r#"{"extra_special_tokens":{"image_token":"<i>"}}"#, "image_token=<i>"),
            (r#"{"pad_token":""}"#, "{}", "pad_token="),
        ] {
            assert_eq!(tokens(config, map), expected, "{config} {map}");
        }
    }

    #[test]
    fn templates_are_strings_or_lists() {
        for (json, expected) in [
            (r#""x""#, Some("x")),
            (r#"[{"name":"rag","template":"r"},{"name":"default","template":"d"}]"#, Some("d")),
            (r#"[{"name":"chat","template":"c"}]"#, Some("c")),
            (r#"[{"name":"a","template":"a"},{"name":"b","template":"b"}]"#, None),
            ("null", None),
        ] {
            let config = parse(&format!(r#"{{"chat_template":{json}}}"#)).unwrap();
            assert_eq!(config.chat_template.as_deref(), expected, "{json}");
            assert_eq!(config.tool_template, None, "{json}");
        }
        let both =
            r#"{"chat_template":[{"name":"tool_use","template":"t"},{"name":"default","template":"d"}]}"#;
        let config = parse(both).unwrap();
        assert_eq!(config.chat_template.as_deref(), Some("d"));
        assert_eq!(config.tool_template.as_deref(), Some("t"));
    }

    #[test]
    fn the_template_file_wins_and_all_files_may_be_missing() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(TokenizerConfig::read(dir.path()).unwrap(), TokenizerConfig::default());
        std::fs::write(dir.path().join("tokenizer_config.json"), r#"{"chat_template":"key"}"#).unwrap();
        assert_eq!(TokenizerConfig::read(dir.path()).unwrap().chat_template.as_deref(), Some("key"));
        std::fs::write(dir.path().join(TEMPLATE_FILE), "file").unwrap();
        assert_eq!(TokenizerConfig::read(dir.path()).unwrap().chat_template.as_deref(), Some("file"));
        std::fs::create_dir(dir.path().join("additional_chat_templates")).unwrap();
        std::fs::write(dir.path().join(TOOL_TEMPLATE_FILE), "tools").unwrap();
        assert_eq!(TokenizerConfig::read(dir.path()).unwrap().tool_template.as_deref(), Some("tools"));
    }

    #[test]
    fn wrong_kinds_are_named() {
        for (json, key) in [
            (r#"{"add_bos_token":1}"#, "key `add_bos_token`: expected true or false, found 1"),
            (r#"{"bos_token":1}"#, "key `bos_token`"),
            (r#"{"eos_token":{"x":1}}"#, "key `eos_token`"),
            (r#"{"chat_template":1}"#, "key `chat_template`"),
            (r#"{"chat_template":[{"name":"a"}]}"#, "key `chat_template`"),
        ] {
            let text = parse(json).unwrap_err().to_string();
            assert!(text.contains(key), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_no_panic(text in any::<String>()) {
            let _ = parse(&text);
        }
    }
}
