//! What dead writers leave in a bucket, where no lock keeps others out: it goes, and nothing else does.

use super::chain_tests::{part, partition, reading};
use super::faulty::{Bucket, Faults, Faulty};
use super::tests::{START, at, events, plan, sealing};
use super::upkeep_tests::{LATER, config, more};
use super::{Archive, ArchiveError, ArchivePlan, Look, Opened, Place, Sealing, Sharing, Upkeep, seal, verify_in};
use crate::limits;
use crate::time::EventTime;
use std::path::Path;
use std::sync::Arc;

fn store(bucket: &Bucket) -> Arc<Faulty> {
    Arc::new(Faulty::new(bucket, Faults::default()))
}

fn open(bucket: &Bucket, scratch: &Path, started: i64, sharing: Option<Sharing>) -> (Archive, Opened) {
    let place = Place::unlocked(store(bucket), "auto", scratch.to_owned());
    let plan = ArchivePlan { sharing, ..plan(scratch, &["date"]) };
    Archive::open_at(place, plan, EventTime::from_micros(started)).unwrap()
}

fn writer(bucket: &Bucket, scratch: &Path, started: i64) -> (Archive, Opened) {
    open(bucket, scratch, started, None)
}

fn keys(bucket: &Bucket, part: &str) -> Vec<String> {
    bucket.objects().into_keys().filter(|key| key.contains(part)).collect()
}

fn assert_clean(bucket: &Bucket) {
    let report = verify_in(store(bucket).as_ref(), Look { deep: true, audit: false }, |_, _| {}).unwrap();
    assert_eq!(report.findings, []);
}

fn large(position: u64) -> Sealing {
    Sealing { state: vec![7; limits::STATE_INLINE_BYTES + 1], records: 3, ..sealing(position) }
}

