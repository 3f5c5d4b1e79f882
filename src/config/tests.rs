//! The files of `tests/config`, and properties of reading them.

use super::raw::PARTS;
use super::{Limits, Plan, json_schema, load};
use crate::place::Problem;
use proptest::prelude::{ProptestConfig, any, proptest};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn environment(name: &str) -> Option<String> {
    match name {
        "HOME_ZONE" => Some("Asia/Tokyo".to_owned()),
        "MASK_KEY" => Some("0123456789abcdef: [x".to_owned()),
        _ => None,
    }
}

fn check(text: &str) -> Result<Plan, Vec<Problem>> {
    load("pipeline.yaml", text, &environment, &|path| fs::read_to_string(root().join(path)))
}

fn files(folder: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(root().join("tests/config").join(folder)).unwrap();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn wants_update() -> bool {
    std::env::var_os("UPDATE").is_some()
}

fn expectation(problem: &Problem) -> String {
    let hint = problem.hint.as_ref().map_or_else(String::new, |hint| format!(" | hint: {hint}"));
    format!("# expect: {}: {}{hint}\n", problem.place, problem.message)
}

#[test]
fn good_files_are_accepted() {
    let files = files("good");
    assert!(files.len() >= 4);
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        check(&text).unwrap_or_else(|problems| panic!("{}: {problems:#?}", file.display()));
    }
}

/// The expectations are the leading comment lines. They count as lines of the file, so places are those that an editor
/// shows; `UPDATE=1` rewrites them.
#[test]
fn bad_files_get_exactly_the_expected_messages() {
    let files = files("bad");
    assert!(files.len() >= 14);
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        let problems = check(&text).expect_err(&format!("{} must be refused", file.display()));
        for problem in &problems {
            assert!(problem.message.starts_with("cannot "), "{}: {}", file.display(), problem.message);
            assert!(!problem.message.ends_with('.'), "{}: {}", file.display(), problem.message);
        }
        let expected: String = text.split_inclusive('\n').take_while(|line| line.starts_with("# expect:")).collect();
        if wants_update() {
            fs::write(&file, rewritten(&text[expected.len()..])).unwrap();
        } else {
            let found: String = problems.iter().map(expectation).collect();
            assert_eq!(found, expected, "{}", file.display());
        }
    }
}

/// `body` below the messages that it gets there.
fn rewritten(body: &str) -> String {
    let count = check(body).unwrap_err().len();
    let shifted = format!("{}{body}", "# expect:\n".repeat(count));
    let header: String = check(&shifted).unwrap_err().iter().map(expectation).collect();
    format!("{header}{body}")
}

