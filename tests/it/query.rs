//! `headrig query`, compared with DuckDB on the same files, and asked while a daemon writes and is killed.

use crate::harness::{Running, assert_exit, duckdb, headrig, pipeline, project, python, temporary, text, until};
use crate::real_input::shared;
use rustix::process::Signal;
use std::fs;
use std::path::Path;
use std::process::Output;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

fn ask(archive: &Path, arguments: &[&str]) -> Output {
    headrig().arg("query").arg(archive).args(arguments).output().unwrap()
}

/// The answer as CSV, without its line of names.
#[track_caller]
fn answer(archive: &Path, sql: &str) -> Vec<String> {
    let output = ask(archive, &[sql, "--format", "csv"]);
    assert_exit(&output, 0);
    text(&output.stdout).lines().skip(1).map(str::to_owned).collect()
}

/// Generated lines over some days, in an archive.
fn archive(folder: &Path, events: &str) -> std::path::PathBuf {
    let (lines, archive) = (folder.join("lines"), folder.join("archive"));
    let generate = ["generate", "--events", events, "--rate", "1", "--start", "2026-05-01T00:00:00Z", "--output"];
    assert_exit(&headrig().args(generate).arg(&lines).output().unwrap(), 0);
    let file = pipeline(
        folder,
        &format!(
            "pipeline: p\nsources: {{ in: {{ type: file, paths: [\"{}\"] }} }}\ndecode: {{ envelope: fly, schema: access }}\n\
             archive: {{ url: \"{}\" }}\nserver: {{ listen: \"${{HEADRIG_LISTEN}}\" }}\n",
            lines.display(),
            archive.display()
        ),
    );
    assert_exit(&headrig().args(["run", "--once"]).arg(&file).output().unwrap(), 0);
    archive
}

