//! `mesp pull`: from a hub of the test's own into a cache, and from there into every command.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use insta::assert_snapshot;

use crate::hub_server::{COMMIT, Fault, Hub, git_hash, sha256};
use crate::support::{Ran, demo_model, golden, read_json, temporary, tensors};

/// The demo's model as `org/demo`.
fn demo() -> Hub {
    let hub = Hub::start();
    hub.folder("models/org/demo", &demo_model());
    hub.file("models/org/demo", "README.md", "a card");
    hub.file("models/org/demo", "pytorch_model.bin", "a pickle");
    hub
}

fn repo(home: &Path, name: &str) -> PathBuf {
    home.join(".cache/huggingface/hub").join(name)
}

/// Names of files in a folder, hidden ones too.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

const MODEL: [&str; 5] =
    ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"];

/// The layout is that of `huggingface_hub`: other programs find the files too.
#[test]
fn a_model_comes_and_is_used_by_its_name() {
    let (hub, home) = (demo(), temporary());
    let home = home.path();
    let ran = hub.command(home, &["pull", "org/demo", "--json"]).env("HF_TOKEN", "secret").output();
    let document = Ran::of(ran.expect("the program starts")).ok().json();
    let repo = repo(home, "models--org--demo");
    let snapshot = repo.join("snapshots").join(COMMIT);
    assert_eq!(document["path"].as_str().map(Path::new), Some(snapshot.as_path()));
    assert_eq!((&document["commit"], &document["kind"]), (&COMMIT.into(), &"model".into()));
    let files: Vec<&str> =
        document["files"].as_array().expect("files").iter().filter_map(|f| f["name"].as_str()).collect();
    let mut sorted = files.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, MODEL);
    let size: u64 =
        MODEL.iter().map(|name| fs::metadata(demo_model().join(name)).expect("a file").len()).sum();
    assert_eq!((document["bytes"].as_u64(), document["fetched_bytes"].as_u64()), (Some(size), Some(size)));

    assert_eq!(names(&snapshot), MODEL);
    assert_eq!(fs::read_to_string(repo.join("refs/main")).expect("a reference"), COMMIT);
    let mut blobs = Vec::new();
    for name in MODEL {
        let content = fs::read(demo_model().join(name)).expect("a file");
        assert_eq!(fs::read(snapshot.join(name)).expect("a file"), content, "{name}");
        let hash = if name.ends_with("safetensors") { sha256(&content) } else { git_hash(&content) };
        #[cfg(unix)]
        assert_eq!(fs::read_link(snapshot.join(name)).expect("a link"), Path::new("../../blobs").join(&hash));
        blobs.push(hash);
    }
    blobs.sort();
    assert_eq!(names(&repo.join("blobs")), blobs);
    // The token is for the hub alone.
    let log = hub.log();
    assert!(
        log.iter().filter(|line| line.starts_with("hub ")).all(|line| line.ends_with("Bearer secret")),
        "{log:#?}"
    );
    let stored: Vec<&String> = log.iter().filter(|line| line.starts_with("store ")).collect();
    assert!(!stored.is_empty() && stored.iter().all(|line| !line.contains("secret")), "{log:#?}");

    let again = |expected: u64| {
        let again = hub.mesp(home, &["pull", "org/demo", "--json"]).ok().json();
        assert_eq!((again["bytes"].as_u64(), again["fetched_bytes"].as_u64()), (Some(size), Some(expected)));
    };
    again(0);
    // A content that lost its end comes anew.
    let config =
        repo.join("blobs").join(git_hash(&fs::read(demo_model().join("config.json")).expect("a file")));
    fs::write(&config, "{").expect("written");
    again(868);
    assert_eq!(fs::read(&config).expect("a file").len(), 868);

    // From here on without the network.
    let off = Hub::start();
    let said =
        off.mesp(home, &["generate", "--model", "org/demo", "--prompt", "What do you know about the wolf?"]);
    assert!(said.ok().stdout.starts_with("The wolf is gray and proud."));
    let rows = golden("../assets/demo/train.jsonl");
    let run = home.join("run");
    let (rows, output) = (rows.to_string_lossy(), run.to_string_lossy());
    off.mesp(
        home,
        &[
            "train",
            "--model",
            "org/demo",
            "--revision=main",
            "--data",
            &rows,
            "--output",
            &output,
            "--steps=2",
            "--batch-size=2",
        ],
    )
    .ok();
    let document = read_json(&run.join("run.json"));
    assert_eq!(
        (&document["model"]["path"], &document["model"]["revision"]),
        (&"org/demo".into(), &COMMIT.into())
    );
    assert_eq!(read_json(&run.join("adapter_config.json"))["base_model_name_or_path"], "org/demo");
    let card = fs::read_to_string(run.join("README.md")).expect("a card");
    assert!(
        card.contains("base_model: \"org/demo\"") && card.contains("LoRA adapter for org/demo"),
        "{card}"
    );
    let gguf = home.join("adapter.gguf");
    let export = off.mesp(home, &["export", "--adapter", &output, "--output", &gguf.to_string_lossy()]);
    assert!(
        export.ok().stdout.contains("peft to gguf") || gguf.is_file(),
        "the adapter's model is found by its name"
    );
    assert_eq!(off.log(), Vec::<String>::new());
}

