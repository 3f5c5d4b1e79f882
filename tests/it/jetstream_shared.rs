//! Daemons that share a JetStream stream: each record is stored once whoever comes, goes and is killed, and windows are those
//! of one daemon.

use crate::harness::{Running, assert_exit, headrig, pipeline, python, temporary, text, until};
use crate::served::{Nats, PATIENCE, assert_same, end, generate, pauses, prepare, records, run, truth};
use rustix::process::Signal;
use std::path::{Path, PathBuf};
use std::time::Duration;

const PARTITIONS: u32 = 4;

fn source(server: &Nats, durable: &str) -> String {
    let subjects: Vec<String> = (0..PARTITIONS).map(|partition| format!("logs.p{partition}.>")).collect();
    let (url, subjects) = (server.url(), subjects.join(", "));
    format!("{{ type: jetstream, url: \"{url}\", stream: LOGS, durable: {durable}, subjects: [{subjects}] }}")
}

/// Publishes lines of one seed to each partition.
fn publish(server: &Nats, events: u32) -> Vec<(u32, u32)> {
    let parts: Vec<(u32, u32)> = (1..=PARTITIONS).map(|seed| (events, seed)).collect();
    std::thread::scope(|scope| {
        for (events, seed) in &parts {
            let subject = format!("jetstream://127.0.0.1:{}/logs.p{}.fra.1", server.port, seed - 1);
            scope.spawn(move || generate(*events, *seed, &subject));
        }
    });
    parts
}

fn reads(line: &str) -> bool {
    line.contains("reading a partition of a JetStream stream")
}

#[test]
fn a_daemon_that_comes_gets_its_share_and_one_that_goes_leaves_it() {
    let folder = temporary();
    let server = Nats::start(folder.path(), &[]);
    server.make_stream();
    let file = prepare(folder.path(), "js", &source(&server, "headrig"), "150ms");
    let archive = file.with_file_name("archive");
    let first = Running::start(&mut run(&file));
    (0..PARTITIONS).for_each(|_| drop(first.stderr_line(PATIENCE, reads)));
    let parts = publish(&server, 3_000);
    until(PATIENCE, || records(&archive) == 12_000);
    let second = Running::start(&mut run(&file));
    (0..PARTITIONS / 2).for_each(|_| drop(second.stderr_line(PATIENCE, reads)));
    publish(&server, 3_000);
    until(PATIENCE, || records(&archive) == 24_000);
    // It says that it goes, so nobody waits for it.
    end(first);
    (0..PARTITIONS / 2).for_each(|_| drop(second.stderr_line(PATIENCE, reads)));
    publish(&server, 1_000);
    until(PATIENCE, || records(&archive) == 28_000);
    end(second);
    let all: Vec<(u32, u32)> = parts;
    assert_eq!(all.len(), PARTITIONS as usize);
    assert_exit(&headrig().args(["verify", "--deep"]).arg(&archive).output().unwrap(), 0);
}

#[test]
fn daemons_that_are_killed_again_and_again_lose_and_double_nothing() {
    let folder = temporary();
    let server = Nats::start(folder.path(), &[]);
    server.make_stream();
    let file = prepare(folder.path(), "js", &source(&server, "headrig"), "150ms");
    let archive = file.with_file_name("archive");
    let size = |name, usual| std::env::var(name).map_or(usual, |number| number.parse().expect("a number"));
    let (events, kills) = (size("HEADRIG_STREAMED", 60_000) / PARTITIONS, size("HEADRIG_KILLS", 8));
    std::thread::scope(|scope| {
        let publishing = scope.spawn(|| publish(&server, events));
        let mut daemons = [0, 1].map(|_| Running::start(&mut run(&file)));
        for (turn, pause) in pauses(u64::from(kills)).enumerate() {
            // Longer than it takes to take partitions, most times.
            std::thread::sleep(pause * 5);
            daemons[turn % 2].signal(Signal::KILL);
            daemons[turn % 2].wait();
            daemons[turn % 2] = Running::start(&mut run(&file));
        }
        let parts = publishing.join().unwrap();
        until(Duration::from_secs(120), || records(&archive) >= events * PARTITIONS);
        daemons.into_iter().for_each(end);
        assert_same(&archive, &truth(folder.path(), &parts), events * PARTITIONS);
    });
}

