//! The archive as its readers see it: round trips, and rows exactly once whatever crashes.

use super::chain::{self, Act};
use super::table::tests::schema;
use super::{Archive, ArchiveError, ArchivePlan, Config, FlushConfig, Kind, Sealing, seal};
use crate::limits;
use crate::place::Located;
use crate::record::alert::{AlertEvent, AlertStatus};
use crate::record::dead::{DeadLetter, DeadReason};
use crate::record::raw::PartitionId;
use crate::record::receipt::{Checkpoint, PartitionPosition};
use crate::record::sample::{WindowRows, WindowSchema};
use crate::record::schema::{ColumnType, Schema};
use crate::time::EventTime;
use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
    new_null_array,
};
use arrow::datatypes::{DataType, Field, Int64Type, Schema as ArrowSchema};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::num::{NonZeroU8, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// 2026-05-06T05:35:31Z.
pub(super) const START: i64 = 1_778_045_731_000_000;
const DAY: i64 = 86_400_000_000;

fn window_schema() -> WindowSchema {
    let stamp = |name: &str| Field::new(name, ColumnType::Timestamp.arrow(), false);
    WindowSchema {
        window: "route/5m".into(),
        group_by: vec!["path".into()],
        condition: None,
        arrow: Arc::new(ArrowSchema::new(vec![
            stamp("window_start"),
            stamp("window_end"),
            Field::new("path", DataType::Utf8, true),
            Field::new("late", DataType::Int64, false),
            Field::new("provisional", DataType::Boolean, false),
        ])),
    }
}

pub(super) fn plan(root: &Path, partition_by: &[&str]) -> ArchivePlan {
    ArchivePlan {
        config: Config {
            url: Located::nowhere(root.to_str().unwrap().to_owned()),
            partition_by: partition_by.iter().map(|p| Located::nowhere((*p).to_owned())).collect(),
            flush: FlushConfig::default(),
            store: None,
            format: super::FileFormat::default(),
            compression: None,
            patience: None,
            tables: Located::nowhere(crate::archive::Kind::ALL.to_vec()),
            compact: None,
            retain: None,
            audit: false,
            table: None,
        },
        pipeline: "auto".into(),
        schema: Arc::new(schema()),
        windows: vec![window_schema()],
        threads: NonZeroUsize::new(2).unwrap(),
        data_dir: std::path::PathBuf::new(),
        sharing: None,
        patience: Arc::default(),
    }
}

pub(super) fn open(root: &Path) -> (Archive, Checkpoint) {
    open_by(root, &["date"])
}

fn open_by(root: &Path, partition_by: &[&str]) -> (Archive, Checkpoint) {
    let (archive, opened) = Archive::open(plan(root, partition_by), EventTime::from_micros(START)).unwrap();
    assert_eq!(opened.own, opened.known);
    (archive, opened.own)
}

/// Rows numbered (in `status`) from `first`; each three rows one day later, paths in turn.
pub(super) fn events(first: i64, count: i64) -> RecordBatch {
    let schema = schema();
    let numbers: Vec<i64> = (first..first + count).collect();
    let stamps: TimestampMicrosecondArray = numbers.iter().map(|n| Some(START + n / 3 * DAY)).collect();
    let stamps: ArrayRef = Arc::new(stamps.with_timezone("UTC"));
    let texts = |values: &[&str]| -> ArrayRef {
        Arc::new(numbers.iter().map(|n| Some(values[*n as usize % values.len()])).collect::<StringArray>())
    };
    let columns = schema.columns.iter().map(|c| match c.name.as_str() {
        "ts" | "ingest_ts" => stamps.clone(),
        "ts_source" => texts(&["event"]),
        "path" => texts(&["/v1/x", "../../etc/passwd", ""]),
        "status" => Arc::new(Int64Array::from(numbers.clone())),
        _ => new_null_array(&c.kind.arrow(), numbers.len()),
    });
    RecordBatch::try_new(schema.arrow.clone(), columns.collect()).unwrap()
}

pub(super) fn sealing(position: u64) -> Sealing {
    Sealing { checkpoint: at(position), ..Sealing::default() }
}

pub(super) fn at(position: u64) -> Checkpoint {
    let (source, partition, identity) = ("in".into(), "stdin".into(), "x".into());
    Checkpoint { partitions: vec![PartitionPosition { source, partition, identity, position }] }
}

/// All files below a folder, in order.
pub(super) fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

fn read(path: &Path) -> RecordBatch {
    let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(path).unwrap()).unwrap().build().unwrap();
    let batches: Vec<RecordBatch> = reader.map(Result::unwrap).collect();
    arrow::compute::concat_batches(&batches[0].schema(), &batches).unwrap()
}

