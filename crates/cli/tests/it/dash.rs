//! `mesp dash` and `mesp report`: what the server refuses, and what a browser sees.

use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Stdio};

use serde_json::{Value, json};

use crate::browser::Browser;
use crate::support::{command, golden, mesp, temporary};

/// A served page.
pub(crate) struct Dash {
    pub(crate) child: Child,
    pub(crate) url: String,
    pub(crate) port: u16,
}

impl Dash {
    pub(crate) fn start(dir: &Path, port: u16) -> Self {
        let port = port.to_string();
        let mut child = command(&[&"dash", &dir, &"--json", &"--port", &port])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the program starts");
        let mut text = String::new();
        let mut out = BufReader::new(child.stdout.take().expect("its output"));
        while !text.ends_with("\n}\n") {
            assert!(out.read_line(&mut text).expect("text") > 0, "ended early: {text}");
        }
        let told: Value = serde_json::from_str(&text).expect("JSON");
        let url = told["url"].as_str().expect("an address").to_owned();
        let port = url.trim_end_matches('/').rsplit(':').next().and_then(|p| p.parse().ok()).expect("a port");
        Self { child, url, port }
    }

    /// What the server says to some bytes.
    pub(crate) fn ask(&self, request: &str) -> String {
        let mut stream = self.connect();
        stream.write_all(request.as_bytes()).expect("all of it is taken");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("an answer and its end, no reset");
        String::from_utf8_lossy(&answer).into_owned()
    }

    pub(crate) fn connect(&self) -> TcpStream {
        TcpStream::connect(("127.0.0.1", self.port)).expect("a connection")
    }

    /// A request for a path, complete.
    pub(crate) fn get(&self, path: &str) -> String {
        format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\n\r\n", self.port)
    }
}

