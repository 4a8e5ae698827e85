//! `tokenizer_config.json` and `chat_template.jinja`: what `tokenizer.json` does not say.

use std::path::Path;

use serde_json::Value;

use crate::Result;
use crate::json::{Fields, parse_object, read_text_if_present, shown};

const TEMPLATE_FILE: &str = "chat_template.jinja";
const TOOL_TEMPLATE_FILE: &str = "additional_chat_templates/tool_use.jinja";

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
}

impl TokenizerConfig {
    /// Reads the files of a model folder; all of them may be missing.
    ///
    /// # Errors
    /// When a file cannot be read, or a key is of another kind than expected.
    pub fn read(dir: &Path) -> Result<Self> {
        let path = dir.join("tokenizer_config.json");
        let mut config = match read_text_if_present(&path)? {
            Some(text) => Self::parse(&path, &text)?,
            None => Self::default(),
        };
        // Newer versions of transformers write this file and read it before the key.
        if let Some(template) = read_text_if_present(&dir.join(TEMPLATE_FILE))? {
            (config.chat_template, config.tool_template) = (Some(template), None);
        }
        if let Some(template) = read_text_if_present(&dir.join(TOOL_TEMPLATE_FILE))? {
            config.tool_template = Some(template);
        }
        Ok(config)
    }

    /// Parses the text of a `tokenizer_config.json`; `path` is for error messages only.
    ///
    /// # Errors
    /// When the text is not JSON, or a key is of another kind than expected.
    pub fn parse(path: &Path, json: &str) -> Result<Self> {
        let map = parse_object(path, json)?;
        let f = Fields::new(path, &map);
        let (chat_template, tool_template) = templates(&f)?;
        Ok(Self {
            add_bos_token: f.bool("add_bos_token")?,
            bos_token: token(&f, "bos_token")?,
            eos_token: token(&f, "eos_token")?,
            chat_template,
            tool_template,
        })
    }
}

/// A token as a string, or as an object with its text under `content`.
fn token(f: &Fields<'_>, key: &str) -> Result<Option<String>> {
    let Some(value) = f.value(key) else { return Ok(None) };
    let text = value.as_str().or_else(|| value.get("content")?.as_str());
    let Some(text) = text else {
        let problem = format!("expected a string or an object with a `content`, found {}", shown(value));
        return Err(f.error(key, &problem));
    };
    Ok(Some(text.to_string()))
}

/// A template as a string, or the ones named `default` and `tool_use` of a list; where the list has one only,
/// that one.
fn templates(f: &Fields<'_>) -> Result<(Option<String>, Option<String>)> {
    let key = "chat_template";
    let wrong = |found: &Value| {
        f.error(key, &format!("expected a string or a list of {{name, template}}, found {}", shown(found)))
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
