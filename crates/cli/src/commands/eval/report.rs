//! What the two kinds of evaluation print alike: models side by side, and rows into a file.

use std::io::Write as _;
use std::path::Path;

use anyhow::Result;
use mesp_formats::Error as FileError;
use mesp_formats::atomic::write_atomic_with;
use serde_json::{Value, json};

/// The heads of columns: the model itself, then adapters by their folders' names, or by their whole paths where two
/// have the same.
pub(super) fn names(models: &[Option<&Path>]) -> Vec<String> {
    let short = mesp::hub::short_name;
    let alone = |dir: &Path| models.iter().flatten().filter(|other| short(other) == short(dir)).count() == 1;
    let name = |model: Option<&Path>| match model {
        None => "base".to_owned(),
        Some(dir) => short(dir).filter(|_| alone(dir)).unwrap_or_else(|| dir.display().to_string()),
    };
    models.iter().copied().map(name).collect()
}

/// An adapter in documents.
pub(super) fn path(model: Option<&Path>) -> Value {
    json!(model.map(|dir| dir.display().to_string()))
}

/// A table's line: a name, and a value for each model.
pub(super) fn line<T>(name: &str, of: &[T], value: impl Fn(&T) -> String) -> Vec<String> {
    std::iter::once(name.to_owned()).chain(of.iter().map(value)).collect()
}

/// Writes JSON lines.
pub(super) fn write_lines(path: &Path, lines: impl Iterator<Item = Result<Value>>) -> Result<()> {
    write_atomic_with(path, |out| {
        for line in lines {
            writeln!(out, "{}", line?).map_err(|e| FileError::io("write", path, e))?;
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_can_be_told_apart() {
        let paths = ["runs/a", "runs/b", "old/a"].map(Path::new);
        let models = [None, Some(paths[0]), Some(paths[1])];
        assert_eq!(names(&models), ["base", "a", "b"]);
        assert_eq!(names(&[Some(paths[0]), Some(paths[1]), Some(paths[2])]), ["runs/a", "b", "old/a"]);
    }
}
