//! Two hours of a real stream, compared with the truth that was kept while they were made.

use crate::harness::{Running, assert_exit, duckdb, headrig, pipeline, project, temporary, text};
use headrig::config;
use headrig::record::raw::{PartitionId, Positions, RawBatch};
use headrig::record::sample::WindowRows;
use headrig::source::PartitionName;
use headrig::time::EventTime;
use headrig::topology::Flow;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The unpacked input and its truth, or `None` where somebody has said that it is missing.
#[expect(clippy::print_stderr, reason = "what was not tested must be told")]
pub fn shared() -> Option<(PathBuf, PathBuf)> {
    let data = project().join("../shared/data");
    let (packed, truth) = (data.join("fly-2h.ndjson.zst"), data.join("fly-2h.truth.json"));
    if !packed.exists() {
        assert!(
            std::env::var("HEADRIG_WITHOUT_SHARED").is_ok_and(|value| value == "1"),
            "{} is missing: put it there, or set HEADRIG_WITHOUT_SHARED=1 to go without the tests on real input",
            packed.display()
        );
        eprintln!("MISSING: real input, {} is not there", packed.display());
        return None;
    }
    let unpacked = project().join("target/fly-2h.ndjson");
    // Tests run at the same time: unpack beside and rename.
    let own = project().join(format!("target/fly-2h.{:?}", std::thread::current().id()));
    let status = Command::new("zstd").args(["-dqf", "-o"]).arg(&own).arg(&packed).status().expect("zstd is installed");
    assert!(status.success());
    fs::rename(&own, &unpacked).unwrap();
    Some((unpacked, truth))
}

fn run_once(file: &str, input: &Path, archive: &Path) -> std::process::Output {
    headrig()
        .args(["run", "--once", file])
        .env("INPUT", input)
        .env("FLY_LOG", input)
        .env("ARCHIVE", archive)
        .output()
        .unwrap()
}

#[test]
fn rows_and_windows_equal_the_truth() {
    let Some((input, truth)) = shared() else { return };
    let folder = temporary();
    let output = run_once("tests/pipelines/truth.yaml", &input, folder.path());
    assert_exit(&output, 0);
    println!("{}", duckdb("truth.py", &[folder.path(), &truth]));
    let said = text(&output.stderr);
    for count in [
        "\"lines\":54863",
        "\"rows\":54810",
        "\"dead\":53",
        "type_clash 119",
        "cut_json 46",
        "future_timestamp 50",
        "all_1m 55",
    ] {
        assert!(said.contains(count), "{count} is not in the summary:\n{said}");
    }
    // A second run over the same input and archive adds nothing.
    assert_exit(&run_once("tests/pipelines/truth.yaml", &input, folder.path()), 0);
    duckdb("truth.py", &[folder.path(), &truth]);
}

#[test]
fn alerts_fire_in_the_incidents_and_nowhere_else() {
    let Some((input, truth)) = shared() else { return };
    let folders = [temporary(), temporary(), temporary()];
    let mut outputs = Vec::new();
    for folder in &folders[..2] {
        let output = run_once("pipelines/fly.yaml", &input, folder.path());
        assert_exit(&output, 0);
        outputs.push(output.stdout);
    }
    // The third time through stdin, in pieces that end anywhere.
    let mut command = headrig();
    let yaml = fs::read_to_string(project().join("pipelines/fly.yaml")).unwrap();
    let file = "    type: file\n    paths: [\"${FLY_LOG:-fly.ndjson}\"]\n    follow: ${FLY_FOLLOW:-false}\n";
    let pipe = "    type: stdin\n";
    assert!(yaml.contains(file));
    let piped = pipeline(folders[2].path(), &yaml.replace(file, pipe));
    command.args(["run", "--once"]).arg(piped).env("ARCHIVE", folders[2].path().join("archive"));
    let mut running = Running::start(&mut command);
    let mut stdin = running.stdin();
    let bytes = fs::read(&input).unwrap();
    let (mut rest, mut size) = (bytes.as_slice(), 1);
    while !rest.is_empty() {
        let (piece, more) = rest.split_at(size.min(rest.len()));
        stdin.write_all(piece).unwrap();
        rest = more;
        size = (size * 7 + 13) % 300_007;
    }
    drop(stdin);
    assert_eq!(running.wait(), Some(0));
    let lines: Vec<String> = running.all_stdout();
    outputs.push((lines.join("\n") + "\n").into_bytes());

    assert!(!outputs[0].is_empty());
    assert_eq!(text(&outputs[0]), text(&outputs[1]), "run twice");
    assert_eq!(text(&outputs[0]), text(&outputs[2]), "cut in another way");
    let lines = folders[0].path().join("alerts.jsonl");
    fs::write(&lines, &outputs[0]).unwrap();
    println!("{}", duckdb("alerts.py", &[&lines, folders[0].path(), &truth]));
}