impl Drop for Dash {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn append(run: &Path, text: &str) {
    let file = OpenOptions::new().create(true).append(true).open(run.join("metrics.jsonl"));
    file.expect("metrics").write_all(text.as_bytes()).expect("written");
}

fn line(event: &Value) -> String {
    format!("{event}\n")
}

fn loss(step: usize) -> f64 {
    0.5 + 2.0 / (1.0 + step as f64 / 20.0)
}

pub(crate) fn train(step: usize) -> String {
    line(&json!({
        "type": "train", "step": step, "epoch": step as f64 / 50.0, "loss": loss(step),
        "learning_rate": 1e-3 * (1.0 - step as f64 / 1e6), "grad_norm": 1.5 / (1.0 + step as f64 / 30.0),
        "num_tokens": 256 * step, "tokens_per_second": 512.0, "elapsed": step as f64 / 2.0, "eta": 7.0,
        "heap_peak_bytes": 40_000_000,
    }))
}

/// How a run begins: settings, a plan with its timeline, rows, and an answer.
pub(crate) fn beginning(total: usize) -> String {
    let ledger = json!({"adapter": 17_000_000, "checkpoint": 20_000_000, "head": 5_000_000});
    let timeline = json!({
        "classes": ["adapter", "checkpoint", "within_block", "head"],
        "columns": [[17, 2, 3, 0], [17, 4, 3, 0], [17, 4, 0, 9], [17, 4, 6, 0], [17, 2, 6, 0]],
        "moments": 40, "peak_bytes": 30, "peak_column": 2,
        "phases": [{"name": "forward", "from": 0, "to": 1}, {"name": "head", "from": 2, "to": 2}, {"name": "backward", "from": 3, "to": 4}],
        "blocks": [{"block": 0, "phase": "forward", "from": 0, "to": 0}, {"block": 1, "phase": "backward", "from": 3, "to": 3}],
        "alive_at_peak": [{"class": "head", "name": "logits", "bytes": 9}, {"class": "adapter", "name": "q_proj", "bytes": 17}],
    });
    let hostile = "<img src=x onerror=hacked=1></script><script>hacked=1</script>";
    [
        json!({"type": "run", "step": 0, "total_steps": total, "rows": 50, "parameters": 4_399_104, "method": "mesp",
            "settings": {"optimizer": "sgd", "adapter": {"rank": 8}}}),
        json!({"type": "plan", "step": 0, "method": "mesp", "planned_bytes": 42_000_000, "budget_bytes": 64_000_000, "ledger": ledger, "timeline": timeline}),
        json!({"type": "memory", "step": 0, "planned_bytes": 42_000_000, "budget_bytes": 64_000_000, "heap_peak_bytes": 40_000_000,
            "rss_anon_peak_bytes": 43_000_000, "rss_peak_bytes": 90_000_000, "ledger": ledger}),
        json!({"type": "sample", "step": 0, "row": "rows.jsonl:1", "total_tokens": 3, "cut": false,
            "tokens": [{"id": 1, "text": "Say: ", "trained": false}, {"id": 2, "text": hostile, "trained": true}, {"id": 3, "text": "é<b>", "trained": true}]}),
        json!({"type": "generation", "step": 0, "when": "before", "prompt": hostile, "text": "dunno"}),
        json!({"type": "eval", "step": 0, "eval_loss": 3.25, "eval_accuracy": 0.1, "target_tokens": 99}),
    ]
    .iter()
    .map(line)
    .collect()
}

#[test]
fn what_cannot_be_shown_is_named() {
    let dir = temporary();
    let missing = mesp(&[&"dash", &dir.path().join("nowhere")]).failure(dir.path());
    insta::assert_snapshot!("nothing_to_show", missing);
    let empty = mesp(&[&"report", &dir.path()]).failure(dir.path());
    insta::assert_snapshot!("nothing_to_report", empty);
    let dash = Dash::start(dir.path(), 0);
    let taken = mesp(&[&"dash", &dir.path(), &"--port", &dash.port.to_string()]).failure(dir.path());
    insta::assert_snapshot!("port_is_taken", taken.replace(&dash.port.to_string(), "[PORT]"));
}

#[test]
fn charts_show_the_runs_numbers() {
    let Some(mut browser) = Browser::start() else { return };
    let dir = temporary();
    append(dir.path(), &beginning(200));
    append(dir.path(), &(1..=120).map(train).collect::<String>());
    append(
        dir.path(),
        &line(
            &json!({"type": "eval", "step": 100, "eval_loss": 1.125, "eval_accuracy": 0.5, "target_tokens": 99}),
        ),
    );
    append(
        dir.path(),
        &line(
            &json!({"type": "event", "step": 90, "kind": "spike", "message": "<b>a spike</b>", "rows": ["rows.jsonl:7"]}),
        ),
    );
    append(
        dir.path(),
        &line(&json!({"type": "generation", "step": 100, "when": "eval", "prompt": "p", "text": "later"})),
    );
    let dash = Dash::start(dir.path(), 0);
    browser.go(&dash.url);
    browser.wait("document.querySelector('#tile-step .big')?.innerText === '120'");
    assert_eq!(browser.text("#status"), "live");
    assert_eq!(browser.text("#tile-loss .big"), "0.7857");
    assert_eq!(browser.text("#tile-held-out .big"), "1.125");
    assert_eq!(browser.text("#tile-peak .big"), "40.0 MB");
    assert!(browser.text("#tile-peak .small").contains("planned 42.0 MB, budget 64.0 MB"));
    // What a reader of the screen hears of the charts.
    let label = |browser: &mut Browser, id: &str| {
        let value =
            browser.eval(&format!("document.querySelector('#chart-{id} .plot').getAttribute('aria-label')"));
        value.as_str().expect("a label").to_owned()
    };
    assert!(label(&mut browser, "loss").contains("each step: 120 values from 0.7857 to 2.405, last 0.7857"));
    assert!(label(&mut browser, "loss").contains("held-out loss: 2 values from 1.125 to 3.25"));
    assert!(label(&mut browser, "norm").contains("120 values"));
    assert!(label(&mut browser, "memory").contains("planned peak 42.0 MB; budget 64.0 MB"));
    assert!(label(&mut browser, "within").contains("peak of the arena 30 B"));
    // The tooltip by keyboard, and by the mouse at the same place on every chart.
    browser.eval("document.querySelector('#chart-loss .plot').focus()");
    browser.key("ArrowLeft");
    let tip = browser.text("#chart-loss .tip");
    assert!(tip.contains("step 119"), "{tip}");
    browser.key("Home");
    let tip = browser.text("#chart-loss .tip");
    assert!(tip.contains("step 1") && tip.contains("2.405"), "{tip}");
    browser.key("End");
    let tip = browser.text("#chart-loss .tip");
    assert!(tip.contains("step 120") && tip.contains("0.7857"), "{tip}");
    assert!(browser.text("#chart-speed .tip").contains("512"), "the other charts point there too");
    browser.key("+");
    browser.wait("!document.querySelector('#training .tools > button').hidden");
    browser.key("Escape");
    browser.wait("document.querySelector('#training .tools > button').hidden");
    let place = browser.eval("(r => [r.left, r.top, r.width])(document.querySelector('#chart-loss .plot').getBoundingClientRect())");
    let at = |i: usize| place[i].as_f64().expect("a place");
    browser.mouse("mouseMoved", at(0) + 58.0 + (at(2) - 70.0) * 0.5, at(1) + 60.0);
    let tip = browser.text("#chart-loss .tip");
    assert!(tip.contains("step 60") && tip.contains(&format!("{:.1}", loss(60))), "{tip}");
    // Something is drawn in the run's color.
    let drawn = "(c => { const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data; let n = 0;
        for (let i = 0; i < d.length; i += 4) if (d[i] === 51 && d[i + 1] === 92 && d[i + 2] === 204) n++; return n; })(document.querySelector('#chart-loss canvas'))";
    assert!(browser.eval(drawn).as_u64() > Some(200), "{}", browser.eval(drawn));
    // Text from the run is text.
    assert_eq!(
        browser.eval("document.querySelectorAll('#samples mark')[1].textContent"),
        "<img src=x onerror=hacked=1></script><script>hacked=1</script>é<b>"
    );
    assert!(browser.text("#generations").contains("<img src=x"));
    assert!(browser.text("#events").contains("<b>a spike</b> (rows.jsonl:7)"));
    assert_eq!(browser.eval("typeof hacked + document.querySelectorAll('main img').length"), "undefined0");
    assert!(browser.text("#settings").contains("adapter rank"));
    assert!(browser.text("#alive").contains("logits"));
    // Narrow, and dark: nothing is cut off, and the colors follow the system.
    browser.size(360, 740);
    browser.wait("document.querySelector('#chart-rate').getBoundingClientRect().width < 360");
    // Charts take the new width a frame later.
    browser.wait("document.documentElement.scrollWidth === 360");
    assert_eq!(
        browser.eval("getComputedStyle(document.documentElement).backgroundColor"),
        "rgb(246, 246, 244)"
    );
    browser.dark(true);
    browser.wait("getComputedStyle(document.documentElement).backgroundColor === 'rgb(17, 19, 21)'");
    browser.is_clean(&dash.url);
}

