//! The one rule of the house: a row imports only from rows below it, and stages never import each other.

use crate::harness::{project, rust_files};
use std::collections::BTreeMap;
use std::fs;

/// What each room may import, from top to bottom.
const STAGES: [&str; 8] = ["source", "decode", "transform", "metric", "window", "alert", "sink", "archive"];
const VOCABULARY: [&str; 7] = ["expression", "record", "telemetry", "time", "place", "units", "limits"];

fn allowed() -> BTreeMap<&'static str, Vec<&'static str>> {
    let with = |more: &[&'static str]| [more, &VOCABULARY].concat();
    let stages = with(&STAGES);
    let mut rules = BTreeMap::from([
        ("main", vec!["command"]),
        ("command", [&["server", "topology", "config"], stages.as_slice()].concat()),
        ("server", [&["topology", "config"], stages.as_slice()].concat()),
        ("topology", [&["config"], stages.as_slice()].concat()),
        ("config", stages.clone()),
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

/// The rooms that a file's code names behind `crate::` (or, in `main.rs`, `headrig::`), with the line.
fn imports(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let code = line.split("//").next().unwrap_or_default();
        for prefix in ["crate::", "headrig::"] {
            for (at, _) in code.match_indices(prefix) {
                let rest = &code[at + prefix.len()..];
                let names = rest.strip_prefix('{').map_or(vec![rest], |group| group.split(',').collect());
                for name in names {
                    let room: String = name.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                    if !room.is_empty() {
                        found.push((number + 1, room));
                    }
                }
            }
        }
    }
    found
}

#[test]
fn every_row_imports_only_from_rows_below_it() {
    let rules = allowed();
    let mut broken = Vec::new();
    let mut arrows = 0;
    for path in rust_files("src") {
        let inside = path.strip_prefix(project().join("src")).unwrap();
        let first = inside.components().next().unwrap().as_os_str().to_str().unwrap();
        let room = first.strip_suffix(".rs").unwrap_or(first);
        let rule = rules.get(room).unwrap_or_else(|| panic!("{room} is a room that the layering test doesn't know"));
        for (line, imported) in imports(&fs::read_to_string(&path).unwrap()) {
            arrows += 1;
            if imported != room && !rule.contains(&imported.as_str()) {
                broken.push(format!("src/{}:{line}: {room} may not import {imported}", inside.display()));
            }
        }
    }
    assert!(arrows > 100, "only {arrows} imports found: the test reads the wrong thing");
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn an_import_is_seen_however_it_is_written() {
    let text = "use crate::{sink::Sink, time};\nlet x = crate::archive::open(); // crate::window\n";
    let rooms: Vec<String> = imports(text).into_iter().map(|(_, room)| room).collect();
    assert_eq!(rooms, ["sink", "time", "archive"]);
}

#[test]
fn the_mod_list_stands_in_reading_order() {
    let lib = fs::read_to_string(project().join("src/lib.rs")).unwrap();
    let listed: Vec<&str> = lib.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';')).collect();
    let expected = [&["command", "server", "topology", "config"], STAGES.as_slice(), &VOCABULARY].concat();
    assert_eq!(listed, expected);
}
