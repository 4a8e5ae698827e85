//! Sizes that cannot be had: every number that can be typed or read ends in a message, and asks for no memory by it.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::support::{Ran, Running, command, copy_model, edit_json, golden, mesp, temporary};

/// The program within so many kilobytes of data and of address space.
fn within((data, space): (usize, usize), args: &[&dyn AsRef<std::ffi::OsStr>]) -> Command {
    let plain = command(args);
    let mut shell = Command::new("sh");
    let limits = "ulimit -d \"$1\"; ulimit -v \"$2\"; shift 2; exec \"$@\"";
    shell.args(["-c", limits, "sh", &data.to_string(), &space.to_string()]);
    shell.arg(plain.get_program()).args(plain.get_args()).env("LC_ALL", "C");
    shell
}

/// Its exit status; none where it goes on after some seconds, which a long run may.
fn ends(mut command: Command, what: &str) -> Option<(i32, String)> {
    let ended = Running::start(&mut command).end_within(Duration::from_secs(20))?;
    let code = ended.status.code().unwrap_or_else(|| panic!("{what}: killed by a signal: {}", ended.stderr));
    Some((code, ended.stderr))
}

/// Numbers at the edges of what sums and products of sizes can hold, and between them.
fn drawn() -> Vec<u64> {
    let mut numbers =
        vec![1 << 31, 1 << 32, (1 << 61) + 1, 1 << 62, (1 << 62) + 8, (1 << 63) - 1, 1 << 63, u64::MAX];
    numbers.extend([1_000_000_000, 1_000_000_000_000]);
    let mut state = 20_261_129u64;
    for _ in 0..4 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        numbers.push(state >> (state % 30));
    }
    numbers
}

/// Options of a command that take a value: whatever is added is tried as well.
fn options(command: &str) -> Vec<String> {
    let help = mesp_alone(&[command, "--help"]);
    let long = |line: &str| {
        let line = line.strip_prefix("  ")?.trim_start();
        let line = line.split_once(", ").map_or(line, |(_, long)| long);
        let (name, value) = line.split_once(' ')?;
        (name.starts_with("--") && value.starts_with('<')).then(|| name.to_owned())
    };
    help.lines().filter_map(long).collect()
}

/// What the program says without the options that other calls get.
fn mesp_alone(args: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_mesp")).args(args).env("LC_ALL", "C").output();
    String::from_utf8(output.expect("the program starts").stdout).expect("text")
}

