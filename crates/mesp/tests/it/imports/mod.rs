//! Imports run one way.

mod graph;

use std::path::{Path, PathBuf};

use graph::{Crate, circles};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

#[test]
fn no_files_import_each_other() {
    let mut found = String::new();
    for name in ["kernels", "device", "formats", "mesp", "cli"] {
        let edges = Crate::read(&root().join("crates").join(name).join("src")).edges();
        for circle in circles(&edges) {
            found += &format!("{name}: {}\n", circle.join(" "));
            for file in &circle {
                let to: Vec<_> =
                    edges[file].iter().filter(|to| circle.contains(to)).map(String::as_str).collect();
                found += &format!("    {file} -> {}\n", to.join(" "));
            }
        }
    }
    assert!(found.is_empty(), "{found}");
}