#[test]
fn shards_adapters_rows_and_single_files() {
    let (hub, home) = (Hub::start(), temporary());
    let home = home.path();
    hub.folder("models/org/llama", &golden("llama/model"));
    hub.folder("models/org/adapter", &golden("qwen2/adapter"));
    hub.folder("models/org/qwen2", &golden("qwen2/model"));
    hub.file("datasets/org/rows", "data/train.jsonl", fs::read(golden("qwen2/rows.jsonl")).expect("rows"));
    hub.file("datasets/org/rows", "README.md", "a card");
    hub.file("models/org/files", "a-q4.gguf", "GGUF");
    hub.file("models/org/files", "a-q8.gguf", "GGUF, longer");

    let shards = hub.mesp(home, &["pull", "org/llama", "--json"]).ok().json();
    let files: Vec<&str> =
        shards["files"].as_array().expect("files").iter().filter_map(|f| f["name"].as_str()).collect();
    assert_eq!(files.iter().filter(|name| name.starts_with("model-0")).count(), 2, "{files:?}");
    let (here, there) = (golden("llama/rows.jsonl"), home.join("grads.safetensors"));
    let (here, there) = (here.to_string_lossy(), there.to_string_lossy());
    hub.mesp(home, &["grads", "--model", "org/llama", "--data", &here, "--output", &there]).ok();

    hub.mesp(home, &["pull", "org/qwen2", "--revision=refs/pr/1"]).ok();
    let note = hub.mesp(home, &["pull", "org/adapter@v1"]).ok();
    assert!(note.stderr.contains("--adapter org/adapter; its model is "), "{}", note.stderr);
    hub.mesp(home, &["pull", "org/rows", "--dataset"]).ok();
    let losses = |args: &[&str]| {
        let all = [&["eval", "--json", "--model", "org/qwen2", "--revision", "refs/pr/1"], args].concat();
        hub.mesp(home, &all).ok().json()["loss"].as_f64().expect("a loss")
    };
    let (rows, adapter) = (golden("qwen2/rows.jsonl"), golden("qwen2/adapter"));
    let (rows, adapter) = (rows.to_string_lossy(), adapter.to_string_lossy());
    let by_path = losses(&["--data", &rows, "--adapter", &adapter]);
    assert_eq!(losses(&["--data", "org/rows/data/train.jsonl", "--adapter", "org/adapter@v1"]), by_path);

    assert_snapshot!("only_gguf", hub.failure(home, &["pull", "org/files"]));
    let one = hub.mesp(home, &["pull", "org/files", "--file", "a-q8.gguf"]).ok();
    assert!(
        one.stdout.ends_with(&format!("files/snapshots/{COMMIT}\n1 file, 12 B (0.00s)\n"))
            || one.stdout.contains("1 file, 12 B"),
        "{}",
        one.stdout
    );
    assert!(one.stderr.contains("--model org/files/a-q8.gguf"), "{}", one.stderr);
    hub.mesp(home, &["pull", "org/files/a-q4.gguf"]).ok();
    assert_eq!(
        names(&repo(home, "models--org--files").join("snapshots").join(COMMIT)),
        ["a-q4.gguf", "a-q8.gguf"]
    );
}

