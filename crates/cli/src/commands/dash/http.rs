//! As much of HTTP/1.1 as one page for one reader takes: GET, no bodies, one request a connection. What is refused gets an
//! answer, never a connection that is reset.
//!
//! Who asks is checked before what is asked for. A page on another site can make a browser ask a local server,
//! directly or after its name is rebound to this machine; the one shows in `Origin`, the other in `Host`.

use std::fmt::Write as _;
use std::io::{self, ErrorKind, Read, Write};

/// The longest head of a request.
const LONGEST_HEAD: usize = 16 << 10;

/// Why a request is not answered as it would like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It is no request that this server understands.
    Malformed,
    /// It is for another host, or from another site.
    Foreign,
    NotFound,
    Method,
    /// It has a body, and no request has one here.
    Body,
    TooLong,
    LongTarget,
    Slow,
    /// Too many are being answered.
    Busy,
}

impl Refusal {
    /// Status line and a sentence.
    fn status(self) -> (&'static str, &'static str) {
        match self {
            Self::Malformed => ("400 Bad Request", "this is no request that is understood here"),
            Self::Foreign => {
                ("403 Forbidden", "this page is for a browser on this machine, at its own address")
            }
            Self::NotFound => ("404 Not Found", "there is nothing here; the page is at /"),
            Self::Method => ("405 Method Not Allowed", "only GET is understood here"),
            Self::Body => ("413 Content Too Large", "no request has a body here"),
            Self::LongTarget => ("414 URI Too Long", "the address is too long; the page is at /"),
            Self::TooLong => ("431 Request Header Fields Too Large", "the request's head is too long"),
            Self::Slow => ("408 Request Timeout", "the request did not come in time"),
            Self::Busy => ("503 Service Unavailable", "too many pages are open; close some"),
        }
    }
}

/// Reads a request's head, up to the empty line; none where the connection ends before the first byte. `wait` is called
/// before every read.
pub(super) fn read_head<S: Read>(
    stream: &mut S,
    mut wait: impl FnMut(&S) -> io::Result<()>,
) -> Result<Option<Vec<u8>>, Refusal> {
    let mut head = Vec::with_capacity(1024);
    let mut part = [0; 1024];
    loop {
        wait(stream).map_err(|_| Refusal::Slow)?;
        match stream.read(&mut part) {
            Ok(0) if head.is_empty() => return Ok(None),
            Ok(0) => return Err(Refusal::Malformed),
            Ok(n) => head.extend_from_slice(&part[..n]),
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(_) => return Err(Refusal::Slow),
        }
        if let Some(end) = head.windows(4).position(|w| w == b"\r\n\r\n") {
            head.truncate(end);
            return Ok(Some(head));
        }
        // Another protocol, TLS most likely: it would wait for an answer of its own kind.
        if head.iter().any(|b| b.is_ascii_control() && !b"\r\n\t".contains(b)) {
            return Err(Refusal::Malformed);
        }
        if head.len() > LONGEST_HEAD {
            let line = head.windows(2).any(|w| w == b"\r\n");
            return Err(if line { Refusal::TooLong } else { Refusal::LongTarget });
        }
    }
}

