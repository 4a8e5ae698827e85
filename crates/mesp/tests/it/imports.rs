//! Imports run one way: between crates, between a crate's modules, and between files.

mod graph;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use graph::{Crate, circles};

/// Files of a module in which they may import each other: it is read as one.
const SMALL: usize = 10;

/// Larger modules whose files do, by a file in them.
const LARGE: [&str; 3] = [
    "kernels: matmul.rs",
    "mesp: data/dataset.rs",
    // An interpreter: expressions call filters, filters call expressions.
    "mesp: data/jinja/eval.rs",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn crates() -> impl Iterator<Item = (&'static str, Crate)> {
    let read = |name| (name, Crate::read(&root().join("crates").join(name).join("src")));
    ["kernels", "device", "formats", "mesp", "console", "bench", "cli"].into_iter().map(read)
}

/// The module that files lie in: the longest path that all of them begin with, `model` for `model.rs`.
fn module(files: &[String]) -> String {
    let path = |file: &String| -> Vec<String> {
        let file = file.strip_suffix(".rs").unwrap_or(file);
        file.split('/').map(str::to_owned).collect()
    };
    let mut common = path(&files[0]);
    for file in files {
        let other = path(file);
        let same = common.iter().zip(&other).take_while(|(a, b)| a == b).count();
        common.truncate(same);
    }
    common.join("/")
}

#[test]
fn no_files_import_each_other_outside_of_a_small_module() {
    let (mut found, mut large) = (String::new(), BTreeSet::new());
    for (name, sources) in crates() {
        let edges = sources.edges();
        for circle in circles(&edges) {
            let module = module(&circle);
            let inside = |file: &&String| module_has(&module, file);
            if !module.is_empty() && edges.keys().filter(inside).count() <= SMALL {
                continue;
            }
            if let Some(known) =
                circle.iter().map(|f| format!("{name}: {f}")).find(|f| LARGE.contains(&f.as_str()))
            {
                large.insert(known);
                continue;
            }
            writeln!(found, "{name}: in {module:?}").expect("a text");
            for file in &circle {
                let to: Vec<_> =
                    edges[file].iter().filter(|to| circle.contains(to)).map(String::as_str).collect();
                writeln!(found, "    {file} -> {}", to.join(" ")).expect("a text");
            }
        }
    }
    assert!(found.is_empty(), "{found}");
    assert_eq!(large.len(), LARGE.len(), "only {large:?} still have circles");
}

fn module_has(module: &str, file: &str) -> bool {
    file.strip_prefix(module).is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
}

/// A module by its name below the crate: a file, or a folder with all in it.
fn top(file: &str) -> &str {
    file.split(['/', '.']).next().unwrap_or(file)
}

#[test]
fn modules_of_a_crate_import_one_way() {
    for (name, sources) in crates() {
        let mut modules: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (file, to) in sources.edges() {
            let others = to.iter().map(|to| top(to).to_owned()).filter(|to| *to != top(&file));
            modules.entry(top(&file).to_owned()).or_default().extend(others);
        }
        assert_eq!(circles(&modules), Vec::<Vec<String>>::new(), "{name}");
    }
}

/// What ARCHITECTURE.md says of imports inside the library, `a ← b` for "b imports a", and of crates.
#[test]
fn the_map_is_true() {
    let map = fs::read_to_string(root().join("ARCHITECTURE.md")).expect("the map");
    let line = map.lines().find(|line| line.contains('←')).expect("a line of arrows");
    let chains = line.split('`').filter(|part| part.contains('←'));
    let list = |names: &str| -> Vec<String> {
        names.trim().trim_matches(['{', '}']).split(',').map(|name| name.trim().to_owned()).collect()
    };
    let edges = Crate::read(&root().join("crates/mesp/src")).edges();
    let mut checked = 0;
    for chain in chains {
        let steps: Vec<Vec<String>> = chain.split('←').map(list).collect();
        for (at, below) in steps.iter().enumerate() {
            for above in steps[at + 1..].iter().flatten() {
                for (file, to) in edges.iter().filter(|(file, _)| below.iter().any(|name| name == top(file)))
                {
                    let wrong: Vec<_> = to.iter().filter(|to| top(to) == above).collect();
                    assert!(wrong.is_empty(), "{file} imports {wrong:?}, and {below:?} is below {above}");
                    checked += 1;
                }
            }
        }
    }
    assert!(checked > 100, "{line}");
    // The table of crates: folder, what, may import.
    for (name, sources) in crates() {
        let row = map.lines().find(|line| line.starts_with(&format!("| `crates/{name}`"))).expect("a row");
        let may = row.trim_end_matches('|').rsplit('|').next().expect("a column");
        let may: Vec<&str> = may.split(',').map(str::trim).collect();
        for other in sources.other_crates() {
            let other = other.trim_start_matches("mesp_");
            assert!(may.contains(&other), "{name} imports {other}, and may import {may:?}");
        }
    }
}