#[test]
fn the_page_follows_a_run_through_everything() {
    let Some(mut browser) = Browser::start() else { return };
    let dir = temporary();
    let dash = Dash::start(dir.path(), 0);
    let steps = |n: usize| format!("document.querySelector('#tile-step .big')?.innerText === '{n}'");
    browser.go(&dash.url);
    browser.wait("document.querySelector('#trouble').innerText.includes('No run here yet')");
    append(dir.path(), &beginning(50));
    // Of the loss there is a point already, that of the first evaluation.
    browser.wait("document.body.innerText.includes('the first step is not done')");
    append(dir.path(), &(1..=10).map(train).collect::<String>());
    browser.wait(&steps(10));
    // Reloaded in the middle of the run, and of a line.
    let next = train(11);
    let (half, rest) = next.split_at(20);
    append(dir.path(), half);
    browser.reload();
    browser.wait(&steps(10));
    append(dir.path(), rest);
    browser.wait(&steps(11));
    // Killed in the middle of a line, and resumed from an earlier step.
    append(dir.path(), "{\"type\":\"train\",\"step\":1");
    append(
        dir.path(),
        &line(
            &json!({"type": "run", "step": 5, "total_steps": 50, "rows": 50, "parameters": 1, "method": "mesp"}),
        ),
    );
    browser.wait(&steps(5));
    append(dir.path(), &train(6));
    browser.wait(&steps(6));
    assert!(browser.text("#trouble").contains("1 line of metrics.jsonl cannot be read"));
    assert!(browser.text("#events").contains("went on from a checkpoint"));
    // The program goes and comes back; the page finds it by itself.
    let port = dash.port;
    drop(dash);
    browser.wait("document.querySelector('#status').innerText === 'connection lost'");
    let dash = Dash::start(dir.path(), port);
    append(dir.path(), &train(7));
    browser.wait(&steps(7));
    // A line that makes no sense takes its own panel, and no other.
    append(dir.path(), &line(&json!({"type": "sample", "step": 7, "tokens": 7})));
    browser.wait("document.querySelector('#trouble').innerText.includes('The samples of')");
    append(dir.path(), &train(8));
    browser.wait(&steps(8));
    // Another run in the same place.
    fs::write(dir.path().join("metrics.jsonl"), beginning(9) + &train(1)).expect("written");
    browser.wait(&steps(1));
    append(dir.path(), &line(&json!({"type": "end", "step": 1, "status": "done"})));
    browser.wait("document.querySelector('#status').innerText === 'done'");
    assert_eq!(browser.text("#trouble"), "");
    browser
        .events
        .retain(|e| !e.to_string().contains("ERR_CONNECTION") && !e.to_string().contains("ERR_INCOMPLETE"));
    browser.is_clean(&dash.url);
}

