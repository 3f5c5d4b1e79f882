//! The demonstration: what a newcomer sees after the first command.

use crate::harness::{Running, headrig, pipeline, project, temporary, text};
use std::fs;
use std::time::Duration;

/// Peak resident memory of a process so far, in kB.
fn peak_kb(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn the_incident_fires_and_resolves_while_duckdb_reads() {
    let folder = temporary();
    let yaml = fs::read_to_string(project().join("pipelines/demo.yaml")).unwrap();
    let archive = folder.path().join("archive");
    assert!(yaml.contains("url: ./data"));
    let file = pipeline(folder.path(), &yaml.replace("url: ./data", &format!("url: {}", archive.display())));
    let mut running = Running::start(headrig().arg("run").arg(&file));
    let patience = Duration::from_secs(120);
    let is = |status: &'static str, alert: &'static str| {
        move |line: &str| {
            serde_json::from_str::<serde_json::Value>(line)
                .is_ok_and(|event| event["status"] == status && event["labels"]["alertname"] == alert)
        }
    };
    let firing = running.stdout_line(patience, is("firing", "HighErrorRate"));
    let script = "import duckdb, sys; print(*duckdb.sql(f\"select count(*), count(distinct path), max(ts) - min(ts) > interval 10 seconds from read_parquet('{sys.argv[1]}/data/**/*.parquet', hive_partitioning = true)\").fetchone())";
    let seen = crate::harness::python().args(["-c", script]).arg(&archive).output().unwrap();
    assert!(seen.status.success(), "{}", text(&seen.stderr));
    let read = text(&seen.stdout);
    let rows: u64 = read.split(' ').next().unwrap().parse().unwrap();
    assert!(rows > 10_000 && read.trim().ends_with("True"), "{read}");
    let resolved = running.stdout_line(patience, is("resolved", "HighErrorRate"));
    println!("{firing}\n{resolved}");
    let of = |line: &str, key: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()[key].clone();
    assert!(of(&firing, "ends_at").is_null() && of(&resolved, "ends_at").is_string());
    let peak = peak_kb(running.id());
    println!("peak resident: {peak} kB, {rows} rows read meanwhile");
    assert!(peak < 120_000, "{peak} kB");
    running.signal(rustix::process::Signal::INT);
    assert_eq!(running.wait(), Some(0));
}