#[test]
fn the_checked_in_json_schema_is_current() {
    let path = root().join("schemas/pipeline.schema.json");
    let current = format!("{:#}\n", json_schema());
    if wants_update() {
        fs::write(&path, &current).unwrap();
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    assert!(found == current, "schemas/pipeline.schema.json is old, run the tests with UPDATE=1");
}

#[test]
fn values_survive_variables_and_defaults() {
    let plan = check(
        "pipeline: p\nsources: { a: { type: generate, rate: '5' , seed: 1 } }\n\
         transform:\n  - mask: { column: message, with: regex, pattern: '(a)b$', replacement: '$1' }\n",
    );
    let problems = plan.unwrap_err();
    assert_eq!(problems[0].message, "cannot use `5` here, expected a whole number above 0");
    let plan = check(
        "pipeline: ${NAME:-p}\nsources: { a: { type: generate, rate: '${RATE:-5}' }, b: { type: generate, rate: ${RATE:-1_000} } }\n",
    );
    assert_eq!(plan.unwrap_err().len(), 1, "a quoted number is a text, wherever it comes from");
}

/// The columns that the decoder has to fill for a pipeline with these parts.
fn needed(parts: &str) -> Vec<String> {
    let plan = check(&format!("pipeline: p\nsources: {{ a: {{ type: stdin }} }}\n{parts}")).unwrap();
    assert_eq!(plan.decode.needed.len(), plan.decode.schema.columns.len());
    let columns = plan.decode.schema.columns.iter().zip(&plan.decode.needed);
    columns.filter(|(_, needed)| **needed).map(|(column, _)| column.name.clone()).collect()
}

#[test]
fn without_the_table_data_only_columns_that_are_read_are_needed() {
    let all = needed("archive: { url: a }\n");
    assert!(all.len() > 15 && all[0] == "ts");
    assert_eq!(needed("archive: { url: a, tables: [data] }\n"), all);
    assert_eq!(needed("archive: { url: a, tables: [dead, alerts] }\n"), ["ts"]);
    assert_eq!(needed(""), ["ts"], "no archive");
    let sorted = |parts: &str| {
        let mut columns = needed(parts);
        columns.sort();
        columns.join(" ")
    };
    assert_eq!(
        sorted(
            "windows:\n  - { name: w, kind: tumbling, size: 1m, where: status is not null, group_by: [path], aggregate: \
             { slow: count(*) filter (where latency_ms > 5), apps: count_distinct(app) } }\n\
             alerts: [{ alert: A, on: w, when: slow > 1 }]\n"
        ),
        "app latency_ms path status ts"
    );
    assert_eq!(
        sorted(
            "metrics:\n  - { name: a_total, type: counter, help: h, labels: [method], where: status > 1 }\n\
             \x20 - { name: b, type: gauge, help: h, value: latency_ms / 2 }\n"
        ),
        "latency_ms method status ts"
    );
    let steps = "transform: [{ filter: \"provider <> 'x'\" }, { set: { s: latency_ms * 2, path: lower(event) } }, \
                 { mask: { column: client_ip, with: redact } }, { drop: [logger] }]\n";
    assert_eq!(sorted(steps), "event latency_ms provider ts", "what is only masked or dropped is read by nobody");
    let count = "windows: [{ name: w, kind: tumbling, size: 1m, group_by: [path], aggregate: { n: sum(s) } }]\n";
    assert_eq!(sorted(&format!("{steps}{count}")), "event latency_ms path provider ts");
}

#[test]
fn limits_have_defaults() {
    let limits =
        |text: &str| check(&format!("pipeline: p\nsources: {{ a: {{ type: stdin }} }}\n{text}")).unwrap().limits;
    assert_eq!(limits(""), Limits { memory_bytes: crate::limits::MEMORY_BYTES, threads: None });
    let written = limits("limits: { memory: 16MB, threads: 3 }\n");
    assert_eq!(written, Limits { memory_bytes: 16_000_000, threads: std::num::NonZeroUsize::new(3) });
}

#[test]
fn the_parts_are_those_of_the_file_type() {
    let schema = json_schema();
    let keys: BTreeSet<&str> = schema["properties"].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(keys, PARTS.into_iter().collect());
}

#[test]
fn anchors_are_expanded_and_bombs_are_not() {
    let base = "pipeline: p\nsources: { a: &a { type: stdin }, b: *a }\n";
    assert_eq!(check(base).unwrap().sources.len(), 2);
    let mut bomb = "pipeline: p\nx0: &x0 [aaaaaaaaaa, aaaaaaaaaa]\n".to_owned();
    for level in 1..30 {
        bomb += &format!("x{level}: &x{level} [*x{0}, *x{0}, *x{0}]\n", level - 1);
    }
    assert!(check(&bomb).unwrap_err()[0].message.starts_with("cannot expand the aliases"));
    let deep = format!("pipeline: {}\n", "[".repeat(100));
    assert!(check(&deep).unwrap_err()[0].message.starts_with("cannot read"));
}

const SOUND: &str = include_str!("../../tests/config/good/fly.yaml");

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever stands in a file, it is a plan or a list of problems, and never a panic.
    #[test]
    fn any_text_gives_a_plan_or_problems(text in "(?s).{0,200}") {
        let _ = check(&text);
    }

    /// A file that lost a piece gets problems at places that exist, sorted.
    #[test]
    fn a_mutilated_file_gets_problems_that_are_in_it(from in any::<u16>(), length in 1..40_usize, with in "[a-z:{}\\[\\],'\"$# \n-]{0,3}") {
        let chars: Vec<char> = SOUND.chars().collect();
        let from = usize::from(from) % chars.len();
        let end = (from + length).min(chars.len());
        let text: String = chars[..from].iter().copied().chain(with.chars()).chain(chars[end..].iter().copied()).collect();
        if let Err(problems) = check(&text) {
            let lines = text.split('\n').count() as u32;
            assert!(problems.iter().all(|p| p.place.line >= 1 && p.place.line <= lines + 1 && p.place.column >= 1));
            assert!(problems.is_sorted_by_key(|p| p.place));
            assert!(problems.iter().all(|p| p.message.starts_with("cannot ")), "{problems:?}");
        }
    }
}