/// The path that a request asks for, if it comes from a page of this server or from the address bar.
pub(super) fn path(head: &[u8], port: u16) -> Result<&str, Refusal> {
    let head = std::str::from_utf8(head).map_err(|_| Refusal::Malformed)?;
    let mut lines = head.split("\r\n");
    let mut request = lines.next().unwrap_or_default().split(' ');
    let (method, target, version) = (request.next(), request.next(), request.next());
    let (Some(method), Some(target), Some("HTTP/1.1" | "HTTP/1.0"), None) =
        (method, target, version, request.next())
    else {
        return Err(Refusal::Malformed);
    };
    let (mut host, mut body) = (None, false);
    for line in lines {
        let (name, value) = line.split_once(':').ok_or(Refusal::Malformed)?;
        let value = value.trim();
        if name.is_empty() || name.contains(|c: char| c.is_whitespace()) {
            return Err(Refusal::Malformed);
        }
        match name.to_ascii_lowercase().as_str() {
            "host" if host.is_some() => return Err(Refusal::Malformed),
            "host" => host = Some(value),
            "origin" if !value.strip_prefix("http://").is_some_and(|v| is_here(v, port)) => {
                return Err(Refusal::Foreign);
            }
            // What browsers say where they send no origin: images, frames and links of other sites.
            "sec-fetch-site" if value == "cross-site" => return Err(Refusal::Foreign),
            "content-length" if value.is_empty() || !value.bytes().all(|b| b.is_ascii_digit()) => {
                return Err(Refusal::Malformed);
            }
            "content-length" => body |= value.bytes().any(|b| b != b'0'),
            "transfer-encoding" => body = true,
            _ => {}
        }
    }
    if !is_here(host.ok_or(Refusal::Malformed)?, port) {
        return Err(Refusal::Foreign);
    }
    if method != "GET" {
        return Err(Refusal::Method);
    }
    if body {
        return Err(Refusal::Body);
    }
    if !target.starts_with('/') || target.contains(|c: char| c.is_control()) {
        return Err(Refusal::Malformed);
    }
    Ok(target.split('?').next().unwrap_or_default())
}

/// Whether a host is a name of this server.
fn is_here(host: &str, port: u16) -> bool {
    ["127.0.0.1", "localhost", "[::1]"].iter().any(|name| {
        let rest = host.get(..name.len()).filter(|h| h.eq_ignore_ascii_case(name)).map(|h| &host[h.len()..]);
        match rest {
            Some("") => port == 80,
            Some(rest) => rest.strip_prefix(':') == Some(port.to_string().as_str()),
            None => false,
        }
    })
}

/// The head of an answer.
pub(super) fn head(status: &str, kind: &str, length: Option<usize>, more: &[(&str, &str)]) -> String {
    let mut text = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nCache-Control: no-store\r\nConnection: close\r\n\
         X-Content-Type-Options: nosniff\r\nReferrer-Policy: no-referrer\r\nX-Frame-Options: DENY\r\n\
         Cross-Origin-Resource-Policy: same-origin\r\nCross-Origin-Opener-Policy: same-origin\r\n"
    );
    if let Some(length) = length {
        let _ = write!(text, "Content-Length: {length}\r\n");
    }
    for (name, value) in more {
        let _ = write!(text, "{name}: {value}\r\n");
    }
    text.push_str("\r\n");
    text
}

