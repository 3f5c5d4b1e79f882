//! Delta logs beside an archive, as delta-rs reads them: every row once in every snapshot, while headrig is killed.

use crate::bucket::Minio;
use crate::harness::{Running, assert_exit, duckdb, headrig, project, python, temporary, text, until};
use crate::upkeep::{LINES, append, changes, kept, kills};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(120);

/// A pipeline that seals often and keeps its archive in shape all the time.
fn prepare(folder: &Path, url: &str, follow: bool) -> PathBuf {
    kept(folder, url, follow, "table: delta")
}

/// Runs, kills at another moment each time, reads on to the end and compacts. Returns the lines that are there then. `archive` is where its
/// files lie.
fn kill_often(folder: &Path, url: &str, kills: u64, command: impl Fn() -> Command, archive: &Path) -> u64 {
    let (log, home) = (archive.join("data/_delta_log"), archive.join("_headrig/p"));
    let follow = prepare(folder, url, true);
    let mut written = 0;
    let mut more = || {
        append(folder, written);
        written += LINES;
    };
    for number in 0..kills {
        let before = (commits(&log), changes(&home));
        more();
        let mut running = Running::start(command().args(["run", "--data-dir"]).arg(folder.join("data")).arg(&follow));
        until(PATIENCE, || commits(&log) > before.0);
        more();
        until(PATIENCE, || changes(&home) > before.1);
        more();
        std::thread::sleep(Duration::from_millis(300 + 97 * number % 2_000));
        running.signal(rustix::process::Signal::KILL);
        running.wait();
    }
    run_once(folder, url, &command);
    let compacted = command().args(["compact", "--after", "0", "--grace", "0", url]).output().unwrap();
    assert_exit(&compacted, 0);
    assert_exit(&command().args(["verify", "--deep", url]).output().unwrap(), 0);
    written
}

fn run_once(folder: &Path, url: &str, command: &impl Fn() -> Command) {
    let file = prepare(folder, url, false);
    let ended = command().args(["run", "--once", "--data-dir"]).arg(folder.join("data")).arg(file).output().unwrap();
    assert_exit(&ended, 0);
}

/// What delta-rs counts, with the environment that `headrig` has.
fn count(url: &str, headrig: &Command) -> String {
    let mut command = python();
    command.envs(headrig.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let script = project().join("tests/duckdb/delta.py");
    let counted = command.arg(script).args(["count", url, "windows/name=w"]).output().unwrap();
    assert_exit(&counted, 0);
    text(&counted.stdout).trim().to_owned()
}

fn commits(log: &Path) -> usize {
    fs::read_dir(log).map_or(0, |names| names.filter(|name| is_commit(&name.as_ref().unwrap().path())).count())
}

fn is_commit(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "json")
}

#[test]
fn a_delta_reader_sees_each_row_once_while_files_are_compacted_and_headrig_killed() {
    let folder = temporary();
    let (archive, stop) = (folder.path().join("archive"), folder.path().join("stop"));
    let url = archive.display().to_string();
    let poller = python()
        .arg(project().join("tests/duckdb/delta.py"))
        .arg("poll")
        .arg(&archive)
        .arg(&stop)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let kills = kills(4);
    let lines = kill_often(folder.path(), &url, kills, headrig, &archive);
    fs::write(&stop, b"").unwrap();
    let polled = poller.unwrap().wait_with_output().unwrap();
    assert_exit(&polled, 0);
    let said = text(&polled.stdout);
    assert!(said.starts_with("polls ") && !said.starts_with("polls 0 "), "{said}");
    let counted = count(&url, &headrig());
    assert!(counted.starts_with(&format!("rows {lines} different {lines} dead {} windows ", 3 * kills)), "{counted}");
    // A glob counts the same: nothing but files of rows has its ending.
    let globbed = duckdb("delta_glob.py", &[&archive]);
    assert_eq!(globbed.trim(), counted);
    // A log that is lost is made anew, with one commit.
    let log = archive.join("data/_delta_log");
    assert!(commits(&log) > 2 * kills as usize, "{}", commits(&log));
    fs::remove_dir_all(&log).unwrap();
    run_once(folder.path(), &url, &headrig);
    assert_eq!((commits(&log), count(&url, &headrig())), (1, counted));
    assert_exit(&headrig().args(["verify", &url]).output().unwrap(), 0);
    // One that somebody has taken a commit from is named.
    fs::remove_file(log.join(format!("{:020}.json", 0))).unwrap();
    fs::write(log.join(format!("{:020}.json", 1)), b"{}").unwrap();
    let verified = headrig().args(["verify", &url]).output().unwrap();
    assert_exit(&verified, 1);
    assert!(text(&verified.stdout).contains("it has no version 0"), "{}", text(&verified.stdout));
}

#[test]
fn a_delta_reader_of_a_bucket_counts_each_row_once() {
    let folder = temporary();
    let Some(minio) = Minio::start(folder.path()) else { return };
    minio.make_bucket("logs");
    let kills = kills(2);
    // MinIO keeps an object as a folder of its name.
    let archive = minio.folder.join("logs/app");
    let lines = kill_often(folder.path(), "s3://logs/app", kills, || minio.headrig(), &archive);
    let counted = count("s3://logs/app", &minio.headrig());
    assert!(counted.starts_with(&format!("rows {lines} different {lines} dead {} windows ", 3 * kills)), "{counted}");
}
