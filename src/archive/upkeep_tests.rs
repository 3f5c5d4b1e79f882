//! Upkeep as readers and `verify` see it.

use super::tests::{START, events, files, open, plan, sealing, visible};
use super::upkeep::Upkeep;
use super::{Archive, CompactConfig, Finding, Sealing};
use crate::time::{EventTime, Span};
use crate::units::ByteSize;
use std::fs;
use std::num::NonZeroUsize;
use std::path::Path;

/// An hour later than everything.
pub(super) const LATER: EventTime = EventTime::from_micros(START + 3_600_000_000);

pub(super) fn config() -> CompactConfig {
    CompactConfig { files: NonZeroUsize::new(2).unwrap(), size: ByteSize(1_000_000), ..CompactConfig::default() }
}

pub(super) fn upkeep(root: &Path) -> Upkeep {
    Upkeep::open(
        (root.to_str().unwrap(), None),
        "auto",
        Path::new("/nowhere"),
        4_000_000,
        EventTime::from_micros(START),
    )
    .unwrap()
}

/// An archive with `seals` seals of 6 rows each: 3 of one day and 3 of the next.
pub(super) fn filled(root: &Path, seals: i64) -> Archive {
    let (mut archive, _) = open(root);
    more(&mut archive, 0, seals);
    archive
}

pub(super) fn more(archive: &mut Archive, first: i64, seals: i64) {
    for number in first..first + seals {
        archive.write_events(&events(number * 6, 6)).unwrap();
        let at = Some(EventTime::from_micros(START + number));
        archive.seal(&Sealing { records: 6, at, ..sealing(6 * (number as u64 + 1)) }).unwrap();
    }
}

/// Days of rows are spread over as many folders as there are; these are the rows of the first ones.
pub(super) fn compact_all(upkeep: &mut Upkeep) -> usize {
    assert!(upkeep.take(LATER).unwrap());
    let jobs = upkeep.jobs(&config(), LATER);
    for job in &jobs {
        upkeep.compact(job, LATER, &|| true).unwrap().unwrap();
    }
    jobs.len()
}

pub(super) fn flaws(root: &Path) -> Vec<Finding> {
    super::verify(root.to_str().unwrap(), super::Look { deep: true, audit: true }, |_, _| {}).unwrap().findings
}

/// Rows that all have one day.
fn of_one_day(archive: &mut Archive, first: i64, seals: i64) {
    for number in first..first + seals {
        archive.write_events(&events(number % 3, 1)).unwrap();
        archive.seal(&Sealing { records: 1, ..sealing(number as u64 + 1) }).unwrap();
    }
}

#[test]
fn small_files_become_one_and_nothing_else_changes() {
    let root = tempfile::tempdir().unwrap();
    let (mut archive, _) = open(root.path());
    of_one_day(&mut archive, 0, 9);
    let before = visible(root.path());
    assert_eq!(files(&root.path().join("data")).len(), 9);
    let mut upkeep = upkeep(root.path());
    assert_eq!(compact_all(&mut upkeep), 1);
    let now = files(&root.path().join("data"));
    assert_eq!(now, [root.path().join("data/date=2026-05-06/auto-c000000000002-0.parquet")]);
    assert_eq!(visible(root.path()), before);
    assert_eq!(flaws(root.path()), []);
    assert_eq!(files(&root.path().join("_headrig/auto/replaced")).len(), 9, "kept for a while");
    assert_eq!(upkeep.sweep(Span::from_secs(900), LATER + Span::from_secs(899)).unwrap(), 0);
    assert_eq!(upkeep.sweep(Span::from_secs(900), LATER + Span::from_secs(900)).unwrap(), 9);
    assert_eq!(files(&root.path().join("_headrig/auto/staging")), Vec::<std::path::PathBuf>::new());
    assert_eq!(compact_all(&mut upkeep), 0);
    // More comes, and a restart finds nothing amiss.
    of_one_day(&mut archive, 9, 3);
    assert_eq!(compact_all(&mut upkeep), 1);
    drop((archive, upkeep));
    let (_archive, _) = open(root.path());
    assert_eq!(visible(root.path()).len(), 12);
    assert_eq!(flaws(root.path()), []);
}

#[test]
fn one_process_does_the_upkeep_of_a_folder() {
    let root = tempfile::tempdir().unwrap();
    drop(filled(root.path(), 2));
    let (mut first, mut second) = (upkeep(root.path()), upkeep(root.path()));
    assert!(first.take(LATER).unwrap());
    assert!(!second.take(LATER).unwrap());
    drop(first);
    assert!(second.take(LATER).unwrap());
}

/// The same rows with `status` as a float.
fn with_float(rows: &arrow::array::RecordBatch, schema: &arrow::datatypes::SchemaRef) -> arrow::array::RecordBatch {
    let columns = rows.columns().iter().zip(schema.fields());
    let columns = columns.map(|(column, field)| arrow::compute::cast(column, field.data_type()).unwrap()).collect();
    arrow::array::RecordBatch::try_new(std::sync::Arc::clone(schema), columns).unwrap()
}

