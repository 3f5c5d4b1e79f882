//! Files whose rows are in order, and what says so.

use super::inspect;
use super::order;
use super::staging::StagedFile;
use super::store::Store;
use super::tests::{START, at, events, files, open, plan, sealing};
use super::{Archive, Kind, Look, Sealing, verify};
use crate::archive::folder::Folder;
use crate::limits;
use crate::time::EventTime;
use arrow::array::{ArrayRef, AsArray, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::TimestampMicrosecondType;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::file::properties::WriterProperties;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

/// Rows of these apps and seconds, with `attributes` of so many bytes.
fn rows(given: &[(Option<&str>, i64)], bytes: usize) -> RecordBatch {
    let rows = events(0, given.len() as i64);
    let schema = rows.schema();
    let mut columns = rows.columns().to_vec();
    let stamps: TimestampMicrosecondArray = given.iter().map(|row| Some(START + row.1 * 1_000_000)).collect();
    columns[schema.index_of("ts").unwrap()] = Arc::new(stamps.with_timezone("UTC"));
    columns[schema.index_of("app").unwrap()] = Arc::new(given.iter().map(|row| row.0).collect::<StringArray>());
    let text = format!("{{\"x\":\"{}\"}}", "y".repeat(bytes));
    let texts: ArrayRef = Arc::new(given.iter().map(|_| Some(text.as_str())).collect::<StringArray>());
    columns[schema.index_of("attributes").unwrap()] = texts;
    RecordBatch::try_new(schema, columns).unwrap()
}

type Found = Vec<(Option<String>, i64)>;

/// Apps and seconds of a file's rows, and the columns that its row groups are marked to be sorted by.
fn read(path: &Path) -> (Found, Vec<Vec<i32>>) {
    let builder = ParquetRecordBatchReaderBuilder::try_new(File::open(path).unwrap()).unwrap();
    let marks = builder.metadata().row_groups().iter().map(|group| {
        group.sorting_columns().into_iter().flatten().map(|sorted| sorted.column_idx).collect::<Vec<i32>>()
    });
    let marks = marks.collect();
    let mut found = Vec::new();
    for batch in builder.build().unwrap() {
        let batch = batch.unwrap();
        let apps = batch.column_by_name("app").unwrap().as_string::<i32>().clone();
        let stamps = batch.column_by_name("ts").unwrap().as_primitive::<TimestampMicrosecondType>();
        let seconds = stamps.values().iter().map(|stamp| (stamp - START) / 1_000_000);
        found.extend(apps.iter().map(|app| app.map(str::to_owned)).zip(seconds));
    }
    (found, marks)
}

#[test]
fn rows_of_a_small_file_are_put_in_order_and_it_says_so() {
    let root = tempfile::tempdir().unwrap();
    let (mut archive, _) = open(root.path());
    let given = [(Some("b"), 1), (Some("a"), 5), (None, 7), (Some("b"), 0), (Some("a"), 4), (None, 2)];
    // More small batches than are made one.
    for row in given.iter().cycle().take(600) {
        archive.write_events(&rows(&[*row], 1)).unwrap();
    }
    archive.seal(&Sealing { records: 600, ..sealing(600) }).unwrap();
    drop(archive);
    let (found, marks) = read(&files(&root.path().join("data"))[0]);
    let mut expected: Found =
        given.iter().cycle().take(600).map(|(app, second)| (app.map(str::to_owned), *second)).collect();
    expected.sort();
    assert_eq!(found, expected);
    let schema = events(0, 1).schema();
    let app = schema.index_of("app").unwrap() as i32;
    assert_eq!(marks, [vec![app, 0]]);
    assert_eq!(
        verify(root.path().to_str().unwrap(), Look { deep: true, audit: false }, |_, _| {}).unwrap().findings,
        []
    );
    assert_eq!(open(root.path()).1, at(600));
}

#[test]
fn a_file_that_outgrows_its_place_is_not_marked_and_holds_all_rows() {
    let root = tempfile::tempdir().unwrap();
    let (mut archive, _) = open(root.path());
    let given: Vec<(Option<&str>, i64)> = (0..500).map(|number| (Some("a"), 500 - number)).collect();
    let mut written = 0;
    while written * 2_000 < limits::ENCODE_BYTES + 1_000_000 {
        archive.write_events(&rows(&given, 2_000)).unwrap();
        written += given.len();
    }
    archive.seal(&Sealing { records: written as u64, ..sealing(written as u64) }).unwrap();
    drop(archive);
    let (found, marks) = read(&files(&root.path().join("data"))[0]);
    assert_eq!((found.len(), marks), (written, vec![Vec::new()]));
    assert!(!found.is_sorted());
    assert_eq!(
        verify(root.path().to_str().unwrap(), Look { deep: true, audit: false }, |_, _| {}).unwrap().findings,
        []
    );
}

#[test]
fn rows_that_come_one_by_one_take_little_memory() {
    let root = tempfile::tempdir().unwrap();
    let (mut archive, _) = open(root.path());
    archive.write_events(&rows(&[(None, 0)], 1)).unwrap();
    let one = archive.memory_bytes();
    for number in 1..6_400 {
        archive.write_events(&rows(&[(None, number % 60)], 1)).unwrap();
    }
    assert!(archive.memory_bytes() < 6_400 * one / 5, "{} bytes of {one} a row", archive.memory_bytes());
    archive.seal(&Sealing { records: 6_400, ..sealing(6_400) }).unwrap();
    let (found, _) = read(&files(&root.path().join("data"))[0]);
    assert!(found.is_sorted() && found.len() == 6_400);
}

#[test]
fn verify_finds_a_mark_that_is_wrong() {
    let root = tempfile::tempdir().unwrap();
    let check = |given: &[(Option<&str>, i64)]| {
        let rows = rows(given, 1);
        let path = root.path().join("data/x.parquet");
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let marks = order::marks(&order::columns(Kind::Data, &rows.schema(), 0));
        let properties = WriterProperties::builder().set_sorting_columns(Some(marks));
        // Out of order from one row group to the next.
        let properties = properties.set_max_row_group_row_count(Some(2)).build();
        let mut writer = ArrowWriter::try_new(File::create(&path).unwrap(), rows.schema(), Some(properties)).unwrap();
        writer.write(&rows).unwrap();
        writer.close().unwrap();
        let store = Folder::new(root.path().to_owned());
        let seconds = given.iter().map(|row| START + row.1 * 1_000_000);
        let file = StagedFile {
            staged: String::new(),
            path: "data/x.parquet".to_owned(),
            kind: Kind::Data,
            rows: given.len() as u64,
            bytes: store.size("data/x.parquet").unwrap().unwrap(),
            min_us: seconds.clone().min().unwrap(),
            max_us: seconds.max().unwrap(),
            sealed_us: None,
            digest: None,
            sha256: None,
            cold: None,
            columns: None,
        };
        inspect::rows(&store, &file, true).unwrap()
    };
    assert_eq!(check(&[(None, 9), (Some("a"), 1), (Some("a"), 1), (Some("b"), 0)]), None);
    let found = check(&[(None, 9), (Some("a"), 2), (Some("a"), 1), (Some("b"), 0)]).unwrap();
    assert!(found.contains("not in the order that its footer says"), "{found}");
}

#[test]
fn a_row_group_is_not_begun_with_the_few_rows_that_the_one_before_had_no_room_for() {
    let root = tempfile::tempdir().unwrap();
    let (mut archive, _) = Archive::open(plan(root.path(), &[]), EventTime::from_micros(START)).unwrap();
    // Few for a row group, and many for 1,000 rows.
    let numbered = |first: i64, count: i64| {
        let rows = events(first, count);
        let mut columns = rows.columns().to_vec();
        let paths = (first..first + count).map(|number| Some(format!("/v1/{}", number % 400)));
        columns[rows.schema().index_of("path").unwrap()] = Arc::new(paths.collect::<StringArray>());
        RecordBatch::try_new(rows.schema(), columns).unwrap()
    };
    let first = limits::ROW_GROUP_ROWS as i64 + 1_000;
    archive.write_events(&numbered(0, first)).unwrap();
    archive.write_events(&numbered(first, 20_000)).unwrap();
    archive.seal(&sealing(1)).unwrap();
    let file = File::open(&files(&root.path().join("data"))[0]).unwrap();
    let metadata = ParquetRecordBatchReaderBuilder::try_new(file).unwrap().metadata().clone();
    let path = events(0, 1).schema().index_of("path").unwrap();
    let groups: Vec<(i64, bool)> = metadata
        .row_groups()
        .iter()
        .map(|group| (group.num_rows(), group.column(path).dictionary_page_offset().is_some()))
        .collect();
    assert_eq!(groups, [(limits::ROW_GROUP_ROWS as i64, true), (21_000, true)]);
}
