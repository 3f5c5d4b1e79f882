//! What users see when something is wrong outside: one clear error, the right exit code, nothing half-written.

use crate::harness::{Running, assert_exit, headrig, pipeline, temporary, text};
use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::path::Path;
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

#[test]
fn a_full_disk_leaves_a_sound_archive_that_goes_on_later() {
    let folder = temporary();
    let disk = folder.path().join("disk");
    fs::create_dir(&disk).unwrap();
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=3m", "tmpfs"]).arg(&disk).status();
    let may_mount = mounted.is_ok_and(|status| status.success());
    // Without the right to mount, /dev/full stands in for the disk: a file that no byte fits into.
    if !may_mount {
        let file = pipeline(folder.path(), "pipeline: p\nsources: { s: { type: generate, events: 10 } }\n");
        let output = headrig().args(["generate", "--events", "1000000", "--output", "/dev/full"]).output().unwrap();
        assert_exit(&output, 1);
        assert_says(&output, &["No space left"]);
        eprintln!("MISSING: a full disk needs the right to mount a tmpfs; {} was not tried", file.display());
        return;
    }
    let _unmount = Unmount(&disk);
    let archive = disk.join("archive");
    let log = folder.path().join("app.ndjson");
    let made = headrig().args(["generate", "--events", "200000", "--output"]).arg(&log).status().unwrap();
    assert!(made.success());
    let source = format!("{{ type: file, paths: [\"{}\"] }}", log.display());
    let small =
        yaml(&archive.display().to_string(), &source).replace("archive: {", "archive: { flush: { rows: 20000 },");
    let file = pipeline(folder.path(), &small);
    let output = run_once(&file);
    assert_exit(&output, 1);
    assert_says(&output, &["cannot store in the archive", "No space left", "hint:"]);
    // What is visible is whole, and none of it twice.
    let readable = "import duckdb, sys, glob\nfiles = glob.glob(sys.argv[1] + '/data/**/*.parquet', recursive=True)\n\
                    print(duckdb.sql(f\"select count(*), count(distinct ts::varchar || coalesce(request_id, message, attributes)) from read_parquet({files})\").fetchone() if files else (0, 0))";
    let seen = crate::harness::python().args(["-c", readable]).arg(&archive).output().unwrap();
    assert!(seen.status.success(), "{}", text(&seen.stderr));
    // With room again, a restart goes on from the last seal.
    assert!(Command::new("mount").args(["-o", "remount,size=200m"]).arg(&disk).status().unwrap().success());
    assert_exit(&run_once(&file), 0);
    let count = "import duckdb, sys\nprint(*duckdb.sql(f\"select count(*), count(request_id) - count(distinct request_id) from read_parquet('{sys.argv[1]}/data/**/*.parquet')\").fetchone())";
    let counted = crate::harness::python().args(["-c", count]).arg(&archive).output().unwrap();
    assert_eq!(text(&counted.stdout).trim(), "200000 0", "{}", text(&counted.stderr));
}

/// A daemon waits for room: its sources are held back, it says why, and goes on by itself.
#[test]
fn a_full_disk_is_waited_for() {
    let folder = temporary();
    let disk = folder.path().join("disk");
    fs::create_dir(&disk).unwrap();
    let mount = |options: &str| {
        Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(&disk).status().unwrap().success()
    };
    if !mount("size=3m") {
        // What is tried without a disk: `archive::patience::tests::a_file_waits_for_room`.
        eprintln!("MISSING: a full disk needs the right to mount a tmpfs; a daemon that waits for room was not tried");
        return;
    }
    let _unmount = Unmount(&disk);
    let archive = disk.join("archive");
    let log = folder.path().join("app.ndjson");
    let made = headrig().args(["generate", "--events", "200000", "--output"]).arg(&log).status().unwrap();
    assert!(made.success());
    let source = format!("{{ type: file, paths: [\"{}\"], follow: true }}", log.display());
    let small =
        yaml(&archive.display().to_string(), &source).replace("archive: {", "archive: { flush: { rows: 20000 },");
    let file = pipeline(folder.path(), &small);
    let mut running = Running::start(headrig().args(["run"]).arg(&file));
    let told = running.stderr_line(Duration::from_secs(60), |line| line.contains("takes nothing for now"));
    assert!(told.contains("No space left") && told.contains("free space on that disk"), "{told}");
    assert!(!running.has_ended());
    assert!(mount("remount,size=200m"));
    running.stderr_line(Duration::from_secs(60), |line| line.contains("done waiting"));
    let rows = || {
        let count = "import duckdb, glob, sys\nfiles = glob.glob(sys.argv[1] + '/data/**/*.parquet', recursive=True)\n\
                     print(*duckdb.sql(f\"select count(*), count(request_id) - count(distinct request_id) from read_parquet({files})\").fetchone() if files else (0, 0))";
        text(&crate::harness::python().args(["-c", count]).arg(&archive).output().unwrap().stdout)
    };
    // 200,000 rows are ten seals of 20,000.
    crate::harness::until(Duration::from_secs(120), || rows().trim() == "200000 0");
    running.signal(rustix::process::Signal::TERM);
    assert_eq!(running.wait(), Some(0), "nothing of it is an error");
    assert_exit(&headrig().args(["verify", "--deep"]).arg(&archive).output().unwrap(), 0);
}

struct Unmount<'p>(&'p Path);

impl Drop for Unmount<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0).status();
    }
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
