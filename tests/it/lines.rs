//! Archives of JSON Lines: their rows are Parquet's, and readers with a glob are right while a daemon writes.

use crate::harness::{Running, assert_exit, duckdb, headrig, pipeline, project, python, temporary, text};
use rustix::process::Signal;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;

fn verified(archive: &Path) -> serde_json::Value {
    let output = headrig().args(["verify", "--deep", "--format", "json"]).arg(archive).output().unwrap();
    assert_exit(&output, 0);
    serde_json::from_slice(&output.stdout).unwrap()
}

/// What `headrig query` answers.
fn asked(archive: &Path, sql: &str) -> String {
    let output = headrig().arg("query").arg(archive).args([sql, "--format", "csv"]).output().unwrap();
    assert_exit(&output, 0);
    assert!(output.stdout.iter().filter(|byte| **byte == b'\n').count() > 1, "{sql} has no rows");
    assert_eq!(text(&output.stderr), "", "nothing is left out");
    text(&output.stdout)
}

#[test]
fn lines_hold_what_parquet_holds() {
    let folder = temporary();
    let input = folder.path().join("in.ndjson");
    assert_exit(
        &headrig().args(["generate", "--events", "20000", "--incident", "--output"]).arg(&input).output().unwrap(),
        0,
    );
    let run = |name: &str, format: &str| {
        let archive = folder.path().join(name);
        let file = pipeline(
            folder.path(),
            &format!(
                "pipeline: p\nsources: {{ in: {{ type: file, paths: [\"{}\"] }} }}\ndecode: {{ envelope: fly, schema: access }}\n\
                 windows:\n  - {{ name: w, kind: tumbling, size: 10s, group_by: [path], aggregate: {{ n: count(*) }} }}\n\
                 archive: {{ url: \"{}\", {format} flush: {{ rows: 3000 }} }}\nserver: {{ listen: \"${{HEADRIG_LISTEN}}\" }}\n",
                input.display(),
                archive.display()
            ),
        );
        assert_exit(&headrig().args(["run", "--once"]).arg(file).output().unwrap(), 0);
        archive
    };
    let parquet = run("parquet", "");
    let truth = verified(&parquet);
    for (name, format, end) in [
        ("zstd", "format: jsonl,", "jsonl.zst"),
        ("gzip", "format: jsonl, compression: gzip,", "jsonl.gz"),
        ("none", "format: jsonl, compression: none,", "jsonl"),
    ] {
        let lines = run(name, format);
        let found = glob::glob(&format!("{}/data/**/*.{end}", lines.display())).unwrap().count();
        assert!(found > 3, "{found} files end in {end}");
        let report = verified(&lines);
        assert_eq!(report["pipelines"][0]["rows"], truth["pipelines"][0]["rows"], "{name}");
        duckdb("lines.py", &[&lines, &parquet]);
        for query in [
            "select count(*), count(distinct request_id), sum(status), round(sum(latency_ms), 3), count(exception) from logs",
            "select path, status, count(*), min(ts), max(ts) from logs group by 1, 2 order by 1, 2",
            "select ts, request_id, attributes, message, level from logs where status >= 500 order by ts, request_id",
            "select window_start, path, n, late, provisional, date from windows order by 1, 2",
        ] {
            assert_eq!(asked(&lines, query), asked(&parquet, query), "{name}: {query}");
        }
    }
}

#[test]
fn duckdb_polls_a_glob_while_a_daemon_writes() {
    let folder = temporary();
    let archive = folder.path().join("archive");
    let file = pipeline(
        folder.path(),
        &format!(
            "pipeline: p\nsources: {{ in: {{ type: generate, rate: 3000, seed: 3 }} }}\ndecode: {{ envelope: fly, schema: access }}\n\
             archive: {{ url: \"{}\", format: jsonl, flush: {{ every: 200ms }} }}\nserver: {{ listen: \"${{HEADRIG_LISTEN}}\" }}\n",
            archive.display()
        ),
    );
    let mut running = Running::start(headrig().arg("run").arg(&file));
    let mut poll = python();
    poll.arg(project().join("tests/duckdb/polled_lines.py")).arg(&archive);
    let mut polling = poll.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut looks = BufReader::new(polling.stdout.take().unwrap()).lines();
    // Six looks that found more rows than the one before.
    let mut counts: Vec<u64> = Vec::new();
    while counts.len() < 6 {
        let Some(look) = looks.next() else { break };
        let rows = look.unwrap().parse().unwrap();
        if counts.last().is_none_or(|last| *last < rows) {
            counts.push(rows);
        }
    }
    running.signal(Signal::TERM);
    assert_eq!(running.wait(), Some(0));
    drop(polling.stdin.take());
    let rest: Vec<String> = looks.map(Result::unwrap).collect();
    let ended = polling.wait_with_output().unwrap();
    assert!(ended.status.success() && counts.len() == 6, "{counts:?} {rest:?} {}", text(&ended.stderr));
    let rows = verified(&archive)["pipelines"][0]["rows"]["data"].as_u64().unwrap();
    assert!(rows >= *counts.last().unwrap(), "{rows} {counts:?}");
    assert!(fs::read_dir(archive.join("_headrig/p/staging/main")).unwrap().next().is_none());
}
