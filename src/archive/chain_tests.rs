//! Chains: partitions that go from daemon to daemon, old entries, and what `verify` says of an archive.

use super::tests::{START, at, events, files, open, plan, sealing, visible};
use super::{Archive, ArchiveError, ArchivePlan, Sealing};
use crate::limits;
use crate::record::receipt::{Checkpoint, PartitionPosition};
use crate::time::EventTime;
use std::fs;
use std::path::Path;

/// A daemon of several that share source `in`.
fn daemon(root: &Path, chain: &str) -> (Archive, super::Opened) {
    let sharing = super::Sharing { chain: chain.to_owned(), sources: vec!["in".to_owned()], inherits: true };
    let plan = ArchivePlan { sharing: Some(sharing), ..plan(root, &["date"]) };
    Archive::open(plan, EventTime::from_micros(START)).unwrap()
}

pub(super) fn partition(number: usize) -> (String, String) {
    ("in".to_owned(), format!("t/{number}"))
}

/// What a daemon says that has read partitions up to these positions.
pub(super) fn reading(positions: &[(usize, u64)]) -> Sealing {
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
    assert_eq!(a.claim(&[partition(0), partition(1)]).unwrap().checkpoint, Checkpoint::default());
    assert_eq!(b.claim(&[partition(2)]).unwrap().checkpoint, Checkpoint::default());
    a.write_events(&events(0, 2)).unwrap();
    a.seal(&reading(&[(0, 10), (1, 20)])).unwrap();
    b.write_events(&events(2, 2)).unwrap();
    b.seal(&reading(&[(2, 30)])).unwrap();
    // 1 goes from a to b, which a has handed over at its seal; a goes on with 0.
    assert_eq!(positions(&b.claim(&[partition(1)]).unwrap().checkpoint), owned(&[(1, 20)]));
    a.write_events(&events(4, 2)).unwrap();
    let receipt = a.seal(&reading(&[(0, 11), (1, 20)])).unwrap();
    assert_eq!(positions(&receipt.checkpoint), owned(&[(0, 11)]));
    b.write_events(&events(6, 2)).unwrap();
    b.seal(&reading(&[(1, 25), (2, 30)])).unwrap();
    // And back, though a's flow still believes that it is at 20.
    assert_eq!(positions(&a.claim(&[partition(0), partition(1)]).unwrap().checkpoint), owned(&[(0, 11), (1, 25)]));
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
    assert_eq!(positions(&other.claim(&[partition(0)]).unwrap().checkpoint), owned(&[(0, 5)]));
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
    assert_eq!(positions(&zombie.claim(&[partition(0)]).unwrap().checkpoint), owned(&[(0, 7)]));
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
    assert_eq!(positions(&a.claim(&[partition(0)]).unwrap().checkpoint), owned(&[(0, 9)]));
    a.write_events(&events(4, 1)).unwrap();
    // A claim of something else repeats that 0 once went to b, which is no longer so.
    assert_eq!(positions(&c.claim(&[partition(1)]).unwrap().checkpoint), owned(&[(1, 5)]));
    let receipt = a.seal(&reading(&[(0, 10), (1, 5)])).unwrap();
    assert_eq!(positions(&receipt.checkpoint), owned(&[(0, 10)]));
    assert_eq!(positions(&b.claim(&[partition(0), partition(1)]).unwrap().checkpoint), owned(&[(0, 10), (1, 5)]));
    b.write_events(&events(5, 1)).unwrap();
    b.seal(&reading(&[(0, 11), (1, 6)])).unwrap();
    assert_eq!(visible(root.path()), (0..6).collect::<Vec<_>>());
    assert_eq!(positions(&c.claim(&[partition(0), partition(1)]).unwrap().checkpoint), owned(&[(0, 11), (1, 6)]));
}

pub(super) fn part(number: usize, bytes: &[u8]) -> super::PartState {
    let (source, partition) = partition(number);
    super::PartState { source, partition, bytes: bytes.to_vec() }
}