/// What `from_pretrained` of tokenizers and processors reads in transformers 5.24, and nothing else.
#[test]
fn all_small_files_of_a_model_come() {
    let (hub, home) = (demo(), temporary());
    let small = [
        "additional_chat_templates/rag.jinja",
        "chat_template.jinja",
        "chat_template.json",
        "merges.txt",
        "preprocessor_config.json",
        "processor_config.json",
        "special_tokens_map.json",
        "tekken.json",
        "tokenizer.model",
        "video_preprocessor_config.json",
        "vocab.json",
    ];
    let other = [
        "additional_chat_templates/a/b.jinja",
        "additional_chat_templates/x.txt",
        "other.json",
        "training_args.bin",
    ];
    for name in small.iter().chain(&other) {
        hub.file("models/org/demo", name, "{}");
    }
    let document = hub.mesp(home.path(), &["pull", "org/demo", "--json"]).ok().json();
    let mut found: Vec<&str> =
        document["files"].as_array().expect("files").iter().filter_map(|f| f["name"].as_str()).collect();
    found.sort_unstable();
    let mut expected = [&MODEL[..], &small].concat();
    expected.sort_unstable();
    assert_eq!(found, expected);
}

#[test]
fn a_broken_connection_goes_on_where_it_broke() {
    let (hub, home) = (demo(), temporary());
    let home = home.path();
    hub.fault("model.safetensors", Fault::Breaks(100_000, 3));
    let ran = hub.mesp(home, &["pull", "org/demo"]).ok();
    assert_eq!(ran.stderr.matches("the connection broke at").count(), 3, "{}", ran.stderr);
    let log = hub.log();
    for at in ["bytes=100000-", "bytes=200000-", "bytes=300000-"] {
        assert!(log.iter().any(|line| line.starts_with("store GET") && line.ends_with(at)), "{at} {log:#?}");
    }
    let model = repo(home, "models--org--demo").join("snapshots").join(COMMIT);
    tensors(&model.join("model.safetensors"));

    // A store that knows no ranges begins anew.
    let second = temporary();
    hub.fault("model.safetensors", Fault::Whole(50_000));
    hub.mesp(second.path(), &["pull", "org/demo"]).ok();
    // What an earlier download has left is of something else: once more, from the beginning.
    let third = temporary();
    hub.heal();
    let content = fs::read(demo_model().join("model.safetensors")).expect("weights");
    let blobs = repo(third.path(), "models--org--demo").join("blobs");
    fs::create_dir_all(&blobs).expect("a folder");
    fs::write(blobs.join(format!("{}.incomplete", sha256(&content))), [7; 5000]).expect("written");
    hub.mesp(third.path(), &["pull", "org/demo"]).ok();
    for home in [second.path(), third.path()] {
        let model = repo(home, "models--org--demo").join("snapshots").join(COMMIT).join("model.safetensors");
        assert_eq!(fs::read(model).expect("weights"), content);
    }
    // It breaks at every try, without a byte.
    let fourth = temporary();
    hub.fault("model.safetensors", Fault::Breaks(0, 99));
    let failed = hub.mesp(fourth.path(), &["pull", "org/demo"]);
    assert!(failed.code == 1 && failed.stderr.contains("call mesp pull again to go on"), "{}", failed.stderr);
}

