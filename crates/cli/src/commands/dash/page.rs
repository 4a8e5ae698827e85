//! The page: one document of markup, style and script, alone or with the runs' data inside.
//!
//! The script's files are modules, each of which can be read alone; here their imports are taken out and they are
//! joined in order, so that the document needs nothing else.

use std::hash::{BuildHasher, RandomState};

const MARKUP: &str = include_str!("page/index.html");
const STYLE: &str = include_str!("page/style.css");

/// The modules, each after those that it imports.
const MODULES: [&str; 14] = [
    include_str!("page/dom.js"),
    include_str!("page/format.js"),
    include_str!("page/series.js"),
    include_str!("page/scale.js"),
    include_str!("page/view.js"),
    include_str!("page/paint.js"),
    include_str!("page/chart.js"),
    include_str!("page/run.js"),
    include_str!("page/training.js"),
    include_str!("page/memory.js"),
    include_str!("page/texts.js"),
    include_str!("page/overview.js"),
    include_str!("page/source.js"),
    include_str!("page/app.js"),
];

/// A number that a text from a run cannot know: scripts and styles without it do nothing.
pub(super) fn nonce() -> String {
    // The keys of the standard library's hash maps are from the system's random numbers.
    let part = |salt: u64| RandomState::new().hash_one(salt);
    format!("{:016x}{:016x}", part(0), part(1))
}

/// The content security policy: nothing from anywhere, but this document's own script and style, and with `live`
/// the stream of events from where it came.
pub(super) fn policy(nonce: &str, live: bool) -> String {
    let connect = if live { "connect-src 'self'; frame-ancestors 'none'; " } else { "" };
    format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; img-src data:; {connect}\
         base-uri 'none'; form-action 'none'"
    )
}

/// The page that follows the server's events.
pub(super) fn live(nonce: &str) -> String {
    document(nonce, true, "null")
}

/// The page with its data inside, a document as [`super::store::Store::news`] gives it.
pub(super) fn report(nonce: &str, data: &str) -> String {
    document(nonce, false, data)
}

fn document(nonce: &str, live: bool, data: &str) -> String {
    // Within a script element only this could end it.
    let data = data.replace('<', "\\u003c");
    let script = script();
    let policy = policy(nonce, live);
    let policy = policy.replace("frame-ancestors 'none'; ", "");
    let parts = [
        ("policy", policy.as_str()),
        ("style", STYLE),
        ("data", &data),
        ("script", &script),
        ("nonce", nonce),
    ];
    let mut text = String::with_capacity(MARKUP.len() + STYLE.len() + data.len() + script.len() + 512);
    let mut rest = MARKUP;
    while let Some((before, after)) = rest.split_once("{{") {
        let (name, after) = after.split_once("}}").unwrap_or((after, ""));
        text.push_str(before);
        text.push_str(parts.iter().find(|(n, _)| *n == name).map_or("", |(_, part)| part));
        rest = after;
    }
    text + rest
}

/// All modules as one.
fn script() -> String {
    let mut text = String::new();
    for module in MODULES {
        for line in module.lines().filter(|line| !line.starts_with("import ")) {
            text.push_str(line.strip_prefix("export ").unwrap_or(line));
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_is_complete_and_asks_nobody() {
        let text = live("abc");
        assert!(!text.contains("{{"), "a part is missing");
        assert!(!script().contains("\nimport ") && !script().contains("\nexport "));
        let foreign = |word: &str| ["http:", "https:", "//cdn", "@import"].iter().any(|f| word.contains(f));
        let words = text.split(|c: char| c.is_whitespace() || c == '"' || c == '\'');
        // Names of vocabularies are no addresses.
        let asks: Vec<&str> = words.filter(|w| foreign(w) && !w.contains("www.w3.org/2000/svg")).collect();
        assert!(asks.is_empty(), "{asks:?}");
        for sink in
            ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"]
        {
            assert!(!text.contains(sink), "{sink}: text from runs is put in as text");
        }
    }

    #[test]
    fn imports_are_of_modules_before() {
        let names = [
            "dom", "format", "series", "scale", "view", "paint", "chart", "run", "training", "memory",
            "texts", "overview", "source", "app",
        ];
        for (place, module) in MODULES.iter().enumerate() {
            for import in module.lines().filter(|line| line.starts_with("import ")) {
                let known = names[..place].iter().any(|name| import.ends_with(&format!("\"./{name}.js\";")));
                assert!(known, "{}.js: {import}", names[place]);
            }
        }
    }

    #[test]
    fn names_are_of_one_module() {
        let script = script();
        let mut names: Vec<&str> = Vec::new();
        for line in script.lines() {
            for kind in ["function ", "class ", "const ", "let "] {
                let Some(rest) = line.strip_prefix(kind) else { continue };
                let name =
                    rest.split(|c: char| !(c.is_alphanumeric() || c == '_')).next().unwrap_or_default();
                assert!(!names.contains(&name), "{name} is in two modules, which are joined");
                names.push(name);
            }
        }
        assert!(names.len() > 50, "{names:?}");
    }

    #[test]
    fn data_cannot_end_its_element() {
        let text = report("abc", r#"{"runs":["</script><b>","{{nonce}}"]}"#);
        assert!(text.contains(r#"["\u003c/script>\u003cb>","{{nonce}}"]"#));
        assert_eq!(text.matches("</script>").count(), MARKUP.matches("</script>").count());
    }

    #[test]
    fn nonces_differ() {
        assert_ne!(nonce(), nonce());
        assert_eq!(nonce().len(), 32);
    }
}
