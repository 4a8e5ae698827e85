//! Contestants run one after another, round by round, so that whatever else the machine does in the meantime
//! falls on all alike. Times are CPU time of the thread: a busy machine delays them and hardly changes them.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

/// One thing to time: a name, what it does in one call, and a call that answers with its CPU seconds.
pub(crate) struct Contestant<'a> {
    name: String,
    work: f64,
    run: Box<dyn FnMut() -> f64 + 'a>,
}

impl<'a> Contestant<'a> {
    /// `work` is counted in units of 10⁹ (operations or bytes) per second.
    pub(crate) fn new(name: impl Into<String>, work: usize, mut run: impl FnMut() + 'a) -> Self {
        let timed = move || {
            let start = cpu_seconds();
            run();
            cpu_seconds() - start
        };
        Self { name: name.into(), work: work as f64, run: Box::new(timed) }
    }

    /// A contestant that measures itself.
    pub(crate) fn timed(name: impl Into<String>, work: usize, run: impl FnMut() -> f64 + 'a) -> Self {
        Self { name: name.into(), work: work as f64, run: Box::new(run) }
    }
}

/// CPU time of the calling thread.
fn cpu_seconds() -> f64 {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `t` is a valid place for the answer.
    let answer = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut t) };
    assert_eq!(answer, 0, "the thread's clock");
    t.tv_sec as f64 + t.tv_nsec as f64 * 1e-9
}

/// Runs all in alternation for about `budget`, at least five rounds, and prints for each the median rate and the
/// median over the rounds of its time as a multiple of the first one's, with the quartiles.
pub(crate) fn race(title: &str, unit: &str, budget: Duration, mut all: Vec<Contestant<'_>>) {
    println!("\n{title}");
    for c in &mut all {
        (c.run)();
    }
    let mut times: Vec<Vec<f64>> = vec![Vec::new(); all.len()];
    let begin = Instant::now();
    while times[0].len() < 5 || (begin.elapsed() < budget && times[0].len() < 1000) {
        for (c, t) in all.iter_mut().zip(&mut times) {
            t.push((c.run)());
        }
    }
    for (c, t) in all.iter().zip(&times) {
        let ratios: Vec<f64> = t.iter().zip(&times[0]).map(|(x, first)| x / first).collect();
        let [low, middle, high] = [0.25, 0.5, 0.75].map(|q| quantile(&ratios, q));
        println!(
            "  {:<38} {:>8.1} {unit}   {middle:.3} of the first's time ({low:.3} to {high:.3}, {} rounds)",
            c.name,
            c.work / quantile(t, 0.5) * 1e-9,
            t.len(),
        );
    }
}

fn quantile(values: &[f64], q: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[((sorted.len() - 1) as f64 * q).round() as usize]
}

/// PyTorch in a child process, which makes one product for each line it reads and answers its CPU seconds.
pub(crate) struct Torch {
    child: Child,
    ask: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

const SCRIPT: &str = "
import sys, time, torch
torch.set_num_threads(1)
torch.set_grad_enabled(False)
known = {}
print('ready', torch.__version__, flush=True)
for line in sys.stdin:
    m, n, k, dtype, form = line.split()
    if line not in known:
        t = getattr(torch, dtype)
        a, b = torch.randn(int(m), int(k)).to(t), torch.randn(int(n), int(k)).to(t)
        known[line] = (a, b.T if form == 'forward' else b.T.contiguous())
    a, b = known[line]
    start = time.process_time()
    c = a @ b
    print(time.process_time() - start, flush=True)
";

impl Torch {
    /// Starts `python`, which must have `torch`.
    pub(crate) fn start(python: &str) -> Self {
        let mut child = Command::new(python)
            .args(["-c", SCRIPT])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("{python}: {e}"));
        let (ask, answers) = (child.stdin.take(), child.stdout.take().expect("a piped output"));
        let mut torch = Self { child, ask, answers: BufReader::new(answers) };
        println!("PyTorch: {}", torch.line());
        torch
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("an answer from PyTorch");
        assert!(!line.is_empty(), "PyTorch ended");
        line.trim().to_owned()
    }

    /// CPU seconds of one product; `form` is `forward` (b is a transposed view) or `straight`.
    pub(crate) fn product(&mut self, [m, n, k]: [usize; 3], dtype: &str, form: &str) -> f64 {
        let ask = self.ask.as_mut().expect("a piped input");
        writeln!(ask, "{m} {n} {k} {dtype} {form}").expect("PyTorch reads");
        self.line().parse().expect("seconds")
    }
}

impl Drop for Torch {
    fn drop(&mut self) {
        self.ask = None;
        let _ = self.child.wait();
    }
}
