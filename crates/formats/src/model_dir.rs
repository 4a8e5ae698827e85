//! A model folder as Hugging Face lays it out: which weight files it has.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::json::{Fields, parse_object, quoted, shown};
use crate::{Error, ErrorKind, Result, regular};

mod write;

pub use write::{Written, write_weights};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// A folder with `config.json` and weights in one file or in shards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelDir {
    /// The folder.
    pub dir: PathBuf,
    /// The weight files, in the order of their names; every one was there when the folder was opened.
    pub shards: Vec<PathBuf>,
    index: Option<BTreeMap<String, usize>>,
}

impl ModelDir {
    /// Finds the weight files of a folder; opens none of them.
    ///
    /// # Errors
    /// When there is no such folder, it is not a model's, or a shard is missing.
    pub fn open(dir: &Path) -> Result<Self> {
        check_is_model(dir)?;
        let single = dir.join(SINGLE);
        if single.is_file() {
            return Ok(Self { dir: dir.to_path_buf(), shards: vec![single], index: None });
        }
        let index_path = dir.join(INDEX);
        if !index_path.is_file() {
            return Err(no_weights(dir));
        }
        let (files, index) =
            parse_index(&index_path, &regular::read_text(&index_path, regular::INDEX_LIMIT)?)?;
        let shards: Vec<PathBuf> = files.iter().map(|file| dir.join(file)).collect();
        let missing: Vec<&str> =
            files.iter().zip(&shards).filter(|(_, path)| !path.is_file()).map(|(f, _)| f.as_str()).collect();
        if !missing.is_empty() {
            return Err(Error::invalid(&index_path, ErrorKind::Missing)
                .expected(format!("{} weight files beside it", files.len()))
                .found(format!("all but {}: {}", missing.len(), missing.join(", ")))
                .hint("The model is not completely downloaded: fetch the missing files into that folder."));
        }
        Ok(Self { dir: dir.to_path_buf(), shards, index: Some(index) })
    }

    /// Where the weights are in shards: for each tensor, the number of its file in [`shards`](Self::shards).
    pub fn index(&self) -> Option<&BTreeMap<String, usize>> {
        self.index.as_ref()
    }
}

fn check_is_model(dir: &Path) -> Result<()> {
    if !dir.exists() {
        return Err(Error::invalid(dir, ErrorKind::Missing)
            .expected("a model folder")
            .found("nothing")
            .hint("Check the path; a model folder holds config.json, tokenizer.json and *.safetensors."));
    }
    if !dir.is_dir() {
        let (found, advice) = match regular::other_than_file(dir) {
            Some(found) => (found, "Check the path; a model is a folder or a GGUF file."),
            None => ("a file", "Name the folder that holds the file."),
        };
        return Err(Error::invalid(dir, ErrorKind::WrongType)
            .expected("a model folder")
            .found(found)
            .hint(advice));
    }
    for name in ["config.json", SINGLE, INDEX] {
        regular::refuse_other(&dir.join(name))?;
    }
    if !dir.join("config.json").is_file() {
        let adapter = dir.join("adapter_config.json").is_file();
        let files = gguf_files(dir);
        let (found, advice) = match files.as_slice() {
            _ if adapter => (
                "an adapter (adapter_config.json)".to_owned(),
                "Name the base model's folder as the model, and this one as the adapter.".to_owned(),
            ),
            [] => (
                "a folder without config.json".to_owned(),
                "Name the folder that holds config.json; in a Hugging Face cache it is snapshots/REVISION."
                    .to_owned(),
            ),
            [one, ..] => {
                let count = if files.len() > 1 {
                    format!("{} GGUF files", files.len())
                } else {
                    "a GGUF file".to_owned()
                };
                (format!("a folder with {count}"), format!("Name the file: {}", one.display()))
            }
        };
        return Err(Error::invalid(dir, ErrorKind::WrongType)
            .expected("a model folder")
            .found(found)
            .hint(advice));
    }
    Ok(())
}

/// GGUF files in a folder, by name.
fn gguf_files(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().filter_map(|e| Some(e.ok()?.path()));
    let named = |p: &PathBuf| p.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf")) && p.is_file();
    let mut files: Vec<PathBuf> = entries.filter(named).collect();
    files.sort();
    files
}

fn no_weights(dir: &Path) -> Error {
    let pickled = ["pytorch_model.bin", "pytorch_model.bin.index.json", "consolidated.00.pth"];
    let (found, advice) = if let Some(file) = pickled.into_iter().find(|f| dir.join(f).is_file()) {
        let advice =
            "Load the model in transformers and save it with save_pretrained: that writes safetensors.";
        (format!("only {file}"), advice.to_owned())
    } else if let Some(file) = gguf_files(dir).first() {
        ("only a GGUF file".to_owned(), format!("Name the file: {}", file.display()))
    } else {
        ("neither".to_owned(), "Fetch the weight files into that folder.".to_owned())
    };
    Error::invalid(dir, ErrorKind::Missing).expected(format!("{SINGLE} or {INDEX}")).found(found).hint(advice)
}

