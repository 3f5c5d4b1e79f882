//! `headrig test` over the project's own scripts, and `headrig backtest` over what live runs have stored.

use crate::harness::{assert_exit, headrig, project, temporary, text};
use crate::real_input::shared;
use std::fs;
use std::path::{Path, PathBuf};

#[test]
fn every_script_comes_out_as_expected() {
    let output = headrig().args(["test", "tests/scripts"]).env_remove("UPDATE").output().unwrap();
    assert_exit(&output, 0);
    let said = text(&output.stdout);
    let played = said.lines().filter(|line| line.starts_with("ok ")).count();
    assert!(played >= 20, "only {played} scripts were played:\n{said}");
    assert!(said.contains(", 0 scripts failed"), "{said}");
}

const PIPELINE: &str = "pipeline: p\nsources: { in: { type: stdin } }\ndecode: { envelope: none, format: json, schema: access }\n\
                        windows: [ { name: w, kind: tumbling, size: 1m, lateness: 0s, group_by: [path], aggregate: { n: count(*) } } ]\n";

#[test]
fn what_is_not_met_is_shown_and_written_on_request() {
    let folder = temporary();
    fs::create_dir(folder.path().join("below")).unwrap();
    fs::write(folder.path().join("p.yaml"), PIPELINE).unwrap();
    let script = folder.path().join("below/a.test");
    let wrong = "pipeline ../p.yaml\n\nload\n    @0s path=/a every 10s for 2m\nexpect windows w\n    0s..1m path=/a n=7\n    0s..1m path=/b n=1\n\n\
                 # why\nexpect late 3\nexpect window w 0s..1m path=/a n=5\n";
    fs::write(&script, wrong).unwrap();
    let test = |update: &str| headrig().arg("test").arg(folder.path()).env("UPDATE", update).output().unwrap();
    let output = test("");
    assert_exit(&output, 1);
    let said = text(&output.stdout);
    for line in [
        "below/a.test:5: cannot find what was expected: windows w\n    - 0s..1m path=/a n=7\n    - 0s..1m path=/b n=1\n    + 0s..1m path=/a n=6\n",
        "below/a.test:10: cannot find what was expected: late 3\n    - late 3\n    + late 0\n",
        "    - window w 0s..1m path=/a n=5\n    + window w 0s..1m path=/a n=6\n",
    ] {
        assert!(said.contains(line), "{line}\nis not in:\n{said}");
    }
    assert_eq!(fs::read_to_string(&script).unwrap(), wrong, "nothing is written without being asked");
    assert_exit(&test("1"), 0);
    let right = "pipeline ../p.yaml\n\nload\n    @0s path=/a every 10s for 2m\nexpect windows w\n    0s..1m path=/a n=6\n\n\
                 # why\nexpect late 0\nexpect window w 0s..1m path=/a n=6\n";
    assert_eq!(fs::read_to_string(&script).unwrap(), right);
    assert_exit(&test(""), 0);
}

#[test]
fn mistakes_are_told_with_their_place() {
    let folder = temporary();
    fs::write(folder.path().join("p.yaml"), PIPELINE.replace("count(*)", "count(*) filter (where statsu > 3)"))
        .unwrap();
    for (script, told) in [
        ("laod\n", "a.test:1: cannot read \"laod\", did you mean `load`?"),
        ("advance 5m\n", "a.test:1: cannot play a script without a pipeline"),
        ("pipeline p.yaml\nadvance 5m\n", "did you mean `status`?"),
        ("pipeline q.yaml\n", "a.test:1: cannot read q.yaml"),
    ] {
        let path = folder.path().join("a.test");
        fs::write(&path, script).unwrap();
        let output = headrig().arg("test").arg(&path).output().unwrap();
        assert_exit(&output, 1);
        let said = text(&output.stdout);
        assert!(said.contains(told), "{told}\nis not in:\n{said}");
    }
}

/// What `backtest` prints of a pipeline over an archive, and what it says.
fn backtest(pipeline: &Path, archive: &Path, arguments: &[&str]) -> (String, String) {
    let output =
        headrig().arg("backtest").arg(pipeline).arg("--archive").arg(archive).args(arguments).output().unwrap();
    assert_exit(&output, 0);
    (text(&output.stdout), text(&output.stderr))
}