#[test]
fn what_a_dead_writer_staged_goes_with_the_first_seal_of_the_next() {
    let (bucket, first, second) = (Bucket::default(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (mut dead, _) = writer(&bucket, first.path(), START);
    dead.write_events(&events(0, 3)).unwrap();
    dead.prepare(&large(3)).unwrap();
    drop(dead);
    let staged = || keys(&bucket, "/staging/").len();
    assert_eq!(staged(), 1);
    let (mut next, _) = writer(&bucket, second.path(), START + 1);
    next.write_events(&events(0, 3)).unwrap();
    assert_eq!(staged(), 1, "until then it may only be silent");
    next.seal(&large(3)).unwrap();
    assert_eq!(staged(), 0);
    let local = || glob::glob(&format!("{}/**/*.parquet", second.path().display())).unwrap().count();
    assert_eq!(local(), 0, "what has gone up is not kept beside it");
    next.write_events(&events(3, 3)).unwrap();
    next.seal(&large(6)).unwrap();
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

/// Each of these is somebody's, or may become it.
#[test]
fn what_is_sealed_or_of_a_later_writer_or_of_upkeep_stays() {
    let (bucket, scratch, other) = (Bucket::default(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (mut archive, _) = writer(&bucket, scratch.path(), START);
    archive.write_events(&events(0, 3)).unwrap();
    let mut entry = archive.prepare(&Sealing { records: 3, ..sealing(3) }).unwrap();
    let keys_of = archive.place.keys.clone();
    let swept = |number| seal::sweep(store(&bucket).as_ref(), &keys_of, "main", ("nobody-", number)).unwrap();
    archive.commit(&mut entry).unwrap();
    assert_eq!(swept(9), 0, "it is sealed and not placed yet");
    drop(archive);
    let (mut archive, _) = writer(&bucket, scratch.path(), START + 1);
    // Not the file of a seal.
    archive.place.store.put(&format!("{}/README", keys_of.staging("main")), b"x").unwrap();
    archive.write_events(&events(3, 3)).unwrap();
    drop(archive.prepare(&Sealing { records: 3, ..sealing(6) }).unwrap());
    assert_eq!(swept(1), 0, "a writer that has come since has staged it for the second seal");
    // In the middle of upkeep.
    let mut upkeep = Upkeep::at(store(&bucket), "auto", other.path().to_owned(), 4_000_000, LATER).unwrap();
    assert!(upkeep.take(LATER).unwrap());
    let staged = format!("{}/upkeep-000000000001-0.parquet", keys_of.staging("upkeep"));
    archive.place.store.put(&staged, b"half a file").unwrap();
    drop(archive);
    let (mut next, _) = writer(&bucket, scratch.path(), START + 2);
    more(&mut next, 1, 1);
    let staging = keys(&bucket, "/staging/");
    assert_eq!(
        staging,
        [format!("{}/README", keys_of.staging("main")), staged],
        "what was staged for the second seal is gone"
    );
}

#[test]
fn upkeep_and_writers_that_die_and_come_back_leave_each_others_files() {
    let (bucket, scratch, other) = (Bucket::default(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut upkeep = Upkeep::at(store(&bucket), "auto", other.path().to_owned(), 4_000_000, LATER).unwrap();
    for round in 0..6 {
        let (mut dead, _) = writer(&bucket, scratch.path(), START + 2 * round);
        dead.write_events(&events(round * 6, 6)).unwrap();
        dead.prepare(&Sealing { records: 6, ..sealing(6 * (round as u64 + 1)) }).unwrap();
        drop(dead);
        let (mut archive, _) = writer(&bucket, scratch.path(), START + 2 * round + 1);
        assert!(upkeep.take(LATER).unwrap());
        let jobs = upkeep.jobs(&config(), LATER);
        // The writer seals, and sweeps, while files are rewritten.
        let sealed = std::cell::Cell::new(false);
        let archive = std::cell::RefCell::new(&mut archive);
        let seal = || {
            if !sealed.replace(true) {
                more(&mut archive.borrow_mut(), round, 1);
            }
            true
        };
        for job in &jobs {
            upkeep.compact(job, LATER, &seal).unwrap().unwrap();
        }
        seal();
        assert_eq!(keys(&bucket, "/staging/"), Vec::<String>::new());
        assert_clean(&bucket);
    }
}

#[test]
fn states_that_went_to_other_chains_stay() {
    let (bucket, first, second) = (Bucket::default(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let daemon = |scratch: &Path, chain: &str, started| {
        let sharing = Sharing { chain: chain.to_owned(), sources: vec!["in".to_owned()], inherits: true };
        open(&bucket, scratch, started, Some(sharing)).0
    };
    let state = |byte| vec![byte; limits::STATE_INLINE_BYTES + 1];
    let mut a = daemon(first.path(), "d-a", START);
    a.claim(&[partition(0), partition(1)]).unwrap();
    let parts = vec![part(0, &state(0)), part(1, &state(1))];
    a.seal(&Sealing { parts, state: state(2), ..reading(&[(0, 10), (1, 20)]) }).unwrap();
    // b holds the first partition, and its state lies in the folder of a's chain.
    let mut b = daemon(second.path(), "d-b", START);
    b.claim(&[partition(0)]).unwrap();
    drop((a, b));
    let mut a = daemon(first.path(), "d-a", START + 1);
    a.claim(&[partition(1)]).unwrap();
    a.seal(&Sealing { state: state(3), ..reading(&[(1, 21)]) }).unwrap();
    let mut b = daemon(second.path(), "d-b", START + 1);
    assert_eq!(b.claim(&[partition(0)]).unwrap().parts, [part(0, &state(0))]);
    b.seal(&Sealing { state: state(4), ..reading(&[(0, 10)]) }).unwrap();
    drop((a, b));
    let mut c = daemon(second.path(), "d-c", START + 2);
    let claimed = c.claim(&[partition(0), partition(1)]).unwrap();
    assert_eq!(claimed.parts, [part(0, &state(0))], "of the other one a's last seal kept none");
    assert_eq!(claimed.inherited.len(), 2);
}
