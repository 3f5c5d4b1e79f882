//! Alerts over what doesn't come, with a daemon that is killed meanwhile.

use crate::harness::{Running, headrig, pipeline, temporary};
use rustix::process::Signal;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

const PIPELINE: &str = r#"
pipeline: absence
sources: { logs: { type: file, paths: ["FOLDER/app.log"], follow: true } }
decode: { format: json, schema: access }
windows:
  - { name: by_path, kind: tumbling, size: 1h, group_by: [path], aggregate: { n: count(*) } }
alerts:
  - { alert: Silent, on: logs, absent_for: 2s, annotations: { summary: "nothing of {{ $labels.source }}" } }
  - { alert: Gone, on: by_path, absent_for: 2s }
archive: { url: "FOLDER/archive", flush: { every: 200ms } }
server: { listen: "${HEADRIG_LISTEN}" }
"#;

fn line(folder: &Path, path: &str) {
    let mut log = OpenOptions::new().append(true).open(folder.join("app.log")).unwrap();
    writeln!(log, r#"{{"timestamp":"2026-05-06T05:35:31Z","path":"{path}","status":200}}"#).unwrap();
}

/// Takes alerts until one of each name and path has said `status`; by name and path.
fn await_all(running: &Running, status: &str, count: usize) -> BTreeMap<String, Value> {
    let mut events = BTreeMap::new();
    while events.len() < count {
        let said = running.stdout_line(PATIENCE, |line| line.starts_with('{'));
        let event: Value = serde_json::from_str(&said).unwrap();
        if event["status"] == status {
            let who = event["labels"]["path"].as_str().or(event["labels"]["source"].as_str()).unwrap().to_owned();
            assert!(events.insert(who, event).is_none(), "once: {said}");
        } else {
            assert_eq!(event["status"], "firing", "what fired before the kill may be told again");
        }
    }
    events
}

#[test]
fn silence_fires_once_and_is_resolved_behind_a_kill() {
    let folder = temporary();
    fs::write(folder.path().join("app.log"), "").unwrap();
    let file = pipeline(folder.path(), &PIPELINE.replace("FOLDER", &folder.path().display().to_string()));
    line(folder.path(), "/a");
    line(folder.path(), "/b");
    let mut running = Running::start(headrig().arg("run").arg(&file));
    let fired = await_all(&running, "firing", 3);
    assert_eq!(fired.keys().collect::<Vec<_>>(), ["/a", "/b", "logs"]);
    assert_eq!(fired["logs"]["annotations"]["summary"], "nothing of logs");
    assert_eq!(fired["logs"]["values"]["absent_seconds"].as_f64().map(|s| (2.0..60.0).contains(&s)), Some(true));
    running.signal(Signal::KILL);
    running.wait();

    line(folder.path(), "/a");
    let mut running = Running::start(headrig().arg("run").arg(&file));
    let resolved = await_all(&running, "resolved", 2);
    assert_eq!(resolved.keys().collect::<Vec<_>>(), ["/a", "logs"], "/b is still gone, and doesn't fire anew");
    for (who, event) in &resolved {
        assert_eq!(event["starts_at"], fired[who]["starts_at"], "{who}");
        assert_ne!(event["id"], fired[who]["id"], "{who}");
    }
    let again = await_all(&running, "firing", 2);
    assert_eq!(again.keys().collect::<Vec<_>>(), ["/a", "logs"]);
    line(folder.path(), "/b");
    let resolved = await_all(&running, "resolved", 2);
    assert_eq!(resolved["/b"]["starts_at"], fired["/b"]["starts_at"], "the alert of the first run");
    running.signal(Signal::TERM);
    assert_eq!(running.wait(), Some(0));
}