/// What makes an alert event the one that it is.
fn changes(lines: &str) -> Vec<String> {
    let change = |line: &str| {
        let event: serde_json::Value = serde_json::from_str(line).unwrap();
        format!("{} {} {} {}", event["id"], event["status"], event["starts_at"], event["ends_at"])
    };
    lines.lines().map(change).collect()
}

#[test]
fn backtest_gives_the_very_alerts_of_the_live_run_and_a_table_of_thresholds() {
    let Some((input, _)) = shared() else { return };
    let folder = temporary();
    let archive = folder.path().join("archive");
    let fly = project().join("pipelines/fly.yaml");
    let mut command = headrig();
    command.args(["run", "--once"]).arg(&fly).env("FLY_LOG", &input).env("ARCHIVE", &archive);
    let live = command.output().unwrap();
    assert_exit(&live, 0);
    let live = text(&live.stdout);
    assert!(live.lines().count() >= 4, "{live}");
    let json = ["--format", "json"];
    let (same, said) = backtest(&fly, &archive, &json);
    assert_eq!(same, live, "{said}");
    assert!(said.contains("54810 rows of 2026-05-06T04:47:44.263Z to "), "{said}");
    // The live run found 55 late (`real_input` says it); of a batch whose rows were put in order one may be in time here.
    let late =
        said.split("too late for their windows: sqlite_5m ").nth(1).and_then(|rest| rest.trim().parse::<u64>().ok());
    assert!(late.is_some_and(|late| (50..=55).contains(&late)), "{said}");

    // Put in another order by compaction, and read by time: the same changes of state.
    let output = headrig().args(["compact", "--after", "0s"]).arg(&archive).output().unwrap();
    assert_exit(&output, 0);
    let (compacted, said) = backtest(&fly, &archive, &json);
    assert_eq!(changes(&compacted), changes(&live), "{said}");
    let (by_time, said) = backtest(&fly, &archive, &["--format", "json", "--order", "time"]);
    assert_eq!(changes(&by_time), changes(&live), "{said}");

    // A part of it: what happened there, with windows and `for` as they were.
    let (part, _) = backtest(
        &fly,
        &archive,
        &["--format", "json", "--from", "2026-05-06T05:45:00Z", "--to", "2026-05-06T06:30:00Z"],
    );
    let expected: Vec<String> = changes(&live)[1..3].to_vec();
    assert_eq!(changes(&part), expected);

    let (table, _) = backtest(&fly, &archive, &["--sweep", "error_rate=0.01..0.5"]);
    println!("{table}");
    assert!(table.contains("a month") && table.contains("HighErrorRate"), "{table}");
    let (swept, _) = backtest(&fly, &archive, &["--sweep", "error_rate=0.02..0.52:0.1", "--format", "json"]);
    let swept: Vec<serde_json::Value> = swept.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let counts: Vec<u64> = swept.iter().map(|line| line["alerts"].as_u64().unwrap()).collect();
    assert_eq!(counts.len(), 6);
    let fired = live.matches("\"status\":\"firing\",\"labels\":{\"alertname\":\"HighErrorRate\"").count() as u64;
    assert_eq!(counts[0], fired, "with the threshold that is written");
    assert_eq!(swept[0]["condition"], "error_rate > 0.02 AND requests >= 100");
    assert!(counts[5] < counts[0], "half of the requests never failed: {counts:?}");
}

/// A pipeline over a file of one route, whose alert looks at `max(extra_ms)`.
fn extra(folder: &Path, schema: &str, paths: &str) -> PathBuf {
    let yaml = format!(
        "pipeline: p\nsources: {{ in: {{ type: file, paths: [{paths}] }} }}\ndecode: {{ envelope: none, format: json, schema: \"{schema}\" }}\n\
         windows: [ {{ name: w, kind: tumbling, size: 1m, lateness: 10s, group_by: [path], aggregate: {{ worst: max(extra_ms), n: count(*) }} }} ]\n\
         alerts: [ {{ alert: Slow, on: w, when: worst > 500 }} ]\n\
         archive: {{ url: \"{}\" }}\nserver: {{ listen: \"${{HEADRIG_LISTEN}}\" }}\n",
        folder.join("archive").display()
    );
    let path = folder.join("extra.yaml");
    fs::write(&path, yaml).unwrap();
    path
}

