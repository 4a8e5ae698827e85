//! What the environment says of the hub, as `huggingface_hub.constants` reads it. A variable that is empty says
//! nothing.

use std::path::{Path, PathBuf};

use super::HubCache;
use crate::home::expanded;

/// Variables, by their names.
#[allow(missing_debug_implementations, reason = "a function")]
pub struct Environment<'a>(pub &'a dyn Fn(&str) -> Option<String>);

/// The cache of this user; none where no home folder is known.
pub fn cache() -> Option<HubCache> {
    Environment(&|name| std::env::var(name).ok()).cache()
}

impl Environment<'_> {
    fn get(&self, name: &str) -> Option<String> {
        (self.0)(name).filter(|value| !value.trim().is_empty())
    }

    fn path(&self, name: &str) -> Option<PathBuf> {
        let value = PathBuf::from(self.get(name)?);
        Some(expanded(&value).unwrap_or(value))
    }

    /// `HF_HOME`: the folder of cache and token.
    fn home(&self) -> Option<PathBuf> {
        self.path("HF_HOME").or_else(|| {
            let caches = self.path("XDG_CACHE_HOME").or_else(|| expanded(Path::new("~/.cache")).ok())?;
            Some(caches.join("huggingface"))
        })
    }

    /// The cache of the hub's files.
    pub fn cache(&self) -> Option<HubCache> {
        let named = self.path("HF_HUB_CACHE").or_else(|| self.path("HUGGINGFACE_HUB_CACHE"));
        Some(HubCache { root: named.or_else(|| Some(self.home()?.join("hub")))? })
    }
}

impl Environment<'_> {
    /// The hub's address, without a slash at its end.
    pub fn endpoint(&self) -> String {
        let given = self.get("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".to_owned());
        given.trim().trim_end_matches('/').to_owned()
    }

    /// The token to send, with where it is from.
    pub fn token(&self) -> Option<(String, String)> {
        for name in ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"] {
            if let Some(token) = self.get(name) {
                return Some((token.trim().to_owned(), name.to_owned()));
            }
        }
        if self.is_set("HF_HUB_DISABLE_IMPLICIT_TOKEN") {
            return None;
        }
        let file = self.path("HF_TOKEN_PATH").or_else(|| Some(self.home()?.join("token")))?;
        let token = crate::regular::read_text(&file, 1 << 16).ok()?.trim().to_owned();
        (!token.is_empty()).then(|| (token, file.display().to_string()))
    }

    /// A file of certificates to trust in place of the built-in ones.
    pub fn certificates(&self) -> Option<PathBuf> {
        ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"].into_iter().find_map(|name| self.path(name))
    }

    /// Whether the user wants no network.
    pub fn offline(&self) -> bool {
        self.is_set("HF_HUB_OFFLINE")
    }

    fn is_set(&self, name: &str) -> bool {
        let yes = |value: String| ["1", "ON", "YES", "TRUE"].contains(&value.trim().to_uppercase().as_str());
        self.get(name).is_some_and(yes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The order of `huggingface_hub.constants`.
    #[test]
    fn the_cache_is_where_the_environment_says() {
        let root = |set: &[(&str, &str)]| {
            let get = |name: &str| set.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
            Environment(&get).cache().expect("a cache").root
        };
        let home = std::env::home_dir().expect("a home");
        let all = [("HF_HUB_CACHE", "/a"), ("HF_HOME", "/b"), ("XDG_CACHE_HOME", "/c")];
        assert_eq!(root(&all), Path::new("/a"));
        assert_eq!(root(&all[1..]), Path::new("/b/hub"));
        assert_eq!(root(&all[2..]), Path::new("/c/huggingface/hub"));
        assert_eq!(root(&[]), home.join(".cache/huggingface/hub"));
        assert_eq!(root(&[("HF_HUB_CACHE", ""), ("HF_HOME", "~/hf")]), home.join("hf/hub"));
        assert_eq!(root(&[("HUGGINGFACE_HUB_CACHE", "/d"), ("HF_HOME", "/b")]), Path::new("/d"));
    }
}