/// The numbers of all visible rows, sorted, as a reader with a glob over `data/` gets them.
pub(super) fn visible(root: &Path) -> Vec<i64> {
    let mut numbers: Vec<i64> = files(&root.join("data"))
        .iter()
        .flat_map(|path| {
            assert_eq!(path.extension().unwrap(), "parquet", "only Parquet files are under data/");
            read(path).column_by_name("status").unwrap().as_primitive::<Int64Type>().values().to_vec()
        })
        .collect();
    numbers.sort_unstable();
    numbers
}

fn footer(path: &Path) -> BTreeMap<String, String> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(path).unwrap()).unwrap();
    let entries = reader.metadata().file_metadata().key_value_metadata().unwrap();
    entries.iter().map(|e| (e.key.clone(), e.value.clone().unwrap_or_default())).collect()
}

#[test]
fn sealed_rows_read_back_and_staged_ones_are_not_seen() {
    let root = tempfile::tempdir().unwrap();
    let (mut archive, found) = open(root.path());
    assert_eq!(found, Checkpoint::default());
    archive.write_events(&events(0, 5)).unwrap();
    archive.write_events(&events(5, 5)).unwrap();
    assert_eq!(archive.staged_rows(), 10);
    assert!(archive.staged_bytes() > 0);
    assert_eq!(visible(root.path()), Vec::<i64>::new());

    let watermark = Some(EventTime::from_micros(START));
    let receipt = archive.seal(&Sealing { watermark, ..sealing(100) }).unwrap();
    assert_eq!((receipt.rows, receipt.files, &receipt.checkpoint), (10, 4, &at(100)));
    assert_eq!(archive.last_sealed()[0].kind, Kind::Data);
    assert_eq!(visible(root.path()), (0..10).collect::<Vec<_>>());
    let first = root.path().join("data/date=2026-05-06/auto-000000000001-0.parquet");
    let expected = events(0, 3);
    assert_eq!(read(&first), expected, "values, types and the time zone come back");
    let footer = footer(&first);
    assert_eq!(footer["headrig.schema_version"], "3");
    assert_eq!(footer["headrig.watermark"], "2026-05-06T05:35:31Z");
    assert_eq!(
        footer["headrig.position_range"],
        r#"[{"source":"in","partition":"stdin","identity":"x","start":null,"end":100}]"#
    );

    drop(archive);
    assert_eq!(open(root.path()).1, at(100));
}

#[test]
fn files_are_the_same_whatever_the_number_of_threads() {
    let bytes = |threads: usize| {
        let root = tempfile::tempdir().unwrap();
        let plan = ArchivePlan { threads: NonZeroUsize::new(threads).unwrap(), ..plan(root.path(), &[]) };
        let (mut archive, _) = Archive::open(plan, EventTime::from_micros(START)).unwrap();
        let count = limits::ROW_GROUP_ROWS as i64 + 5_000;
        // Batches of several sizes, one of them larger than a row group has room for.
        for (first, end) in [(0, 7), (7, 3_000), (3_000, 20_000), (20_000, 20_001), (20_001, count)] {
            archive.write_events(&events(first, end - first)).unwrap();
        }
        archive.seal(&sealing(1)).unwrap();
        assert_eq!(visible(root.path()), (0..count).collect::<Vec<_>>());
        let file = files(&root.path().join("data")).remove(0);
        let groups = ParquetRecordBatchReaderBuilder::try_new(File::open(&file).unwrap()).unwrap();
        assert_eq!(groups.metadata().row_group(0).num_rows(), limits::ROW_GROUP_ROWS as i64);
        assert_eq!(groups.metadata().num_row_groups(), 2);
        fs::read(file).unwrap()
    };
    let one = bytes(1);
    for threads in [2, 3] {
        assert!(bytes(threads) == one, "{threads} threads write another file than one");
    }
}