#[test]
fn a_daemon_that_was_held_while_another_took_over_doubles_nothing() {
    let folder = temporary();
    let server = Nats::start(folder.path(), &[]);
    server.make_stream();
    let file = prepare(folder.path(), "js", &source(&server, "headrig"), "1h");
    let archive = file.with_file_name("archive");
    let mut held = Running::start(&mut run(&file));
    (0..PARTITIONS).for_each(|_| drop(held.stderr_line(PATIENCE, reads)));
    let parts = publish(&server, 2_000);
    // It has read all and sealed nothing.
    let pending =
        || server.ask("$JS.API.CONSUMER.LIST.LOGS", "").matches("\"num_pending\":0").count() == PARTITIONS as usize;
    until(PATIENCE, pending);
    held.signal(Signal::STOP);
    prepare(folder.path(), "js", &source(&server, "headrig"), "150ms");
    let other = Running::start(&mut run(&file));
    (0..PARTITIONS).for_each(|_| drop(other.stderr_line(PATIENCE, reads)));
    until(PATIENCE, || records(&archive) == 8_000);
    held.signal(Signal::CONT);
    let said = held.stderr_line(PATIENCE, |line| line.contains("has claimed"));
    assert!(said.contains("cannot seal"), "{said}");
    assert_eq!(held.wait(), Some(1));
    end(other);
    assert_same(&archive, &truth(folder.path(), &parts), 8_000);
}

/// A pipeline with windows and alerts.
fn windowed(folder: &Path, name: &str, source: &str, more: &str) -> PathBuf {
    let folder = folder.join(name);
    std::fs::create_dir_all(&folder).unwrap();
    let archive = folder.join("archive");
    pipeline(
        &folder,
        &format!(
            "pipeline: p\nsources:\n  s: {source}\ndecode: {{ envelope: fly, schema: access }}\n\
             windows:\n  - {{ name: route_5s, kind: tumbling, size: 5s, lateness: 10s, group_by: [path], \
             aggregate: {{ requests: count(*), errors: \"count(*) filter (where status >= 500)\", p95_ms: \"quantile(latency_ms, 0.95)\" }} }}\n\
             alerts:\n  - {{ alert: Busy, on: route_5s, when: requests > 100 }}\n\
             archive: {{ url: \"{}\", flush: {{ every: 300ms }} }}\nserver: {{ listen: \"${{HEADRIG_LISTEN}}\" }}\n{more}",
            archive.display()
        ),
    )
}

/// Rows of windows and alert events, sorted.
fn results(archive: &Path) -> String {
    let script = "import duckdb, sys\nroot = sys.argv[1]\n\
        print(duckdb.sql(f\"select name, window_start::varchar, window_end::varchar, path, requests, errors, p95_ms, late, provisional from read_parquet('{root}/windows/**/*.parquet', hive_partitioning=true) order by all\").fetchall())\n\
        print(duckdb.sql(f\"select id, status, labels, starts_at::varchar, ends_at::varchar from read_parquet('{root}/alerts/**/*.parquet') order by all\").fetchall())";
    let output = python().args(["-c", script]).arg(archive).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

#[test]
fn windows_of_all_daemons_are_those_of_one() {
    let folder = temporary();
    let server = Nats::start(folder.path(), &[]);
    server.make_stream();
    let shared = windowed(folder.path(), "shared", &source(&server, "shared"), "repartition: { partitions: 3 }\n");
    let alone = windowed(folder.path(), "alone", &source(&server, "alone"), "");
    let checked = headrig().args(["check", "--connect"]).arg(&shared).output().unwrap();
    assert_exit(&checked, 0);
    let mut daemons = [0, 1].map(|_| Running::start(&mut run(&shared)));
    publish(&server, 20_000);
    for (turn, pause) in pauses(6).enumerate() {
        std::thread::sleep(pause * 4);
        daemons[turn % 2].signal(Signal::KILL);
        daemons[turn % 2].wait();
        daemons[turn % 2] = Running::start(&mut run(&shared));
    }
    let archive = shared.with_file_name("archive");
    until(Duration::from_secs(120), || records(&archive) == 80_000);
    daemons.into_iter().for_each(end);
    // Closes what is open.
    assert_exit(&run(&shared).arg("--once").output().unwrap(), 0);
    assert_exit(&run(&alone).arg("--once").output().unwrap(), 0);
    let expected = results(&alone.with_file_name("archive"));
    assert!(expected.lines().all(|line| line.len() > 1_000), "there are windows and alerts: {expected}");
    assert_eq!(results(&archive), expected);
    for archive in [archive, alone.with_file_name("archive")] {
        assert_exit(&headrig().args(["verify", "--deep"]).arg(&archive).output().unwrap(), 0);
    }
    // The number of partitions can't be changed.
    let more = windowed(folder.path(), "shared", &source(&server, "shared"), "repartition: { partitions: 4 }\n");
    let output = headrig().args(["check", "--connect"]).arg(&more).output().unwrap();
    assert_exit(&output, 78);
    assert!(
        text(&output.stderr).contains("it has 3 subjects, and windows are shared through 4"),
        "{}",
        text(&output.stderr)
    );
}