/// What happens between two parts of the input.
#[derive(Clone, Copy, PartialEq)]
enum Between {
    Nothing,
    Restart,
}

/// All alert lines and all window results of a pipeline over the input, cut into batches of `records`, and into `parts` of which
/// every other ends in a drain.
fn flow_over(input: &[u8], yaml: &str, records: usize, parts: usize, between: Between) -> (String, Vec<WindowRows>) {
    let name = PartitionName { source: "fly".into(), partition: "fly.ndjson".to_owned(), identity: String::new() };
    let born = || {
        let refused = |_: &str| Err(std::io::ErrorKind::NotFound.into());
        Flow::new(&mut config::load("pipeline.yaml", yaml, &|_| None, &refused).unwrap())
    };
    let mut flow = born();
    flow.open(PartitionId(0), &name);
    let arrival = EventTime::from_micros(1_800_000_000_000_000);
    let (mut alerts, mut windows) = (Vec::new(), Vec::new());
    let lines: Vec<&[u8]> = input.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).collect();
    let batches = lines.chunks(records);
    let part = batches.len().div_ceil(parts);
    for (number, lines) in batches.enumerate() {
        let parted = number > 0 && number % part == 0;
        if parted && (number / part).is_multiple_of(2) {
            windows.extend(flow.drain_windows());
        }
        if parted && between == Between::Restart {
            let state = flow.save().unwrap();
            flow = born();
            flow.restore(&state).unwrap();
            assert_eq!(flow.awaited(), std::slice::from_ref(&name));
            flow.open(PartitionId(0), &name);
        }
        let (mut bytes, mut ranges) = (Vec::new(), Vec::new());
        for line in lines {
            ranges.push(bytes.len() as u32..(bytes.len() + line.len()) as u32);
            bytes.extend_from_slice(line);
        }
        let positions = Positions::Sequence { first: 0 };
        let raw = RawBatch {
            partition: PartitionId(0),
            bytes,
            records: ranges,
            positions,
            end: 0,
            broker_time: None,
            arrival,
        };
        alerts.extend(flow.batch(&raw).alerts);
    }
    while let Some(more) = flow.finish_next() {
        alerts.extend(more);
    }
    let lines: Vec<String> = alerts.iter().map(|event| serde_json::to_string(event).unwrap()).collect();
    windows.extend(flow.drain_windows());
    (lines.join("\n"), windows)
}

#[test]
fn alerts_and_windows_do_not_depend_on_batches() {
    let Some((input, _)) = shared() else { return };
    let yaml = fs::read_to_string(project().join("pipelines/fly.yaml")).unwrap();
    let input = fs::read(input).unwrap();
    let (alerts, windows) = flow_over(&input, &yaml, 8_192, 1, Between::Nothing);
    assert_eq!(alerts.lines().count(), 4, "{alerts}");
    assert!(windows.len() > 500);
    for records in [1, 7, 1_000, 100_000] {
        let (other_alerts, other_windows) = flow_over(&input, &yaml, records, 1, Between::Nothing);
        assert_eq!(alerts, other_alerts, "batches of {records}");
        assert_same(&windows, &other_windows);
    }
}

fn assert_same(windows: &[WindowRows], others: &[WindowRows]) {
    assert_eq!(windows.len(), others.len());
    for (window, other) in windows.iter().zip(others) {
        assert_eq!((&window.window, window.start, &window.rows), (&other.window, other.start, &other.rows));
    }
}