#[test]
fn a_hundred_thousand_events_are_one_page() {
    let Some(mut browser) = Browser::start() else { return };
    let dir = temporary();
    let spike = 54_321;
    let mut text = beginning(100_000);
    for step in 1..=100_000 {
        let value = if step == spike { 77.0 } else { loss(step) };
        let (n, time) = (256 * step, step as f64 / 2.0);
        writeln!(text, r#"{{"type":"train","step":{step},"epoch":0.1,"loss":{value},"learning_rate":0.001,"grad_norm":1.5,"num_tokens":{n},"tokens_per_second":512.5,"elapsed":{time},"eta":1}}"#).expect("text");
    }
    append(dir.path(), &text);
    let dash = Dash::start(dir.path(), 0);
    browser.go(&dash.url);
    browser.wait("document.querySelector('#tile-step .big')?.innerText === '100,000'");
    // No point is lost to the pixels: the one step that stands out is drawn, to the top of the chart.
    let top = "(c => { const d = c.getContext('2d').getImageData(0, 0, c.width, 60).data; let n = 0;
        for (let x = 58; x < c.width; x++) for (let y = 12; y < 60; y++) { const i = 4 * (y * c.width + x); if (d[i + 2] - d[i] > 40) { n++; break; } } return n; })(document.querySelector('#chart-loss canvas'))";
    browser.eval(
        "(s => { s.value = 0; s.dispatchEvent(new Event('input')); })(document.querySelector('#smoothing'))",
    );
    browser.wait(&format!("({top}) > 0"));
    assert!(browser.eval(top).as_u64() < Some(40), "and it alone");
    // A change of the smoothing draws everything; the median of some, since the machine has other things to do.
    let time = "(async () => { const s = document.querySelector('#smoothing'); const times = [];
        for (let i = 0; i < 9; i++) { const t = performance.now(); s.value = 0.5 + i / 100; s.dispatchEvent(new Event('input'));
          await new Promise((r) => requestAnimationFrame(() => requestAnimationFrame(r))); times.push(performance.now() - t); }
        return times.sort((a, b) => a - b)[4]; })()";
    let took = browser.eval(time).as_f64().expect("milliseconds");
    assert!(took < 1000.0, "{took} ms");
    append(dir.path(), &train(100_001));
    browser.wait("document.querySelector('#tile-step .big')?.innerText === '100,001'");
    browser.is_clean(&dash.url);
}

