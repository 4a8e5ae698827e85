//! A headless Chromium, spoken to in its `DevTools` protocol through two pipes.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// The longest that anything on the page may take, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);

/// One browser at a time: each is several processes.
static ONE: Mutex<()> = Mutex::new(());

/// A browser with one page.
pub(crate) struct Browser {
    child: Child,
    commands: File,
    answers: Receiver<Value>,
    /// What happened besides: `Network.requestWillBeSent`, `Runtime.exceptionThrown`, `Log.entryAdded`.
    pub(crate) events: Vec<Value>,
    last: u64,
    session: Option<String>,
    _folder: tempfile::TempDir,
    _one: MutexGuard<'static, ()>,
}

/// The browser's program, or nothing, with a line that says so.
#[expect(clippy::print_stderr, reason = "whoever runs the tests must hear of what is skipped")]
fn program() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let names = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];
    let found =
        names.iter().find_map(|n| std::env::split_paths(&path).map(|d| d.join(n)).find(|p| p.is_file()));
    let given = std::env::var_os("MESP_CHROMIUM").map(PathBuf::from);
    let found = given.or(found);
    if found.is_none() {
        eprintln!("skipped: no Chromium on the path (names: {}; or MESP_CHROMIUM)", names.join(", "));
    }
    found
}

impl Browser {
    /// Starts one, where there is one.
    pub(crate) fn start() -> Option<Self> {
        let program = program()?;
        let one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        let folder = tempfile::tempdir().expect("a temporary directory");
        let [to, from] = ["to", "from"].map(|name| folder.path().join(name));
        assert!(Command::new("mkfifo").args([&to, &from]).status().expect("mkfifo").success());
        // The protocol's pipes are the files 3 and 4 of the process, which a shell can open.
        let child = Command::new("sh")
            .args(["-c", r#"to=$1; from=$2; shift 2; exec "$0" "$@" 3<"$to" 4>"$from""#])
            .arg(program)
            .args([&to, &from])
            .args([
                "--headless=new",
                "--remote-debugging-pipe",
                "--no-sandbox",
                "--disable-gpu",
                "--no-first-run",
            ])
            .args([
                "--disable-dev-shm-usage",
                "--disable-background-networking",
                "--disable-component-update",
            ])
            .args(["--disable-extensions", "--hide-scrollbars", "--mute-audio", "--lang=en-US"])
            .arg(format!("--user-data-dir={}", folder.path().join("profile").display()))
            .arg("about:blank")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the browser starts");
        let commands = OpenOptions::new().write(true).open(&to).expect("a pipe");
        let answers = File::open(&from).expect("a pipe");
        let (send, receive) = channel();
        thread::spawn(move || {
            for message in BufReader::new(answers).split(0).map_while(Result::ok) {
                let message = serde_json::from_slice(&message).expect("JSON from the browser");
                if send.send(message).is_err() {
                    return;
                }
            }
        });
        let (events, session) = (Vec::new(), None);
        let mut browser =
            Self { child, commands, answers: receive, events, last: 0, session, _folder: folder, _one: one };
        let target = browser.call("Target.createTarget", json!({"url": "about:blank"}));
        let target = json!({"targetId": target["targetId"], "flatten": true});
        let session = browser.call("Target.attachToTarget", target);
        browser.session = session["sessionId"].as_str().map(str::to_owned);
        for domain in ["Page", "Runtime", "Network", "Log"] {
            browser.call(&format!("{domain}.enable"), json!({}));
        }
        browser.size(1280, 900);
        Some(browser)
    }

    fn message(&mut self, until: Instant) -> Value {
        let left = until.saturating_duration_since(Instant::now());
        self.answers.recv_timeout(left).expect("the browser answers in time")
    }

    /// Calls a method of the protocol.
    pub(crate) fn call(&mut self, method: &str, params: Value) -> Value {
        self.last += 1;
        let id = self.last;
        let mut request = json!({"id": id, "method": method, "params": params});
        if let Some(session) = &self.session {
            request["sessionId"] = Value::from(session.as_str());
        }
        let mut bytes = request.to_string().into_bytes();
        bytes.push(0);
        self.commands.write_all(&bytes).expect("the browser listens");
        let until = Instant::now() + PATIENCE;
        loop {
            let mut message = self.message(until);
            if message["id"] == id {
                assert!(message.get("error").is_none(), "{method}: {message}");
                return message["result"].take();
            }
            self.events.push(message);
        }
    }

    /// The page's size in pixels.
    pub(crate) fn size(&mut self, width: u32, height: u32) {
        let metrics =
            json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600});
        self.call("Emulation.setDeviceMetricsOverride", metrics);
    }

