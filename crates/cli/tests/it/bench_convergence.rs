//! `mesp bench convergence` on the built-in model.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;

use crate::support::{Ran, mesp, read_json, temporary};

fn bench(dir: &Path, more: &[&str]) -> Ran {
    let (cache, output) = (dir.join("cache"), dir.join("results"));
    let mut args: Vec<&dyn AsRef<OsStr>> = vec![&"bench", &"convergence"];
    args.extend([&"--cache" as &dyn AsRef<OsStr>, &cache, &"--output", &output]);
    args.extend(more.iter().map(|a| a as &dyn AsRef<OsStr>));
    mesp(&args)
}

#[test]
fn an_estimate_is_compared_with_the_exact_gradient() {
    let dir = temporary();
    let options = [
        "--methods=mesp,mezo",
        "--also=signs=--method mezo --noise rademacher --eps 1e-3",
        "--rates=mesp=1e-3,3e-3",
        "--rates=mezo=1e-3",
        "--rates=signs=1e-4,1e-3",
        "--steps=6",
        "--factor=3",
        "--name=three",
        "--json",
    ];
    let ran = bench(dir.path(), &options).ok();
    let document = ran.json();
    assert_eq!(document, read_json(&dir.path().join("results/convergence-three.json")));
    let methods = document["methods"].as_array().expect("a list");
    let names: Vec<&str> = methods.iter().map(|m| m["name"].as_str().expect("a name")).collect();
    assert_eq!(names, ["mesp", "mezo", "signs"]);
    let loss = |i: usize| methods[i]["best_loss"].as_f64().expect("a loss");
    let number = |i: usize, key: &str| methods[i][key].as_u64().expect("a number");
    assert_eq!((number(0, "steps"), number(1, "steps"), number(2, "steps")), (6, 18, 18));
    // The exact gradient is far ahead within a third of the steps, and every start is the same.
    let before: Vec<f64> = methods.iter().map(|m| m["points"][0]["loss"].as_f64().expect("a loss")).collect();
    assert!(before.iter().all(|b| *b == before[0]), "{before:?}");
    assert!(loss(0) < 0.7 * before[0] && loss(1) > loss(0) && loss(2) > loss(0), "{document:#}");
    assert!(loss(1) < before[1] && loss(2) < before[2]);
    // One rate is tried once, two of an estimate are screened first, and the next lower one runs to the end too.
    let tried = |i: usize| methods[i]["tried"].as_array().expect("a list").as_slice();
    let figure = |t: &serde_json::Value, key: &str| t[key].as_f64().expect("a number");
    assert_eq!((tried(0).len(), tried(1).len()), (2, 1));
    let (screened, whole) = tried(2).split_at(2);
    assert!(screened.iter().all(|t| t["steps"] == 1) && whole.iter().all(|t| t["steps"] == 18));
    let high = figure(&screened[1], "loss") < figure(&screened[0], "loss");
    assert_eq!(whole.len(), if high { 2 } else { 1 });
    let ends_lowest = whole.iter().min_by(|a, b| figure(a, "last_loss").total_cmp(&figure(b, "last_loss")));
    assert_eq!(methods[2]["learning_rate"], ends_lowest.expect("a run")["learning_rate"]);
    // The exact run reaches its own levels, in order; both kinds have seen the same tokens after six steps.
    let reached = methods[0]["reached"].as_array().expect("a list");
    assert!(reached.iter().all(|p| p["step"].is_number()), "{reached:?}");
    let tokens = |i: usize| {
        let points = methods[i]["points"].as_array().expect("a list");
        points.iter().find(|p| p["step"] == 6).expect("an evaluation after six steps")["tokens"].clone()
    };
    assert_eq!(tokens(0), tokens(1));
    let picture = fs::read_to_string(dir.path().join("results/convergence-three.svg")).expect("a picture");
    assert!(picture.starts_with("<svg") && picture.matches("<polyline").count() == 12, "{picture}");
    assert!(ran.stderr.contains("of the fall of mesp"), "{}", ran.stderr);
}

#[test]
fn contests_that_compare_nothing_are_refused() {
    let dir = temporary();
    for (option, known) in [
        ("--methods=adam", "mesp-sgd"),
        ("--methods=mezo", "an exact method first"),
        ("--also=signs", "NAME=OPTIONS"),
        ("--also=signs=--method mezo", "no learning rates"),
        ("--rates=mezo=fast", "positive numbers"),
        ("--rates=other=1", "no \"other\" runs"),
        ("--steps=0", "1 or more"),
        ("--name=../x", "--output"),
    ] {
        let failure = bench(dir.path(), &[option]).failure(dir.path());
        assert!(failure.starts_with("exit status 2") && failure.contains(known), "{option}: {failure}");
    }
}