#[test]
fn runs_lie_over_each_other_and_a_report_needs_nothing() {
    let Some(mut browser) = Browser::start() else { return };
    let dir = temporary();
    for (name, steps) in [("first", 30), ("second", 60), ("</script><b>", 10)] {
        let run = dir.path().join(name.replace('/', "_"));
        fs::create_dir(&run).expect("a folder");
        append(&run, &beginning(60));
        append(&run, &(1..=steps).map(train).collect::<String>());
        append(&run, r#"{"type":"end","step":60,"status":"done"}"#);
    }
    let output = dir.path().join("report.html");
    let told = mesp(&[&"report", &dir.path(), &"--output", &output, &"--json"]).ok().json();
    assert_eq!(told["runs"].as_array().map(Vec::len), Some(3));
    assert_eq!(told["bytes"], fs::metadata(&output).expect("the file").len());
    let address = format!("file://{}", output.display());
    browser.call(
        "Network.emulateNetworkConditions",
        json!({"offline": true, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}),
    );
    browser.go(&address);
    browser.wait("document.querySelectorAll('#runs tbody tr').length === 3");
    let legend = browser.text("#chart-loss .legend");
    assert!(
        legend.contains("first") && legend.contains("second") && legend.contains("<_script><b>"),
        "{legend}"
    );
    browser.eval(
        "[...document.querySelectorAll('#runs button.name')].find((b) => b.innerText === 'second').click()",
    );
    browser.wait("document.querySelector('#tile-step .big').innerText === '60'");
    assert_eq!(browser.text("#status"), "done");
    assert_eq!(browser.text("#link"), "report");
    browser.eval("document.querySelectorAll('#runs input')[1].click()");
    browser.wait("!document.querySelector('#chart-loss .legend').innerText.includes('first')");
    assert_eq!(browser.eval("typeof hacked"), "undefined");
    browser.is_clean(&address);
}

/// Pictures of the page over two runs of the demo. With `MESP_WRITE_PICTURES=1` they go to `docs/`.
#[test]
fn pictures_of_the_demo() {
    let Some(mut browser) = Browser::start() else { return };
    let dir = temporary();
    let (wolf, tea) = ("What do you know about the wolf?", "How do I make tea?");
    for rate in ["3e-3", "6e-4"] {
        // As a user gives it: the pictures show no folder of this machine.
        let output = format!("rate-{rate}");
        let run =
            ["--learning-rate", rate, "--eval-every", "10", "--sample-prompt", wolf, "--sample-prompt", tea];
        let mut train = command(&[&"train", &"--output", &output]);
        let done = train.current_dir(dir.path()).args(run).output().expect("the program starts");
        assert!(done.status.success(), "{done:?}");
    }
    let docs = golden("../docs");
    let write = std::env::var_os("MESP_WRITE_PICTURES").is_some();
    let to = if write { docs.as_path() } else { dir.path() };
    let dash = Dash::start(dir.path(), 0);
    for (name, width, height, dark) in
        [("dash", 1280, 1100, false), ("dash-dark", 1280, 1100, true), ("dash-narrow", 390, 1100, false)]
    {
        browser.size(width, height);
        browser.dark(dark);
        browser.go(&dash.url);
        browser.wait("document.querySelector('#tile-step .big')?.innerText === '80'");
        browser.eval("[...document.querySelectorAll('#runs button.name')].find((b) => b.innerText === 'rate-3e-3').click()");
        browser.eval("new Promise((r) => requestAnimationFrame(() => requestAnimationFrame(r)))");
        browser.picture(&to.join(format!("{name}.png")), false);
        if name == "dash" {
            assert!(browser.text("#generations").contains("Ahoy, matey!"));
            assert!(browser.eval("document.querySelectorAll('#samples mark').length").as_u64() > Some(1));
            let within = "document.querySelector('#chart-within .plot').getAttribute('aria-label').includes('peak of the arena')";
            assert_eq!(browser.eval(within), true);
            browser.size(width, 1500);
            browser.eval("document.querySelector('#memory').scrollIntoView()");
            browser.eval("new Promise((r) => requestAnimationFrame(() => requestAnimationFrame(r)))");
            browser.picture(&to.join("dash-memory.png"), false);
        }
    }
    browser.is_clean(&dash.url);
}
