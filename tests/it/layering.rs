//! The one rule of the house: a row imports only from rows below it, and stages never import each other.

use crate::harness::{project, rust_files};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use syn::visit::Visit;
use syn::{Attribute, ItemMod, ItemUse, Macro, UseTree, Visibility};

/// What each room may import, from top to bottom.
const STAGES: [&str; 8] = ["source", "decode", "transform", "metric", "window", "alert", "sink", "archive"];
const VOCABULARY: [&str; 7] = ["expression", "record", "telemetry", "time", "place", "units", "limits"];

fn allowed() -> BTreeMap<&'static str, Vec<&'static str>> {
    let with = |more: &[&'static str]| [more, &VOCABULARY].concat();
    let stages = with(&STAGES);
    let mut rules = BTreeMap::from([
        ("main", vec!["command"]),
        ("command", [&["server", "rehearsal", "topology", "config", "query"], stages.as_slice()].concat()),
        ("server", [&["topology", "config", "query"], stages.as_slice()].concat()),
        ("rehearsal", [&["topology", "config", "query"], stages.as_slice()].concat()),
        ("topology", [&["config"], stages.as_slice()].concat()),
        ("config", stages.clone()),
        ("query", with(&["archive"])),
        ("expression", vec!["place", "units", "limits"]),
        ("record", vec!["telemetry", "time", "place", "units", "limits"]),
        ("telemetry", vec!["time", "units", "limits"]),
        ("time", vec!["units", "limits"]),
        ("place", vec!["units"]),
        ("limits", vec!["time"]),
        ("units", vec![]),
        ("lib", vec![]),
    ]);
    for stage in STAGES {
        rules.insert(stage, with(&[]));
    }
    rules
}

/// Which rooms may know a crate, or a part of the standard library, that brings in threads, files, clocks or a planner.
/// So `decode` to `alert` stay pure: no I/O, no tokio.
const CONFINED: [(&str, &[&str]); 12] = [
    ("tokio", &["command", "query", "server", "topology", "source", "sink"]),
    ("tokio_util", &["command", "server", "topology", "source"]),
    ("futures", &["query", "source", "sink", "topology"]),
    ("axum", &["server"]),
    ("hyper", &["server"]),
    ("reqwest", &["command", "sink"]),
    ("rustix", &["command", "source", "archive"]),
    ("datafusion", &["query", "expression"]),
    ("anyhow", &["command", "main"]),
    ("std::fs", &["command", "source", "sink", "archive"]),
    ("std::thread", &["command", "source", "sink", "archive"]),
    ("std::process", &["command", "main", "archive"]),
];

/// Every path that a file's code names, resolved to the crate's root: `crate::window::Plan`, `std::fs::File`.
struct Paths {
    /// The module that is looked at, from the root.
    module: Vec<String>,
    found: Vec<Vec<String>>,
    /// Whether code under `#[cfg(test)]` is passed over.
    without_tests: bool,
}

fn paths(module: &[&str], text: &str, without_tests: bool) -> Vec<Vec<String>> {
    let file = syn::parse_file(text).expect("what compiles can be parsed");
    let module = module.iter().map(|name| (*name).to_owned()).collect();
    let mut paths = Paths { module, found: Vec::new(), without_tests };
    paths.visit_file(&file);
    paths.found
}

impl Paths {
    fn add(&mut self, written: &[String]) {
        let supers = written.iter().take_while(|name| *name == "super").count();
        let resolved = match written.first().map(String::as_str) {
            Some("headrig") => [&["crate".to_owned()], &written[1..]].concat(),
            Some("super") => {
                let base = &self.module[..self.module.len().saturating_sub(supers)];
                [&["crate".to_owned()], base, &written[supers..]].concat()
            }
            _ => written.to_vec(),
        };
        self.found.push(resolved);
    }

    fn add_tree(&mut self, tree: &UseTree, before: &[String]) {
        let with = |name: String| [before, &[name]].concat();
        match tree {
            UseTree::Path(path) => self.add_tree(&path.tree, &with(path.ident.to_string())),
            UseTree::Name(name) => self.add(&with(name.ident.to_string())),
            UseTree::Rename(name) => self.add(&with(name.ident.to_string())),
            UseTree::Glob(_) => self.add(&with("*".to_owned())),
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.add_tree(tree, before)),
        }
    }

    fn is_passed_over(&self, attributes: &[Attribute]) -> bool {
        let is_test = |a: &Attribute| {
            a.path().is_ident("cfg") && a.meta.require_list().is_ok_and(|l| l.tokens.to_string() == "test")
        };
        self.without_tests && attributes.iter().any(is_test)
    }
}

