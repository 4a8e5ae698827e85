//! Which file of a crate imports which, read from the sources. Names are followed through re-exports to the file that
//! defines them. What is compiled for tests only does not count.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use syn::punctuated::Punctuated;
use syn::visit::{self, Visit};
use syn::{Attribute, Item, ItemMod, ItemUse, UseTree};

/// A module's path below its crate.
type ModPath = Vec<String>;

/// What a module brings into scope by `use`: a name, and the path it stands for.
#[derive(Default)]
struct Module {
    file: PathBuf,
    children: BTreeSet<String>,
    imports: BTreeMap<String, Vec<String>>,
    /// Paths whose everything is imported.
    globs: Vec<Vec<String>>,
    /// Paths in code.
    paths: Vec<Vec<String>>,
}

/// A crate's modules and the edges between their files.
#[derive(Default)]
pub(crate) struct Crate {
    root: PathBuf,
    modules: BTreeMap<ModPath, Module>,
}

impl Crate {
    /// Reads `src/lib.rs` and all that it declares.
    pub(crate) fn read(src: &Path) -> Self {
        let mut new = Self { root: src.to_owned(), modules: BTreeMap::new() };
        new.module(Vec::new(), &src.join("lib.rs"), src);
        new
    }

    fn module(&mut self, path: ModPath, file: &Path, dir: &Path) {
        let text = fs::read_to_string(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        let parsed = syn::parse_file(&text).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        self.items(path, file, dir, &parsed.items);
    }

    fn items(&mut self, path: ModPath, file: &Path, dir: &Path, items: &[Item]) {
        let mut module = Module { file: file.to_owned(), ..Module::default() };
        let mut inner = Vec::new();
        for item in items {
            if let Item::Mod(found) = item
                && !only_tests(&found.attrs)
            {
                module.children.insert(found.ident.to_string());
                inner.push(found);
            }
        }
        let mut reader = Reader { module: &mut module };
        for item in items {
            reader.visit_item(item);
        }
        self.modules.insert(path.clone(), module);
        for found in inner {
            let name = found.ident.to_string();
            let child = [&path[..], std::slice::from_ref(&name)].concat();
            if let Some((_, items)) = &found.content {
                self.items(child, file, &dir.join(&name), items);
            } else {
                let named = path_attribute(found).map(|p| file.with_file_name(p));
                let file = named.unwrap_or_else(|| dir.join(format!("{name}.rs")));
                self.module(child, &file, &dir.join(&name));
            }
        }
    }

    /// The module that a path leads to, seen from a module; none for another crate's.
    fn resolve(&self, from: &[String], path: &[String], depth: usize) -> Option<ModPath> {
        let first = path.first()?.as_str();
        let (mut at, mut rest) = match first {
            "crate" => (Vec::new(), &path[1..]),
            "self" => (from.to_vec(), &path[1..]),
            "super" => (from[..from.len().checked_sub(1)?].to_vec(), &path[1..]),
            name => {
                let here = self.modules.get(from)?;
                if here.children.contains(name) || here.imports.contains_key(name) {
                    (from.to_vec(), path)
                } else {
                    return None;
                }
            }
        };
        while rest.first().is_some_and(|s| s == "super") {
            at.pop();
            rest = &rest[1..];
        }
        while let Some(name) = rest.first() {
            let module = &self.modules[&at];
            if module.children.contains(name) {
                at.push(name.clone());
                rest = &rest[1..];
                continue;
            }
            let Some(target) = module.imports.get(name).filter(|_| depth < 16) else { break };
            let whole = [&target[..], &rest[1..]].concat();
            return self.resolve(&at, &whole, depth + 1);
        }
        Some(at)
    }

    /// Each file with those it imports from, by their names below `src`.
    pub(crate) fn edges(&self) -> BTreeMap<String, BTreeSet<String>> {
        let mut edges: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (path, module) in &self.modules {
            let to = edges.entry(self.name(&module.file)).or_default();
            // A re-export is not a use: whoever takes the name depends on where it is defined.
            let used = module.paths.iter().chain(&module.globs);
            for target in used.filter_map(|p| self.resolve(path, p, 0)) {
                let file = &self.modules[&target].file;
                if *file != module.file {
                    to.insert(self.name(file));
                }
            }
        }
        edges
    }

    /// Crates of this workspace that are named in it.
    pub(crate) fn other_crates(&self) -> BTreeSet<String> {
        let first = |path: &Vec<String>| path.first().filter(|name| name.starts_with("mesp")).cloned();
        let all = |module: &Module| -> Vec<Vec<String>> {
            module.paths.iter().chain(&module.globs).chain(module.imports.values()).cloned().collect()
        };
        self.modules.values().flat_map(all).filter_map(|path| first(&path)).collect()
    }

    fn name(&self, file: &Path) -> String {
        file.strip_prefix(&self.root).expect("a file of the crate").to_string_lossy().into_owned()
    }
}

/// Sets of files that import each other in a circle.
pub(crate) fn circles(edges: &BTreeMap<String, BTreeSet<String>>) -> Vec<Vec<String>> {
    let reach = |from: &String| {
        let (mut seen, mut left) = (BTreeSet::new(), vec![from]);
        while let Some(next) = left.pop() {
            for to in edges.get(next).into_iter().flatten() {
                if seen.insert(to.clone()) {
                    left.push(to);
                }
            }
        }
        seen
    };
    let reached: BTreeMap<&String, BTreeSet<String>> = edges.keys().map(|file| (file, reach(file))).collect();
    let mut circles: Vec<Vec<String>> = Vec::new();
    for (file, to) in &reached {
        if to.contains(*file) && !circles.iter().any(|c| c.contains(file)) {
            circles.push(
                to.iter()
                    .filter(|other| reached.get(other).is_some_and(|to| to.contains(*file)))
                    .cloned()
                    .collect(),
            );
        }
    }
    circles
}

struct Reader<'a> {
    module: &'a mut Module,
}

