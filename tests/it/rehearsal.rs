//! `headrig test` over the project's own scripts, and what it says where they are not met.

use crate::harness::{assert_exit, headrig, temporary, text};
use std::fs;

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
