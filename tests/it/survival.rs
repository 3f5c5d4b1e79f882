//! Windows and alerts go on over SIGKILL: what an archive holds in the end, and what receivers are told, is what a run without
//! kills gives. And `headrig verify` finds nothing.

use crate::harness::{Running, assert_exit, duckdb, headrig, pipeline, temporary, text, until};
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

const KILLS: u64 = 8;

/// A pipeline over `input` in a folder of its own.
fn prepare(folder: &Path, name: &str, input: &Path, follow: bool) -> PathBuf {
    let folder = folder.join(name);
    fs::create_dir_all(&folder).unwrap();
    let (input, home) = (input.display(), folder.display());
    let yaml = format!(
        r#"
pipeline: p
sources: {{ in: {{ type: file, paths: ["{input}"], follow: {follow} }} }}
decode: {{ envelope: fly, schema: access }}
windows:
  - {{ name: route_10s, kind: tumbling, size: 10s, lateness: 5s, where: status is not null, group_by: [path],
      aggregate: {{ requests: count(*), errors: "count(*) filter (where status >= 500)", p95_ms: "quantile(latency_ms, 0.95)" }},
      derive: {{ error_rate: errors / requests }} }}
  - {{ name: all_1m, kind: sliding, size: 1m, every: 10s, lateness: 5s, aggregate: {{ records: count(*), paths: count_distinct(path) }} }}
alerts:
  - {{ alert: Errors, on: route_10s, when: error_rate > 0.05 and requests > 5, for: 10s, annotations: {{ summary: "{{{{ $values.error_rate }}}}" }} }}
archive: {{ url: "{home}/archive", flush: {{ every: 300ms }} }}
notify: {{ f: {{ type: file, path: "{home}/alerts.ndjson" }} }}
server: {{ listen: "${{HEADRIG_LISTEN}}" }}
"#
    );
    pipeline(&folder, &yaml)
}

fn run(file: &Path) -> std::process::Command {
    let mut command = headrig();
    command.arg("run").arg(file);
    command
}

fn entries(archive: &Path) -> usize {
    fs::read_dir(archive.join("_headrig/p/chains/main")).map_or(0, Iterator::count)
}

#[test]
fn windows_and_alerts_are_those_of_a_run_without_kills() {
    let folder = temporary();
    let all = folder.path().join("all.ndjson");
    let generate = ["generate", "--events", "40000", "--rate", "100", "--seed", "5", "--incident", "--output"];
    assert_exit(&headrig().args(generate).arg(&all).output().unwrap(), 0);
    let truth = prepare(folder.path(), "truth", &all, false);
    assert_exit(&run(&truth).arg("--once").output().unwrap(), 0);

    let grows = folder.path().join("grows.ndjson");
    let lines = fs::read(&all).unwrap();
    let file = prepare(folder.path(), "killed", &grows, true);
    let archive = file.with_file_name("archive");
    let mut writer = OpenOptions::new().create(true).append(true).open(&grows).unwrap();
    let part = lines.len() / (KILLS as usize + 1) + 1;
    for (number, part) in lines.chunks(part).enumerate().take(KILLS as usize) {
        let before = entries(&archive);
        let mut running = Running::start(&mut run(&file));
        // In pieces that end anywhere, with a kill at another moment each time.
        let (first, second) = part.split_at(part.len() / 2);
        writer.write_all(first).unwrap();
        until(Duration::from_secs(60), || entries(&archive) > before);
        writer.write_all(second).unwrap();
        std::thread::sleep(Duration::from_millis(37 * number as u64));
        running.signal(rustix::process::Signal::KILL);
        running.wait();
    }
    writer.write_all(&lines[(part * KILLS as usize).min(lines.len())..]).unwrap();
    // The same file and archive, read to the end.
    let yaml = fs::read_to_string(&file).unwrap().replace("follow: true", "follow: false");
    let last = pipeline(file.parent().unwrap(), &yaml);
    assert_exit(&run(&last).arg("--once").output().unwrap(), 0);
    let told = file.with_file_name("alerts.ndjson");
    let truth = truth.with_file_name("archive");
    let printed = duckdb("survived.py", &[&archive, &truth, &told, Path::new(&KILLS.to_string())]);
    assert!(printed.contains("alerts ["), "{printed}");

    let verified = headrig().args(["verify", "--deep"]).arg(&archive).output().unwrap();
    assert_exit(&verified, 0);
    let said = text(&verified.stdout);
    assert!(
        said.contains("40000 records") && said.ends_with("clean: every position is there exactly once\n"),
        "{said}"
    );
}

#[test]
fn verify_names_what_is_wrong() {
    let folder = temporary();
    let all = folder.path().join("all.ndjson");
    assert_exit(&headrig().args(["generate", "--events", "500", "--output"]).arg(&all).output().unwrap(), 0);
    let file = prepare(folder.path(), "one", &all, false);
    assert_exit(&run(&file).arg("--once").output().unwrap(), 0);
    let archive = file.with_file_name("archive");
    let verify = |arguments: &[&str]| headrig().arg("verify").args(arguments).arg(&archive).output().unwrap();
    assert_exit(&verify(&[]), 0);
    let date = fs::read_dir(archive.join("data")).unwrap().next().unwrap().unwrap().path();
    fs::write(date.join("stranger.parquet"), b"PAR1").unwrap();
    let found = verify(&["--format", "json"]);
    assert_exit(&found, 1);
    let report: serde_json::Value = serde_json::from_slice(&found.stdout).unwrap();
    assert_eq!(report["findings"][0]["flaw"], "orphan", "{report}");
    assert_eq!(report["pipelines"][0]["records"], 500);
    let nowhere = headrig().arg("verify").arg(folder.path()).output().unwrap();
    assert_exit(&nowhere, 1);
    let said = text(&nowhere.stderr);
    assert!(said.contains("cannot find an archive") && said.contains("hint:"), "{said}");
}

#[test]
fn check_connect_names_what_cannot_be_reached() {
    let folder = temporary();
    let file = prepare(folder.path(), "p", &folder.path().join("nothing.ndjson"), false);
    let yaml = fs::read_to_string(&file).unwrap();
    fs::write(folder.path().join("taken"), b"").unwrap();
    let taken = format!("{}/taken/below", folder.path().display());
    let check =
        |yaml: &str| headrig().args(["check", "--connect"]).arg(pipeline(folder.path(), yaml)).output().unwrap();
    let archive = format!("{}/archive", file.parent().unwrap().display());
    let alerts = format!("{}/alerts.ndjson", file.parent().unwrap().display());
    let cases = [
        (yaml.clone(), "3:", "cannot find file"),
        (yaml.replace("follow: false", "follow: true").replace(&archive, &taken), "12:", "cannot make the folder"),
        (yaml.replace("follow: false", "follow: true").replace(&alerts, &taken), "13:", "cannot open"),
    ];
    for (yaml, line, message) in cases {
        let output = check(&yaml);
        assert_exit(&output, 78);
        let said = text(&output.stderr);
        assert!(said.contains(&format!(".yaml:{line}")) && said.contains(message), "{said}");
    }
    let sound = check(&yaml.replace("follow: false", "follow: true"));
    assert_exit(&sound, 0);
    assert!(text(&sound.stderr).contains("all of it can be reached"));
    assert!(!Path::new(&archive).exists() && !Path::new(&alerts).exists(), "nothing is left behind");
}