impl<'ast> Visit<'ast> for Reader<'_> {
    fn visit_item(&mut self, item: &'ast Item) {
        if !only_tests(attributes(item)) && !matches!(item, Item::Mod(_)) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        let shown = !matches!(item.vis, syn::Visibility::Inherited);
        take(&item.tree, &mut Vec::new(), shown, self.module);
    }

    /// `pub(in path)` is no import.
    fn visit_vis_restricted(&mut self, _: &'ast syn::VisRestricted) {}

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments: Vec<String> = path.segments.iter().map(|s| s.ident.to_string()).collect();
        if segments.len() > 1 {
            self.module.paths.push(segments);
        }
        visit::visit_path(self, path);
    }
}

fn take(tree: &UseTree, before: &mut Vec<String>, shown: bool, module: &mut Module) {
    match tree {
        UseTree::Path(path) => {
            before.push(path.ident.to_string());
            take(&path.tree, before, shown, module);
            before.pop();
        }
        UseTree::Group(group) => {
            for tree in &group.items {
                take(tree, before, shown, module);
            }
        }
        UseTree::Glob(_) => module.globs.push(before.clone()),
        UseTree::Name(name) => named(before, &name.ident.to_string(), None, shown, module),
        UseTree::Rename(name) => {
            named(before, &name.ident.to_string(), Some(name.rename.to_string()), shown, module);
        }
    }
}

fn named(before: &[String], name: &str, rename: Option<String>, shown: bool, module: &mut Module) {
    let mut path = before.to_vec();
    if name != "self" {
        path.push(name.to_owned());
    }
    let Some(short) = rename.or_else(|| path.last().cloned()) else { return };
    if !shown {
        module.paths.push(path.clone());
    }
    module.imports.insert(short, path);
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Fn(i) => &i.attrs,
        Item::Impl(i) => &i.attrs,
        Item::Mod(i) => &i.attrs,
        Item::Struct(i) => &i.attrs,
        Item::Use(i) => &i.attrs,
        Item::Const(i) => &i.attrs,
        _ => &[],
    }
}

/// `test`, or `all(…)` with `test` in it.
fn needs_tests(condition: &syn::Meta) -> bool {
    match condition {
        syn::Meta::Path(path) => path.is_ident("test"),
        syn::Meta::List(list) if list.path.is_ident("all") => {
            let all = Punctuated::<syn::Meta, syn::Token![,]>::parse_terminated;
            list.parse_args_with(all).is_ok_and(|all| all.iter().any(needs_tests))
        }
        _ => false,
    }
}

fn only_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|a| {
        a.path().is_ident("cfg") && a.parse_args::<syn::Meta>().is_ok_and(|condition| needs_tests(&condition))
    })
}

fn path_attribute(module: &ItemMod) -> Option<String> {
    module.attrs.iter().find_map(|a| match &a.meta {
        syn::Meta::NameValue(pair) if pair.path.is_ident("path") => match &pair.value {
            syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(text), .. }) => Some(text.value()),
            _ => None,
        },
        _ => None,
    })
}
