//! Logs beside an archive, as whoever replays them sees it.

use super::action::{Action, Add, CommitInfo};
use super::ledger::Ledger;
use super::place::{commit, decode, log};
use super::snapshot::{self, Snapshot};
use crate::archive::chain::{self, Keys};
use crate::archive::folder::Folder;
use crate::archive::store::Store;
use crate::archive::tests::{START, events, files, plan, sealing};
use crate::archive::upkeep_tests::{LATER, compact_all, config, flaws, more, upkeep};
use crate::archive::{
    Archive, ArchiveError, ArchivePlan, Flaw, KeepConfig, Kind, RetainConfig, Sealing, TableFormat, seal,
};
use crate::place::Located;
use crate::record::receipt::LogCommits;
use crate::record::schema::{Column, ColumnType, Schema};
use crate::time::{EventTime, Span};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::Arc;

fn delta(root: &Path, partition_by: &[&str]) -> ArchivePlan {
    let mut plan = plan(root, partition_by);
    plan.config.table = Some(Located::nowhere(TableFormat::Delta));
    plan
}

fn open_as(plan: ArchivePlan) -> Result<Archive, ArchiveError> {
    Archive::open(plan, EventTime::from_micros(START)).map(|opened| opened.0)
}

fn open(root: &Path) -> Archive {
    open_as(delta(root, &["date"])).unwrap()
}

fn folder(root: &Path) -> Folder {
    Folder::new(root.to_owned())
}

fn snapshot(root: &Path) -> Snapshot {
    Snapshot::read(&folder(root), "data").unwrap()
}