#[test]
fn hex_columns_are_bytes_and_misfits_are_counted() {
    let root = tempfile::tempdir().unwrap();
    let mut columns = schema().columns;
    let trace = columns.iter_mut().find(|c| c.name == "trace").unwrap();
    trace.hex_bytes = NonZeroU8::new(2);
    let plan = ArchivePlan {
        schema: Arc::new(Schema::new("test", 3, columns)),
        config: Config { partition_by: vec![Located::nowhere("path".into())], ..plan(root.path(), &[]).config },
        ..plan(root.path(), &[])
    };
    let (mut archive, _) = Archive::open(plan, EventTime::from_micros(START)).unwrap();
    let rows = events(0, 6);
    let index = rows.schema().index_of("trace").unwrap();
    let mut arrays = rows.columns().to_vec();
    // Rows of one path are three apart.
    let texts = [Some("00ff"), None, Some("x"), Some("FFFF"), Some("0102"), Some("00")];
    arrays[index] = Arc::new(StringArray::from(texts.to_vec()));
    archive.write_events(&RecordBatch::try_new(rows.schema(), arrays).unwrap()).unwrap();
    assert_eq!(archive.seal(&sealing(1)).unwrap().type_clashes, 3);
    assert_eq!(archive.seal(&sealing(2)).unwrap().type_clashes, 0, "each seal counts its own");
    let mut found: Vec<_> = Vec::new();
    for path in files(&root.path().join("data")) {
        let rows = read(&path);
        let column = |name: &str| rows.column_by_name(name).unwrap().clone();
        let (numbers, traces, attributes) = (column("status"), column("trace"), column("attributes"));
        for row in 0..rows.num_rows() {
            let trace = traces.is_valid(row).then(|| traces.as_fixed_size_binary().value(row).to_vec());
            let kept = attributes.is_valid(row).then(|| attributes.as_string::<i32>().value(row).to_owned());
            found.push((numbers.as_primitive::<Int64Type>().value(row), trace, kept));
        }
    }
    found.sort();
    let kept = |value: &str| Some(format!("{{\"trace\":\"{value}\"}}"));
    let expected = [
        (0, Some(vec![0, 0xff]), None),
        (1, None, None),
        (2, None, kept("x")),
        (3, None, kept("FFFF")),
        (4, Some(vec![1, 2]), None),
        (5, None, kept("00")),
    ];
    assert_eq!(found, expected);
}

#[test]
fn a_seal_without_rows_is_written_only_when_positions_moved() {
    let root = tempfile::tempdir().unwrap();
    let (mut archive, _) = open(root.path());
    let chain = root.path().join("_headrig/auto/chains/main");
    assert_eq!(archive.seal(&Sealing::default()).unwrap().rows, 0);
    assert_eq!(files(&chain).len(), 0);
    for _ in 0..2 {
        assert_eq!(archive.seal(&sealing(7)).unwrap().files, 0);
        assert_eq!(files(&chain).len(), 1);
    }
    archive.seal(&Sealing { state: b"new".to_vec(), ..sealing(7) }).unwrap();
    assert_eq!(files(&chain).len(), 2, "a state that is new is kept");
    drop(archive);
    assert_eq!(open(root.path()).1, at(7));
}

#[test]
fn every_table_has_its_folder() {
    let root = tempfile::tempdir().unwrap();
    let (mut archive, _) = open(root.path());
    let time = EventTime::from_micros;
    let letter = DeadLetter {
        partition: PartitionId(0),
        position: 1,
        reason: DeadReason::NotJson,
        detail: "x".into(),
        raw: b"{".to_vec(),
        arrival: time(START),
    };
    let event = AlertEvent {
        id: "a".into(),
        pipeline: "auto".into(),
        status: AlertStatus::Firing,
        labels: BTreeMap::from([("alertname".into(), "High".into())]),
        annotations: BTreeMap::new(),
        values: BTreeMap::from([("rate".into(), serde_json::json!(0.5))]),
        window_start: time(START),
        window_end: time(START),
        starts_at: time(START),
        ends_at: None,
    };
    let stamps: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![START]).with_timezone("UTC"));
    let columns: Vec<ArrayRef> = vec![
        stamps.clone(),
        stamps,
        Arc::new(StringArray::from(vec!["/"])),
        Arc::new(Int64Array::from(vec![0])),
        Arc::new(BooleanArray::from(vec![false])),
    ];
    let rows = RecordBatch::try_new(window_schema().arrow, columns).unwrap();
    let closed = WindowRows { window: "route/5m".into(), start: time(START), end: time(START), rows: rows.clone() };
    archive.write_dead(&vec![letter; 600], |_| ("in", "stdin")).unwrap();
    archive.write_alerts(&[event]).unwrap();
    archive.write_windows(&[closed]).unwrap();
    assert_eq!(archive.seal(&sealing(1)).unwrap().rows, 602);

    let file = |folder: &str| files(&root.path().join(folder)).remove(0);
    assert_eq!(read(&file("dead/date=2026-05-06")).num_rows(), 600);
    assert_eq!(read(&file("windows/name=route%2F5m/date=2026-05-06")), rows);
    let alert = read(&file("alerts/date=2026-05-06"));
    assert_eq!(alert.column_by_name("values").unwrap().as_string::<i32>().value(0), r#"{"rate":0.5}"#);
    let kinds: Vec<(&str, u64)> = archive.last_sealed().iter().map(|s| (s.kind.as_str(), s.rows)).collect();
    assert_eq!(kinds, [("dead", 600), ("windows", 1), ("alerts", 1)]);
}