#[test]
fn what_is_not_what_it_should_be_is_not_kept() {
    for (fault, expected) in [
        (Fault::Flipped, "model.safetensors: expected SHA-256 "),
        (Fault::Size(1), " bytes, found more"),
        (Fault::Size(-1), "the connection ended before the file did"),
    ] {
        let (hub, home) = (demo(), temporary());
        hub.fault("model.safetensors", fault.clone());
        let ran = hub.mesp(home.path(), &["pull", "org/demo"]);
        assert!(ran.code != 0 && ran.stderr.contains(expected), "{fault:?}: {}", ran.stderr);
        let repo = repo(home.path(), "models--org--demo");
        assert!(!repo.join("snapshots").exists() && !repo.join("refs").exists(), "{fault:?}");
        let of_weights = |name: &String| {
            name.starts_with(&sha256(&fs::read(demo_model().join("model.safetensors")).expect("weights")))
        };
        let left = names(&repo.join("blobs")).into_iter().find(of_weights);
        assert!(left.is_none_or(|name| name.ends_with(".incomplete")), "{fault:?}");
        hub.heal();
        hub.mesp(home.path(), &["pull", "org/demo"]).ok();
        hub.mesp(home.path(), &["inspect", "org/demo"]).ok();
    }
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    for name in ["../../evil.safetensors", "/etc/evil", "a/../../b", "a\\..\\b", "c:evil"] {
        let (hub, home) = (demo(), temporary());
        hub.file("models/org/demo", name, "x");
        let ran = hub.mesp(home.path(), &["pull", "org/demo"]);
        assert!(
            ran.code == 2 && ran.stderr.contains("expected names of files below the repository"),
            "{}",
            ran.stderr
        );
        assert!(!home.path().join(".cache").exists());
    }
    let (hub, home) = (Hub::start(), temporary());
    hub.file("models/org/index", "config.json", "{}");
    hub.file(
        "models/org/index",
        "model.safetensors.index.json",
        r#"{"weight_map":{"a":"../../x.safetensors"}}"#,
    );
    let ran = hub.mesp(home.path(), &["pull", "org/index"]);
    assert!(ran.code == 2 && ran.stderr.contains("which the repository does not have"), "{}", ran.stderr);
}

#[test]
fn what_the_hub_refuses() {
    let (hub, home) = (demo(), temporary());
    let home = home.path();
    hub.file("models/org/gated", "config.json", "{}");
    hub.refuse("models/org/gated", 403, "GatedRepo");
    hub.file("models/org/busy", "config.json", "{}");
    hub.refuse("models/org/busy", 429, "");
    hub.file("models/org/pickled", "config.json", "{}");
    hub.file("models/org/pickled", "pytorch_model.bin", "x");
    assert_snapshot!("no_repository", hub.failure(home, &["pull", "org/nothing"]));
    assert_snapshot!("gated", hub.failure(home, &["pull", "org/gated"]));
    assert_snapshot!("no_revision", hub.failure(home, &["pull", "org/demo", "--revision", "v9"]));
    assert_snapshot!("no_such_file", hub.failure(home, &["pull", "org/demo", "--file", "a.gguf"]));
    assert_snapshot!("pickled", hub.failure(home, &["pull", "org/pickled"]));
    assert_snapshot!("no_name", hub.failure(home, &["pull", "../x"]));
    let busy = hub.mesp(home, &["pull", "org/busy"]);
    assert!(busy.code == 1 && busy.stderr.contains("too many requests"), "{}", busy.stderr);
    hub.fault("config.json", Fault::Refused(404, "EntryNotFound"));
    let gone = hub.mesp(home, &["pull", "org/demo"]);
    assert!(gone.code == 2 && gone.stderr.contains("expected this file in revision"), "{}", gone.stderr);
    let offline = hub.command(home, &["pull", "org/demo"]).env("HF_HUB_OFFLINE", "1").output();
    assert_eq!(Ran::of(offline.expect("started")).code, 2);
    let token = hub.command(home, &["pull", "org/demo"]).env("HF_TOKEN", "two words").output();
    let token = Ran::of(token.expect("started"));
    assert!(token.code == 2 && token.stderr.contains("the token of HF_TOKEN has spaces"), "{}", token.stderr);
    assert!(!token.stderr.contains("two words"), "{}", token.stderr);
    let nowhere = hub.command(home, &["pull", "org/demo"]).env("HF_ENDPOINT", "http://127.0.0.1:9").output();
    let nowhere = Ran::of(nowhere.expect("started"));
    assert!(nowhere.code == 1 && nowhere.stderr.contains("check the network"), "{}", nowhere.stderr);
    let wrong = hub.command(home, &["pull", "org/demo"]).env("HF_ENDPOINT", "huggingface.co").output();
    assert!(
        Ran::of(wrong.expect("started"))
            .stderr
            .contains("expected an address such as https://huggingface.co")
    );
}