    /// Whether the system prefers dark colors.
    pub(crate) fn dark(&mut self, dark: bool) {
        let value = if dark { "dark" } else { "light" };
        let features = json!({"features": [{"name": "prefers-color-scheme", "value": value}]});
        self.call("Emulation.setEmulatedMedia", features);
    }

    pub(crate) fn go(&mut self, url: &str) {
        let went = self.call("Page.navigate", json!({"url": url}));
        assert!(went.get("errorText").is_none(), "{url}: {went}");
        self.wait("document.readyState === 'complete'");
    }

    pub(crate) fn reload(&mut self) {
        self.call("Page.reload", json!({}));
        self.wait("document.readyState === 'complete'");
    }

    /// The value of an expression on the page.
    pub(crate) fn eval(&mut self, expression: &str) -> Value {
        let params = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let mut result = self.call("Runtime.evaluate", params);
        assert!(result.get("exceptionDetails").is_none(), "{expression}: {result}");
        result["result"]["value"].take()
    }

    /// Waits until an expression is true.
    pub(crate) fn wait(&mut self, expression: &str) {
        let until = Instant::now() + PATIENCE;
        while self.eval(&format!("Boolean({expression})")) != true {
            let thrown = self.events.iter().find(|e| e["method"] == "Runtime.exceptionThrown");
            assert!(thrown.is_none(), "{thrown:?}");
            assert!(Instant::now() < until, "never true: {expression}\n{}", self.text("main"));
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// The text of the first element that matches.
    pub(crate) fn text(&mut self, selector: &str) -> String {
        let text = self.eval(&format!("document.querySelector({}).innerText", Value::from(selector)));
        text.as_str().unwrap_or_default().to_owned()
    }

    /// A key, on whatever has the focus.
    pub(crate) fn key(&mut self, key: &str) {
        for kind in ["keyDown", "keyUp"] {
            self.call("Input.dispatchKeyEvent", json!({"type": kind, "key": key}));
        }
    }

    pub(crate) fn mouse(&mut self, kind: &str, x: f64, y: f64) {
        let buttons = u8::from(kind != "mouseMoved");
        let button = if buttons > 0 { "left" } else { "none" };
        let params = json!({"type": kind, "x": x, "y": y, "button": button, "buttons": buttons, "clickCount": buttons});
        self.call("Input.dispatchMouseEvent", params);
    }

    /// A picture of the page, or of a part of it, as a PNG file.
    pub(crate) fn picture(&mut self, path: &Path, whole: bool) {
        let shot = json!({"format": "png", "captureBeyondViewport": whole});
        let shot = self.call("Page.captureScreenshot", shot);
        let bytes = base64(shot["data"].as_str().expect("a picture"));
        assert!(bytes.starts_with(b"\x89PNG"));
        fs::write(path, bytes).expect("written");
    }

    /// Asserts that the page threw nothing, logged no error, and asked nobody but this address.
    pub(crate) fn is_clean(&self, address: &str) {
        for event in &self.events {
            let params = &event["params"];
            match event["method"].as_str().unwrap_or_default() {
                "Runtime.exceptionThrown" => panic!("{event}"),
                "Log.entryAdded" => assert_ne!(params["entry"]["level"], "error", "{event}"),
                "Network.requestWillBeSent" => {
                    let url = params["request"]["url"].as_str().expect("an address");
                    let own = ["data:", "about:", address].iter().any(|a| url.starts_with(a));
                    assert!(own, "asked for {url}");
                }
                _ => {}
            }
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        self.last += 1;
        let close = json!({"id": self.last, "method": "Browser.close"}).to_string() + "\0";
        let _ = self.commands.write_all(close.as_bytes());
        for _ in 0..100 {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                return;
            }
            thread::sleep(Duration::from_millis(50));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn base64(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut held) = (0_u32, 0);
    for c in text.bytes() {
        let value = match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => break,
        };
        bits = bits << 6 | u32::from(value);
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held) as u8);
        }
    }
    bytes
}
