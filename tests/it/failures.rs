//! What users see when something is wrong outside: one clear error, the right exit code, nothing half-written.

use crate::harness::{Running, SmallDisk, assert_exit, headrig, pipeline, temporary, text};
use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

fn yaml(archive: &str, source: &str) -> String {
    format!(
        "pipeline: p\nsources:\n  s: {source}\ndecode: {{ envelope: fly, schema: access }}\n\
         archive: {{ url: \"{archive}\" }}\nserver: {{ listen: \"${{HEADRIG_LISTEN}}\" }}\n"
    )
}

fn generate(events: u32) -> String {
    format!("{{ type: generate, rate: 1000000, seed: 1, events: {events} }}")
}

fn run_once(file: &Path) -> Output {
    headrig().args(["run", "--once"]).arg(file).output().unwrap()
}

#[track_caller]
fn assert_says(output: &Output, parts: &[&str]) {
    let said = text(&output.stderr);
    for part in parts {
        assert!(said.contains(part), "{part:?} is not in:\n{said}");
    }
    assert!(!said.contains("panicked"), "{said}");
}

/// Files under `data/` of an archive.
fn visible(archive: &Path) -> Vec<String> {
    glob::glob(&format!("{}/data/**/*", archive.display()))
        .unwrap()
        .map(|path| path.unwrap())
        .filter(|path| path.is_file())
        .map(|path| path.display().to_string())
        .collect()
}

#[test]
fn a_missing_file() {
    let folder = temporary();
    let missing = folder.path().join("nosuch.log");
    let file = pipeline(
        folder.path(),
        &yaml(
            &folder.path().join("a").display().to_string(),
            &format!("{{ type: file, paths: [\"{}\"] }}", missing.display()),
        ),
    );
    let output = run_once(&file);
    assert_exit(&output, 1);
    assert_says(&output, &["cannot find", "nosuch.log", "hint:"]);
}

#[test]
fn a_missing_pipeline_file() {
    let output = headrig().args(["run", "nosuch.yaml"]).output().unwrap();
    assert_exit(&output, 1);
    assert_says(&output, &["cannot read nosuch.yaml"]);
}

#[test]
fn a_folder_that_cannot_be_made() {
    let folder = temporary();
    fs::write(folder.path().join("file"), "x").unwrap();
    let archive = folder.path().join("file/archive");
    let output = run_once(&pipeline(folder.path(), &yaml(&archive.display().to_string(), &generate(10))));
    assert_exit(&output, 1);
    assert_says(&output, &["cannot make the folder", "/file", "a file stands where a folder is needed"]);
}

#[test]
fn an_unwritable_folder() {
    // Root may write anywhere but into /proc.
    let folder = temporary();
    let output = run_once(&pipeline(folder.path(), &yaml("/proc/headrig", &generate(10))));
    assert_exit(&output, 1);
    assert_says(&output, &["cannot", "/proc/headrig"]);
}

#[test]
fn a_port_in_use() {
    let folder = temporary();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let file = pipeline(folder.path(), &yaml(&folder.path().join("a").display().to_string(), &generate(10)));
    let output = headrig().args(["run", "--once"]).arg(&file).env("HEADRIG_LISTEN", &address).output().unwrap();
    assert_exit(&output, 1);
    assert_says(&output, &["cannot", &address, "in use", "hint:", "listen"]);
}

#[test]
fn a_second_daemon_on_the_same_archive() {
    let folder = temporary();
    let archive = folder.path().join("a");
    let endless = yaml(&archive.display().to_string(), "{ type: generate, rate: 100, seed: 1 }");
    let file = pipeline(folder.path(), &endless.replace("archive: {", "archive: { flush: { every: 200ms },"));
    let first = Running::start(headrig().args(["run"]).arg(&file));
    crate::harness::until(Duration::from_secs(30), || !visible(&archive).is_empty());
    let output = run_once(&file);
    assert_exit(&output, 1);
    assert_says(&output, &["cannot open the archive", "hint:"]);
    drop(first);
}

#[test]
fn a_failed_archive_ends_a_daemon_whose_input_is_silent() {
    let folder = temporary();
    let (archive, input) = (folder.path().join("a"), folder.path().join("in.log"));
    fs::write(&input, "{\"message\":\"one\"}\n").unwrap();
    let source = format!("{{ type: file, paths: [\"{}\"], follow: true }}", input.display());
    let following = yaml(&archive.display().to_string(), &source);
    let file = pipeline(folder.path(), &following.replace("archive: {", "archive: { flush: { every: 200ms },"));
    let mut running = Running::start(headrig().args(["run"]).arg(&file));
    crate::harness::until(Duration::from_secs(30), || !visible(&archive).is_empty());
    fs::remove_dir_all(archive.join("_headrig/p/staging/main")).unwrap();
    let mut more = fs::OpenOptions::new().append(true).open(&input).unwrap();
    more.write_all(b"{\"message\":\"two\"}\n").unwrap();
    crate::harness::until(Duration::from_secs(30), || running.has_ended());
    assert_eq!(running.wait(), Some(1), "it ends by itself, though no line comes any more");
}

