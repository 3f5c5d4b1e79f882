//! An archive that is kept in shape while headrig is killed and while others read it: every row once, whenever somebody looks.
//! `HEADRIG_KILLS=200` kills more often than the few times that are enough for every day.

use crate::bucket::Minio;
use crate::harness::{Running, assert_exit, headrig, pipeline, project, python, temporary, text, until};
use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(120);
pub const LINES: u64 = 400;

pub fn kills(usual: u64) -> u64 {
    std::env::var("HEADRIG_KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(usual)
}

/// A pipeline that seals often and keeps its archive in shape all the time; windows are old and expire.
fn prepare(folder: &Path, url: &str, follow: bool) -> PathBuf {
    kept(folder, url, follow, "audit: true\n  retain: { windows: { keep: 1d } }")
}

/// A pipeline that seals often and keeps its archive in shape all the time, with `more` of its settings.
pub fn kept(folder: &Path, url: &str, follow: bool, more: &str) -> PathBuf {
    let input = folder.join("in.ndjson");
    pipeline(
        folder,
        &format!(
            "pipeline: p\nsources: {{ in: {{ type: file, paths: [\"{}\"], follow: {follow} }} }}\n\
             decode: {{ envelope: none, format: json, schema: access }}\n\
             windows:\n  - {{ name: w, kind: tumbling, size: 10s, group_by: [path], aggregate: {{ n: count(*) }} }}\n\
             archive:\n  url: \"{url}\"\n  {more}\n  flush: {{ every: 300ms }}\n\
             \x20 compact: {{ files: 2, size: 1MB, after: 1s, every: 1s, grace: 1s }}\nserver: {{ listen: \"${{HEADRIG_LISTEN}}\" }}\n",
            input.display()
        ),
    )
}

/// Appends lines, each with an id of its own, and one that is none.
pub fn append(folder: &Path, from: u64) {
    let mut lines = String::from("no JSON\n");
    for number in from..from + LINES {
        let (minute, second) = ((number / 60) % 60, number % 60);
        writeln!(
            lines,
            r#"{{"timestamp":"2026-05-06T{:02}:{minute:02}:{second:02}Z","event":"x","path":"/{}","request_id":"r{number}"}}"#,
            (number / 3_600) % 24,
            number % 7
        )
        .unwrap();
    }
    let file = OpenOptions::new().create(true).append(true).open(folder.join("in.ndjson"));
    file.unwrap().write_all(lines.as_bytes()).unwrap();
}

/// Runs, kills at another moment each time, and reads on to the end. `changes` counts what upkeep has done so far.
fn kill_often(folder: &Path, url: &str, kills: u64, command: impl Fn() -> Command, changes: impl Fn() -> u64) -> u64 {
    let follow = prepare(folder, url, true);
    let mut written = 0;
    for number in 0..kills {
        let before = changes();
        append(folder, written);
        written += LINES;
        let mut running = Running::start(command().args(["run", "--data-dir"]).arg(folder.join("data")).arg(&follow));
        until(PATIENCE, || changes() > before);
        append(folder, written);
        written += LINES;
        std::thread::sleep(Duration::from_millis(300 + 97 * number % 2_000));
        running.signal(rustix::process::Signal::KILL);
        running.wait();
    }
    let last = prepare(folder, url, false);
    let ended = command().args(["run", "--once", "--data-dir"]).arg(folder.join("data")).arg(last).output().unwrap();
    assert_exit(&ended, 0);
    let compacted = command().args(["compact", "--after", "0", "--grace", "0", url]).output().unwrap();
    assert_exit(&compacted, 0);
    written
}

fn assert_sound(command: &mut Command, url: &str, lines: u64, dead: u64) {
    let verified = command.args(["verify", "--deep", "--audit", "--format", "json", url]).output().unwrap();
    assert_exit(&verified, 0);
    let report: serde_json::Value = serde_json::from_slice(&verified.stdout).unwrap();
    let pipeline = &report["pipelines"][0];
    assert_eq!((&pipeline["rows"]["data"], &pipeline["rows"]["dead"]), (&lines.into(), &dead.into()), "{report}");
    assert!(pipeline["expired"]["windows"].as_u64().unwrap() > 0, "{report}");
    assert!(pipeline["replaced"].as_u64().unwrap() > 0, "{report}");
}

#[test]
fn a_folder_is_right_at_every_moment_while_it_is_kept_in_shape_and_headrig_killed() {
    let folder = temporary();
    let (archive, stop) = (folder.path().join("archive"), folder.path().join("stop"));
    let url = archive.display().to_string();
    // Something has to be there for a glob to find.
    append(folder.path(), 1_000_000);
    let once = prepare(folder.path(), &url, false);
    assert_exit(&headrig().args(["run", "--once"]).arg(once).output().unwrap(), 0);
    let script = project().join("tests/duckdb/polled.py");
    let poller = python().arg(script).arg(&archive).arg(&stop).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let kills = kills(4);
    let home = archive.join("_headrig/p");
    let lines = kill_often(folder.path(), &url, kills, headrig, || changes(&home)) + LINES;
    fs::write(&stop, b"").unwrap();
    let polled = poller.unwrap().wait_with_output().unwrap();
    assert_exit(&polled, 0);
    let said = text(&polled.stdout);
    assert!(said.starts_with("polls ") && !said.starts_with("polls 0 "), "{said}");
    assert_sound(&mut headrig(), &url, lines, 2 * kills + 1);
    assert!(fs::read_dir(archive.join("data/date=2026-05-06")).unwrap().count() <= 2, "all is one file, or nearly");
    assert!(!archive.join("_headrig/p/replaced").is_dir() || walk(&archive.join("_headrig/p/replaced")) == 0);
}

/// How many changes upkeep has put, those that are folded away included.
pub fn changes(home: &Path) -> u64 {
    let count = |name: &str| fs::read_dir(home.join(name)).map_or(0, Iterator::count) as u64;
    count("changes") + 64 * count("catalogues")
}

fn walk(folder: &Path) -> usize {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| if path.is_dir() { walk(&path) } else { 1 }).sum()
}

