//! Chains: partitions that go from daemon to daemon, old entries, and what `verify` says of an archive.

use super::faulty::{Bucket, Faults, Faulty};
use super::tests::{START, at, events, files, open, plan, sealing, visible};
use super::{Archive, ArchiveError, ArchivePlan, Opened, Place, Sealing, verify_in};
use crate::limits;
use crate::record::receipt::{Checkpoint, PartitionPosition};
use crate::time::EventTime;
use std::fs;
use std::path::Path;
use std::sync::Arc;

/// A daemon of several that share source `in`.
fn daemon(root: &Path, chain: &str) -> (Archive, super::Opened) {
    let sharing = super::Sharing { chain: chain.to_owned(), sources: vec!["in".to_owned()] };
    let plan = ArchivePlan { sharing: Some(sharing), ..plan(root, &["date"]) };
    Archive::open(plan, EventTime::from_micros(START)).unwrap()
}

fn partition(number: usize) -> (String, String) {
    ("in".to_owned(), format!("t/{number}"))
}

/// What a daemon says that has read partitions up to these positions.
fn reading(positions: &[(usize, u64)]) -> Sealing {
    let position = |(number, position): &(usize, u64)| {
        let (source, partition) = partition(*number);
        PartitionPosition { source, partition, identity: "c".to_owned(), position: *position }
    };
    Sealing { checkpoint: Checkpoint { partitions: positions.iter().map(position).collect() }, ..Sealing::default() }
}

fn positions(checkpoint: &Checkpoint) -> Vec<(String, u64)> {
    checkpoint.partitions.iter().map(|p| (p.partition.clone(), p.position)).collect()
}

fn owned(pairs: &[(usize, u64)]) -> Vec<(String, u64)> {
    pairs.iter().map(|(number, position)| (partition(*number).1, *position)).collect()
}

#[test]
fn a_partition_goes_from_daemon_to_daemon_with_its_position() {
    let root = tempfile::tempdir().unwrap();
    let (mut a, opened) = daemon(root.path(), "d-a");
    assert_eq!(opened, super::Opened::default());
    let (mut b, _) = daemon(root.path(), "d-b");
    assert_eq!(a.claim(&[partition(0), partition(1)]).unwrap(), Checkpoint::default());
    assert_eq!(b.claim(&[partition(2)]).unwrap(), Checkpoint::default());
    a.write_events(&events(0, 2)).unwrap();
    a.seal(&reading(&[(0, 10), (1, 20)])).unwrap();
    b.write_events(&events(2, 2)).unwrap();
    b.seal(&reading(&[(2, 30)])).unwrap();
    // 1 goes from a to b, which a has handed over at its seal; a goes on with 0.
    assert_eq!(positions(&b.claim(&[partition(1)]).unwrap()), owned(&[(1, 20)]));
    a.write_events(&events(4, 2)).unwrap();
    let receipt = a.seal(&reading(&[(0, 11), (1, 20)])).unwrap();
    assert_eq!(positions(&receipt.checkpoint), owned(&[(0, 11)]));
    b.write_events(&events(6, 2)).unwrap();
    b.seal(&reading(&[(1, 25), (2, 30)])).unwrap();
    // And back, though a's flow still believes that it is at 20.
    assert_eq!(positions(&a.claim(&[partition(0), partition(1)]).unwrap()), owned(&[(0, 11), (1, 25)]));
    a.write_events(&events(8, 2)).unwrap();
    a.seal(&reading(&[(0, 12), (1, 20)])).unwrap();
    a.write_events(&events(10, 2)).unwrap();
    let receipt = a.seal(&reading(&[(0, 12), (1, 26)])).unwrap();
    assert_eq!(positions(&receipt.checkpoint), owned(&[(0, 12), (1, 26)]));
    drop((a, b));
    assert_eq!(visible(root.path()), (0..12).collect::<Vec<_>>());
    for (chain, expected) in [("d-a", owned(&[(0, 12), (1, 26)])), ("d-b", owned(&[(2, 30)]))] {
        let (_, opened) = daemon(root.path(), chain);
        assert_eq!(positions(&opened.own), expected);
        assert_eq!(positions(&opened.known), owned(&[(0, 12), (1, 26), (2, 30)]));
    }
}

