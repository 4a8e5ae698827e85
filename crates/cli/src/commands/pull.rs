//! `mesp pull`.

use anyhow::Result;
#[cfg(feature = "pull")]
use mesp_formats::hub::{RepoKind, RepoName, is_revision};

use crate::args::PullArgs;
use crate::failure::usage;

#[cfg(not(feature = "pull"))]
pub(crate) fn run(args: &PullArgs) -> Result<()> {
    let problem = "this program was built without the feature `pull`, and uses no network";
    Err(usage(
        problem,
        format!("build it with that feature, or fetch the files by `hf download {}`", args.id),
    ))
}

#[cfg(feature = "pull")]
pub(crate) fn run(args: &PullArgs) -> Result<()> {
    use std::time::Instant;

    use serde_json::json;

    use crate::hub::pull::{Wanted, pull};
    use crate::sizes::{bytes, duration};
    use crate::{interrupt, ui};

    let started = Instant::now();
    let (name, files) = wanted(args)?;
    interrupt::instead(|| {
        ui::note("interrupted; the same command goes on where it stopped");
        interrupt::end();
    });
    let kind = if args.dataset { RepoKind::Dataset } else { RepoKind::Model };
    let id = name.id.clone();
    let pulled = pull(&Wanted { kind, name, files: &files })?;
    let (path, total) = (pulled.path.display().to_string(), pulled.files.iter().map(|f| f.size).sum());
    let came: u64 = pulled.files.iter().map(|file| file.received).sum();
    if args.shared.json {
        let file = |f: &crate::hub::pull::Fetched| json!({ "name": f.name, "bytes": f.size, "etag": f.etag, "fetched_bytes": f.received });
        return ui::json(&json!({
            "id": id,
            "kind": kind.name(),
            "commit": pulled.commit,
            "path": path,
            "files": pulled.files.iter().map(file).collect::<Vec<_>>(),
            "bytes": total,
            "fetched_bytes": came,
        }));
    }
    let there = if came == total { String::new() } else { format!(", {} of them fetched now", bytes(came)) };
    let n = pulled.files.len();
    ui::print(&format!(
        "{path}\n{n} file{}, {}{there} ({})\n",
        if n == 1 { "" } else { "s" },
        bytes(total),
        duration(started.elapsed().as_secs_f64())
    ))?;
    let base = mesp_formats::AdapterConfig::read(&pulled.path).ok().and_then(|adapter| adapter.base_model);
    let of = |file: &str| if files.is_empty() { id.clone() } else { format!("{id}/{file}") };
    let (first, has) = (pulled.files[0].name.as_str(), |name: &str| pulled.path.join(name).is_file());
    let as_what = match base {
        _ if args.dataset => format!("--data {}", of(first)),
        Some(base) => format!("--adapter {id}; its model is {base}"),
        None if has("config.json") || first.to_lowercase().ends_with(".gguf") => {
            format!("--model {}", of(first))
        }
        None => return Ok(()),
    };
    ui::note(format!("commands take it as {as_what}"));
    Ok(())
}

/// The repository and the files of it.
#[cfg(feature = "pull")]
fn wanted(args: &PullArgs) -> Result<(RepoName, Vec<String>)> {
    let given = args.id.trim_start_matches("https://huggingface.co/").trim_start_matches("hf://");
    let mut name = RepoName::parse(given).ok_or_else(|| {
        let problem = format!("{:?}: expected the name of a repository, ORG/NAME", args.id);
        usage(problem, "write it as in mesp pull Qwen/Qwen2.5-0.5B-Instruct")
    })?;
    if let Some(revision) = &args.revision {
        if !is_revision(revision) {
            let problem = format!("--revision is {revision:?}, expected a branch, a tag or a commit");
            return Err(usage(problem, "leave it out for main"));
        }
        if let Some(with) = &name.revision {
            let problem = format!("{name} names the revision {with}, and --revision names {revision}");
            return Err(usage(problem, "leave one of them out"));
        }
        name.revision = Some(revision.clone());
    }
    let files = name.inside.take().into_iter().chain(args.file.iter().cloned()).collect();
    Ok((name, files))
}