#[test]
fn what_is_kept_of_a_partition_goes_with_it_from_hand_to_hand() {
    let root = tempfile::tempdir().unwrap();
    let (mut a, _) = daemon(root.path(), "d-a");
    let (large, small) = (vec![7; limits::STATE_INLINE_BYTES + 1], b"small".to_vec());
    assert_eq!(a.claim(&[partition(0), partition(1)]).unwrap(), super::Claimed::default());
    let parts = vec![part(0, &large), part(1, &small)];
    a.seal(&Sealing { parts, state: b"of a".to_vec(), ..reading(&[(0, 10), (1, 20)]) }).unwrap();
    // b claims and dies before it has sealed anything; c claims from b, and a has sealed something else meanwhile.
    let (mut b, _) = daemon(root.path(), "d-b");
    assert_eq!(b.claim(&[partition(0)]).unwrap().parts, [part(0, &large)]);
    drop(b);
    a.seal(&Sealing { parts: vec![part(1, b"newer")], state: b"of a, newer".to_vec(), ..reading(&[(0, 10), (1, 21)]) })
        .unwrap();
    let (mut c, _) = daemon(root.path(), "d-c");
    let claimed = c.claim(&[partition(0)]).unwrap();
    assert_eq!((positions(&claimed.checkpoint), claimed.parts), (owned(&[(0, 10)]), vec![part(0, &large)]));
    assert_eq!(claimed.inherited, [b"of a, newer".to_vec()], "b has sealed nothing of it, a has");
    // A state alone is worth a seal; what it replaces is removed.
    c.seal(&Sealing { parts: vec![part(0, &small)], ..reading(&[(0, 10)]) }).unwrap();
    let states =
        |chain: &str| fs::read_dir(root.path().join("_headrig/p/state").join(chain)).map_or(0, Iterator::count);
    assert_eq!((states("d-a"), states("d-c")), (0, 0), "the large one is gone, wherever it was");
    drop(c);
    let (mut c, _) = daemon(root.path(), "d-c");
    let claimed = c.claim(&[partition(0)]).unwrap();
    assert_eq!(claimed.parts, [part(0, &small)]);
    // And a has nothing of it any more, not even its state.
    let error = a.seal(&Sealing { parts: vec![part(0, &large)], ..reading(&[(0, 10), (1, 21)]) }).unwrap_err();
    assert!(matches!(error, ArchiveError::Taken { .. }), "{error}");
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
    let live = super::live_files(root.path().to_str().unwrap()).unwrap();
    assert_eq!((live.files.len(), live.notes), (5, Vec::new()), "what is folded is still live");
    let (_, opened) = Archive::open(plan(root.path(), &["date"]), EventTime::from_micros(START)).unwrap();
    assert_eq!((opened.own, opened.state), (at(seals), vec![seals as u8; 5_000]));
}

#[test]
fn a_writer_that_was_held_while_its_place_was_folded_away_doubles_nothing() {
    for sealed_before in [0, 3] {
        let root = tempfile::tempdir().unwrap();
        let (mut held, _) = open(root.path());
        if sealed_before > 0 {
            held.write_events(&events(0, sealed_before)).unwrap();
            held.seal(&sealing(sealed_before as u64)).unwrap();
        }
        held.write_events(&events(sealed_before, 2)).unwrap();
        let mut late = held.prepare(&sealing(sealed_before as u64 + 2)).unwrap();
        late.writer = "held".to_owned();
        held.abandon();
        let (mut successor, _) = open(root.path());
        for number in 1..=limits::FOLD_ENTRIES + 1 {
            successor.seal(&sealing(sealed_before as u64 + number)).unwrap();
        }
        let error = successor.commit(&mut late).unwrap_err();
        assert!(matches!(&error, ArchiveError::Conflict { owner, .. } if owner != "held"), "{error}");
        drop(successor);
        let (_, opened) = Archive::open(plan(root.path(), &["date"]), EventTime::from_micros(START)).unwrap();
        assert_eq!(opened.own, at(sealed_before as u64 + limits::FOLD_ENTRIES + 1), "its entry counts for nobody");
    }
}

/// While seals are put and folded away, a reader sees each row that was there once, and never fewer than before.
#[test]
fn what_is_live_only_grows_while_it_is_read() {
    let root = tempfile::tempdir().unwrap();
    let (mut archive, _) = open(root.path());
    let seals = limits::FOLD_ENTRIES + 40;
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let (mut seen, mut rounds) = (0, 0);
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                let live = super::live_files(root.path().to_str().unwrap()).unwrap();
                assert_eq!(live.notes, Vec::<String>::new());
                assert!(live.files.len() >= seen, "{} files after {seen}", live.files.len());
                (seen, rounds) = (live.files.len(), rounds + 1);
            }
            rounds
        });
        for number in 1..=seals {
            archive.write_events(&events(3 * number as i64, 1)).unwrap();
            archive.seal(&Sealing { records: 1, ..sealing(number) }).unwrap();
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(reader.join().unwrap() > 1);
    });
    assert_eq!(super::live_files(root.path().to_str().unwrap()).unwrap().files.len() as u64, seals);
}

fn flaws(root: &Path, deep: bool) -> Vec<String> {
    let report = super::verify(root.to_str().unwrap(), super::Look { deep, audit: false }, |_, _| {}).unwrap();
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
    let report = super::verify(root.path().to_str().unwrap(), super::Look::default(), |_, _| {}).unwrap();
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
