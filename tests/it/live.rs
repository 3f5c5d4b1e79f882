//! `headrig query --live`: rows that a running daemon has read and not sealed are in the answer, each once.

use crate::harness::{Running, assert_exit, headrig, pipeline, temporary, text, until};
use rustix::process::Signal;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::net::TcpListener;
use std::path::Path;
use std::process::Output;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

fn line(n: u32) -> String {
    let (hour, minute, second) = (n / 3600 % 24, n / 60 % 60, n % 60);
    format!("{{\"n\":{n},\"timestamp\":\"2026-05-06T{hour:02}:{minute:02}:{second:02}Z\"}}\n")
}

fn append(path: &Path, numbers: std::ops::Range<u32>) {
    let mut file = OpenOptions::new().create(true).append(true).open(path).unwrap();
    file.write_all(numbers.map(line).collect::<String>().as_bytes()).unwrap();
}

fn ask(archive: &Path, arguments: &[&str]) -> Output {
    let sql = "select count(*), count(distinct (attributes ->> 'n')::int), coalesce(max((attributes ->> 'n')::int), -1) + 1 from logs";
    headrig().arg("query").arg(archive).args([sql, "--format", "csv"]).args(arguments).output().unwrap()
}

/// How many rows there are, each of which has to be there once, from the first on.
fn rows(output: &Output) -> u32 {
    assert_exit(output, 0);
    let counts = text(&output.stdout).lines().nth(1).unwrap().to_owned();
    let counts: Vec<u32> = counts.split(',').map(|count| count.parse().unwrap()).collect();
    assert!(counts.iter().all(|count| *count == counts[0]), "{counts:?}");
    counts[0]
}

#[test]
fn what_a_daemon_has_read_is_in_the_answer_once() {
    for format in ["parquet", "jsonl"] {
        let folder = temporary();
        let (lines, archive) = (folder.path().join("lines"), folder.path().join("archive"));
        append(&lines, 0..1_000);
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let file = pipeline(
            folder.path(),
            &format!(
                "pipeline: p\nsources: {{ in: {{ type: file, paths: [\"{}\"], follow: true }} }}\n\
                 decode: {{ envelope: none, schema: minimal }}\n\
                 archive: {{ url: \"{}\", format: {format}, flush: {{ every: 1h }} }}\nserver: {{ listen: \"{address}\" }}\n",
                lines.display(),
                archive.display()
            ),
        );
        let mut running =
            Running::start(headrig().arg("run").arg(&file).arg("--data-dir").arg(folder.path().join("state")));
        let live = ["--live", &address];
        // Nothing is sealed for an hour.
        until(PATIENCE, || {
            let output = ask(&archive, &live);
            output.status.success() && rows(&output) == 1_000
        });
        assert_eq!(rows(&ask(&archive, &[])), 1_000, "what was asked for is sealed now");
        append(&lines, 1_000..1_500);
        until(PATIENCE, || rows(&ask(&archive, &live)) == 1_500);
        // While more comes and others ask, too, each row is there once, and none goes again.
        let asking = |archive: &Path| (0..6).map(|_| rows(&ask(archive, &live))).collect::<Vec<u32>>();
        let seen = std::thread::scope(|scope| {
            let askers: Vec<_> = (0..2).map(|_| scope.spawn(|| asking(&archive))).collect();
            for part in 3..30 {
                append(&lines, part * 500..(part + 1) * 500);
                std::thread::yield_now();
            }
            askers.into_iter().map(|asker| asker.join().unwrap()).collect::<Vec<_>>()
        });
        assert!(seen.iter().all(|seen| seen.is_sorted()), "{seen:?}");
        until(PATIENCE, || rows(&ask(&archive, &live)) == 15_000);
        // A kill takes away nothing that an answer had.
        running.signal(Signal::KILL);
        running.wait();
        assert_eq!(rows(&ask(&archive, &[])), 15_000);
        let verified = headrig().args(["verify", "--deep"]).arg(&archive).output().unwrap();
        assert_exit(&verified, 0);
        let gone = ask(&archive, &live);
        assert_exit(&gone, 1);
        let said = text(&gone.stderr);
        assert!(said.contains(&format!("cannot ask the daemon at {address}: ")) && said.contains("hint: "), "{said}");
    }
}

#[test]
fn a_daemon_of_another_archive_is_told_apart() {
    let folder = temporary();
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let (lines, archive) = (folder.path().join("lines"), folder.path().join("archive"));
    append(&lines, 0..10);
    let yaml = |name: &str, archive: &str| {
        format!(
            "pipeline: {name}\nsources: {{ in: {{ type: file, paths: [\"{}\"] }} }}\ndecode: {{ envelope: none, schema: minimal }}\n\
             {archive}server: {{ listen: \"{address}\" }}\n",
            lines.display()
        )
    };
    let file = pipeline(folder.path(), &yaml("p", &format!("archive: {{ url: \"{}\" }}\n", archive.display())));
    assert_exit(&headrig().args(["run", "--once"]).arg(&file).output().unwrap(), 0);
    let other = folder.path().join("other.yaml");
    let elsewhere = folder.path().join("elsewhere");
    for (yaml, expected) in [
        (yaml("q", &format!("archive: {{ url: \"{}\" }}\n", elsewhere.display())), "it runs q, and this archive has p"),
        (yaml("q", ""), "cannot seal, no pipeline with an archive runs here"),
    ] {
        fs::write(&other, yaml).unwrap();
        let mut running = Running::start(headrig().arg("run").arg(&other));
        let said = || text(&ask(&archive, &["--live", &address]).stderr);
        until(PATIENCE, || said().contains(expected));
        running.signal(Signal::TERM);
        assert_eq!(running.wait(), Some(0));
    }
}