/// A download that is killed leaves nothing that looks like a model; the next goes on.
#[cfg(unix)]
#[test]
fn a_killed_download_leaves_no_model() {
    let (hub, home) = (demo(), temporary());
    let home = home.path();
    hub.fault("model.safetensors", Fault::Stalls(300_000));
    let mut child = hub
        .command(home, &["pull", "org/demo"])
        .stderr(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .expect("started");
    let content = fs::read(demo_model().join("model.safetensors")).expect("weights");
    let part = repo(home, "models--org--demo").join("blobs").join(format!("{}.incomplete", sha256(&content)));
    let started = Instant::now();
    while fs::metadata(&part).map_or(0, |m| m.len()) < 300_000 {
        assert!(started.elapsed() < Duration::from_mins(1), "it begins");
        std::thread::sleep(Duration::from_millis(20));
    }
    let signal = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(signal.expect("kill").success());
    assert_eq!(child.wait().expect("a child").code(), Some(130));
    assert_snapshot!("begun", hub.failure(home, &["generate", "--model", "org/demo", "--prompt=x"]));
    hub.heal();
    hub.log();
    hub.mesp(home, &["pull", "org/demo"]).ok();
    assert!(hub.log().iter().any(|line| line.ends_with("bytes=300000-")), "it goes on where it was");
    assert!(!part.exists());
    hub.mesp(home, &["inspect", "org/demo"]).ok();
}

#[test]
fn two_downloads_at_once_do_each_file_once() {
    let (hub, home) = (demo(), temporary());
    let home = home.path();
    let start = || {
        hub.command(home, &["pull", "org/demo", "--json"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("started")
    };
    let both = [start(), start(), start()];
    let came: u64 = both
        .into_iter()
        .map(|child| {
            Ran::of(child.wait_with_output().expect("it ends")).ok().json()["fetched_bytes"]
                .as_u64()
                .expect("bytes")
        })
        .sum();
    let size: u64 =
        MODEL.iter().map(|name| fs::metadata(demo_model().join(name)).expect("a file").len()).sum();
    assert_eq!(came, size);
    let snapshots = repo(home, "models--org--demo").join("snapshots");
    assert_eq!(names(&snapshots), [COMMIT]);
    assert_eq!(names(&snapshots.join(COMMIT)), MODEL);
}

/// The room is that of `ulimit -f`.
#[cfg(unix)]
#[test]
fn no_room_is_said_and_what_came_is_kept() {
    let (hub, home) = (demo(), temporary());
    let plain = hub.command(home.path(), &["pull", "org/demo"]);
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", "ulimit -f 1000; exec \"$@\"", "sh"]).arg(plain.get_program()).args(plain.get_args());
    crate::hub_server::at_home(&mut shell, home.path()).env("HF_ENDPOINT", &hub.url).env("LC_ALL", "C");
    let ran = Ran::of(shell.output().expect("a shell"));
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    assert!(
        ran.stderr.contains("cannot write ") && ran.stderr.contains("is still to come: make room"),
        "{}",
        ran.stderr
    );
    assert!(!repo(home.path(), "models--org--demo").join("snapshots").exists());
    hub.mesp(home.path(), &["pull", "org/demo"]).ok();
}