/// Asks an archive in a bucket again and again while `work` is done: no row is seen twice, and none that was seen is missing later.
/// Returns how often it was answered, how often a file was gone before it was read, and the rows of the last answer.
fn polled(minio: &Minio, url: &str, work: impl FnOnce()) -> [u64; 3] {
    let stop = AtomicBool::new(false);
    let ask = || {
        let sql = "select count(*), count(distinct request_id) from logs";
        minio.headrig().args(["query", url, sql, "--format", "csv"]).output().unwrap()
    };
    let poll = || {
        let [mut polls, mut again, mut seen] = [0; 3];
        while !stop.load(Ordering::Relaxed) {
            let asked = ask();
            let (said, told) = (text(&asked.stdout), text(&asked.stderr));
            if !asked.status.success() {
                // A file was replaced for longer than the second's grace: an error, never a wrong answer.
                let known = [
                    "cannot find an archive",
                    "cannot find table",
                    "not found",
                    "NoSuchKey",
                    "is missing",
                    "error sending request",
                ];
                assert!(known.iter().any(|known| told.contains(known)), "{told}");
                again += 1;
                continue;
            }
            let counts: Vec<u64> =
                said.lines().nth(1).unwrap().split(',').map(|count| count.parse().unwrap()).collect();
            assert_eq!(counts[0], counts[1], "rows and different ones, at poll {polls}");
            assert!(counts[0] >= seen, "{} rows, {seen} were seen before, at poll {polls}", counts[0]);
            (polls, seen) = (polls + 1, counts[0]);
        }
        [polls, again, seen]
    };
    std::thread::scope(|scope| {
        let poller = scope.spawn(poll);
        // It has to be told to stop, also when the work fails.
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        stop.store(true, Ordering::Relaxed);
        let polled = poller.join().unwrap();
        done.unwrap();
        polled
    })
}

#[test]
fn a_bucket_keeps_each_row_once_while_it_is_kept_in_shape_and_headrig_killed() {
    let folder = temporary();
    let Some(minio) = Minio::start(folder.path()) else { return };
    minio.make_bucket("logs");
    let kills = kills(2);
    // MinIO keeps an object as a folder of its name.
    let home = minio.folder.join("logs/app/_headrig/p");
    let url = "s3://logs/app";
    // Something has to be there to be asked for.
    append(folder.path(), 1_000_000);
    let once = prepare(folder.path(), url, false);
    let data = folder.path().join("data");
    assert_exit(&minio.headrig().args(["run", "--once", "--data-dir"]).arg(data).arg(once).output().unwrap(), 0);
    let mut lines = LINES;
    let [polls, again, rows] = polled(&minio, url, || {
        lines += kill_often(folder.path(), url, kills, || minio.headrig(), || changes(&home));
    });
    println!(
        "{kills} kills, {} changes, {lines} lines, polls {polls}, asked again {again}, {rows} rows seen",
        changes(&home)
    );
    assert!(polls > 0 && rows > LINES && rows <= lines);
    assert_sound(&mut minio.headrig(), url, lines, 2 * kills + 1);
}