/// A number for each option of each command that reads a model, in 50 MB of data and 4 GB of address space: what is
/// asked for by a number that was typed is not there.
#[test]
fn no_number_ends_in_an_abort() {
    let dir = temporary();
    let text = |path: &Path| path.to_str().expect("text").to_owned();
    let (model, demo) = (text(&golden("qwen2/model")), text(&golden("../assets/demo/model")));
    let rows = dir.path().join("rows.jsonl");
    fs::write(&rows, "{\"input_ids\":[1,2,3,4,5]}\n").expect("written");
    let rows = text(&rows);
    let [run, grads, random, gguf] =
        ["run", "grads.safetensors", "random", "q.gguf"].map(|name| text(&dir.path().join(name)));
    let train = ["train", "--model", &model, "--data", &rows, "--output", &run, "--overwrite"];
    let with = |more: &[&'static str]| [&train[..], more].concat();
    let commands = [
        with(&["--steps=1"]),
        with(&[]),
        with(&["--batch-tokens=64"]),
        with(&["--steps=1", "--method=mezo"]),
        vec!["plan", "--model", &model],
        vec!["plan", "--preset", "tiny"],
        vec!["grads", "--model", &model, "--data", &rows, "--output", &grads, "--overwrite"],
        vec!["eval", "--model", &model, "--data", &rows],
        vec!["generate", "--model", &demo, "--prompt", "Who"],
        vec!["chat", "--model", &demo],
        vec!["init-model", "--preset=tiny", "--output", &random, "--overwrite"],
        vec!["quantize", "--model", &model, "--type=q8_0", "--output", &gguf, "--overwrite"],
    ];
    // What names a file, a model or a folder is none of these.
    let named =
        ["--model", "--preset", "--data", "--output", "--adapter", "--eval-data", "--config", "--threads"];
    let numbers = drawn();
    let mut tried = 0;
    for (c, args) in commands.iter().enumerate() {
        for (o, option) in options(args[0]).iter().enumerate() {
            let given = args.iter().any(|arg| arg.split('=').next() == Some(option));
            if given || named.contains(&option.as_str()) {
                continue;
            }
            for (n, number) in numbers.iter().enumerate() {
                // Each option with a part of them: together all of them with all kinds of option.
                if (n + o + c) % 5 != 0 && *number != u64::MAX && *number != 1 << 62 {
                    continue;
                }
                let pattern = if option.ends_with("-pattern") { "q_proj=" } else { "" };
                let number = format!("{option}={pattern}{number}");
                let mut all: Vec<&dyn AsRef<std::ffi::OsStr>> =
                    args.iter().map(|a| a as &dyn AsRef<std::ffi::OsStr>).collect();
                all.push(&number);
                let what = format!("{args:?} {number}");
                let mut command = within((50_000, 4_000_000), &all);
                // A number is a file's name too, for `eval --per-row`.
                command.current_dir(dir.path());
                let Some((code, said)) = ends(command, &what) else {
                    panic!("{what}: it goes on");
                };
                tried += 1;
                assert!([0, 1, 2, 3].contains(&code), "{what}: {code}: {said}");
                assert!(
                    !said.contains("panicked") && !said.contains("memory allocation of"),
                    "{what}: {said}"
                );
                assert!(code == 0 || said.contains("error: "), "{what}: {said}");
            }
        }
    }
    assert!(tried > 1000, "{tried}");
}

/// What the fault was: 2^62 values of 4 bytes are no bytes in a number of 64 bits.
#[test]
fn ranks_are_bounded() {
    let model = golden("qwen2/model");
    for rank in ["4611686018427387912", "4611686018427387904", "18446744073709551615", "1000000000"] {
        let plan = mesp(&[&"plan", &"--model", &model, &"--rank", &rank]);
        assert_eq!(plan.code, 2, "{}{}", plan.stdout, plan.stderr);
        assert!(plan.stderr.contains("rank is ") && plan.stderr.contains("expected 1 to"), "{}", plan.stderr);
    }
}

#[test]
fn a_text_as_long_as_wished_is_as_long_as_the_model_allows() {
    let model = golden("../assets/demo/model");
    for wish in ["9223372036854775807", "18446744073709551615"] {
        let ran =
            mesp(&[&"generate", &"--model", &model, &"--prompt", &"Who is Lina?", &"--max-tokens", &wish]);
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        assert!(ran.stderr.contains("there is room for 512"), "{}", ran.stderr);
    }
}

/// Settings that ask for more than their tensors are held against these before memory is asked for.
#[test]
fn an_adapters_rank_is_that_of_its_tensors() {
    let dir = temporary();
    let (model, rows) = (golden("qwen2/model"), golden("qwen2/rows.jsonl"));
    let adapter = dir.path().join("adapter");
    mesp(&[&"train", &"--model", &model, &"--data", &rows, &"--output", &adapter, &"--steps=1"]).ok();
    for rank in [9, 1_000_000, 1_000_000_000] {
        edit_json(&adapter.join("adapter_config.json"), |c| c["r"] = rank.into());
        let ran = mesp(&[&"eval", &"--model", &model, &"--data", &rows, &"--adapter", &adapter]);
        assert_eq!(ran.code, 2, "{}", ran.stderr);
        assert!(ran.stderr.contains(&format!("rank {rank}")), "{}", ran.stderr);
    }
}

#[test]
fn a_log_with_a_rank_of_its_own_is_refused() {
    let dir = temporary();
    let (model, rows, run) = (golden("qwen2/model"), golden("qwen2/rows.jsonl"), dir.path().join("run"));
    let method = "--method=mezo";
    mesp(&[&"train", &"--model", &model, &"--data", &rows, &"--output", &run, &"--steps=1", &method]).ok();
    let log = run.join("slopes.replay");
    let bytes = fs::read(&log).expect("a log");
    let length = u32::from_le_bytes(bytes[8..12].try_into().expect("four")) as usize;
    for rank in ["1000000000", "18446744073709551615"] {
        let header = String::from_utf8(bytes[12..12 + length].to_vec()).expect("JSON");
        let header = header.replace("\"rank\":8", &format!("\"rank\":{rank}"));
        let mut damaged = bytes[..8].to_vec();
        damaged.extend((header.len() as u32).to_le_bytes());
        damaged.extend(header.as_bytes());
        damaged.extend(&bytes[12 + length..]);
        fs::write(&log, damaged).expect("written");
        let again = dir.path().join("again");
        let ran = mesp(&[&"replay", &run, &"--model", &model, &"--output", &again]);
        assert_eq!(ran.code, 2, "{}", ran.stderr);
        assert!(ran.stderr.contains(rank) && !again.exists(), "{}", ran.stderr);
    }
}

/// The limit of address space stands for a small machine: it is known before the first byte is asked for.
#[cfg(target_os = "linux")]
#[test]
fn a_plan_beyond_the_machine_is_refused() {
    let dir = temporary();
    let (model, rows) = (golden("qwen2/model"), golden("qwen2/rows.jsonl"));
    let output = dir.path().join("run");
    let train: [&dyn AsRef<std::ffi::OsStr>; 8] =
        [&"train", &"--model", &model, &"--data", &rows, &"--steps=1", &"--output", &output];
    for more in [&["--rank=400000"][..], &["--rank=400000", "--dry-run"]] {
        let more: Vec<&dyn AsRef<std::ffi::OsStr>> =
            more.iter().map(|a| a as &dyn AsRef<std::ffi::OsStr>).collect();
        let ran = Ran::of(
            within((1_500_000, 1_500_000), &[&train[..], &more[..]].concat()).output().expect("a shell"),
        );
        assert_eq!(ran.code, 3, "{}", ran.stderr);
        for part in ["the plan needs ", "the system gives ", "ulimit -v", "largest items"] {
            assert!(ran.stderr.contains(part), "{}", ran.stderr);
        }
        assert!(!output.exists(), "nothing is left");
    }
    // A plan is made all the same, and says so.
    let plan: [&dyn AsRef<std::ffi::OsStr>; 5] = [&"plan", &"--model", &model, &"--rank=400000", &"--json"];
    let ran = Ran::of(within((1_500_000, 1_500_000), &plan).output().expect("a shell")).ok();
    assert_eq!(ran.json()["memory"]["fits"], false, "{}", ran.stdout);
    assert!(ran.json()["memory"]["system_bytes"].as_u64() < Some(1_500_000 << 10));
    let fits = mesp(&[&"plan", &"--model", &model, &"--json"]).ok().json();
    assert_eq!(fits["memory"]["fits"], true);
    // A generator has a plan too: keys and values of 100000 tokens, 308 MB.
    let model = golden("../assets/demo/model");
    let args: [&dyn AsRef<std::ffi::OsStr>; 6] =
        [&"generate", &"--model", &model, &"--prompt=Who", &"--max-tokens", &"100000"];
    let ran = Ran::of(within((250_000, 250_000), &args).output().expect("a shell"));
    assert_eq!(ran.code, 3, "{}", ran.stderr);
    assert!(ran.stderr.contains("the system gives "), "{}", ran.stderr);
}

/// The budget that a refusal names for a method is one that the method is done in.
#[test]
fn a_named_budget_does_for_its_method() {
    let dir = temporary();
    let model = golden("qwen2/model");
    let rows = dir.path().join("rows.jsonl");
    let row = serde_json::json!({ "input_ids": (1..=64).collect::<Vec<u32>>() }).to_string();
    fs::write(&rows, format!("{row}\n").repeat(4)).expect("written");
    for method in ["mezo", "forward", "lcsb", "store-all", "mebp", "mesp", "auto"] {
        let output = dir.path().join(method);
        let train = |budget: &str, how: &str| {
            let how = format!("--method={how}");
            mesp(&[
                &"train",
                &"--model",
                &model,
                &"--data",
                &rows,
                &"--output",
                &output,
                &"--steps=2",
                &"--memory-budget",
                &budget,
                &how,
                &"--overwrite",
            ])
        };
        let refused = train("1000", method);
        assert_eq!(refused.code, 3, "{}", refused.stderr);
        let said =
            refused.stderr.split("would do is ").nth(1).expect("a number").lines().next().expect("a line");
        let least = said.split_whitespace().next().expect("a number");
        train(least, method).ok();
        if let Some((_, auto)) = said.split_once(", and ") {
            train(auto.split_whitespace().next().expect("a number"), "auto").ok();
        }
    }
}

/// An adapter whose loss is not finite is not called good.
#[test]
fn the_last_good_adapter_is_named_for_what_it_is() {
    let dir = temporary();
    let (model, rows) = (copy_model("qwen2", dir.path()), golden("qwen2/rows.jsonl"));
    let output = dir.path().join("run");
    for more in [&["--update=accumulate"][..], &["--update=per-block", "--max-grad-norm=0"]] {
        let mut args: Vec<OsString> =
            ["train", "--steps=20", "--learning-rate=1e30", "--overwrite"].map(Into::into).into();
        for (option, path) in [("--model", &model), ("--data", &rows), ("--output", &output)] {
            args.extend([option.into(), path.into()]);
        }
        args.extend(more.iter().map(Into::into));
        let args: Vec<&dyn AsRef<std::ffi::OsStr>> =
            args.iter().map(|a| a as &dyn AsRef<std::ffi::OsStr>).collect();
        let ran = mesp(&args);
        assert_eq!(ran.code, 1, "{}", ran.stderr);
        assert!(!ran.stderr.contains("last good adapter is kept"), "{}", ran.stderr);
        assert!(ran.stderr.contains("is of no use") || ran.stderr.contains("was not seen"), "{}", ran.stderr);
    }
}