#[test]
fn an_int_that_has_become_a_float_is_one_in_what_files_become() {
    use crate::record::schema::{ColumnType, Schema};
    let root = tempfile::tempdir().unwrap();
    let (mut archive, _) = open(root.path());
    of_one_day(&mut archive, 0, 2);
    drop(archive);
    let mut wider = plan(root.path(), &["date"]);
    let mut columns = wider.schema.columns.clone();
    columns.iter_mut().filter(|column| column.name == "status").for_each(|column| column.kind = ColumnType::Float);
    wider.schema = std::sync::Arc::new(Schema::new("test", 4, columns));
    let schema = wider.schema.arrow.clone();
    let (mut archive, _) = Archive::open(wider, EventTime::from_micros(START)).unwrap();
    archive.write_events(&with_float(&events(2, 1), &schema)).unwrap();
    archive.seal(&Sealing { records: 1, ..sealing(3) }).unwrap();
    let mut upkeep = upkeep(root.path());
    assert_eq!(compact_all(&mut upkeep), 1);
    assert_eq!(flaws(root.path()), [], "the change says what the rows have become");
    let [path] = &files(&root.path().join("data"))[..] else { panic!("one file") };
    let file = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(fs::File::open(path).unwrap());
    let file = file.unwrap();
    let status = file.schema().field_with_name("status").unwrap().data_type().clone();
    assert_eq!(status, arrow::datatypes::DataType::Float64);
    let note = |key: &str| {
        let notes = file.metadata().file_metadata().key_value_metadata().unwrap();
        notes.iter().find(|entry| entry.key == key).and_then(|entry| entry.value.clone())
    };
    assert_eq!(note("headrig.schema_version").as_deref(), Some("4"), "the newest one's");
    // Once more, with what is a float already.
    of_floats(&mut archive, &schema);
    assert_eq!(compact_all(&mut upkeep), 1);
    assert_eq!(flaws(root.path()), []);
}

fn of_floats(archive: &mut Archive, schema: &arrow::datatypes::SchemaRef) {
    archive.write_events(&with_float(&events(0, 1), schema)).unwrap();
    archive.seal(&Sealing { records: 1, ..sealing(4) }).unwrap();
}

#[test]
fn a_column_that_only_new_files_have_is_null_for_the_old_rows() {
    let root = tempfile::tempdir().unwrap();
    let (mut archive, _) = open(root.path());
    of_one_day(&mut archive, 0, 2);
    drop(archive);
    let mut wider = plan(root.path(), &["date"]);
    let mut columns = wider.schema.columns.clone();
    columns.push(crate::record::schema::Column::new("more", crate::record::schema::ColumnType::Text));
    wider.schema = std::sync::Arc::new(crate::record::schema::Schema::new("test", 4, columns));
    let schema = wider.schema.arrow.clone();
    let (mut archive, _) = Archive::open(wider, EventTime::from_micros(START)).unwrap();
    let rows = events(2, 1);
    let mut arrays = rows.columns().to_vec();
    arrays.push(std::sync::Arc::new(arrow::array::StringArray::from(vec!["x"])));
    archive.write_events(&arrow::array::RecordBatch::try_new(schema, arrays).unwrap()).unwrap();
    archive.seal(&Sealing { records: 1, ..sealing(3) }).unwrap();
    assert_eq!(compact_all(&mut upkeep(root.path())), 1);
    assert_eq!(visible(root.path()), [0, 1, 2]);
    assert_eq!(flaws(root.path()), []);
}

#[test]
fn a_file_that_is_gone_stops_its_job_and_changes_nothing() {
    let root = tempfile::tempdir().unwrap();
    let (mut archive, _) = open(root.path());
    of_one_day(&mut archive, 0, 4);
    let before = files(&root.path().join("data"));
    fs::remove_file(&before[1]).unwrap();
    let mut upkeep = upkeep(root.path());
    assert!(upkeep.take(LATER).unwrap());
    let jobs = upkeep.jobs(&config(), LATER);
    assert!(upkeep.compact(&jobs[0], LATER, &|| true).is_err());
    assert_eq!(files(&root.path().join("data")).len(), 3);
    assert!(matches!(
        upkeep.compact(&jobs[0], LATER, &|| false),
        Err(super::ArchiveError::Stopped | super::ArchiveError::Io { .. })
    ));
}