fn lines(path: &Path, minutes: std::ops::Range<u32>, extra: u32) {
    let line = |minute: u32| {
        format!("{{\"timestamp\":\"2026-05-06T00:{minute:02}:30Z\",\"path\":\"/a\",\"extra_ms\":{}}}\n", minute * extra)
    };
    fs::write(path, minutes.map(line).collect::<String>()).unwrap();
}

#[test]
fn a_column_that_came_later_is_found_in_attributes_and_one_that_never_was_is_refused() {
    let folder = temporary();
    let input = folder.path().join("in.ndjson");
    lines(&input, 0..20, 50);
    let paths = format!("\"{}\"", input.display());
    let schema = folder.path().join("later.yaml");
    fs::write(
        &schema,
        "schema: later\nversion: 2\ncolumns:\n  - { name: path, type: text }\n  - { name: extra_ms, type: int, from: [extra_ms, more.ms] }\n",
    )
    .unwrap();
    // Stored by a schema that doesn't know the column.
    let without = extra(folder.path(), "minimal", &paths);
    let yaml = fs::read_to_string(&without).unwrap();
    let before = folder.path().join("before.yaml");
    fs::write(&before, yaml.replace("worst: max(extra_ms)", "worst: count(*)").replace(", group_by: [path]", ""))
        .unwrap();
    assert_exit(&headrig().args(["run", "--once"]).arg(&before).output().unwrap(), 0);
    let archive = folder.path().join("archive");
    let with = extra(folder.path(), &schema.display().to_string(), &paths);
    let (found, said) = backtest(&with, &archive, &["--format", "json"]);

    // As if the schema had known it from the beginning.
    fs::remove_dir_all(&archive).unwrap();
    let live = headrig().args(["run", "--once"]).arg(&with).output().unwrap();
    assert_exit(&live, 0);
    assert_eq!(found, text(&live.stdout), "{said}");
    assert_eq!(found.lines().count(), 1);

    let yaml = fs::read_to_string(&with).unwrap();
    let computed = folder.path().join("computed.yaml");
    let step = "transform: [ { set: { twice: extra_ms * 2 } } ]\nwindows:";
    fs::write(&computed, yaml.replace("windows:", step).replace("max(extra_ms)", "max(twice)")).unwrap();
    let output = headrig().arg("backtest").arg(&computed).output().unwrap();
    assert_exit(&output, 1);
    let told = text(&output.stderr);
    assert!(told.contains("cannot find column `twice` in the archive, and window `w` reads it"), "{told}");
}

#[test]
fn partitions_that_were_read_one_after_the_other_are_not_late_against_each_other() {
    let folder = temporary();
    let (first, second) = (folder.path().join("a.ndjson"), folder.path().join("b.ndjson"));
    // The second file has what is an hour older.
    lines(&first, 30..40, 10);
    lines(&second, 0..10, 100);
    let paths = format!("\"{}\"", folder.path().join("*.ndjson").display());
    let schema = folder.path().join("later.yaml");
    let columns = "  - { name: path, type: text }\n  - { name: extra_ms, type: int }\n";
    fs::write(&schema, format!("schema: later\nversion: 1\ncolumns:\n{columns}")).unwrap();
    let file = extra(folder.path(), &schema.display().to_string(), &paths);
    let live = headrig().args(["run", "--once"]).arg(&file).output().unwrap();
    assert_exit(&live, 0);
    let (found, said) = backtest(&file, &folder.path().join("archive"), &["--format", "json"]);
    assert!(said.contains(", by time"), "{said}");
    assert_eq!(found, text(&live.stdout));
    assert_eq!(found.lines().count(), 2, "{found}");

    // Rows of another pipeline are none of its own.
    let yaml = fs::read_to_string(&file).unwrap().replace("pipeline: p", "pipeline: q");
    fs::write(&file, yaml).unwrap();
    let output = headrig().arg("backtest").arg(&file).output().unwrap();
    assert_exit(&output, 1);
    let told = text(&output.stderr);
    assert!(told.contains("cannot find rows of pipeline \"q\"") && told.contains("it has those of p"), "{told}");
}
