//! The server of `mesp dash`: what it refuses, and that no client keeps another from its answer.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::dash::{Dash, append, beginning, train};
use crate::support::temporary;

#[test]
fn the_server_answers_this_machine_only() {
    let dir = temporary();
    let dash = Dash::start(dir.path(), 0);
    let here = format!("Host: 127.0.0.1:{}", dash.port);
    let page = dash.ask(&dash.get("/"));
    assert!(page.starts_with("HTTP/1.1 200 OK\r\n"), "{page}");
    let (head, body) = page.split_once("\r\n\r\n").expect("a head");
    for part in [
        "Content-Security-Policy: default-src 'none'; script-src 'nonce-",
        "Cache-Control: no-store",
        "X-Frame-Options: DENY",
    ] {
        assert!(head.contains(part), "{part}: {head}");
    }
    assert!(!head.contains("Access-Control-Allow-Origin"));
    assert!(body.starts_with("<!doctype html>") && body.trim_end().ends_with("</html>"));
    let other = dash.ask(&dash.get("/"));
    assert_ne!(page, other, "each document has a nonce of its own");
    // Status codes by RFC 9110, section 15.5, and RFC 6585; each with its answer read to the end.
    let body = "x".repeat(3_000_000);
    for (request, status) in [
        ("GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n".to_owned(), 403),
        (format!("GET /events HTTP/1.1\r\n{here}\r\nOrigin: http://evil.example\r\n\r\n"), 403),
        (format!("POST / HTTP/1.1\r\n{here}\r\n\r\n"), 405),
        (format!("POST / HTTP/1.1\r\n{here}\r\nContent-Length: {}\r\n\r\n{body}", body.len()), 405),
        (
            format!("PUT /run.json HTTP/1.1\r\n{here}\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n"),
            405,
        ),
        (format!("GET / HTTP/1.1\r\n{here}\r\nContent-Length: {}\r\n\r\n{body}", body.len()), 413),
        (format!("GET /../../etc/passwd HTTP/1.1\r\n{here}\r\n\r\n"), 404),
        (format!("GET /%2e%2e/%2e%2e/etc/passwd HTTP/1.1\r\n{here}\r\n\r\n"), 404),
        (format!("GET //etc/passwd HTTP/1.1\r\n{here}\r\n\r\n"), 404),
        (format!("GET / HTTP/1.1\r\n{here}\r\nX: {body}\r\n\r\n"), 431),
        (format!("GET /{body} HTTP/1.1\r\n{here}\r\n\r\n"), 414),
        ("nonsense\r\n\r\n".to_owned(), 400),
        (format!("\u{16}\u{3}\u{1}{body}"), 400),
    ] {
        let answer = dash.ask(&request);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request:.60}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{request:.60}");
    }
}

/// The time for the page to be answered, as a new client sees it: the shortest of three, since the machine has other
/// things to do.
fn time(dash: &Dash) -> Duration {
    let one = || {
        let since = Instant::now();
        let page = dash.ask(&dash.get("/"));
        assert!(page.starts_with("HTTP/1.1 200 OK\r\n"), "{page:.200}");
        since.elapsed()
    };
    (0..3).map(|_| one()).min().expect("three")
}

/// What the next data event of a stream is, if it comes in time.
fn news(dash: &Dash) -> String {
    let mut stream = dash.connect();
    stream.write_all(dash.get("/events").as_bytes()).expect("written");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("set");
    let mut text = Vec::new();
    let mut part = [0; 4096];
    while !text.windows(6).any(|w| w == b"data: ") || !text.ends_with(b"\n\n") {
        let n = stream.read(&mut part).expect("news in time");
        assert!(n > 0, "{}", String::from_utf8_lossy(&text));
        text.extend_from_slice(&part[..n]);
    }
    String::from_utf8(text).expect("text")
}

#[test]
fn no_client_keeps_another_from_the_page() {
    const IN_TIME: Duration = Duration::from_millis(100);
    let dir = temporary();
    append(dir.path(), &beginning(100));
    append(dir.path(), &(1..=20_000).map(train).collect::<String>());
    let dash = Dash::start(dir.path(), 0);
    assert!(news(&dash).contains(r#""count":1"#));
    let idle: Vec<TcpStream> = (0..100).map(|_| dash.connect()).collect();
    assert!(time(&dash) < IN_TIME, "beside 100 that ask nothing");
    let slow: Vec<TcpStream> = (0..100)
        .map(|_| {
            let mut stream = dash.connect();
            stream.write_all(dash.get("/events").as_bytes()).expect("written");
            stream
        })
        .collect();
    assert!(time(&dash) < IN_TIME, "and 100 that read nothing");
    let mut drops: Vec<TcpStream> = (0..100).map(|_| dash.connect()).collect();
    let request = dash.get("/");
    let since = Instant::now();
    for byte in request.as_bytes().iter().take(3) {
        for stream in &mut drops {
            // Those that have made room for others are gone.
            let _ = stream.write_all(&[*byte]);
        }
        assert!(time(&dash) < IN_TIME, "and 100 that send a byte at a time");
        std::thread::sleep(Duration::from_millis(200));
    }
    // News come as well, and all are within the limit of places.
    assert!(news(&dash).contains(r#""count":1"#));
    let more: Vec<TcpStream> = (0..300).map(|_| dash.connect()).collect();
    assert!(time(&dash) < IN_TIME * 3, "and 300 more that ask nothing");
    assert!(news(&dash).contains(r#""count":1"#));
    drop((slow, drops, more));
    // Who asks nothing is told so in the end: its time, or its place, has gone to others.
    for mut stream in idle.into_iter().take(5) {
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("set");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer, no reset");
        assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    }
    assert!(since.elapsed() < Duration::from_mins(1));
    #[cfg(target_os = "linux")]
    {
        let status = std::fs::read_to_string(format!("/proc/{}/status", dash.child.id())).expect("status");
        let number = |name: &str| -> u64 {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a line");
            line.split_whitespace().next().and_then(|n| n.parse().ok()).expect("a number")
        };
        assert!(number("Threads:") < 300, "{status}");
        assert!(number("VmHWM:") < 250_000, "{status}");
    }
}

/// A client that ends its side early is answered, and one that says nothing is not.
#[test]
fn half_closed_connections_get_their_answers() {
    let dir = temporary();
    let dash = Dash::start(dir.path(), 0);
    for (sent, status) in
        [(dash.get("/"), "HTTP/1.1 200 "), ("GET / HT".to_owned(), "HTTP/1.1 400 "), (String::new(), "")]
    {
        let mut stream = dash.connect();
        stream.write_all(sent.as_bytes()).expect("written");
        stream.shutdown(Shutdown::Write).expect("closed");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("no reset");
        assert!(answer.starts_with(status) && answer.is_empty() == sent.is_empty(), "{sent:?}: {answer}");
    }
}

#[test]
fn an_interrupt_ends_it() {
    for signal in ["-INT", "-TERM"] {
        let dir = temporary();
        let mut dash = Dash::start(dir.path(), 0);
        let interrupt = Command::new("kill").args([signal, &dash.child.id().to_string()]).status();
        assert!(interrupt.expect("kill").success());
        assert_eq!(dash.child.wait().expect("it ends").code(), Some(0), "{signal}");
    }
}
