//! Rules of the house that a machine can read.

use crate::harness::{project, rust_files};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

/// Lines of a file before its tests. Something else that is only there in tests (`mod testing;`) ends nothing.
fn code(text: &str) -> Vec<&str> {
    let lines: Vec<&str> = text.lines().collect();
    let is_tests = |pair: &[&str]| pair[0] == "#[cfg(test)]" && pair[1].ends_with("mod tests {");
    let end = lines.windows(2).position(is_tests).unwrap_or(lines.len());
    lines[..end].to_vec()
}

/// First line and length of each function longer than `most` lines. rustfmt puts a function's end where its start
/// is indented.
fn long_functions<'t>(lines: &[&'t str], most: usize) -> Vec<(&'t str, usize)> {
    let mut found = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let code = line.trim_start();
        let words: Vec<&str> = code.split(' ').take(5).collect();
        if !words.contains(&"fn") || code.starts_with("//") || code.ends_with(';') {
            continue;
        }
        let end = format!("{}}}", &line[..line.len() - code.len()]);
        let length = lines[start..].iter().position(|line| *line == end).map_or(1, |rest| rest + 1);
        if length > most && !code.ends_with('}') {
            found.push((code, length));
        }
    }
    found
}

#[test]
fn functions_are_short() {
    let long = "    pub async fn long(\n        x: u8,\n    ) -> u8 {\n        x\n    }\n    fn one() {}\n";
    let lines: Vec<&str> = long.lines().collect();
    assert_eq!(long_functions(&lines, 4), [("pub async fn long(", 5)]);
    assert_eq!(long_functions(&lines, 5), []);
    let mut broken = Vec::new();
    for path in rust_files("src") {
        let text = fs::read_to_string(&path).unwrap();
        for (function, length) in long_functions(&code(&text), 70) {
            broken.push(format!("{}: {length} lines, at most 70: {function}", path.display()));
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn files_are_short_flat_and_introduced() {
    let mut broken = Vec::new();
    for path in rust_files("src") {
        let text = fs::read_to_string(&path).unwrap();
        let name = path.strip_prefix(project()).unwrap().display();
        let lines = code(&text).len();
        if lines > 500 {
            broken.push(format!("{name}: {lines} lines without tests, at most 500"));
        }
        if !text.starts_with("//!") && !name.to_string().ends_with("tests.rs") {
            broken.push(format!("{name}: opens without //!"));
        }
        if path.strip_prefix(project().join("src")).unwrap().components().count() > 3 {
            broken.push(format!("{name}: more than two folders below src"));
        }
        if ["util", "common", "helpers", "manager"].iter().any(|bad| path.file_stem().is_some_and(|stem| stem == *bad))
        {
            broken.push(format!("{name}: a name that says nothing"));
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn main_is_a_door_and_no_room() {
    let main = fs::read_to_string(project().join("src/main.rs")).unwrap();
    assert!(main.lines().count() < 80);
}

#[test]
fn nothing_is_stubbed_or_ignored() {
    let words = ["todo!(", "unimplemented!(", concat!("TO", "DO"), concat!("FIX", "ME"), "#[ignore", "#[allow("];
    let mut found = Vec::new();
    for folder in ["src", "tests", "benches"] {
        for path in rust_files(folder) {
            for (number, line) in fs::read_to_string(&path).unwrap().lines().enumerate() {
                if words.iter().any(|word| line.contains(word)) && !path.ends_with("tests/it/house.rs") {
                    found.push(format!("{}:{}: {line}", path.display(), number + 1));
                }
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn the_top_level_is_what_the_house_says() {
    let output = Command::new("git").args(["ls-files"]).current_dir(project()).output().expect("git is there");
    let files = String::from_utf8(output.stdout).unwrap();
    let top: BTreeSet<&str> =
        files.lines().filter_map(|path| path.split('/').next()).filter(|name| !name.starts_with('.')).collect();
    let expected = BTreeSet::from([
        "Cargo.toml",
        "Cargo.lock",
        "src",
        "pipelines",
        "schemas",
        "tests",
        "benches",
        "docs",
        // Where cargo-fuzz looks for its targets; a crate of its own, as libFuzzer is linked into nothing else.
        "fuzz",
        "docker-compose.yml",
        "README.md",
        "LICENSE",
    ]);
    assert_eq!(top, expected);
}

/// Licences that may be linked into an MIT or Apache-2.0 program.
const LICENCES: [&str; 17] = [
    "MIT",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "ISC",
    "MIT-0",
    "Unicode-3.0",
    "Unicode-DFS-2016",
    "Unlicense",
    "Zlib",
    "0BSD",
    "MPL-2.0",
    "BlueOak-1.0.0",
    // libFuzzer's, which is in the fuzz target alone.
    "NCSA",
];

/// Whether an SPDX expression can be satisfied: one side of each OR, all sides of each AND.
fn is_allowed(expression: &str) -> bool {
    let expression = expression.replace('/', " OR ").replace(['(', ')'], "");
    expression.split(" AND ").all(|part| part.split(" OR ").any(|licence| LICENCES.contains(&licence.trim())))
}

#[test]
fn every_dependency_may_be_linked() {
    // Only what is built here has been downloaded.
    let version = Command::new("rustc").arg("-vV").output().expect("rustc is there");
    let version = String::from_utf8(version.stdout).unwrap();
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).expect("rustc says what it is");
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--offline", "--locked", "--filter-platform", host])
        .current_dir(project())
        .output()
        .expect("cargo is there");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    assert!(packages.len() > 100);
    let refused: Vec<String> = packages
        .iter()
        .filter(|package| package["name"] != "headrig")
        .filter(|package| !package["license"].as_str().is_some_and(is_allowed))
        .map(|package| format!("{} {}: {}", package["name"], package["version"], package["license"]))
        .collect();
    assert!(refused.is_empty(), "{}", refused.join("\n"));
}

#[test]
fn there_is_one_arrow_stack() {
    let lock = fs::read_to_string(project().join("Cargo.lock")).unwrap();
    for name in ["arrow", "arrow-array", "arrow-schema", "parquet", "datafusion", "datafusion-common", "object_store"] {
        assert_eq!(lock.matches(&format!("name = \"{name}\"\n")).count(), 1, "{name}");
    }
    assert!(Path::new(&project()).join("Cargo.lock").exists());
}
