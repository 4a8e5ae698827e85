//! `~`: the user's home folder, where the shell has left it as it was typed.

use std::path::{Path, PathBuf};

/// A path in which a leading `~` is the home folder. `~user` stays: it names another's.
///
/// # Errors
/// When no home folder is known.
pub fn expanded(path: &Path) -> Result<PathBuf, String> {
    let Ok(rest) = path.strip_prefix("~") else { return Ok(path.to_path_buf()) };
    let home = std::env::home_dir().filter(|home| !home.as_os_str().is_empty());
    let home = home.ok_or("~ has no meaning here: no home folder is known (HOME is not set)")?;
    Ok(if rest.as_os_str().is_empty() { home } else { home.join(rest) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leading_tilde_is_the_home_folder() {
        let home = std::env::home_dir().expect("a home");
        let of = |path: &str| expanded(Path::new(path)).expect("a path");
        assert_eq!(of("~"), home);
        assert_eq!(of("~/"), home);
        assert_eq!(of("~/models/a"), home.join("models/a"));
        for same in ["~user/a", "a/~", "./~", "/~", "", "~.jsonl"] {
            assert_eq!(of(same), Path::new(same), "{same}");
        }
    }
}
