//! What a pipeline may use, threads and memory, changes nothing of what comes out; nor does what is written.

use crate::harness::{assert_exit, headrig, pipeline, temporary, text};
use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::row::{RowConverter, SortField};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;

const YAML: &str = "\
pipeline: shared
sources:
  all: { type: file, paths: [\"INPUT/*.ndjson\"] }
decode: { envelope: fly }
transform:
  - filter: status is null or status <> 404
  - set: { slow: latency_ms > 500 }
windows:
  - name: route_10s
    kind: sliding
    size: 10s
    every: 2s
    lateness: 3s
    where: status is not null
    group_by: [path]
    aggregate:
      requests: count(*)
      errors: count(*) filter (where status >= 500)
      slow_ones: count(*) filter (where slow)
      p95_ms: quantile(latency_ms, 0.95)
alerts:
  - alert: Errors
    on: route_10s
    when: errors > 20 and errors * 10 > requests
    for: 4s
archive: { url: ARCHIVE }
server: { listen: \"${HEADRIG_LISTEN}\" }
";

/// Three files of a web service with an incident, with a line in each that is no record.
fn input(folder: &Path, events: u32) {
    let whole = folder.join("whole");
    let output = headrig()
        .args(["generate", "--incident", "--rate", "2000", "--events", &events.to_string(), "--output"])
        .arg(&whole)
        .output()
        .unwrap();
    assert_exit(&output, 0);
    let lines = fs::read(&whole).unwrap();
    let mut files: Vec<File> = (0..3).map(|n| File::create(folder.join(format!("{n}.ndjson"))).unwrap()).collect();
    for (number, line) in lines.split_inclusive(|byte| *byte == b'\n').enumerate() {
        files[number % 3].write_all(line).unwrap();
    }
    for file in &mut files {
        file.write_all(b"no envelope\n").unwrap();
    }
}

/// Texts that hardly compress, 25 MB of them even then, so that a row group of them outgrows a small budget.
fn noise(folder: &Path) {
    let mut file = File::create(folder.join("noise.ndjson")).unwrap();
    let mut state = 1_u64;
    for second in 0..6_000 {
        let mut line = format!(r#"{{"timestamp":"2026-01-01T00:{:02}:{:02}Z","message":""#, second / 100, second % 60);
        line.extend((0..5_000).map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            char::from(b'0' + (state >> 58) as u8 % 43)
        }));
        line.push_str("\"}\n");
        file.write_all(line.as_bytes()).unwrap();
    }
}

/// Several seals.
const SEALS: &str = ", flush: { rows: 20000 }";

/// Runs `YAML` with `limits` and with what `archive` has more; returns the alerts and the log.
fn run(folder: &Path, name: &str, limits: &str, archive: &str) -> (String, String) {
    let to = folder.join(name);
    let yaml = YAML
        .replace("INPUT", &folder.display().to_string())
        .replace("url: ARCHIVE", &format!("url: {:?}{archive}", to.display().to_string()));
    let file = pipeline(folder, &format!("{yaml}limits: {limits}\n"));
    let output = headrig().args(["run", "--once"]).arg(file).output().unwrap();
    assert_exit(&output, 0);
    (text(&output.stdout), text(&output.stderr))
}

/// The rows below a folder, by the path of their Hive folder and in the order of the files, without the time of arrival;
/// and how many row groups they lie in.
fn rows(folder: &Path) -> (BTreeMap<String, RecordBatch>, usize) {
    let mut files: Vec<_> = glob::glob(&format!("{}/**/*.parquet", folder.display())).unwrap().flatten().collect();
    files.sort();
    let (mut found, mut groups) = (BTreeMap::<String, Vec<RecordBatch>>::new(), 0);
    for file in files {
        let builder = ParquetRecordBatchReaderBuilder::try_new(File::open(&file).unwrap()).unwrap();
        groups += builder.metadata().num_row_groups();
        let below = file.parent().unwrap().strip_prefix(folder).unwrap().display().to_string();
        for batch in builder.build().unwrap() {
            let mut batch = batch.unwrap();
            if let Ok(arrival) = batch.schema().index_of("ingest_ts") {
                batch.remove_column(arrival);
            }
            found.entry(below.clone()).or_default().push(batch);
        }
    }
    let whole = |batches: Vec<RecordBatch>| concat_batches(&batches[0].schema(), &batches).unwrap();
    (found.into_iter().map(|(below, batches)| (below, whole(batches))).collect(), groups)
}

/// The same rows in an order that is always the same: which rows of a file were sorted depends on the memory there was.
fn in_any_order(rows: &BTreeMap<String, RecordBatch>) -> BTreeMap<&str, Vec<Vec<u8>>> {
    let sorted = |batch: &RecordBatch| {
        let fields = batch.schema().fields().iter().map(|field| SortField::new(field.data_type().clone())).collect();
        let rows = RowConverter::new(fields).unwrap().convert_columns(batch.columns()).unwrap();
        let mut rows: Vec<Vec<u8>> = rows.iter().map(|row| row.as_ref().to_vec()).collect();
        rows.sort_unstable();
        rows
    };
    rows.iter().map(|(below, batch)| (below.as_str(), sorted(batch))).collect()
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let folder = temporary();
    input(folder.path(), 60_000);
    let (alerts, _) = run(folder.path(), "one", "{ threads: 1 }", SEALS);
    assert!(alerts.lines().count() >= 2, "the incident fires and is resolved: {alerts}");
    for threads in [2, 4] {
        let name = threads.to_string();
        let (others, _) = run(folder.path(), &name, &format!("{{ threads: {threads} }}"), SEALS);
        assert_eq!(alerts, others, "{threads} threads");
        for table in ["data", "dead", "windows", "alerts"] {
            let (expected, _) = rows(&folder.path().join("one").join(table));
            let (found, _) = rows(&folder.path().join(&name).join(table));
            assert!(!expected.is_empty(), "{table} has rows");
            if table == "dead" {
                // A dead letter's time is that of its arrival.
                let count =
                    |found: BTreeMap<String, RecordBatch>| found.values().map(RecordBatch::num_rows).sum::<usize>();
                assert_eq!(count(found), count(expected));
            } else {
                assert!(expected == found, "{table} differs with {threads} threads");
            }
        }
    }
}

#[test]
fn a_small_budget_closes_row_groups_early_and_changes_no_result() {
    let folder = temporary();
    input(folder.path(), 60_000);
    noise(folder.path());
    let by_path = ", partition_by: [date, path]";
    let (alerts, _) = run(folder.path(), "roomy", "{ memory: 1GB, threads: 2 }", by_path);
    let (tight_alerts, _) = run(folder.path(), "tight", "{ memory: 16MB, threads: 2 }", by_path);
    assert_eq!(alerts, tight_alerts);
    let (expected, groups) = rows(&folder.path().join("roomy/data"));
    let (found, tight_groups) = rows(&folder.path().join("tight/data"));
    assert!(in_any_order(&expected) == in_any_order(&found), "rows differ");
    assert!(tight_groups > groups, "{tight_groups} row groups, with much memory {groups}");
    let (expected, _) = rows(&folder.path().join("roomy/windows"));
    let (found, _) = rows(&folder.path().join("tight/windows"));
    assert!(in_any_order(&expected) == in_any_order(&found), "windows differ");
}

#[test]
fn only_the_tables_that_are_named_are_written_and_dead_letters_are_counted_all_the_same() {
    let folder = temporary();
    input(folder.path(), 30_000);
    let (alerts, log) = run(folder.path(), "all", "{}", "");
    let (fewer_alerts, fewer_log) = run(folder.path(), "some", "{}", ", tables: [windows]");
    assert_eq!(alerts, fewer_alerts);
    for log in [log, fewer_log] {
        assert!(log.contains("broken_envelope 3"), "{log}");
    }
    for (table, written) in [("data", false), ("dead", false), ("windows", true), ("alerts", false)] {
        assert_eq!(!rows(&folder.path().join("some").join(table)).0.is_empty(), written, "{table}");
    }
    let windows = |archive: &str| rows(&folder.path().join(archive).join("windows")).0;
    assert!(windows("all") == windows("some"), "windows differ");
}
