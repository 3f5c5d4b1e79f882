//! Columns of type hex, from a schema file to what DuckDB reads.

use crate::harness::{assert_exit, duckdb, headrig, pipeline, temporary, text};
use std::fs;

const SCHEMA: &str = "schema: traced\ncolumns:\n  - { name: n, type: int }\n  \
    - { name: trace_id, type: hex, bytes: 16, bloom: true, high_cardinality: true }\n  \
    - { name: span_id, type: hex, bytes: 8 }\n";

const LINES: &str = r#"{"n":0,"trace_id":"00112233445566778899aabbccddeeff","span_id":"0123456789abcdef","kept":"yes"}
{"n":1,"trace_id":"00112233445566778899AABBCCDDEEFF"}
{"n":2,"trace_id":"not hex","span_id":"ffffffffffffffff","kept":"too"}
{"n":3,"trace_id":null}
"#;

#[test]
fn hex_columns_read_back_in_duckdb() {
    let folder = temporary();
    let path = |name: &str| folder.path().join(name).display().to_string();
    fs::write(path("schema.yaml"), SCHEMA).unwrap();
    fs::write(path("lines"), LINES).unwrap();
    let (schema, lines, archive) = (path("schema.yaml"), path("lines"), path("archive"));
    let file = pipeline(
        folder.path(),
        &format!(
            "pipeline: p\nsources:\n  s: {{ type: file, paths: [\"{lines}\"] }}\n\
             decode: {{ envelope: none, format: json, schema: \"{schema}\" }}\narchive: {{ url: \"{archive}\" }}\n"
        ),
    );
    let output = headrig().args(["run", "--once"]).arg(&file).output().unwrap();
    assert_exit(&output, 0);
    assert!(text(&output.stderr).contains("type_clash 2"), "{}", text(&output.stderr));
    println!("{}", duckdb("hex.py", &[&folder.path().join("archive")]));
}