#[test]
fn a_zombie_with_rows_of_a_partition_that_another_has_claimed_stops() {
    let root = tempfile::tempdir().unwrap();
    let (mut zombie, _) = daemon(root.path(), "d-z");
    zombie.claim(&[partition(0), partition(1)]).unwrap();
    zombie.write_events(&events(0, 2)).unwrap();
    zombie.seal(&reading(&[(0, 5)])).unwrap();
    zombie.write_events(&events(2, 2)).unwrap();
    let (mut other, _) = daemon(root.path(), "d-o");
    assert_eq!(positions(&other.claim(&[partition(0)]).unwrap()), owned(&[(0, 5)]));
    let error = zombie.seal(&reading(&[(0, 7)])).unwrap_err();
    assert!(
        matches!(&error, ArchiveError::Taken { partition, by, .. } if partition == "t/0" && by == "d-o"),
        "{error}"
    );
    assert!(error.is_retryable() && error.hint().is_some());
    other.write_events(&events(2, 2)).unwrap();
    other.seal(&reading(&[(0, 7)])).unwrap();
    assert_eq!(visible(root.path()), (0..4).collect::<Vec<_>>());
    drop(zombie);
    let (mut zombie, opened) = daemon(root.path(), "d-z");
    assert_eq!(positions(&opened.own), owned(&[]), "it holds 1, of which nothing is sealed");
    assert_eq!(positions(&zombie.claim(&[partition(0)]).unwrap()), owned(&[(0, 7)]));
}

#[test]
fn a_partition_that_comes_back_comes_from_where_others_have_sealed_it() {
    let root = tempfile::tempdir().unwrap();
    let ((mut a, _), (mut b, _), (mut c, _)) =
        (daemon(root.path(), "d-a"), daemon(root.path(), "d-b"), daemon(root.path(), "d-c"));
    a.claim(&[partition(0), partition(1)]).unwrap();
    a.write_events(&events(0, 2)).unwrap();
    a.seal(&reading(&[(0, 5), (1, 5)])).unwrap();
    b.claim(&[partition(0)]).unwrap();
    b.write_events(&events(2, 2)).unwrap();
    b.seal(&reading(&[(0, 9)])).unwrap();
    // a has not sealed since, and doesn't know yet that it was gone.
    assert_eq!(positions(&a.claim(&[partition(0)]).unwrap()), owned(&[(0, 9)]));
    a.write_events(&events(4, 1)).unwrap();
    // A claim of something else repeats that 0 once went to b, which is no longer so.
    assert_eq!(positions(&c.claim(&[partition(1)]).unwrap()), owned(&[(1, 5)]));
    let receipt = a.seal(&reading(&[(0, 10), (1, 5)])).unwrap();
    assert_eq!(positions(&receipt.checkpoint), owned(&[(0, 10)]));
    assert_eq!(positions(&b.claim(&[partition(0), partition(1)]).unwrap()), owned(&[(0, 10), (1, 5)]));
    b.write_events(&events(5, 1)).unwrap();
    b.seal(&reading(&[(0, 11), (1, 6)])).unwrap();
    assert_eq!(visible(root.path()), (0..6).collect::<Vec<_>>());
    assert_eq!(positions(&c.claim(&[partition(0), partition(1)]).unwrap()), owned(&[(0, 11), (1, 6)]));
}

#[test]
fn old_seals_are_folded_and_nothing_is_forgotten() {
    let root = tempfile::tempdir().unwrap();
    let (mut archive, _) = open(root.path());
    let seals = 2 * limits::FOLD_ENTRIES + 3;
    for number in 1..=seals {
        if number % 100 == 0 {
            archive.write_events(&events(number as i64, 1)).unwrap();
        }
        archive.seal(&Sealing { records: 1, state: vec![number as u8; 5_000], ..sealing(number) }).unwrap();
    }
    let home = root.path().join("_headrig/auto");
    assert_eq!(files(&home.join("chains/main")).len(), 4);
    assert_eq!(files(&home.join("state/main")).len(), 1, "only the newest state is kept");
    let folded = files(&home.join("summaries/main"));
    let summaries: Vec<super::fold::Summary> =
        folded.iter().map(|path| serde_json::from_slice(&fs::read(path).unwrap()).unwrap()).collect();
    let ranges: Vec<_> = summaries.iter().map(|s| (s.from, s.through, s.records, s.files.len())).collect();
    assert_eq!(ranges, [(1, 255, 255, 2), (256, 511, 256, 3)]);
    assert_eq!(summaries[1].spans[0].start, Some(255));
    assert_eq!((summaries[1].spans.len(), summaries[1].spans[0].end), (1, 511));
    drop(archive);
    let (_, opened) = Archive::open(plan(root.path(), &["date"]), EventTime::from_micros(START)).unwrap();
    assert_eq!((opened.own, opened.state), (at(seals), vec![seals as u8; 5_000]));
}