/// A pipeline that stores 200,000 lines on `disk`, in seals of 20,000.
fn on_disk(folder: &Path, disk: &SmallDisk, follow: bool) -> (PathBuf, PathBuf) {
    let archive = disk.path().join("archive");
    let log = folder.join("app.ndjson");
    let made = headrig().args(["generate", "--events", "200000", "--output"]).arg(&log).status().unwrap();
    assert!(made.success());
    let source = format!("{{ type: file, paths: [\"{}\"], follow: {follow} }}", log.display());
    let small =
        yaml(&archive.display().to_string(), &source).replace("archive: {", "archive: { flush: { rows: 20000 },");
    (pipeline(folder, &small), archive)
}

/// Rows that can be seen, and how many of them are there more than once.
fn rows(archive: &Path) -> String {
    let count = "import duckdb, glob, sys\nfiles = glob.glob(sys.argv[1] + '/data/**/*.parquet', recursive=True)\n\
                 print(*duckdb.sql(f\"select count(*), count(request_id) - count(distinct request_id) from read_parquet({files})\").fetchone() if files else (0, 0))";
    let counted = crate::harness::python().args(["-c", count]).arg(archive).output().unwrap();
    assert!(counted.status.success(), "{}", text(&counted.stderr));
    text(&counted.stdout).trim().to_owned()
}

#[test]
fn a_full_disk_leaves_a_sound_archive_that_goes_on_later() {
    let folder = temporary();
    let Some(disk) = SmallDisk::mount("3m", "an archive on one") else {
        // /dev/full stands in for the disk: a file that no byte fits into.
        let output = headrig().args(["generate", "--events", "1000000", "--output", "/dev/full"]).output().unwrap();
        assert_exit(&output, 1);
        assert_says(&output, &["No space left"]);
        return;
    };
    let (file, archive) = on_disk(folder.path(), &disk, false);
    let output = run_once(&file);
    assert_exit(&output, 1);
    assert_says(&output, &["cannot store in the archive", "No space left", "hint:"]);
    // What is visible is whole, and none of it twice.
    assert!(rows(&archive).ends_with(" 0"));
    // With room again, a restart goes on from the last seal.
    disk.resize("200m");
    assert_exit(&run_once(&file), 0);
    assert_eq!(rows(&archive), "200000 0");
}

/// A daemon waits for room: its sources are held back, it says why, and goes on by itself.
#[test]
fn a_full_disk_is_waited_for() {
    let folder = temporary();
    // What is tried without a disk: `archive::patience::tests::a_file_waits_for_room`.
    let Some(disk) = SmallDisk::mount("3m", "a daemon that waits for room") else { return };
    let (file, archive) = on_disk(folder.path(), &disk, true);
    let mut running = Running::start(headrig().args(["run"]).arg(&file));
    let told = running.stderr_line(Duration::from_secs(60), |line| line.contains("takes nothing for now"));
    assert!(told.contains("No space left") && told.contains("free space on that disk"), "{told}");
    assert!(!running.has_ended());
    disk.resize("200m");
    running.stderr_line(Duration::from_secs(60), |line| line.contains("done waiting"));
    // 200,000 rows are ten seals of 20,000.
    crate::harness::until(Duration::from_secs(120), || rows(&archive) == "200000 0");
    running.signal(rustix::process::Signal::TERM);
    assert_eq!(running.wait(), Some(0), "nothing of it is an error");
    assert_exit(&headrig().args(["verify", "--deep"]).arg(&archive).output().unwrap(), 0);
}

#[test]
fn bad_configuration_exits_with_78_before_anything_is_touched() {
    let folder = temporary();
    let archive = folder.path().join("a");
    let yaml = yaml(&archive.display().to_string(), &generate(10))
        + "transform: [{ mask: { column: q, with: regex, pattern: \"a(b\" } }]\n";
    let file = pipeline(folder.path(), &yaml);
    for command in [&["run"][..], &["run", "--once"], &["check"]] {
        let output = headrig().args(command).arg(&file).output().unwrap();
        assert_exit(&output, 78);
        assert_says(&output, &["pipeline.yaml:7:", "cannot", "hint:"]);
    }
    assert!(!archive.exists());
}

#[test]
fn a_broken_pipe_ends_quietly() {
    let binary = env!("CARGO_BIN_EXE_headrig");
    let script = format!("{binary} generate --events 1000000 | head -n 1 | wc -l; exit \"${{PIPESTATUS[0]}}\"");
    let output = Command::new("bash").args(["-c", &script]).output().unwrap();
    assert_exit(&output, 0);
    assert_eq!(text(&output.stdout).trim(), "1");
    assert_eq!(text(&output.stderr), "");
}
