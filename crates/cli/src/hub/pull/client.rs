//! Requests to a hub: what a repository holds, what a file is, its bytes. Redirects are followed here, since what a
//! file is stands in the headers of the answer that redirects, and since the token is for the hub alone.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::Result;
use mesp_formats::hub::{Environment, RepoKind, is_commit, is_file_name};
use serde_json::Value;
use ureq::http::{HeaderMap, Method, Request, Response, Uri};
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Body};

use crate::failure::usage;

/// A hub, and the repository of it that is asked about.
pub(crate) struct Client {
    agent: Agent,
    pub(super) endpoint: String,
    pub(super) token: Option<(String, String)>,
    pub(super) kind: RepoKind,
    pub(super) id: String,
}

/// Why a request came to nothing.
#[derive(Debug)]
pub(crate) enum Failure {
    /// An answer that is none of what was asked for: its status, the hub's word for it, its message.
    Refused { status: u16, code: String, message: String },
    /// No answer, or half of one.
    Network(String),
}

impl Failure {
    /// Whether the same request may come to something.
    pub(crate) fn passes(&self) -> bool {
        matches!(self, Self::Network(_) | Self::Refused { status: 429 | 500.., .. })
    }
}

/// A repository's files at a commit.
pub(crate) struct Listing {
    pub(crate) commit: String,
    pub(crate) files: Vec<Listed>,
}

/// A file of it.
#[derive(Debug, Clone)]
pub(crate) struct Listed {
    pub(crate) name: String,
    pub(crate) size: Option<u64>,
    /// SHA-256 of the content, or the hash that git names it by.
    pub(crate) hash: Option<String>,
}

/// What the hub says of a file's content.
#[derive(Debug, Default)]
pub(crate) struct Described {
    pub(crate) etag: Option<String>,
    pub(crate) size: Option<u64>,
    pub(crate) commit: Option<String>,
}

/// Redirects of one request at most.
const REDIRECTS: usize = 10;
/// A listing is text of so many bytes at most.
const LISTING: u64 = 64 << 20;
/// Seconds without a byte after which a connection is given up.
const SILENCE: Duration = Duration::from_mins(1);