impl<'ast> Visit<'ast> for Paths {
    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        if !self.is_passed_over(&item.attrs) {
            self.add_tree(&item.tree, &[]);
        }
    }

    fn visit_item_mod(&mut self, item: &'ast ItemMod) {
        if !self.is_passed_over(&item.attrs) {
            self.module.push(item.ident.to_string());
            syn::visit::visit_item_mod(self, item);
            self.module.pop();
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let names: Vec<String> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        self.add(&names);
        syn::visit::visit_path(self, path);
    }

    /// `pub(crate)` names no room.
    fn visit_visibility(&mut self, _: &'ast Visibility) {}

    /// A macro's arguments are no syntax yet: every run of names between `::` counts.
    fn visit_macro(&mut self, call: &'ast Macro) {
        let text: String = call.tokens.to_string().replace(" :: ", "::");
        for run in text.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':')).filter(|run| run.contains("::"))
        {
            let names: Vec<String> = run.split("::").map(str::to_owned).collect();
            self.add(&names);
        }
        syn::visit::visit_macro(self, call);
    }
}

/// The rooms that paths lead to; `*` for all of them at once.
fn rooms(paths: &[Vec<String>]) -> Vec<&str> {
    paths.iter().filter(|path| path[0] == "crate").map(|path| path.get(1).map_or("*", String::as_str)).collect()
}

/// A file's room, its module and its place, for each file in `src`.
fn files() -> Vec<(String, Vec<String>, PathBuf)> {
    let files = rust_files("src").into_iter().map(|path| {
        let inside = path.strip_prefix(project().join("src")).unwrap().with_extension("");
        let mut module: Vec<String> = inside.components().map(|c| c.as_os_str().to_str().unwrap().to_owned()).collect();
        let room = module[0].clone();
        if matches!(module.last().map(String::as_str), Some("mod" | "lib" | "main")) {
            module.pop();
        }
        (room, module, path)
    });
    files.collect()
}

fn read(module: &[String], path: &Path, without_tests: bool) -> Vec<Vec<String>> {
    let module: Vec<&str> = module.iter().map(String::as_str).collect();
    paths(&module, &fs::read_to_string(path).unwrap(), without_tests)
}

#[test]
fn every_row_imports_only_from_rows_below_it() {
    let rules = allowed();
    let mut broken = Vec::new();
    let mut arrows = 0;
    for (room, module, path) in files() {
        let rule = rules.get(room.as_str()).unwrap_or_else(|| panic!("the layering test doesn't know the room {room}"));
        for imported in rooms(&read(&module, &path, false)) {
            arrows += 1;
            if imported != room && !rule.contains(&imported) {
                broken.push(format!("{}: {room} may not import {imported}", path.display()));
            }
        }
    }
    assert!(arrows > 300, "only {arrows} imports found: the test reads the wrong thing");
    broken.dedup();
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn threads_files_and_planners_are_known_where_they_belong() {
    let mut broken = Vec::new();
    // Files that are compiled for tests only.
    let of_tests = |path: &Path| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.ends_with("tests.rs")
            || ["simulation.rs", "simulation_kept.rs", "simulation_merged.rs", "simulation_shared.rs", "faulty.rs"]
                .contains(&name)
    };
    for (room, module, path) in files().into_iter().filter(|(_, _, path)| !of_tests(path)) {
        for found in read(&module, &path, true) {
            let found = found.join("::");
            for (confined, to) in CONFINED {
                let is_it = found == confined || found.starts_with(&format!("{confined}::"));
                // A bucket's client is asynchronous, and the archive around it is not.
                let bucket = path.ends_with("archive/bucket.rs") && ["tokio", "futures"].contains(&confined);
                if is_it && !bucket && !to.contains(&room.as_str()) {
                    broken.push(format!("{}: {room} may not know {confined}", path.display()));
                }
            }
        }
    }
    broken.dedup();
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn an_import_is_seen_however_it_is_written() {
    let text = "use crate::{\n    sink::{self, Sink},\n    time,\n};\nuse super::super::alert::Plan;\nuse super::own;\n\
                fn f(x: crate::archive::Config) { let y = crate::window::open(\"http://x\"); // crate::metric\n\
                println!(\"{}\", crate::server::ADDRESS); headrig::topology::run(); }\n\
                mod inner { use super::super::super::config::Plan; use super::more; }\nuse crate::*;";
    let found = paths(&["decode", "row"], text, true);
    let rooms = rooms(&found);
    assert_eq!(
        rooms,
        ["sink", "sink", "time", "alert", "decode", "archive", "window", "server", "topology", "config", "decode", "*"]
    );
}

#[test]
fn the_mod_list_stands_in_reading_order() {
    let lib = fs::read_to_string(project().join("src/lib.rs")).unwrap();
    let listed: Vec<&str> = lib.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';')).collect();
    let expected =
        [&["command", "server", "rehearsal", "topology", "config", "query"], STAGES.as_slice(), &VOCABULARY].concat();
    assert_eq!(listed, expected);
}