/// The lines of one commit to the log of `data`.
fn lines(root: &Path, version: u64) -> Vec<Value> {
    let text = fs::read_to_string(root.join(commit("data", version))).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Asserts that the log of `data` has what a glob has, and that `verify` finds nothing.
#[track_caller]
fn assert_level(root: &Path) -> BTreeSet<String> {
    let all = files(&root.join("data"));
    let there = all.iter().map(|path| path.strip_prefix(root.join("data")).unwrap().to_str().unwrap().to_owned());
    let there: BTreeSet<String> = there.filter(|path| path.ends_with(".parquet")).collect();
    let listed: BTreeSet<String> = snapshot(root).files.keys().cloned().collect();
    assert_eq!(listed, there);
    assert_eq!(flaws(root), []);
    there
}

#[test]
fn each_seal_is_a_commit_as_the_protocol_has_it() {
    let root = tempfile::tempdir().unwrap();
    let mut archive = open_as(delta(root.path(), &["date", "path"])).unwrap();
    assert_eq!(snapshot(root.path()).head.version, None, "nothing is sealed yet");
    archive.write_events(&events(0, 4)).unwrap();
    let at = Some(EventTime::from_micros(START));
    let receipt = archive.seal(&Sealing { records: 4, at, ..sealing(4) }).unwrap();
    assert_eq!(receipt.logged, LogCommits { put: 1, conflicts: 0 });
    let first = lines(root.path(), 0);
    assert_eq!(first[0]["commitInfo"]["operation"], "CREATE TABLE");
    assert_eq!(first[1], serde_json::json!({ "protocol": { "minReaderVersion": 1, "minWriterVersion": 2 } }));
    let metadata = &first[2]["metaData"];
    assert_eq!(metadata["format"], serde_json::json!({ "provider": "parquet", "options": {} }));
    assert_eq!(metadata["partitionColumns"], serde_json::json!(["date", "path"]));
    assert_eq!(metadata["configuration"], serde_json::json!({}));
    let id = metadata["id"].as_str().unwrap();
    assert_eq!(id.split('-').map(str::len).collect::<Vec<_>>(), [8, 4, 4, 4, 12], "{id}");
    let schema: Value = serde_json::from_str(metadata["schemaString"].as_str().unwrap()).unwrap();
    assert_eq!(
        schema["fields"][0],
        serde_json::json!({ "name": "ts", "type": "timestamp", "nullable": true, "metadata": {} })
    );
    let adds: Vec<&Value> = first.iter().map(|line| &line["add"]).filter(|add| add.is_object()).collect();
    assert_eq!(adds.len(), 4, "three paths of the first day and one of the next");
    for add in &adds {
        let path = root.path().join("data").join(decode(add["path"].as_str().unwrap()));
        assert_eq!(add["size"], fs::metadata(path).unwrap().len());
        assert_eq!((&add["dataChange"], &add["modificationTime"]), (&true.into(), &(START / 1_000).into()));
    }
    let mut values: Vec<String> = adds.iter().map(|add| add["partitionValues"]["path"].to_string()).collect();
    values.sort();
    assert_eq!(values, [r#""""#, r#""../../etc/passwd""#, r#""/v1/x""#, r#""/v1/x""#]);
    let txns: Vec<&Value> = first.iter().map(|line| &line["txn"]).filter(|txn| txn.is_object()).collect();
    assert_eq!((txns.len(), &txns[0]["appId"], &txns[0]["version"]), (1, &"headrig/auto/main".into(), &1.into()));
    more(&mut archive, 1, 1);
    let second = lines(root.path(), 1);
    assert_eq!(second[0]["commitInfo"]["operation"], "WRITE");
    assert!(second.iter().all(|line| line["metaData"].is_null() && line["remove"].is_null()));
    assert_eq!(second.last().unwrap()["txn"]["version"], 2);
    assert_level(root.path());
}

#[test]
fn compaction_moves_rows_and_expiry_removes_them() {
    let root = tempfile::tempdir().unwrap();
    let mut archive = open(root.path());
    more(&mut archive, 0, 1);
    for number in 1..4 {
        archive.write_events(&events(0, 3)).unwrap();
        archive.seal(&Sealing { records: 3, ..sealing(6 + number * 3) }).unwrap();
    }
    let before = snapshot(root.path());
    let mut upkeep = upkeep(root.path());
    assert_eq!(compact_all(&mut upkeep), 1);
    assert_eq!(upkeep.logged(), LogCommits { put: 1, conflicts: 0 });
    let version = snapshot(root.path()).head.version.unwrap();
    assert_eq!(Some(version), before.head.version.map(|version| version + 1), "one commit");
    let commit = lines(root.path(), version);
    let kind = |name: &str| commit.iter().map(|line| line[name].clone()).filter(|line| !line.is_null()).collect();
    let (removed, added): (Vec<Value>, Vec<Value>) = (kind("remove"), kind("add"));
    assert_eq!((removed.len(), added.len()), (4, 1));
    assert!(removed.iter().chain(&added).all(|file| file["dataChange"] == false), "the same rows");
    assert!(removed.iter().all(|file| file["partitionValues"]["date"] == "2026-05-06" && file["size"].is_u64()));
    assert_eq!(kind("txn")[0]["appId"], "headrig/auto/upkeep");
    assert_eq!(assert_level(root.path()).len(), 2);
    let keep = KeepConfig { keep: Located::nowhere(Span::from_secs(86_400)), cold: None };
    let retain = RetainConfig { data: Some(keep), ..RetainConfig::default() };
    let now = LATER + Span::from_secs(2 * 86_400);
    let due = upkeep.due(&retain, now);
    upkeep.expire(&due[0], now).unwrap().unwrap();
    let commit = lines(root.path(), version + 1);
    let removed: Vec<&Value> = commit.iter().map(|line| &line["remove"]).filter(|line| !line.is_null()).collect();
    assert_eq!((removed.len(), &removed[0]["dataChange"]), (1, &true.into()));
    assert_eq!(assert_level(root.path()).len(), 1);
    // The daemon, which knows nothing of these, goes on behind them.
    archive.write_events(&events(3, 1)).unwrap();
    let receipt = archive.seal(&Sealing { records: 1, ..sealing(16) }).unwrap();
    assert_eq!(receipt.logged, LogCommits { put: 1, conflicts: 1 });
    assert_eq!(assert_level(root.path()).len(), 2);
}

#[test]
fn what_a_crash_has_kept_from_the_log_is_made_up_for() {
    let root = tempfile::tempdir().unwrap();
    let mut archive = open(root.path());
    more(&mut archive, 0, 2);
    archive.write_events(&events(12, 2)).unwrap();
    let mut entry = archive.prepare(&Sealing { records: 2, ..sealing(14) }).unwrap();
    archive.commit(&mut entry).unwrap();
    drop(archive);
    let version = snapshot(root.path()).head.version.unwrap();
    let mut archive = open(root.path());
    assert_eq!(snapshot(root.path()).head.version, Some(version + 1));
    assert!(snapshot(root.path()).head.has("headrig/auto/main", 3));
    assert_level(root.path());
    drop(archive);
    // Nothing is left to do, so nothing is committed.
    archive = open(root.path());
    assert_eq!(snapshot(root.path()).head.version, Some(version + 1));
    more(&mut archive, 3, 1);
    assert_level(root.path());
}

#[test]
fn a_change_that_a_crash_has_cut_off_is_committed_as_what_it_was() {
    let root = tempfile::tempdir().unwrap();
    let mut archive = open(root.path());
    for number in 0..3 {
        archive.write_events(&events(0, 3)).unwrap();
        archive.seal(&Sealing { records: 3, ..sealing(3 + number * 3) }).unwrap();
    }
    drop(archive);
    // Upkeep that knows of no log is as good as one that dies before it commits.
    assert_eq!(compact_all(&mut upkeep(root.path()).with_logs(false)), 1);
    let found: Vec<Flaw> = flaws(root.path()).into_iter().map(|finding| finding.flaw).collect();
    assert_eq!(found, [Flaw::Delta; 4], "three that are gone, and the one instead");
    let mut upkeep = upkeep(root.path());
    assert!(upkeep.take(LATER).unwrap());
    assert_level(root.path());
    let newest = lines(root.path(), snapshot(root.path()).head.version.unwrap());
    let changes = |name: &str| newest.iter().map(|line| line[name]["dataChange"].clone()).find(|is| !is.is_null());
    assert_eq!((changes("add"), changes("remove")), (Some(false.into()), Some(false.into())));
    let version = snapshot(root.path()).head.version;
    drop(upkeep);
    drop(open(root.path()));
    assert_eq!(snapshot(root.path()).head.version, version, "nobody commits it again");
}

#[test]
fn a_lost_log_is_made_anew_at_the_next_seal_or_start() {
    let root = tempfile::tempdir().unwrap();
    let mut archive = open(root.path());
    more(&mut archive, 0, 3);
    fs::remove_dir_all(root.path().join(log("data"))).unwrap();
    more(&mut archive, 3, 1);
    assert_eq!(snapshot(root.path()).head.version, Some(0));
    assert_level(root.path());
    more(&mut archive, 4, 1);
    drop(archive);
    fs::remove_dir_all(root.path().join(log("data"))).unwrap();
    let mut archive = open(root.path());
    assert_eq!(snapshot(root.path()).head.version, Some(0));
    more(&mut archive, 5, 1);
    assert_eq!(snapshot(root.path()).head.version, Some(1));
    assert_level(root.path());
}

#[test]
fn an_archive_that_is_there_gets_its_log_when_it_is_turned_on() {
    let root = tempfile::tempdir().unwrap();
    let mut plain = open_as(plan(root.path(), &["date"])).unwrap();
    more(&mut plain, 0, 3);
    assert_eq!(compact_all(&mut upkeep(root.path())), 0);
    drop(plain);
    assert!(!root.path().join(log("data")).exists());
    drop(open(root.path()));
    assert_eq!(assert_level(root.path()).len(), 6);
}

fn sealed(archive: &mut Archive, number: u64) -> chain::Entry {
    archive.write_events(&events(0, 3)).unwrap();
    let mut entry = archive.prepare(&Sealing { records: 3, ..sealing(number * 3) }).unwrap();
    archive.commit(&mut entry).unwrap();
    seal::place(archive.place.store.as_ref(), &entry).unwrap();
    entry
}

/// A ledger that knows the log as it is now.
fn ledger(root: &Path) -> (Ledger, Keys) {
    let keys = Keys::new("auto");
    let mut ledger = Ledger::new(&keys, BTreeMap::new());
    ledger.begin(&folder(root), &keys, 0).unwrap();
    (ledger, keys)
}

#[test]
fn a_commit_whose_reply_was_lost_is_known_again() {
    let root = tempfile::tempdir().unwrap();
    let mut archive = open(root.path());
    more(&mut archive, 0, 1);
    let (mut first, keys) = ledger(root.path());
    let (mut second, _) = ledger(root.path());
    let entry = sealed(&mut archive, 4);
    first.seal(&folder(root.path()), &keys, &entry, 0).unwrap();
    second.seal(&folder(root.path()), &keys, &entry, 0).unwrap();
    assert_eq!(second.take_commits(), LogCommits { put: 0, conflicts: 1 });
    second.seal(&folder(root.path()), &keys, &entry, 0).unwrap();
    assert_eq!(second.take_commits(), LogCommits::default());
    assert_eq!(assert_level(root.path()).len(), 3);
}

#[test]
fn a_file_that_was_compacted_before_its_seal_was_committed_does_not_come_back() {
    let root = tempfile::tempdir().unwrap();
    let mut archive = open(root.path());
    archive.write_events(&events(0, 3)).unwrap();
    archive.seal(&Sealing { records: 3, ..sealing(3) }).unwrap();
    let (mut slow, keys) = ledger(root.path());
    let entry = sealed(&mut archive, 2);
    // Without looking for what is missing, as upkeep does that has been at it for long.
    let mut upkeep = upkeep(root.path()).with_logs(false);
    assert!(upkeep.take(LATER).unwrap());
    upkeep.ledger = Some(ledger_of_nothing(&keys));
    let jobs = upkeep.jobs(&config(), LATER);
    upkeep.compact(&jobs[0], LATER, &|| true).unwrap().unwrap();
    slow.seal(&folder(root.path()), &keys, &entry, 0).unwrap();
    assert_eq!(slow.take_commits(), LogCommits { put: 0, conflicts: 1 });
    assert_eq!(assert_level(root.path()).len(), 1);
}

fn ledger_of_nothing(keys: &Keys) -> Ledger {
    Ledger::new(keys, BTreeMap::new())
}

#[test]
fn commits_of_others_are_gone_behind_and_their_files_left_alone() {
    let root = tempfile::tempdir().unwrap();
    let mut archive = open(root.path());
    more(&mut archive, 0, 1);
    let foreign = Add {
        path: "date=2026-05-06/part-0.parquet".to_owned(),
        partition_values: BTreeMap::from([("date".to_owned(), Some("2026-05-06".to_owned()))]),
        size: 1,
        modification_time: 0,
        data_change: true,
        stats: None,
        tags: None,
    };
    let info = CommitInfo {
        timestamp: 0,
        operation: "WRITE".to_owned(),
        operation_parameters: BTreeMap::new(),
        engine_info: "spark".to_owned(),
        is_blind_append: true,
    };
    let text = super::action::text(&[Action::CommitInfo(info), Action::Add(foreign)]);
    let unknown = b"{\"domainMetadata\":{\"domain\":\"x\",\"configuration\":\"\",\"removed\":false}}\n";
    assert!(folder(root.path()).put_if_absent(&commit("data", 1), &[&text, &unknown[..]].concat()).unwrap());
    more(&mut archive, 1, 1);
    assert_eq!(snapshot(root.path()).head.version, Some(2));
    drop(archive);
    drop(open(root.path()));
    assert!(snapshot(root.path()).files.contains_key("date=2026-05-06/part-0.parquet"));
    let found: Vec<String> = flaws(root.path()).into_iter().map(|finding| finding.detail).collect();
    assert_eq!(found.len(), 1);
    assert!(found[0].ends_with("part-0.parquet, which doesn't count"), "{found:?}");
}

#[test]
fn two_pipelines_have_one_log_in_one_folder() {
    let root = tempfile::tempdir().unwrap();
    let mut auto = open(root.path());
    more(&mut auto, 0, 1);
    let mut columns = plan(root.path(), &[]).schema.columns.clone();
    columns.push(Column::new("more", ColumnType::Float));
    let mut plan = ArchivePlan { pipeline: "other".into(), ..delta(root.path(), &["date"]) };
    let wider = Schema::new("test", 4, columns);
    plan.schema = Arc::new(wider);
    let mut other = open_as(plan).unwrap();
    let rows = events(0, 3);
    let mut arrays = rows.columns().to_vec();
    arrays.push(Arc::new(arrow::array::Float64Array::from(vec![1.0; 3])));
    let schema = {
        let mut fields: Vec<_> = rows.schema().fields().iter().cloned().collect();
        fields.push(Arc::new(arrow::datatypes::Field::new("more", arrow::datatypes::DataType::Float64, true)));
        Arc::new(arrow::datatypes::Schema::new(fields))
    };
    other.write_events(&arrow::array::RecordBatch::try_new(schema, arrays).unwrap()).unwrap();
    other.seal(&Sealing { records: 3, ..sealing(3) }).unwrap();
    more(&mut auto, 1, 1);
    let all = snapshot(root.path());
    assert_eq!((all.head.version, all.files.len()), (Some(2), 5));
    assert!(all.head.metadata.unwrap().schema_string.contains(r#""more","type":"double""#));
    drop((auto, other));
    drop(open(root.path()));
    assert_eq!(assert_level(root.path()).len(), 5, "neither takes the other's for too much");
}

#[test]
fn every_table_has_a_log_of_its_own_where_it_has_rows() {
    let root = tempfile::tempdir().unwrap();
    let mut archive = open(root.path());
    let letter = crate::record::dead::DeadLetter {
        partition: crate::record::raw::PartitionId(0),
        position: 0,
        reason: crate::record::dead::DeadReason::BrokenEnvelope,
        detail: "cannot read".into(),
        raw: b"x".to_vec(),
        arrival: EventTime::from_micros(START),
    };
    archive.write_dead(&[letter], |_| ("in", "stdin")).unwrap();
    archive.seal(&Sealing { records: 1, ..sealing(1) }).unwrap();
    let of = |kind: Kind| Snapshot::read(&folder(root.path()), kind.as_str()).unwrap();
    assert_eq!((of(Kind::Dead).files.len(), of(Kind::Data).head.version), (1, None));
    let stats: Value =
        serde_json::from_str(of(Kind::Dead).files.values().next().unwrap().stats.as_ref().unwrap()).unwrap();
    assert_eq!((&stats["numRecords"], &stats["minValues"]["ts"]), (&1.into(), &"2026-05-06T05:35:31.000Z".into()));
    assert_eq!(flaws(root.path()), []);
}

#[test]
fn a_log_that_is_not_to_be_gone_on_with_says_why() {
    let root = tempfile::tempdir().unwrap();
    let mut archive = open(root.path());
    more(&mut archive, 0, 1);
    drop(archive);
    let refused = |plan: ArchivePlan| {
        let error = open_as(plan).err().unwrap();
        assert!(matches!(error, ArchiveError::Delta { .. }) && error.hint().is_some(), "{error}");
        error.to_string()
    };
    let said = refused(delta(root.path(), &["date", "hour"]));
    assert!(said.ends_with("it is partitioned by [date], and this pipeline partitions by [date, hour]"), "{said}");
    let put = |version: u64, line: &str| {
        assert!(folder(root.path()).put_if_absent(&commit("data", version), line.as_bytes()).unwrap());
    };
    put(2, "{}\n");
    let said = refused(delta(root.path(), &["date"]));
    assert!(said.ends_with("it has no version 1"), "{said}");
    assert_eq!(flaws(root.path())[0].flaw, Flaw::Delta);
    put(1, r#"{"protocol":{"minReaderVersion":3,"minWriterVersion":7,"readerFeatures":["deletionVectors"]}}"#);
    let said = refused(delta(root.path(), &["date"]));
    assert!(said.contains("raised its protocol to reader version 3"), "{said}");
}

#[test]
fn a_replayed_log_says_what_its_commits_say_one_by_one() {
    let root = tempfile::tempdir().unwrap();
    let mut archive = open(root.path());
    more(&mut archive, 0, 30);
    let (store, whole) = (folder(root.path()), snapshot(root.path()));
    assert_eq!(whole.head.version, Some(29));
    let read = snapshot::since(&store, "data", 0).unwrap();
    assert_eq!(read.iter().map(|(version, _)| *version).collect::<Vec<_>>(), (0..30).collect::<Vec<_>>());
    let mut head = super::snapshot::Head::default();
    read.iter().for_each(|(version, actions)| head.apply(*version, actions));
    assert_eq!(head, whole.head);
    assert_eq!(snapshot::since(&store, "data", 30).unwrap(), []);
}