#[test]
fn a_crash_at_any_step_of_a_swap_is_finished() {
    use super::change;
    let reference = tempfile::tempdir().unwrap();
    let (mut archive, _) = open(reference.path());
    of_one_day(&mut archive, 0, 4);
    let data = reference.path().join("data/date=2026-05-06");
    let aside = reference.path().join("_headrig/.swap-data%2Fdate=2026-05-06".replace('=', "%3D"));
    let mut first = upkeep(reference.path());
    assert!(first.take(LATER).unwrap());
    let job = first.jobs(&config(), LATER).remove(0);
    // The change is put, and nothing is moved: put the new file back to where it was staged, and the old ones to theirs.
    first.compact(&job, LATER, &|| true).unwrap().unwrap();
    let store = super::folder::Folder::new(reference.path().to_owned());
    let keys = super::chain::Keys::new("auto");
    let change = change::newest(&store, &keys).unwrap().unwrap();
    let exchange = change.exchange().unwrap().clone();
    let (new, kept) = (
        reference.path().join(&exchange.added[0].path),
        reference.path().join(change.kept(&keys, &exchange.removed[0])),
    );
    let undo = || {
        fs::rename(&new, reference.path().join(&exchange.added[0].staged)).unwrap();
        for file in &exchange.removed {
            fs::rename(reference.path().join(change.kept(&keys, file)), reference.path().join(&file.path)).unwrap();
        }
    };
    let expected = [0, 0, 1, 2];
    let finish = || {
        change::settle(&store, &keys).unwrap();
        assert_eq!(visible(reference.path()), expected);
        assert_eq!(flaws(reference.path()), []);
        assert!(!aside.exists() && kept.exists());
    };
    undo();
    let flaw = |finding: &Finding| finding.flaw;
    let found: Vec<_> = flaws(reference.path()).iter().map(flaw).collect();
    assert_eq!(found, [vec![super::Flaw::Unplaced], vec![super::Flaw::Replaced; 4]].concat());
    assert_eq!(visible(reference.path()), expected, "readers still see the old ones");
    finish();
    finish();
    // It died while it built the folder beside.
    undo();
    fs::create_dir(&aside).unwrap();
    fs::hard_link(data.join("auto-000000000001-0.parquet"), aside.join("auto-000000000001-0.parquet")).unwrap();
    finish();
    // It died behind the swap, with some of the old files taken away.
    undo();
    fs::create_dir(&aside).unwrap();
    fs::hard_link(reference.path().join(&exchange.added[0].staged), aside.join(new.file_name().unwrap())).unwrap();
    fs::rename(&aside, reference.path().join("x")).unwrap();
    fs::rename(&data, &aside).unwrap();
    fs::rename(reference.path().join("x"), &data).unwrap();
    fs::rename(
        aside.join("auto-000000000002-0.parquet"),
        reference.path().join(change.kept(&keys, &exchange.removed[1])),
    )
    .unwrap();
    fs::write(aside.join("stranger.txt"), b"x").unwrap();
    change::settle(&store, &keys).unwrap();
    assert_eq!(fs::read(data.join("stranger.txt")).unwrap(), b"x", "what somebody else has put there stays there");
    fs::remove_file(data.join("stranger.txt")).unwrap();
    finish();
}

#[test]
fn changes_are_folded_and_nothing_is_forgotten() {
    let root = tempfile::tempdir().unwrap();
    let (mut archive, _) = open(root.path());
    let mut upkeep = upkeep(root.path());
    let rounds = 2 * crate::limits::CATALOGUE_CHANGES as i64 + 3;
    for round in 0..rounds {
        of_one_day(&mut archive, 2 * round, 2);
        assert_eq!(compact_all(&mut upkeep), 1, "round {round}");
    }
    let home = root.path().join("_headrig/auto");
    assert_eq!(files(&home.join("catalogues")).len(), 1);
    assert!(files(&home.join("changes")).len() <= 5);
    assert_eq!(files(&root.path().join("data")).len(), 1);
    assert_eq!(visible(root.path()).len(), 2 * rounds as usize);
    assert_eq!(flaws(root.path()), []);
    let store = super::folder::Folder::new(root.path().to_owned());
    let read = super::catalogue::Catalogue::read(&store, &super::chain::Keys::new("auto")).unwrap();
    assert_eq!(read, upkeep.catalogue);
    assert_eq!(super::live::live_in(&store).unwrap().files.len(), 1);
}

#[test]
fn rows_are_in_order_and_the_file_says_so() {
    use parquet::file::reader::{FileReader, SerializedFileReader};
    let root = tempfile::tempdir().unwrap();
    let (mut archive, _) = open(root.path());
    // The later rows come first.
    for number in [2, 0, 1] {
        archive.write_events(&events(number, 1)).unwrap();
        archive.seal(&Sealing { records: 1, ..sealing(number as u64 + 1) }).unwrap();
    }
    assert_eq!(compact_all(&mut upkeep(root.path())), 1);
    let file = files(&root.path().join("data")).remove(0);
    let reader = SerializedFileReader::new(fs::File::open(file).unwrap()).unwrap();
    let group = reader.metadata().row_group(0);
    let sorted: Vec<String> = group
        .sorting_columns()
        .unwrap()
        .iter()
        .map(|sorted| group.column(sorted.column_idx as usize).column_path().string())
        .collect();
    assert_eq!(sorted, ["app", "ts"]);
    let notes = reader.metadata().file_metadata().key_value_metadata().unwrap();
    let note = |key: &str| notes.iter().find(|note| note.key == key).and_then(|note| note.value.clone());
    assert_eq!(note("headrig.compacted").as_deref(), Some("3"));
    assert_eq!(note("headrig.schema_version").as_deref(), Some("3"));
}