impl Client {
    pub(crate) fn new(environment: &Environment<'_>, kind: RepoKind, id: &str) -> Result<Self> {
        let endpoint = environment.endpoint();
        if origin(&endpoint).is_none() {
            return Err(usage(
                format!("HF_ENDPOINT is {endpoint:?}, expected an address such as https://huggingface.co"),
                "unset it to use that one",
            ));
        }
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("mesp/", env!("CARGO_PKG_VERSION")))
            // The hashes are those of the files as they are.
            .accept_encoding("identity")
            .timeout_connect(Some(Duration::from_secs(30)))
            .timeout_recv_response(Some(SILENCE))
            .timeout_per_read(Some(SILENCE));
        if let Some(path) = environment.certificates() {
            let pem = mesp_formats::regular::read(&path, mesp_formats::regular::CONFIG_LIMIT).map_err(|e| {
                let problem = format!("{}: expected a file of certificates to trust, found none: {e}", path.display());
                usage(problem, "SSL_CERT_FILE, REQUESTS_CA_BUNDLE or CURL_CA_BUNDLE names it; unset them to trust the usual ones")
            })?;
            let certificates = parse_pem(&pem).filter_map(|item| match item {
                Ok(PemItem::Certificate(certificate)) => Some(certificate),
                _ => None,
            });
            let roots = RootCerts::from(certificates);
            config = config.tls_config(TlsConfig::builder().root_certs(roots).build());
        }
        let agent = config.build().new_agent();
        let token = environment.token();
        if let Some((_, from)) =
            token.as_ref().filter(|(token, _)| !token.bytes().all(|b| b.is_ascii_graphic()))
        {
            let problem = format!("the token of {from} has spaces or other characters that no token has");
            return Err(usage(problem, "a token is one word that begins with hf_"));
        }
        Ok(Self { agent, endpoint, token, kind, id: id.to_owned() })
    }

    /// The files of a revision.
    pub(crate) fn listing(&self, revision: &str) -> Result<Result<Listing, Failure>> {
        let (kind, id) = (self.kind.plural(), &self.id);
        let url = format!("{}/api/{kind}/{id}/revision/{}?blobs=true", self.endpoint, quoted(revision, ""));
        let text = retried(|| {
            let (mut answer, _) = self.get(&url, None)?;
            answer.body_mut().with_config().limit(LISTING).read_to_vec().map_err(network)
        });
        Ok(match text {
            Ok(text) => Ok(self.read_listing(&url, &text)?),
            Err(failure) => Err(failure),
        })
    }

    fn read_listing(&self, url: &str, text: &[u8]) -> Result<Listing> {
        let wrong = |problem: String| {
            usage(format!("{url}: {problem}"), "check HF_ENDPOINT: a hub's answer names a commit and files")
        };
        let found: Value = serde_json::from_slice(text)
            .map_err(|e| wrong(format!("expected JSON, found something else ({e})")))?;
        let commit = found["sha"].as_str().filter(|sha| is_commit(sha));
        let commit =
            commit.ok_or_else(|| wrong(format!("expected a commit as `sha`, found {}", found["sha"])))?;
        let siblings = found["siblings"]
            .as_array()
            .ok_or_else(|| wrong("expected `siblings`, found none".to_owned()))?;
        let mut files = Vec::new();
        for sibling in siblings {
            let name = sibling["rfilename"].as_str().unwrap_or_default();
            if !is_file_name(name) {
                let problem = format!(
                    "{}: expected names of files below the repository, found {}",
                    self.id, sibling["rfilename"]
                );
                return Err(usage(
                    problem,
                    "nothing of this repository is fetched: such a name leads out of its folder",
                ));
            }
            let lfs = &sibling["lfs"];
            files.push(Listed {
                name: name.to_owned(),
                size: lfs["size"].as_u64().or_else(|| sibling["size"].as_u64()),
                hash: lfs["sha256"].as_str().or_else(|| sibling["blobId"].as_str()).map(str::to_owned),
            });
        }
        Ok(Listing { commit: commit.to_ascii_lowercase(), files })
    }

    fn file_url(&self, commit: &str, file: &str) -> String {
        let prefix = if self.kind == RepoKind::Dataset { "datasets/" } else { "" };
        format!("{}/{prefix}{}/resolve/{commit}/{}", self.endpoint, self.id, quoted(file, "/"))
    }

    /// What the hub says of a file: as `huggingface_hub` does, from the answer that redirects away from it, or from the
    /// last one.
    pub(crate) fn describe(&self, commit: &str, file: &str) -> Result<Described, Failure> {
        retried(|| {
            let mut url = self.file_url(commit, file);
            let mut said = Described::default();
            for _ in 0..REDIRECTS {
                let answer = self.send(&Method::HEAD, &url, None)?;
                let header = |name: &str| text(answer.headers(), name);
                let linked = header("x-linked-etag");
                said.commit = header("x-repo-commit").or(said.commit);
                said.size = header("x-linked-size").and_then(|size| size.parse().ok()).or(said.size);
                said.etag = linked.or(said.etag);
                if !answer.status().is_redirection() {
                    if !answer.status().is_success() {
                        return Err(refused(answer));
                    }
                    said.etag = said.etag.or_else(|| header("etag"));
                    said.size = said.size.or_else(|| header("content-length")?.parse().ok());
                    return Ok(said);
                }
                let next = target(&url, &answer)?;
                let leaves = origin(&next) != origin(&url);
                if leaves && let Some(etag) = said.etag.take().or_else(|| header("etag")) {
                    said.etag = Some(etag);
                    return Ok(said);
                }
                url = next;
            }
            Err(Failure::Network(format!("{url}: more than {REDIRECTS} redirects")))
        })
    }

    /// A file's bytes from one of them on; 206 where the answer begins there, 200 where it begins at the first.
    pub(crate) fn bytes(&self, commit: &str, file: &str, from: u64) -> Result<Response<Body>, Failure> {
        Ok(self.get(&self.file_url(commit, file), (from > 0).then_some(from))?.0)
    }

    fn get(&self, url: &str, from: Option<u64>) -> Result<(Response<Body>, String), Failure> {
        let mut url = url.to_owned();
        for _ in 0..REDIRECTS {
            let answer = self.send(&Method::GET, &url, from)?;
            if answer.status().is_redirection() {
                url = target(&url, &answer)?;
            } else if answer.status().is_success() {
                return Ok((answer, url));
            } else {
                return Err(refused(answer));
            }
        }
        Err(Failure::Network(format!("{url}: more than {REDIRECTS} redirects")))
    }

    fn send(&self, method: &Method, url: &str, from: Option<u64>) -> Result<Response<Body>, Failure> {
        let mut request = Request::builder().method(method.clone()).uri(url);
        // Whoever a hub redirects to has no use for the token.
        if let Some((token, _)) = self.token.as_ref().filter(|_| origin(url) == origin(&self.endpoint)) {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        if let Some(from) = from {
            request = request.header("range", format!("bytes={from}-"));
        }
        let request = request.body(()).map_err(|e| Failure::Network(format!("{url}: {e}")))?;
        self.agent.run(request).map_err(|e| Failure::Network(format!("{url}: {e}")))
    }
}