/// Says that a request is not answered.
pub(super) fn refuse(stream: &mut impl Write, refusal: Refusal) -> io::Result<()> {
    let (status, sentence) = refusal.status();
    let allow: &[_] = if refusal == Refusal::Method { &[("Allow", "GET")] } else { &[] };
    let mut more = vec![("Content-Security-Policy", "default-src 'none'")];
    more.extend_from_slice(allow);
    let head = head(status, "text/plain; charset=utf-8", Some(sentence.len() + 1), &more);
    stream.write_all(format!("{head}{sentence}\n").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(request: &str) -> Result<&str, Refusal> {
        path(request.as_bytes(), 6377)
    }

    #[test]
    fn pages_of_this_server_are_answered() {
        for host in ["127.0.0.1:6377", "localhost:6377", "LocalHost:6377", "[::1]:6377"] {
            assert_eq!(ask(&format!("GET / HTTP/1.1\r\nHost: {host}")), Ok("/"));
        }
        let own = "GET /events?x=1 HTTP/1.1\r\nhost:127.0.0.1:6377\r\nOrigin: http://127.0.0.1:6377\r\nSec-Fetch-Site: same-origin";
        assert_eq!(ask(own), Ok("/events"));
        assert_eq!(path(b"GET / HTTP/1.0\r\nHost: localhost", 80), Ok("/"));
    }

    #[test]
    fn others_are_not() {
        use Refusal::{Body, Foreign, Malformed, Method};
        for (head, refusal) in [
            ("Host: evil.example:6377", Foreign),
            ("Host: 127.0.0.1", Foreign),
            ("Host: 127.0.0.1:80", Foreign),
            ("Host: 127.0.0.1:63770", Foreign),
            ("Host: localhost.evil.example:6377", Foreign),
            ("Host: 127.0.0.1:6377@evil.example", Foreign),
            ("Host: 192.168.0.2:6377", Foreign),
            ("Host: \u{e9}\u{e9}\u{e9}\u{e9}\u{e9}:6377", Foreign),
            ("Host: 127.0.0.1:6377\r\nOrigin: http://evil.example", Foreign),
            ("Host: 127.0.0.1:6377\r\nOrigin: null", Foreign),
            ("Host: 127.0.0.1:6377\r\nOrigin: https://127.0.0.1:6377", Foreign),
            ("Host: 127.0.0.1:6377\r\nOrigin: http://127.0.0.1:8080", Foreign),
            ("Host: 127.0.0.1:6377\r\nSec-Fetch-Site: cross-site", Foreign),
            ("Accept: */*", Malformed),
            ("Host: 127.0.0.1:6377\r\nHost: 127.0.0.1:6377", Malformed),
            ("Host: 127.0.0.1:6377\r\nContent-Length: 4", Body),
            ("Host: 127.0.0.1:6377\r\nno colon", Malformed),
            ("Host : 127.0.0.1:6377", Malformed),
            ("Host: 127.0.0.1:6377\r\nContent-Length: 5000000000", Body),
            ("Host: 127.0.0.1:6377\r\nTransfer-Encoding: chunked", Body),
            ("Host: 127.0.0.1:6377\r\nContent-Length: -1", Malformed),
        ] {
            assert_eq!(ask(&format!("GET / HTTP/1.1\r\n{head}")), Err(refusal), "{head}");
        }
        let with_body = "POST / HTTP/1.1\r\nHost: 127.0.0.1:6377\r\nContent-Length: 9";
        assert_eq!(ask(with_body), Err(Method), "what is wrong with it before its body");
        for (line, refusal) in [
            ("POST / HTTP/1.1", Method),
            ("HEAD / HTTP/1.1", Method),
            ("get / HTTP/1.1", Method),
            ("GET / HTTP/2", Malformed),
            ("GET /", Malformed),
            ("GET / x HTTP/1.1", Malformed),
            ("GET http://127.0.0.1:6377/ HTTP/1.1", Malformed),
            ("GET * HTTP/1.1", Malformed),
            ("", Malformed),
        ] {
            assert_eq!(ask(&format!("{line}\r\nHost: 127.0.0.1:6377")), Err(refusal), "{line}");
        }
    }

    #[test]
    fn heads_have_an_end() {
        let read = |mut bytes: &[u8]| read_head(&mut bytes, |_| Ok(()));
        let head = b"GET / HTTP/1.1\r\nHost: a";
        assert_eq!(read(&[&head[..], b"\r\n\r\nmore"].concat()), Ok(Some(head.to_vec())));
        assert_eq!(read(b""), Ok(None));
        assert_eq!(read(b"GET / HTTP/1.1\r\n"), Err(Refusal::Malformed));
        assert_eq!(read(&vec![b'a'; 2 * LONGEST_HEAD]), Err(Refusal::LongTarget));
        let long = [&b"GET / HTTP/1.1\r\nX: "[..], &vec![b'a'; 2 * LONGEST_HEAD]].concat();
        assert_eq!(read(&long), Err(Refusal::TooLong));
        assert_eq!(read(b"\x16\x03\x01\x02\x00\x01"), Err(Refusal::Malformed), "TLS");
    }
}
