//! An archive of JSON Lines, as its readers and `verify` see it.

use super::table::tests::schema;
use super::tests::{START, at, events, files, plan};
use super::upkeep_tests::{LATER, config, upkeep};
use super::{
    Archive, ArchivePlan, ColdConfig, Compression, Config, FileFormat, KeepConfig, Look, RetainConfig, Sealing, verify,
};
use crate::limits;
use crate::place::Located;
use crate::record::dead::{DeadLetter, DeadReason};
use crate::record::raw::PartitionId;
use crate::record::receipt::Checkpoint;
use crate::time::{EventTime, Span};
use arrow::array::{ArrayRef, RecordBatch, StringArray};
use std::fs;
use std::path::Path;
use std::sync::Arc;

fn open(root: &Path, compression: Compression) -> (Archive, Checkpoint) {
    let config = Config {
        format: FileFormat::Jsonl,
        compression: Some(Located::nowhere(compression)),
        ..plan(root, &["date"]).config
    };
    let plan = ArchivePlan { config, ..plan(root, &["date"]) };
    let (archive, opened) = Archive::open(plan, EventTime::from_micros(START)).unwrap();
    (archive, opened.own)
}

/// Seals `records` up to `position`.
fn seal(archive: &mut Archive, position: u64, records: u64) -> u64 {
    archive.seal(&Sealing { checkpoint: at(position), records, ..Sealing::default() }).unwrap().rows
}

/// What `verify` finds, without the archive's folder.
fn flaws(root: &Path, deep: bool) -> Vec<String> {
    let report = verify(root.to_str().unwrap(), Look { deep, audit: false }, |_, _| {}).unwrap();
    let folder = format!("{}/", root.display());
    report.findings.iter().map(|found| format!("{:?} {}", found.flaw, found.detail.replace(&folder, ""))).collect()
}