/// Shard names in order, and the number of each tensor's shard.
fn parse_index(path: &Path, text: &str) -> Result<(Vec<String>, BTreeMap<String, usize>)> {
    let map = parse_object(path, text)?;
    let fields = Fields::new(path, &map);
    let weights = fields.required("weight_map", fields.object("weight_map")?)?;
    let mut files = BTreeSet::new();
    for (tensor, file) in weights {
        // A file of the folder itself: an index must not make us read anything else.
        let plain = file
            .as_str()
            .filter(|f| !f.is_empty() && *f != "." && *f != ".." && !f.contains(['/', '\\', ':']));
        let Some(name) = plain else {
            return Err(Error::invalid(path, ErrorKind::Malformed)
                .what(format!("key `weight_map`, tensor {}", quoted(tensor)))
                .expected("the name of a file in this folder")
                .found(shown(file))
                .hint("The index is damaged: get it again."));
        };
        files.insert(name);
    }
    if files.is_empty() {
        return Err(Error::invalid(path, ErrorKind::Empty)
            .what("key `weight_map`")
            .expected("tensors")
            .found("none")
            .hint("The index is damaged: get it again."));
    }
    let number: BTreeMap<&str, usize> = files.iter().enumerate().map(|(i, &f)| (f, i)).collect();
    let index = weights
        .iter()
        .filter_map(|(tensor, file)| Some((tensor.clone(), *number.get(file.as_str()?)?)))
        .collect();
    Ok((files.into_iter().map(str::to_string).collect(), index))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, content) in files {
            fs::write(dir.path().join(name), content).unwrap();
        }
        dir
    }

    fn message(dir: &Path) -> String {
        ModelDir::open(dir).unwrap_err().to_string()
    }

    #[test]
    fn one_file_and_shards_are_found() {
        let dir = folder(&[("config.json", "{}"), (SINGLE, "")]);
        let model = ModelDir::open(dir.path()).unwrap();
        assert_eq!(model.shards, [dir.path().join(SINGLE)]);
        assert!(model.index().is_none());

        let index =
            r#"{"metadata":{"total_size":1},"weight_map":{"b":"m2.safetensors","a":"m1.safetensors"}}"#;
        let dir =
            folder(&[("config.json", "{}"), (INDEX, index), ("m1.safetensors", ""), ("m2.safetensors", "")]);
        let model = ModelDir::open(dir.path()).unwrap();
        assert_eq!(model.shards, ["m1.safetensors", "m2.safetensors"].map(|f| dir.path().join(f)));
        assert_eq!(model.index().unwrap(), &BTreeMap::from([("a".to_string(), 0), ("b".to_string(), 1)]));
    }

    #[test]
    fn a_missing_shard_is_named() {
        let index = r#"{"weight_map":{"b":"m2.safetensors","a":"m1.safetensors"}}"#;
        let dir = folder(&[("config.json", "{}"), (INDEX, index), ("m1.safetensors", "")]);
        let text = message(dir.path());
        assert!(
            text.contains("expected 2 weight files beside it, found all but 1: m2.safetensors"),
            "{text}"
        );
        assert!(text.contains("not completely downloaded"), "{text}");
    }

    #[test]
    fn an_index_cannot_lead_out_of_the_folder() {
        for file in
            ["\"../secret\"", "\"/etc/passwd\"", "\"a\\\\b\"", "\"..\"", "\"\"", "\"c:x\"", "7", "null"]
        {
            let dir =
                folder(&[("config.json", "{}"), (INDEX, &format!(r#"{{"weight_map":{{"a":{file}}}}}"#))]);
            let text = message(dir.path());
            assert!(text.contains("expected the name of a file in this folder"), "{file}: {text}");
        }
    }

    #[test]
    fn what_is_not_a_model_folder_is_named() {
        let dir = folder(&[("file", "")]);
        for (path, expected) in [
            (dir.path().join("none"), "expected a model folder, found nothing"),
            (dir.path().join("file"), "expected a model folder, found a file"),
            (dir.path().to_path_buf(), "found a folder without config.json"),
        ] {
            assert!(message(&path).contains(expected), "{}", message(&path));
        }
        for (files, expected) in [
            (vec![("adapter_config.json", "")], "found an adapter"),
            (vec![("b.gguf", ""), ("a.GGUF", "")], "found a folder with 2 GGUF files\n  Name the file: "),
            (vec![("config.json", ""), ("a.gguf", "")], "found only a GGUF file\n  Name the file: "),
            (vec![("config.json", "")], "found neither"),
            (vec![("config.json", ""), ("pytorch_model.bin", "")], "found only pytorch_model.bin"),
            (vec![("config.json", ""), (INDEX, "{")], "expected JSON"),
            (vec![("config.json", ""), (INDEX, "{}")], "key `weight_map`: expected a value, found none"),
            (vec![("config.json", ""), (INDEX, r#"{"weight_map":{}}"#)], "expected tensors, found none"),
        ] {
            let text = message(folder(&files).path());
            assert!(text.contains(expected), "{text}");
        }
    }
}