#[test]
fn more_partitions_than_open_writers_are_all_kept() {
    let root = tempfile::tempdir().unwrap();
    let (mut archive, _) = open_by(root.path(), &["date", "path"]);
    let count = 9 * limits::OPEN_WRITERS as i64;
    for first in (0..count).step_by(30) {
        archive.write_events(&events(first, 30.min(count - first))).unwrap();
    }
    archive.seal(&sealing(1)).unwrap();
    assert_eq!(visible(root.path()), (0..count).collect::<Vec<_>>());
    let outside = files(root.path()).iter().filter(|p| p.to_string_lossy().contains("passwd")).count();
    assert!(outside > 0);
    assert!(files(&root.path().join("data")).iter().all(|p| footer(p).contains_key("headrig.partition")));
}

/// How far a seal comes before the process dies.
#[derive(Debug, Clone, Copy)]
enum Crash {
    Nowhere,
    BeforeSeal,
    Finished,
    Committed,
    Placed { files: usize },
}

/// Writes `count` rows behind the checkpoint and seals them, dying on the way; returns after the death.
fn run_and_crash(root: &Path, count: i64, crash: Crash) {
    let (mut archive, checkpoint) = open_by(root, &["date", "path"]);
    let first = checkpoint.find("in", "stdin").map_or(0, |p| p.position as i64);
    let before = visible(root);
    assert_eq!(before, (0..first).collect::<Vec<_>>(), "an opened archive has what its checkpoint says");
    archive.write_events(&events(first, count)).unwrap();
    let target = sealing((first + count) as u64);
    match crash {
        Crash::Nowhere => drop(archive.seal(&target).unwrap()),
        Crash::BeforeSeal => {}
        Crash::Finished => drop(archive.prepare(&target).unwrap()),
        Crash::Committed | Crash::Placed { .. } => {
            let mut entry = archive.prepare(&target).unwrap();
            archive.commit(&mut entry).unwrap();
            let files = if let Crash::Placed { files } = crash { files } else { 0 };
            let Act::Seal(sealed) = &mut entry.act else { panic!("{entry:?}") };
            sealed.files.truncate(files);
            seal::place(archive.place.store.as_ref(), &entry).unwrap();
        }
    }
    let mut seen = visible(root);
    seen.dedup();
    assert_eq!(seen.len(), visible(root).len(), "no row is ever seen twice");
    // Whoever goes by the seals sees what is committed, also where it is not placed yet.
    let committed = !matches!(crash, Crash::BeforeSeal | Crash::Finished);
    let live = super::live_files(root.to_str().unwrap()).unwrap();
    let rows: u64 = live.files.iter().filter_map(|file| file.sealed).map(|sealed| sealed.rows).sum();
    assert_eq!((rows as i64, live.notes), (if committed { first + count } else { first }, Vec::new()));
    assert!(live.files.iter().all(|file| root.join(&file.location).is_file()));
}