fn flaws(root: &Path, deep: bool) -> Vec<String> {
    let report = super::verify(root.to_str().unwrap(), deep, |_, _| {}).unwrap();
    let shown = |finding: &super::Finding| {
        format!("{:?} {}", finding.flaw, finding.detail.replace(root.to_str().unwrap(), "A"))
    };
    report.findings.iter().map(shown).collect()
}

#[test]
fn verify_finds_nothing_in_a_sound_archive_and_names_each_flaw() {
    let root = tempfile::tempdir().unwrap();
    let (mut archive, _) = open(root.path());
    for round in 0..4 {
        archive.write_events(&events(round * 3, 3)).unwrap();
        archive.seal(&Sealing { records: 5, filtered: 2, ..sealing(10 * (round as u64 + 1)) }).unwrap();
    }
    archive.write_events(&events(12, 3)).unwrap();
    let mut unplaced = archive.prepare(&Sealing { records: 3, ..sealing(50) }).unwrap();
    let home = root.path().join("_headrig/auto/chains/main");
    assert_eq!(flaws(root.path(), true), Vec::<String>::new(), "what is staged is no flaw");
    let report = super::verify(root.path().to_str().unwrap(), false, |_, _| {}).unwrap();
    assert_eq!((report.notes.len(), report.pipelines[0].records, report.pipelines[0].rows["data"]), (1, 20, 12));

    archive.commit(&mut unplaced).unwrap();
    assert_eq!(flaws(root.path(), false).len(), 1);
    assert!(flaws(root.path(), false)[0].starts_with("Unplaced "), "{:?}", flaws(root.path(), false));
    drop(archive);
    drop(open(root.path()));
    assert_eq!(flaws(root.path(), true), Vec::<String>::new());

    let data = files(&root.path().join("data"));
    let sound = fs::read(&data[0]).unwrap();
    // The last byte before the footer's length is within the footer; one in the middle is a value.
    let mut damaged = sound.clone();
    damaged[60] ^= 0x55;
    fs::write(&data[0], &damaged).unwrap();
    assert_eq!(flaws(root.path(), true).len(), 1);
    fs::write(&data[0], &sound[1..]).unwrap();
    assert!(flaws(root.path(), false)[0].starts_with("Differs "));
    fs::remove_file(&data[0]).unwrap();
    assert!(flaws(root.path(), false)[0].starts_with("MissingFile A/data/date="));
    fs::write(&data[0], &sound).unwrap();
    fs::write(data[0].with_file_name("copy.parquet"), &sound).unwrap();
    assert_eq!(flaws(root.path(), false), ["Orphan A/data/date=2026-05-06/copy.parquet is in no seal"]);
    fs::remove_file(data[0].with_file_name("copy.parquet")).unwrap();

    let second = home.join("000000000002.json");
    let entry = fs::read_to_string(&second).unwrap();
    for (from, to, expected) in [
        ("\"start\": 10", "\"start\": 11", "Gap stdin of source in: positions 10 to 11"),
        ("\"start\": 10", "\"start\": 7", "Overlap stdin of source in: positions 7 to 10"),
        (
            "\"records\": 5",
            "\"records\": 6",
            "Unaccounted seal 2 of chain main has 6 records, of which 5 are rows, dead letters or filtered out",
        ),
    ] {
        fs::write(&second, entry.replace(from, to)).unwrap();
        assert_eq!(flaws(root.path(), false), [expected]);
    }
    fs::remove_file(&second).unwrap();
    let found = flaws(root.path(), false);
    assert!(found.iter().any(|f| f == "MissingEntry chain main has no entries 2 to 2"), "{found:?}");
    assert!(found.iter().any(|f| f.starts_with("Gap ")) && found.iter().any(|f| f.starts_with("Orphan ")), "{found:?}");
}