#[test]
fn rows_are_lines_of_their_partition_and_verify_reads_them() {
    for compression in Compression::ALL {
        let root = tempfile::tempdir().unwrap();
        let (mut archive, _) = open(root.path(), compression);
        let rows = events(0, 4);
        let mut columns = rows.columns().to_vec();
        let attributes: ArrayRef = Arc::new(StringArray::from(vec![Some("{\"user\":{\"id\":7}}"), None, None, None]));
        columns[schema().arrow.index_of("attributes").unwrap()] = attributes;
        archive.write_events(&RecordBatch::try_new(rows.schema(), columns).unwrap()).unwrap();
        let letter = DeadLetter {
            partition: PartitionId(0),
            position: 7,
            reason: DeadReason::NotJson,
            detail: "x".into(),
            raw: b"\xff{\n".to_vec(),
            arrival: EventTime::from_micros(START),
        };
        archive.write_dead(&[letter], |_| ("in", "stdin")).unwrap();
        assert_eq!(seal(&mut archive, 5, 5), 5);
        drop(archive);
        let end = format!(".jsonl{}", compression.suffix());
        let data = files(&root.path().join("data"));
        assert_eq!(data[0], root.path().join(format!("data/date=2026-05-06/auto-000000000001-0{end}")));
        assert_eq!(data.len(), 2);
        if compression == Compression::None {
            let first = r#"{"ts":"2026-05-06T05:35:31.000000Z","ts_source":"event","ingest_ts":"2026-05-06T05:35:31.000000Z","attributes":{"user":{"id":7}},"path":"/v1/x","status":0}"#;
            assert_eq!(fs::read_to_string(&data[0]).unwrap().lines().next(), Some(first));
            let dead = fs::read_to_string(&files(&root.path().join("dead"))[0]).unwrap();
            assert!(dead.contains(r#""raw":"�{\n","raw_bytes":"ff7b0a","pipeline":"auto""#), "{dead}");
        }
        assert_eq!((flaws(root.path(), false), flaws(root.path(), true)), (vec![], vec![]));
        assert_eq!(open(root.path(), compression).1, at(5));
        let sound = fs::read(&data[0]).unwrap();
        for at in [0, sound.len() / 2] {
            let mut damaged = sound.clone();
            // Ends a text, or what is packed isn't what was checked.
            damaged[at] = if damaged[at] == b'"' { b'x' } else { b'"' };
            fs::write(&data[0], damaged).unwrap();
            assert_eq!(flaws(root.path(), false), Vec::<String>::new(), "only its length is looked at");
            let found = flaws(root.path(), true);
            assert!(found.len() == 1 && found[0].starts_with("Differs data/date=2026-05-06/auto"), "{found:?}");
        }
        fs::write(&data[0], &sound[..sound.len() - 1]).unwrap();
        assert_eq!(flaws(root.path(), false).len(), 1);
    }
}

#[test]
fn a_line_that_is_missing_changed_or_cut_is_found() {
    let root = tempfile::tempdir().unwrap();
    let (mut archive, _) = open(root.path(), Compression::None);
    archive.write_events(&events(0, 3)).unwrap();
    seal(&mut archive, 3, 3);
    drop(archive);
    let file = files(&root.path().join("data")).remove(0);
    let sound = fs::read_to_string(&file).unwrap();
    let line = sound.find('\n').unwrap() + 1;
    let spaces = " ".repeat(line - 2);
    let cases = [
        (sound.replace("05:35:31", "05:35:32"), "ts goes from"),
        (sound.replace("\"ts\"", "\"tz\""), "line 1 has no ts"),
        (format!("{{{spaces}{}", &sound[line - 1..]), "line 1 is no row"),
        (format!("{spaces}x\n{}", &sound[line..]), "line 1 is no row"),
        (format!("{}{} ", &sound[..line - 1], &sound[line..]), "line 1 is no row: trailing characters"),
        (format!("{} ", sound.trim_end()), "line 3 has no end"),
    ];
    for (text, expected) in cases {
        assert_eq!(text.len(), sound.len(), "{expected}");
        fs::write(&file, text).unwrap();
        let found = flaws(root.path(), true);
        assert!(found.len() == 1 && found[0].contains(expected), "{expected}: {found:?}");
    }
}

#[test]
fn both_formats_may_follow_each_other_in_one_archive() {
    let root = tempfile::tempdir().unwrap();
    let (mut archive, _) = open(root.path(), Compression::Zstd);
    archive.write_events(&events(0, 3)).unwrap();
    seal(&mut archive, 3, 3);
    drop(archive);
    let (mut archive, _) = super::tests::open(root.path());
    archive.write_events(&events(3, 3)).unwrap();
    seal(&mut archive, 6, 3);
    drop(archive);
    assert_eq!(open(root.path(), Compression::Gzip).1, at(6));
    assert_eq!(flaws(root.path(), true), Vec::<String>::new());
}

#[test]
fn lines_are_folded_expired_and_left_alone_by_compaction() {
    let root = tempfile::tempdir().unwrap();
    let (mut archive, _) = open(root.path(), Compression::Gzip);
    let seals = limits::FOLD_ENTRIES as i64 + 2;
    for number in 0..seals {
        archive.write_events(&events(number % 3, 1)).unwrap();
        seal(&mut archive, number as u64 + 1, 1);
    }
    drop(archive);
    assert_eq!(flaws(root.path(), false), Vec::<String>::new(), "which of them a summary has is in their names");
    let data = || files(&root.path().join("data"));
    assert_eq!(data().len() as i64, seals);
    let mut upkeep = upkeep(root.path());
    assert!(upkeep.take(LATER).unwrap());
    assert_eq!(upkeep.jobs(&config(), LATER), []);
    let keep = KeepConfig { keep: Located::nowhere(Span::from_secs(86_400)), cold: None };
    let cold = ColdConfig {
        url: Located::nowhere("./cold".to_owned()),
        keep: Located::nowhere(Span::from_secs(3 * 86_400)),
        level: ColdConfig::default_level(),
    };
    let colder = KeepConfig { cold: Some(cold), ..keep.clone() };
    let retain = |keep| RetainConfig { data: Some(keep), ..RetainConfig::default() };
    let later = LATER + Span::from_secs(2 * 86_400);
    assert_eq!(upkeep.due(&retain(colder), later), [], "they aren't written again, and not yet old enough to go");
    let due = upkeep.due(&retain(keep), later);
    assert_eq!(due.len(), 1);
    upkeep.expire(&due[0], later).unwrap().unwrap();
    assert_eq!(data().len(), 0);
    assert_eq!(flaws(root.path(), true), Vec::<String>::new());
}