fn crash() -> impl Strategy<Value = Crash> {
    prop_oneof![
        Just(Crash::Nowhere),
        Just(Crash::BeforeSeal),
        Just(Crash::Finished),
        Just(Crash::Committed),
        (1usize..9).prop_map(|files| Crash::Placed { files }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn rows_are_there_exactly_once_whatever_crashes(runs in proptest::collection::vec((1i64..12, crash()), 1..6)) {
        let root = tempfile::tempdir().unwrap();
        for (count, crash) in runs {
            run_and_crash(root.path(), count, crash);
        }
        run_and_crash(root.path(), 3, Crash::Nowhere);
        let (archive, checkpoint) = open(root.path());
        let end = checkpoint.partitions[0].position as i64;
        prop_assert_eq!(visible(root.path()), (0..end).collect::<Vec<_>>());
        prop_assert_eq!(files(&archive.place.scratch).len(), 0);
    }
}

#[test]
fn a_missing_or_foreign_file_is_named() {
    let root = tempfile::tempdir().unwrap();
    run_and_crash(root.path(), 3, Crash::Nowhere);
    let victim = files(&root.path().join("data")).remove(0);
    fs::write(&victim, b"short").unwrap();
    let failure = |root: &Path| Archive::open(plan(root, &["date"]), EventTime::from_micros(0)).unwrap_err();
    assert!(matches!(failure(root.path()), ArchiveError::Corrupt { path, .. } if path == victim));
    fs::remove_file(&victim).unwrap();
    let error = failure(root.path());
    assert!(error.to_string().ends_with("is missing, and so is its staged copy"), "{error}");
    assert!(error.hint().is_some() && !error.is_retryable());
}

#[test]
fn one_writer_at_a_time() {
    let root = tempfile::tempdir().unwrap();
    let (mut archive, _) = open(root.path());
    let second = Archive::open(plan(root.path(), &["date"]), EventTime::from_micros(0)).unwrap_err();
    let owner = format!("another headrig (process {}-2026-05-06T05:35:31Z) has it open", std::process::id());
    assert!(second.to_string().contains(&owner), "{second}");

    archive.write_events(&events(0, 3)).unwrap();
    let mut foreign = archive.prepare(&sealing(3)).unwrap();
    archive.abandon();
    let (mut archive, _) = open(root.path());
    foreign.writer = "other".to_owned();
    assert_eq!(chain::append(archive.place.store.as_ref(), &archive.place.keys, &foreign).unwrap(), None);
    archive.write_events(&events(0, 3)).unwrap();
    assert!(matches!(archive.seal(&sealing(3)), Err(ArchiveError::Conflict { owner, .. }) if owner == "other"));
    assert!(matches!(archive.seal(&sealing(3)), Err(ArchiveError::Broken { .. })));
    assert!(matches!(archive.write_events(&events(0, 3)), Err(ArchiveError::Broken { .. })));
    assert_eq!(visible(root.path()), Vec::<i64>::new());
    archive.abandon();
    let (mut archive, _) = open(root.path());
    assert_eq!(files(&archive.place.scratch).len(), 0);
    archive.write_events(&events(0, 3)).unwrap();
    archive.abandon();
    assert_eq!(files(&root.path().join("_headrig/auto/staging/main")).len(), 0);
}

#[test]
fn a_file_in_a_folders_place_is_a_clear_error() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("taken");
    fs::write(&file, b"").unwrap();
    for path in [file.clone(), file.join("below")] {
        let error = Archive::open(plan(&path, &["date"]), EventTime::from_micros(0)).unwrap_err();
        assert!(error.to_string().starts_with("cannot make the folder"), "{error}");
        assert!(error.hint().unwrap().starts_with("a file stands where"), "{error}");
    }
    assert_eq!(fs::read(&file).unwrap(), b"");
}

#[test]
fn a_failed_placement_is_finished_by_the_next_start() {
    let root = tempfile::tempdir().unwrap();
    let (mut archive, _) = open(root.path());
    fs::write(root.path().join("data/date=2026-05-07"), b"").unwrap();
    archive.write_events(&events(0, 6)).unwrap();
    assert!(archive.seal(&sealing(6)).is_err());
    archive.abandon();
    fs::remove_file(root.path().join("data/date=2026-05-07")).unwrap();
    let (_archive, checkpoint) = open(root.path());
    assert_eq!(checkpoint, at(6));
    assert_eq!(visible(root.path()), (0..6).collect::<Vec<_>>());
}

#[test]
fn a_failed_write_gives_its_space_back_and_shows_nothing() {
    let root = tempfile::tempdir().unwrap();
    let (mut archive, _) = open(root.path());
    let staging = archive.place.scratch.clone();
    fs::write(staging.join("000000000001-1.parquet"), b"in the way").unwrap();
    assert!(archive.write_events(&events(0, 6)).is_err());
    assert!(matches!(archive.seal(&sealing(6)), Err(ArchiveError::Broken { .. })));
    assert_eq!(files(&staging), [staging.join("000000000001-1.parquet")]);
    drop(archive);
    assert_eq!(open(root.path()).1, Checkpoint::default());
    assert_eq!(visible(root.path()), Vec::<i64>::new());
}