#[test]
fn a_partition_whose_identity_grows_stays_the_same() {
    let root = tempfile::tempdir().unwrap();
    let (mut archive, _) = open(root.path());
    let mut checkpoint = at(10);
    archive.seal(&Sealing { checkpoint: checkpoint.clone(), ..Sealing::default() }).unwrap();
    for (before, after, position) in [("x", "y", 10), ("y", "z", 25)] {
        checkpoint.identify("in", "stdin", before, after);
        checkpoint.partitions[0].position = position;
        let change = |before: &str, after: &str| super::Identified {
            source: "in".to_owned(),
            partition: "stdin".to_owned(),
            before: before.to_owned(),
            after: after.to_owned(),
        };
        let identified = vec![change("other", "y"), change(before, after)];
        archive.seal(&Sealing { checkpoint: checkpoint.clone(), identified, ..Sealing::default() }).unwrap();
        assert_eq!(flaws(root.path(), false), Vec::<String>::new());
    }
    // A file of that name that is another one begins at its own beginning.
    checkpoint.partitions[0] =
        PartitionPosition { identity: "new".to_owned(), position: 5, ..checkpoint.partitions[0].clone() };
    archive.seal(&Sealing { checkpoint: checkpoint.clone(), ..Sealing::default() }).unwrap();
    assert_eq!(flaws(root.path(), false), Vec::<String>::new());
    checkpoint.partitions.clear();
    archive.write_events(&events(0, 1)).unwrap();
    archive.seal(&Sealing { checkpoint, records: 1, ..Sealing::default() }).unwrap();
    drop(archive);
    assert_eq!(open(root.path()).1, Checkpoint::default(), "what the flow forgets is forgotten");
    assert_eq!(flaws(root.path(), false), Vec::<String>::new());
}

/// A writer of a bucket, where no lock keeps others out.
fn writer(bucket: &Bucket, scratch: &Path, started: i64) -> (Archive, Opened) {
    let place = Place::unlocked(Arc::new(Faulty::new(bucket, Faults::default())), "auto", scratch.to_owned());
    Archive::open_at(place, plan(scratch, &["date"]), EventTime::from_micros(started)).unwrap()
}

fn keys(bucket: &Bucket, part: &str) -> Vec<String> {
    bucket.objects().into_keys().filter(|key| key.contains(part)).collect()
}

fn assert_clean(bucket: &Bucket) {
    let report = verify_in(&Faulty::new(bucket, Faults::default()), true, |_, _| {}).unwrap();
    assert_eq!(report.findings, []);
}

#[test]
fn what_a_dead_writer_left_in_a_bucket_goes_with_the_first_seal_of_the_next() {
    let (bucket, first, second) = (Bucket::default(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let large = |position| Sealing { state: vec![7; limits::STATE_INLINE_BYTES + 1], records: 3, ..sealing(position) };
    let (mut dead, _) = writer(&bucket, first.path(), START);
    dead.write_events(&events(0, 3)).unwrap();
    dead.prepare(&large(3)).unwrap();
    drop(dead);
    let left = || (keys(&bucket, "/staging/").len(), keys(&bucket, "/state/").len());
    assert_eq!(left(), (1, 1));
    let (mut next, _) = writer(&bucket, second.path(), START + 1);
    next.write_events(&events(0, 3)).unwrap();
    assert_eq!(left(), (1, 1), "until then it may only be silent");
    next.seal(&large(3)).unwrap();
    assert_eq!(left(), (0, 1), "its own state stays");
    // Later ones are looked for no more, by this writer.
    next.write_events(&events(3, 3)).unwrap();
    next.seal(&large(6)).unwrap();
    assert_eq!(left(), (0, 1));
    drop(next);
    assert_clean(&bucket);
    assert_eq!(writer(&bucket, second.path(), START + 2).1.state, large(6).state);
}

#[test]
fn a_silent_writer_that_seals_before_the_next_one_finds_its_files() {
    let (bucket, first, second) = (Bucket::default(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (mut silent, _) = writer(&bucket, first.path(), START);
    silent.write_events(&events(0, 3)).unwrap();
    let mut entry = silent.prepare(&Sealing { records: 3, ..sealing(3) }).unwrap();
    let (mut next, _) = writer(&bucket, second.path(), START + 1);
    next.write_events(&events(0, 3)).unwrap();
    silent.commit(&mut entry).unwrap();
    assert!(matches!(next.seal(&sealing(3)), Err(ArchiveError::Conflict { .. })));
    drop((silent, next));
    let (mut last, opened) = writer(&bucket, second.path(), START + 2);
    assert_eq!(opened.own, at(3));
    last.write_events(&events(3, 3)).unwrap();
    last.seal(&Sealing { records: 3, ..sealing(6) }).unwrap();
    drop(last);
    assert_eq!(keys(&bucket, "/staging/"), Vec::<String>::new());
    assert_clean(&bucket);
}