#[test]
fn each_query_of_the_docs_has_duckdbs_answer() {
    let Some((input, _)) = shared() else { return };
    let folder = temporary();
    let archive = folder.path().join("archive");
    let mut run = headrig();
    run.args(["run", "--once", "pipelines/fly.yaml"]).env("FLY_LOG", &input).env("ARCHIVE", &archive);
    assert_exit(&run.output().unwrap(), 0);
    let docs = fs::read_to_string(project().join("docs/query.md")).unwrap();
    let queries: Vec<&str> = docs.split("```sql\n").skip(1).map(|block| block.split("```").next().unwrap()).collect();
    for (number, query) in (1..).zip(&queries) {
        let file = folder.path().join(format!("{number}.parquet"));
        let output = ask(&archive, &[query, "--format", "parquet", "--output", file.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(0), "{query}\n{}", text(&output.stderr));
    }
    println!("{}", duckdb("queries.py", &[&archive, folder.path()]));
}

#[test]
fn selective_queries_read_little() {
    let folder = temporary();
    let archive = archive(folder.path(), "400000");
    let read = |sql: &str| {
        let output = ask(&archive, &[sql, "--format", "csv", "--stats"]);
        assert_exit(&output, 0);
        let said = text(&output.stderr);
        let share =
            said.lines().find_map(|line| line.strip_prefix("read: ")?.split(['(', '%']).nth(1)?.trim().parse().ok());
        let share: f64 = share.unwrap_or_else(|| panic!("{said}"));
        (text(&output.stdout), said, share)
    };
    let id =
        &answer(&archive, "select request_id from logs where request_id is not null order by ts limit 1 offset 150000")
            [0];
    let (rows, said, share) = read(&format!("select ts, path, status from logs where request_id = '{id}'"));
    assert_eq!(rows.lines().count(), 2, "{rows}");
    assert!(said.contains("skipped by bloom filter") && share < 20.0, "{said}");
    let (_, said, share) =
        read("select count(*) from logs where date = '2026-05-02' and path = '/v1/me' and ts < '2026-05-02 01:00'");
    assert!(said.contains("skipped by folder") && share < 10.0, "{said}");
    let (rows, said, share) = read("select count(*) from logs");
    assert!(rows.ends_with("\n400000\n") && share < 5.0, "{rows}{said}");
}

#[test]
fn mistakes_are_told_with_their_remedy() {
    let folder = temporary();
    let archive = archive(folder.path(), "2000");
    let check = |arguments: &[&str], parts: &[&str]| {
        let output = ask(&archive, arguments);
        assert_exit(&output, 1);
        let said = text(&output.stderr);
        parts.iter().for_each(|part| assert!(said.contains(part), "{part:?} is not in:\n{said}"));
    };
    check(&["select statos from logs"], &["error: 1:8: cannot find column `statos`", "hint: did you mean `status`?"]);
    check(&["select * from log"], &["error: 1:15: cannot find table `log`", "hint: did you mean `logs`?"]);
    check(&["drop table logs"], &["cannot run DROP: a query only reads"]);
    check(
        &["select a.ts from logs a, logs b, logs c order by a.latency_ms + b.latency_ms", "--timeout", "1s"],
        &["cannot answer within 1s"],
    );
    let sql = folder.path().join("q.sql");
    fs::write(&sql, "select\n  pth from logs").unwrap();
    check(&["-f", sql.to_str().unwrap()], &["q.sql:2:3: cannot find column `pth`", "did you mean `path`?"]);
    let nowhere = ask(&folder.path().join("nowhere"), &["select 1"]);
    assert_exit(&nowhere, 1);
    assert!(text(&nowhere.stderr).contains("cannot find an archive in"), "{}", text(&nowhere.stderr));
}

#[test]
fn results_read_back() {
    let folder = temporary();
    let archive = archive(folder.path(), "5000");
    let sql = "select ts, path, status, latency_ms, q, attributes, date from logs order by ts, request_id";
    for (format, options) in [("csv", ", allow_quoted_nulls = false"), ("json", ""), ("parquet", "")] {
        let file = folder.path().join(format!("x.{format}"));
        assert_exit(&ask(&archive, &[sql, "--format", format, "-o", file.to_str().unwrap()]), 0);
        let script = format!(
            "import duckdb; print(*duckdb.sql(\"select count(*), count(path), sum(status)::bigint, round(sum(latency_ms), 3), count(q) from read_{format}('{}'{options})\").fetchone())",
            file.display()
        );
        let read = python().args(["-c", &script]).output().unwrap();
        assert!(read.status.success(), "{}", text(&read.stderr));
        let asked = answer(
            &archive,
            "select count(*), count(path), sum(status), round(sum(latency_ms), 3), count(q) from logs",
        );
        assert_eq!(text(&read.stdout).trim(), asked[0].replace(',', " "), "{format}");
    }
    let table = ask(&archive, &["select path, count(*) as n from logs group by path order by n desc limit 1"]);
    assert!(text(&table.stdout).starts_with(" path                │ n"), "{}", text(&table.stdout));
    let limited = ask(&archive, &["select ts from logs", "--limit-rows", "3", "--format", "csv"]);
    assert_eq!(text(&limited.stdout).lines().count(), 4);
    assert!(text(&limited.stderr).contains("stopped behind 3 rows"));
}

/// Lines are numbered and read in order: what is sealed at any moment is the first so many of them, each once.
#[test]
fn each_row_is_seen_once_while_a_daemon_writes_and_is_killed() {
    let folder = temporary();
    let (lines, archive) = (folder.path().join("lines"), folder.path().join("archive"));
    let total = 400_000;
    let line = |n: u32| {
        format!("{{\"n\":{n},\"timestamp\":\"2026-05-06T{:02}:{:02}:{:02}Z\"}}\n", n / 3600 % 24, n / 60 % 60, n % 60)
    };
    fs::write(&lines, (0..total).map(line).collect::<String>()).unwrap();
    let file = pipeline(
        folder.path(),
        &format!(
            "pipeline: p\nsources: {{ in: {{ type: file, paths: [\"{}\"] }} }}\ndecode: {{ envelope: none, schema: minimal }}\n\
             archive: {{ url: \"{}\", flush: {{ rows: 2000 }} }}\nserver: {{ listen: \"${{HEADRIG_LISTEN}}\" }}\n",
            lines.display(),
            archive.display()
        ),
    );
    let sql = "select count(*), count(distinct (attributes ->> 'n')::int), coalesce(max((attributes ->> 'n')::int), -1) + 1 from logs";
    let check = || {
        let rows = answer(&archive, sql);
        let counts: Vec<u32> = rows[0].split(',').map(|count| count.parse().unwrap()).collect();
        assert!(counts.iter().all(|count| *count == counts[0]), "{rows:?}");
        counts[0]
    };
    let mut seen = 0;
    for _ in 0..4 {
        let running = Running::start(headrig().args(["run", "--once"]).arg(&file));
        until(PATIENCE, || archive.join("_headrig/p/chains/main").exists() || running.has_ended());
        for _ in 0..2 {
            let now = check();
            assert!(now >= seen, "{now} rows after {seen}");
            seen = now;
        }
        running.signal(Signal::KILL);
        drop(running);
        seen = check();
    }
    assert_exit(&headrig().args(["run", "--once"]).arg(&file).output().unwrap(), 0);
    assert_eq!(check(), total);
}
