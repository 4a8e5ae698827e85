//! Fingerprints of a model: what tells whether a run goes on with the model that it began with.
//!
//! Each is XXH64 with seed 0, as 16 digits. It is of what the engine computes with, not of files: copies, shards and
//! tensors that the model does not use change nothing. It shows other models and damage, and is no protection against
//! somebody who wants two models to look alike.

use std::fs::File;
use std::hash::Hasher as _;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};

use mesp_device::{Mapping, Rope, Weight};
use mesp_formats::gguf::{self, Value};
use mesp_formats::lora::Layout;
use mesp_formats::{Error as FileError, TokenizerConfig};
use twox_hash::XxHash64;

use super::{Base, GgufSource, Kind, prefix};
use crate::Result;
use crate::arch::{Config, RopeKind};
use crate::data::TOKENIZER_JSON;
use crate::model::{ModelWeights, Part};
use crate::rng;

/// How much of each matrix is read. Norms and biases are read whole in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// `SAMPLES` places: enough to tell models apart that were trained, merged or stored differently, since such
    /// changes are all over a matrix. Of a model of 3 billion parameters some 2000 pages of 4 kB are read.
    Samples,
    /// Every byte.
    All,
}

/// Places of a matrix that are read.
const SAMPLES: usize = 8;
/// Bytes of each: 64 numbers in 16 bits.
const SAMPLE: usize = 128;
/// Bytes of a matrix that are read before their pages go again.
const STRETCH: usize = 4 << 20;

/// Fingerprint of an adapter, of any layout: its settings, and every byte of its tensors.
///
/// # Errors
/// When it cannot be read.
pub fn adapter(path: &Path) -> Result<String> {
    let mut hash = XxHash64::with_seed(0);
    hash.write(format!("{:?}", super::load_adapter_config(path)?).as_bytes());
    let file = Layout::of(path)?.tensors(path);
    let map = Mapping::open(&file).map_err(|e| FileError::io("map", &file, e))?;
    hash.write(map.bytes());
    Ok(digits(&hash))
}

/// Fingerprint of the weights as they are stored: their names, shapes, types and values.
///
/// # Panics
/// When the model has shapes and no values.
pub fn weights(model: &ModelWeights, extent: Extent) -> String {
    let mut hash = XxHash64::with_seed(0);
    model.parts(&mut |piece, part| {
        hash.write(piece.name().as_bytes());
        match part {
            Part::Matrix(weight) => {
                hash.write(
                    format!("\0{} {}x{}\0", weight.dtype().name(), weight.rows(), weight.cols()).as_bytes(),
                );
                if extent == Extent::All || weight.bytes() <= SAMPLES * SAMPLE {
                    whole(&mut hash, weight);
                } else {
                    samples(&mut hash, weight);
                }
            }
            Part::Vector(values) => {
                hash.write(format!("\0{}\0", values.len()).as_bytes());
                for value in values {
                    hash.write(&value.to_le_bytes());
                }
            }
        }
    });
    digits(&hash)
}

fn whole(hash: &mut XxHash64, weight: &Weight) {
    let rows = (STRETCH / weight.dtype().row_bytes(weight.cols()).max(1)).max(1);
    for start in (0..weight.rows()).step_by(rows) {
        let part = weight.rows_range(start..(start + rows).min(weight.rows()));
        hash.write(part.view().data);
        part.done_with();
    }
}

/// One place in each of as many equal parts, at random within it: a function of the size alone.
fn samples(hash: &mut XxHash64, weight: &Weight) {
    let data = weight.view().data;
    let part = data.len() / SAMPLES;
    for i in 0..SAMPLES {
        let free = (part - SAMPLE.min(part) + 1) as u64;
        let at = i * part + (rng::bits(data.len() as u64, 0, i as u64) % free) as usize;
        hash.write(&data[at..(at + SAMPLE).min(data.len())]);
    }
    weight.done_with();
}

/// Fingerprint of the configuration, as far as it changes the computation: sizes, norms, rotary embeddings, windows.
pub fn shape(config: &Config) -> String {
    let rope = |rope: &Rope| {
        let bits: Vec<u32> = rope.frequencies.iter().map(|f| f.to_bits()).collect();
        format!("{:?} {} {:08x} {bits:?}", rope.layout, rope.head_dim, rope.factor.to_bits())
    };
    let c = config;
    let sizes = [c.vocab_size, c.hidden_size, c.intermediate_size, c.layers, c.heads, c.kv_heads, c.head_dim];
    // Names that stand in checkpoints.
    let kind = |rope: RopeKind| match rope {
        RopeKind::Global => "Global",
        RopeKind::Local => "Local",
        RopeKind::None => "Not",
    };
    let attention: Vec<String> =
        c.attention.iter().map(|a| format!("{} {}", kind(a.rope), a.window as u64)).collect();
    let text = format!(
        "{} {sizes:?} {} {:016x} {:016x} {} {:?} {attention:?}",
        c.arch,
        c.tied,
        c.eps.to_bits(),
        c.score_scale.to_bits(),
        rope(&c.rope),
        c.local_rope.as_ref().map(rope),
    );
    of(text.as_bytes())
}