/// A request that is made again when it may pass: the network is not always there.
fn retried<T>(mut request: impl FnMut() -> Result<T, Failure>) -> Result<T, Failure> {
    for wait in [300, 1000] {
        match request() {
            Err(failure) if failure.passes() => std::thread::sleep(Duration::from_millis(wait)),
            done => return done,
        }
    }
    request()
}

pub(crate) fn network(error: ureq::Error) -> Failure {
    Failure::Network(error.to_string())
}

fn refused(answer: Response<Body>) -> Failure {
    let header = |name: &str| text(answer.headers(), name).unwrap_or_default();
    let message = header("x-error-message").chars().filter(|c| !c.is_control()).take(300).collect();
    Failure::Refused { status: answer.status().as_u16(), code: header("x-error-code"), message }
}

fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    Some(headers.get(name)?.to_str().ok()?.trim().to_owned()).filter(|value| !value.is_empty())
}

/// Scheme, host and port.
fn origin(url: &str) -> Option<(String, String)> {
    let uri: Uri = url.parse().ok()?;
    let scheme = uri.scheme_str().filter(|scheme| ["http", "https"].contains(scheme))?;
    Some((
        scheme.to_owned(),
        uri.authority()?.host().to_owned()
            + ":"
            + &uri.port_u16().map_or_else(String::new, |p| p.to_string()),
    ))
}

/// Where an answer redirects to.
fn target(url: &str, answer: &Response<Body>) -> Result<String, Failure> {
    let wrong =
        |found: &str| Failure::Network(format!("{url}: redirected to {found:?}, expected an address"));
    let location = text(answer.headers(), "location").ok_or_else(|| wrong(""))?;
    let next = joined(url, &location);
    match (origin(url), origin(&next)) {
        (Some((before, _)), Some((after, _))) if before == "https" && after == "http" => {
            Err(Failure::Network(format!(
                "{url}: redirected from https to {next}, which anyone may read and change"
            )))
        }
        (_, Some(_)) => Ok(next),
        _ => Err(wrong(&location)),
    }
}

/// An address that may be relative to another.
fn joined(base: &str, location: &str) -> String {
    if location.contains("://") && !location.starts_with('/') {
        return location.to_owned();
    }
    let scheme_end = base.find("://").map_or(0, |at| at + 3);
    let host_end = base[scheme_end..].find('/').map_or(base.len(), |at| scheme_end + at);
    if let Some(rest) = location.strip_prefix("//") {
        return format!("{}{rest}", &base[..scheme_end]);
    }
    if location.starts_with('/') {
        return format!("{}{location}", &base[..host_end]);
    }
    let path = base.split(['?', '#']).next().unwrap_or(base);
    let folder = path.rfind('/').filter(|at| *at >= host_end).map_or(host_end, |at| at);
    format!("{}/{location}", &path[..folder])
}

/// A text as a part of an address; what is in `plain` stays as it is.
fn quoted(text: &str, plain: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        let c = char::from(byte);
        if c.is_ascii_alphanumeric() || "-_.~".contains(c) || plain.contains(c) {
            out.push(c);
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_joined() {
        let base = "https://hub.co:8/org/name/resolve/main/a.bin?x=1";
        for (location, expected) in [
            ("http://cdn.co/b", "http://cdn.co/b"),
            ("//cdn.co/b?y=/", "https://cdn.co/b?y=/"),
            ("/c/d", "https://hub.co:8/c/d"),
            ("e", "https://hub.co:8/org/name/resolve/main/e"),
        ] {
            assert_eq!(joined(base, location), expected);
        }
        assert_eq!(joined("http://h", "x"), "http://h/x");
        assert_eq!(quoted("refs/pr/1", ""), "refs%2Fpr%2F1");
        assert_eq!(quoted("a b/ü.json", "/"), "a%20b/%C3%BC.json");
        assert_eq!(origin("https://hub.co/a"), origin("https://hub.co/b"));
        for other in ["http://hub.co/a", "https://hub.co:8/a", "https://hub.co.evil.org/a"] {
            assert_ne!(origin("https://hub.co/a"), origin(other), "{other}");
        }
        assert_eq!(origin("hub.co"), None);
        assert_eq!(origin("file:///etc/passwd"), None);
    }
}
