//! What a run was made with besides its settings: the model, its tokenizer, how rows were read.

use serde::{Deserialize, Serialize};

/// One fingerprint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// 16 hexadecimal digits.
    pub print: String,
    /// The file, directory or name that it was computed from.
    pub of: String,
}

/// Fingerprints of what a run was made with. Checkpoints store them, and a resumed run is compared with them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MadeWith {
    /// The base weights, sampled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<Mark>,
    /// The base weights, every byte; only computed on request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub all_weights: Option<Mark>,
    /// The model's architecture: sizes, norms, rotation, windows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shape: Option<Mark>,
    /// The vocabulary and how text is cut into it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<Mark>,
    /// The special tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub special_tokens: Option<Mark>,
    /// The chat template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chat_template: Option<Mark>,
    /// The end tokens of generation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_tokens: Option<Mark>,
    /// Where the rows were read.
    #[serde(default)]
    pub rows: String,
    /// Where those were read that are held out.
    #[serde(default)]
    pub eval_rows: String,
    /// Options that say how, with their values.
    #[serde(default)]
    pub reading: Vec<(String, String)>,
    /// Whether rows are text, to which the tokenizer matters. Only asked where that decides.
    #[serde(skip)]
    pub from_text: bool,
}

/// Something that was otherwise: `tokenizer 12ab (file), this run has 34cd (file)`.
pub(super) struct Difference {
    pub(super) text: String,
    /// Whether the run would be another one.
    pub(super) matters: bool,
}

impl MadeWith {
    /// Whether the tokenizers are the same, with their special tokens.
    pub fn same_tokenizer(&self, other: &Self) -> bool {
        let print = |mark: &Option<Mark>| mark.as_ref().map(|mark| mark.print.clone());
        print(&self.tokenizer) == print(&other.tokenizer)
            && print(&self.special_tokens) == print(&other.special_tokens)
    }

    /// How a run differs from the one that wrote `self`.
    ///
    /// Other weights or another shape make another model, and the adapter would be none of it. Rows that are the same
    /// tokens are the same run, so templates, and tokenizers where rows are tokens already, matter to texts that are
    /// written later. A tokenizer that rows are read through is the vocabulary that the adapter is trained for.
    pub(super) fn differences(&self, is: &Self) -> Vec<Difference> {
        let parts = [
            ("base weights", &self.weights, &is.weights, true),
            ("base weights, by every byte,", &self.all_weights, &is.all_weights, true),
            ("model configuration", &self.shape, &is.shape, true),
            ("tokenizer", &self.tokenizer, &is.tokenizer, is.from_text),
            ("special tokens", &self.special_tokens, &is.special_tokens, is.from_text),
            ("chat template", &self.chat_template, &is.chat_template, false),
            ("end tokens of generation", &self.end_tokens, &is.end_tokens, false),
        ];
        let mut found = Vec::new();
        for (name, was, is, matters) in parts {
            let print = |mark: &Option<Mark>| mark.as_ref().map(|mark| mark.print.clone());
            // Hashed once and not now, or the other way round: the samples have to do.
            let unasked = name.contains("every byte") && (was.is_none() || is.is_none());
            if print(was) != print(is) && !unasked {
                let text = format!("{name} {}, this run has {}", shown(was.as_ref()), shown(is.as_ref()));
                found.push(Difference { text, matters });
            }
        }
        found
    }

    /// The options for reading rows that differ.
    pub(super) fn read_otherwise(&self, is: &Self) -> Vec<String> {
        let value =
            |of: &Self, name: &str| of.reading.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone());
        let differs = |(name, was): &(String, String)| {
            let is = value(is, name)?;
            (is != *was).then(|| format!("{name} {was}, this run has {is}"))
        };
        self.reading.iter().filter_map(differs).collect()
    }

    /// Rows with a fingerprint, as they are called in messages.
    pub(super) fn rows_named(&self, print: &str, held_out: bool) -> String {
        let of = if held_out { &self.eval_rows } else { &self.rows };
        if of.is_empty() { print.to_owned() } else { format!("{print} ({of})") }
    }
}

fn shown(mark: Option<&Mark>) -> String {
    mark.map_or_else(|| "none".to_owned(), |mark| format!("{} ({})", mark.print, mark.of))
}
