//! The rules are those of `huggingface_hub`: `utils/_validators.py` for names, `file_download.py` for the layout.

use super::*;

const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const B: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

#[test]
fn names_are_read() {
    let read = |text: &str| {
        RepoName::parse(text).map(|n| (n.id, n.revision.unwrap_or_default(), n.inside.unwrap_or_default()))
    };
    let name = |id: &str, revision: &str, inside: &str| Some((id.into(), revision.into(), inside.into()));
    assert_eq!(read("Qwen/Qwen2.5-0.5B-Instruct"), name("Qwen/Qwen2.5-0.5B-Instruct", "", ""));
    assert_eq!(read("gpt2"), name("gpt2", "", ""));
    assert_eq!(read("gpt2@v1"), name("gpt2", "v1", ""));
    assert_eq!(read("org/name@v1.0"), name("org/name", "v1.0", ""));
    assert_eq!(read("org/name@abc/sub/a.gguf"), name("org/name", "abc", "sub/a.gguf"));
    assert_eq!(read("org/name/"), name("org/name", "", ""));
    for text in
        ["org/name@v1/a/b.json", "org/name", "name@x"].map(|t| RepoName::parse(t).unwrap().to_string())
    {
        assert_eq!(RepoName::parse(&text).unwrap().to_string(), text);
    }
    for wrong in [
        "",
        "/",
        "/org/name",
        "./org/name",
        "../org",
        "~/m",
        "org//name",
        "a--b/c",
        "a/b..c",
        "-a/b",
        "a/b-",
        "a b/c",
        "a/b.git",
        "org/name/../x",
        "org/name/./x",
        "org/name@../x",
        "org/name@",
        "C:\\models\\x",
        "org/name/a\\b",
    ] {
        assert_eq!(read(wrong), None, "{wrong}");
    }
    for wrong in ["/etc/passwd", "a/../b", "..", "a//b", "a\\b", "c:x", "a\0b", "", "a/"] {
        assert!(!is_file_name(wrong), "{wrong}");
    }
    for right in ["config.json", "a/b/c.safetensors", "..a", "with space.txt"] {
        assert!(is_file_name(right), "{right}");
    }
}

#[test]
fn a_snapshot_is_found_by_its_revision() {
    let dir = tempfile::tempdir().unwrap();
    let cache = HubCache { root: dir.path().to_path_buf() };
    let find = |revision: Option<&str>| cache.snapshot(RepoKind::Model, "org/name", revision);
    assert_eq!(find(None), Err(Lost::Repo));

    let repo = cache.repo(RepoKind::Model, "org/name");
    assert_eq!(repo, dir.path().join("models--org--name"));
    write(&repo.join("blobs/x.incomplete"), "");
    assert_eq!(find(None), Err(Lost::Snapshot(true)));

    write(&repo.join("snapshots").join(A).join("config.json"), "{}");
    assert_eq!(find(None), Ok(repo.join("snapshots").join(A)), "the newest where main has none");
    write(&repo.join("snapshots").join(B).join("config.json"), "{}");
    write(&repo.join("refs/main"), &format!("{A}\n"));
    write(&repo.join("refs/refs/pr/1"), B);
    assert_eq!(find(None), Ok(repo.join("snapshots").join(A)));
    for (revision, commit) in
        [("main", A), ("refs/pr/1", B), (A, A), (&B[..7], B), (&B.to_uppercase()[..9], B)]
    {
        assert_eq!(find(Some(revision)), Ok(repo.join("snapshots").join(commit)), "{revision}");
    }
    let known = Lost::Revision(vec!["main".into(), "refs/pr/1".into()]);
    for revision in ["v1", "aaaaaa", "../../main", "/etc/passwd"] {
        assert_eq!(find(Some(revision)), Err(known.clone()), "{revision}");
    }
    // A reference to a commit that is not here.
    write(&repo.join("refs/v1"), "cccccccccccccccccccccccccccccccccccccccc");
    assert!(find(Some("v1")).is_err());
    assert_eq!(cache.snapshot(RepoKind::Dataset, "org/name", None), Err(Lost::Repo));

    let file = repo.join("snapshots").join(A).join("sub/model.gguf");
    assert_eq!(repo_of(&file), Some((RepoKind::Model, "org/name".to_owned())));
    assert_eq!(repo_of(&repo), None);
    assert_eq!(repo_of(Path::new("snapshots/x")), None);
}