/// Fingerprints of what turns text into tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tokenizer {
    /// That of `tokenizer.json`, white space between its values left out, or of the vocabulary in a GGUF file.
    pub vocabulary: String,
    /// The file.
    pub file: PathBuf,
    /// That of the special tokens, and of where spaces stand.
    pub special_tokens: String,
    /// The file that names them.
    pub special_file: PathBuf,
    /// That of the chat templates, if there are some.
    pub chat_template: Option<String>,
    /// Their file.
    pub template_file: PathBuf,
    /// That of the tokens at which generation ends, by number; in a GGUF file they are among the special ones.
    pub end_tokens: Option<String>,
    /// The file that names them.
    pub end_file: PathBuf,
}

/// Fingerprints of the tokenizer of a model, without reading it into memory.
///
/// # Errors
/// When a file cannot be read, or is not what it should be.
pub fn tokenizer(path: &Path) -> Result<Option<Tokenizer>> {
    if Kind::of(path) == Kind::Directory {
        return in_directory(path);
    }
    let source = GgufSource::open(path, Base::Mapped)?;
    if source.has_tokenizer() {
        return Ok(Some(in_gguf(path, &source)));
    }
    path.parent().map_or(Ok(None), in_directory)
}

fn in_directory(dir: &Path) -> Result<Option<Tokenizer>> {
    let file = dir.join("tokenizer.json");
    if !file.is_file() {
        return Ok(None);
    }
    let vocabulary = json_file(&file)?;
    let c = TokenizerConfig::read(dir)?;
    let mut markers = c.special_tokens.clone();
    markers.sort();
    let settings = serde_json::json!([
        c.bos_token,
        c.eos_token,
        c.add_bos_token,
        markers,
        c.end_tokens,
        prefix(&c).map(|prefix| format!("{prefix:?}")),
    ]);
    let templates = (c.chat_template.as_ref(), c.tool_template.as_ref());
    let [special, template, ends] =
        [TokenizerConfig::FILE, TokenizerConfig::TEMPLATE, TokenizerConfig::GENERATION]
            .map(|name| dir.join(name));
    let template = if template.is_file() { template } else { special.clone() };
    Ok(Some(Tokenizer {
        vocabulary,
        file,
        special_tokens: of(settings.to_string().as_bytes()),
        special_file: special,
        chat_template: (templates != (None, None)).then(|| of(format!("{templates:?}").as_bytes())),
        template_file: template,
        end_tokens: Some(of(format!("{:?}", c.end_ids).as_bytes())),
        end_file: ends,
    }))
}

/// White space between values, which programs write differently, is left out.
fn json_file(path: &Path) -> Result<String> {
    let unreadable = |e| FileError::io("read", path, e);
    let mut reader = BufReader::new(File::open(path).map_err(|e| FileError::io("open", path, e))?);
    let mut hash = XxHash64::with_seed(0);
    let (mut in_text, mut escaped, mut kept) = (false, false, Vec::new());
    loop {
        let bytes = reader.fill_buf().map_err(unreadable)?;
        if bytes.is_empty() {
            return Ok(digits(&hash));
        }
        kept.clear();
        for byte in bytes {
            if in_text || !byte.is_ascii_whitespace() {
                kept.push(*byte);
            }
            in_text ^= *byte == b'"' && !escaped;
            escaped = in_text && *byte == b'\\' && !escaped;
        }
        hash.write(&kept);
        let read = bytes.len();
        reader.consume(read);
    }
}

/// Keys that are the vocabulary and how text is cut; the others of a tokenizer are its special tokens.
const VOCABULARY: [&str; 7] = [
    "tokenizer.ggml.model",
    "tokenizer.ggml.pre",
    "tokenizer.ggml.tokens",
    "tokenizer.ggml.token_type",
    "tokenizer.ggml.scores",
    "tokenizer.ggml.merges",
    TOKENIZER_JSON,
];

fn in_gguf(path: &Path, source: &GgufSource) -> Tokenizer {
    let mut entries: Vec<&(String, Value)> =
        source.header().metadata.iter().filter(|(key, _)| key.starts_with("tokenizer.")).collect();
    entries.sort_by(|a, b| a.0.cmp(&b.0));
    let is_template = |key: &str| key.starts_with(gguf::CHAT_TEMPLATE);
    let print = |wanted: &dyn Fn(&str) -> bool| {
        let mut hash = XxHash64::with_seed(0);
        let mut any = false;
        for (key, value) in entries.iter().filter(|(key, _)| wanted(key)) {
            any = true;
            hash.write(key.as_bytes());
            match value {
                Value::Array(array) => {
                    hash.write(format!("\0{} {}\0", array.ty.name(), array.len).as_bytes());
                    hash.write(array.encoded(source.file_bytes()));
                }
                Value::String(text) => hash.write(format!("\0string {}\0{text}", text.len()).as_bytes()),
                other => hash.write(format!("\0{}\0", other.describe()).as_bytes()),
            }
        }
        any.then(|| digits(&hash))
    };
    let vocabulary = print(&|key| VOCABULARY.contains(&key));
    let special = print(&|key| !VOCABULARY.contains(&key) && !is_template(key));
    Tokenizer {
        vocabulary: vocabulary.unwrap_or_default(),
        file: path.to_path_buf(),
        special_tokens: special.unwrap_or_default(),
        special_file: path.to_path_buf(),
        chat_template: print(&is_template),
        template_file: path.to_path_buf(),
        end_tokens: None,
        end_file: path.to_path_buf(),
    }
}

/// Fingerprint of some bytes.
fn of(bytes: &[u8]) -> String {
    let mut hash = XxHash64::with_seed(0);
    hash.write(bytes);
    digits(&hash)
}

fn digits(hash: &XxHash64) -> String {
    format!("{:016x}", hash.finish())
}

#[cfg(test)]
mod tests;
