//! `mesp bench gradients` on the built-in model.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;

use crate::support::{Ran, mesp, read_json, temporary};

fn bench(dir: &Path, more: &[&str]) -> Ran {
    let (cache, output) = (dir.join("cache"), dir.join("results"));
    let mut args: Vec<&dyn AsRef<OsStr>> = vec![&"bench", &"gradients"];
    args.extend([&"--cache" as &dyn AsRef<OsStr>, &cache, &"--output", &output]);
    args.extend(more.iter().map(|a| a as &dyn AsRef<OsStr>));
    mesp(&args)
}

#[test]
fn gradients_are_compared_with_the_exact_one_and_with_theory() {
    let dir = temporary();
    let options = [
        "--methods=mesp,mesp-bf16,mezo,mezo-16",
        "--also=ebp=--method mebp",
        "--rows=2",
        "--rank=2",
        "--seeds=60",
        "--descents=3",
        "--name=some",
        "--json",
    ];
    let document = bench(dir.path(), &options).ok().json();
    assert_eq!(document, read_json(&dir.path().join("results/gradients-some.json")));
    let methods = document["methods"].as_array().expect("a list");
    let of = |name: &str| methods.iter().find(|m| m["name"] == name).expect("the method");
    let number = |name: &str, key: &str| of(name)[key].as_f64().expect("a number");
    let values = document["reference"]["values"].as_f64().expect("a number");

    // Single precision against double; bf16 against both; two policies make the same numbers.
    assert!(number("mesp", "relative_error") < 1e-4 && number("mesp", "cosine_rms") > 0.999_999);
    assert!(number("mesp-bf16", "relative_error") > 10.0 * number("mesp", "relative_error"));
    assert!(number("mesp-bf16", "cosine_rms") > 0.999);
    assert_eq!(of("ebp")["relative_error"], of("mesp")["relative_error"]);
    assert_eq!(of("mesp")["seeds"], 1);

    // Theory, within what 60 seeds tell: the standard error of a mean of squares of normal numbers is √(2/60).
    for name in ["mezo", "mezo-16"] {
        for key in ["cosine_rms", "relative_error"] {
            let ratio = number(name, key) / number(name, &format!("{key}_theory"));
            assert!((0.7..1.3).contains(&ratio), "{name} {key}: {ratio}");
        }
    }
    assert!((number("mezo", "cosine_rms_theory") - 1.0 / values.sqrt()).abs() < 1e-9);
    // Each estimate points downhill; their mean is closer than they are.
    assert!(
        number("mezo", "cosine_mean") > 0.0
            && number("mezo", "cosine_of_mean") > number("mezo", "cosine_rms")
    );

    // A step along the exact gradient gains what its norm says, to first order; estimates gain less.
    let gain = |name: &str| {
        let gains = of(name)["gains"].as_array().expect("a list");
        gains.iter().map(|g| g.as_f64().expect("a number")).sum::<f64>() / gains.len() as f64
    };
    let norm = document["reference"]["gradient_norm"].as_f64().expect("a number");
    let step = document["reference"]["step_length"].as_f64().expect("a number");
    assert!((gain("mesp") / (norm * step) - 1.0).abs() < 0.1, "{} {}", gain("mesp"), norm * step);
    assert!(gain("mezo").abs() < 0.2 * gain("mesp"));
    assert_eq!(of("mezo")["gains"].as_array().map(Vec::len), Some(3));

    let tensors = of("mezo")["tensors"].as_array().expect("a list");
    let counted: f64 = tensors.iter().map(|t| t["values"].as_f64().expect("a number")).sum();
    assert_eq!((counted, tensors[0]["name"].as_str()), (values, Some("0.q_proj.lora_A")));
    let picture = fs::read_to_string(dir.path().join("results/gradients-some.svg")).expect("a picture");
    assert!(picture.starts_with("<svg") && picture.ends_with("</svg>\n"), "{picture}");
}

#[test]
fn what_cannot_be_compared_is_refused() {
    let dir = temporary();
    for (option, known) in [
        ("--methods=adam", "mezo-one-sided"),
        ("--also=x=--no-such-option", "mesp grads --help"),
        ("--also=x", "NAME=OPTIONS"),
        ("--also=x=--update per-block", "--update per-block"),
        ("--seeds=0", "1, 1 and 2 or more"),
        ("--step=-1", "expected a number above 0"),
        ("--reference=bf16", "f64 or f32"),
        ("--preset=no-such-shape", "qwen2.5-0.5b"),
    ] {
        let more =
            if option.starts_with("--methods") { vec![option] } else { vec!["--methods=mesp", option] };
        let failure = bench(dir.path(), &more).failure(dir.path());
        assert!(failure.starts_with("exit status 2") && failure.contains(known), "{option}: {failure}");
    }
}

#[test]
fn the_papers_tables_become_a_page() {
    let dir = temporary();
    let (results, page, cache) =
        (dir.path().join("results"), dir.path().join("docs/paper.md"), dir.path().join("cache"));
    let args: [&dyn AsRef<OsStr>; 9] =
        [&"bench", &"paper", &"--quick", &"--results", &results, &"--page", &page, &"--cache", &cache];
    mesp(&args).ok();
    let text = fs::read_to_string(&page).expect("a page");
    // A plan stands where nothing was run, beside what was published.
    assert!(text.contains("| Table 2: 0.5B, 1024 tokens | 1050.3 | ~"), "{text}");
    assert!(text.contains("| 319 MB, 2.68 s |") && text.contains("| mezo | 20 |"), "{text}");
    for line in text.lines().filter(|l| l.starts_with('|')) {
        assert!(!line.contains("NaN") && !line.contains("null") && !line.contains("failed"), "{line}");
    }
    let tables = text.lines().zip(text.lines().skip(1)).filter(|(_, below)| below.starts_with("|---"));
    for (head, below) in tables {
        assert_eq!(head.matches('|').count(), below.matches('|').count(), "{head}");
    }
    // What is there is not measured again, and what is no document is said to be none.
    let before = fs::metadata(results.join("memory-paper.json")).expect("a file").modified().expect("a time");
    let refused = mesp(&args);
    assert!(refused.code == 2 && refused.stderr.contains("--overwrite"), "{}", refused.stderr);
    let args = [&args[..], &[&"--overwrite"]].concat();
    let again = mesp(&args).ok();
    assert!(again.stderr.contains("as measured in"), "{}", again.stderr);
    let after = fs::metadata(results.join("memory-paper.json")).expect("a file").modified().expect("a time");
    assert_eq!(before, after);
    fs::write(results.join("gradients-paper.json"), "{").expect("written");
    let failure = mesp(&args);
    assert!(failure.code == 1 && failure.stderr.contains("--again measures it anew"), "{}", failure.stderr);
}