#[test]
fn alerts_and_windows_do_not_depend_on_restarts() {
    let Some((input, _)) = shared() else { return };
    let yaml = fs::read_to_string(project().join("pipelines/fly.yaml")).unwrap();
    let input = fs::read(input).unwrap();
    for (records, parts) in [(1_000, 3), (97, 60)] {
        let (alerts, windows) = flow_over(&input, &yaml, records, parts, Between::Nothing);
        assert_eq!(alerts.lines().count(), 4, "{alerts}");
        let (other_alerts, other_windows) = flow_over(&input, &yaml, records, parts, Between::Restart);
        assert_eq!(alerts, other_alerts, "batches of {records} in {parts} parts");
        assert_same(&windows, &other_windows);
    }
}

#[test]
fn memory_stays_flat_over_a_gigabyte() {
    let Some((input, truth)) = shared() else { return };
    let folder = temporary();
    let large = folder.path().join("large.ndjson");
    {
        let bytes = fs::read(&input).unwrap();
        let mut file = fs::File::create(&large).unwrap();
        for _ in 0..30 {
            file.write_all(&bytes).unwrap();
        }
    }
    let archive = folder.path().join("archive");
    let output = Command::new("/usr/bin/time")
        .args(["-f", "peak %M kB", env!("CARGO_BIN_EXE_headrig"), "run", "--once", "tests/pipelines/truth.yaml"])
        .current_dir(project())
        .env("INPUT", &large)
        .env("ARCHIVE", &archive)
        .env("HEADRIG_LISTEN", "127.0.0.1:0")
        .output()
        .expect("GNU time is installed");
    assert_exit(&output, 0);
    let said = text(&output.stderr);
    let peak = said.lines().find_map(|line| line.strip_prefix("peak ")?.strip_suffix(" kB")?.parse::<u64>().ok());
    let peak = peak.expect("time prints the peak");
    println!("peak resident: {peak} kB over {} bytes", fs::metadata(&large).unwrap().len());
    assert!(peak < 256_000, "{peak} kB");
    println!("{}", duckdb("truth.py", &[&archive, &truth, Path::new("30")]));
}

#[test]
fn an_interrupted_run_goes_on_where_it_was_sealed() {
    let Some((input, truth)) = shared() else { return };
    let folder = temporary();
    let archive = folder.path().join("archive");
    let log = folder.path().join("app.ndjson");
    let bytes = fs::read(&input).unwrap();
    let third = bytes.len() / 3;
    fs::write(&log, &bytes[..third]).unwrap();
    let mut command = headrig();
    command.args(["run", "tests/pipelines/follow.yaml"]).env("INPUT", &log).env("ARCHIVE", &archive);
    let running = Running::start(&mut command);
    // Killed at any moment: here as soon as something is visible.
    let sealed = || fs::read_dir(archive.join("data/date=2026-05-06")).is_ok_and(|mut files| files.next().is_some());
    crate::harness::until(Duration::from_secs(60), sealed);
    running.signal(rustix::process::Signal::KILL);
    drop(running);

    let mut command = headrig();
    command.args(["run", "tests/pipelines/follow.yaml"]).env("INPUT", &log).env("ARCHIVE", &archive);
    let mut running = Running::start(&mut command);
    let mut file = fs::File::options().append(true).open(&log).unwrap();
    file.write_all(&bytes[third..]).unwrap();
    let complete = || {
        let script = format!(
            "import duckdb; n = sum(duckdb.sql(f\"select count(*) from read_parquet('{0}/{{t}}/**/*.parquet')\").fetchone()[0] for t in ('data', 'dead')); raise SystemExit(0 if n >= 54863 else 1)",
            archive.display()
        );
        crate::harness::python().args(["-c", &script]).output().unwrap().status.success()
    };
    crate::harness::until(Duration::from_secs(60), complete);
    running.signal(rustix::process::Signal::TERM);
    assert_eq!(running.wait(), Some(0));
    println!("{}", duckdb("rows.py", &[&archive, &truth]));
}
