use super::*;
use crate::limits::RECORD_BYTES;
use crate::time::EventTime;
use proptest::prelude::*;

const SIZE: u64 = 10 << 20;

fn at(micros: i64) -> EventTime {
    EventTime::from_micros(micros)
}

fn open_at(folder: &Path, position: u64) -> Opened {
    open_with(folder, SIZE, 2_000, Some(position)).unwrap()
}

/// All durable records from the reader's position on, with their numbers and times.
fn drain(reader: &mut Reader) -> Vec<(u64, i64, Vec<u8>)> {
    let mut all = Vec::new();
    loop {
        let group = reader.read(Vec::new()).unwrap();
        if group.records.is_empty() {
            return all;
        }
        for (index, range) in group.records.iter().enumerate() {
            let record = group.bytes[range.start as usize..range.end as usize].to_vec();
            all.push((group.first + index as u64, group.arrival.unwrap().micros(), record));
        }
    }
}

fn segments(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "spool"));
    paths.sort();
    paths
}

#[derive(Debug, Clone)]
enum Step {
    Append(usize, i64),
    Sync,
    /// Reads all, and releases so many records (per cent of what there is).
    Read(u64),
    /// What is not synced is on disk, is read ahead or not, and is thrown away.
    Discard(bool),
    /// Dies with so much (per cent) of what was not synced on disk, and a hole there or not.
    Crash(usize, bool),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0usize..400, 0i64..4).prop_map(|(bytes, time)| Step::Append(bytes, time)),
        3 => Just(Step::Sync),
        1 => (0u64..=100).prop_map(Step::Read),
        1 => any::<bool>().prop_map(Step::Discard),
        1 => (0usize..=100, any::<bool>()).prop_map(|(kept, hole)| Step::Crash(kept, hole)),
    ];
    prop::collection::vec(step, 1..120)
}

/// The records that were appended (all that were ever durable keep their numbers), and how many are durable.
struct Model {
    records: Vec<(i64, Vec<u8>)>,
    durable: usize,
    sealed: u64,
}

impl Model {
    fn assert_reads(&self, reader: &mut Reader) {
        let from = reader.next();
        let read = drain(reader);
        assert_eq!(read.len() as u64, self.durable as u64 - from);
        for ((number, time, record), expected) in read.iter().zip(from..) {
            let (at, text) = &self.records[expected as usize];
            assert_eq!((*number, time, record), (expected, at, text));
        }
    }
}

/// Leaves on disk what a crash may leave of what was written behind `synced`.
fn tear(folder: &Path, synced: u64, kept: usize, hole: bool) {
    let last = segments(folder).pop().unwrap();
    let mut bytes = fs::read(&last).unwrap();
    let synced = synced as usize;
    let keep = synced + (bytes.len() - synced) * kept / 100;
    bytes.truncate(keep);
    if hole && keep > synced {
        let middle = synced + (keep - synced) / 2;
        bytes[synced..middle].fill(0);
    }
    fs::write(&last, bytes).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn what_was_synced_is_there_after_any_crash(steps in steps()) {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let mut model = Model { records: Vec::new(), durable: 0, sealed: 0 };
        let mut opened = open_at(folder, 0);
        for step in steps {
            match step {
                Step::Append(bytes, time) => {
                    let record = vec![b'a' + (model.records.len() % 26) as u8; bytes];
                    let number = opened.writer.append(&record, at(time)).unwrap();
                    prop_assert_eq!(number, model.records.len() as u64);
                    model.records.push((time, record));
                }
                Step::Sync => {
                    model.durable = model.records.len();
                    prop_assert_eq!(opened.writer.sync().unwrap(), model.durable as u64);
                }
                Step::Read(share) => {
                    model.assert_reads(&mut opened.reader);
                    model.sealed = model.sealed.max(model.durable as u64 * share / 100);
                    opened.extent.release(model.sealed).unwrap();
                }
                Step::Discard(read) => {
                    opened.writer.write().unwrap();
                    if read {
                        model.assert_reads(&mut opened.reader);
                    }
                    let discarded = opened.writer.discard().unwrap();
                    prop_assert_eq!(discarded, (model.records.len() - model.durable) as u64);
                    model.records.truncate(model.durable);
                }
                Step::Crash(kept, hole) => {
                    let synced = opened.extent.lock().files.back().unwrap().bytes;
                    let synced = if opened.writer.has_unsynced() { synced } else { u64::MAX };
                    opened.writer.write().unwrap();
                    drop(opened);
                    if synced != u64::MAX {
                        tear(folder, synced, kept, hole);
                    }
                    opened = open_at(folder, model.sealed);
                    let durable = opened.extent.durable() as usize;
                    prop_assert!((model.durable..=model.records.len()).contains(&durable));
                    model.durable = durable;
                    model.records.truncate(durable);
                    model.assert_reads(&mut opened.reader);
                }
            }
        }
    }

    #[test]
    fn a_flipped_bit_is_never_read_as_a_record(groups in prop::collection::vec(1usize..6, 1..12), place in 0usize..100_000, bit in 0u8..8) {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let mut opened = open_at(folder, 0);
        let mut count = 0u64;
        let mut last_group = 0;
        for records in &groups {
            last_group = count;
            for _ in 0..*records {
                opened.writer.append(&vec![b'x'; 150 + count as usize], at(count as i64)).unwrap();
                count += 1;
            }
            opened.writer.sync().unwrap();
        }
        drop(opened);
        let paths = segments(folder);
        let sizes: Vec<usize> = paths.iter().map(|path| fs::metadata(path).unwrap().len() as usize).collect();
        let mut offset = place % sizes.iter().sum::<usize>();
        let index = sizes.iter().position(|size| { let here = offset < *size; if !here { offset -= size; } here }).unwrap();
        let mut bytes = fs::read(&paths[index]).unwrap();
        bytes[offset] ^= 1 << bit;
        fs::write(&paths[index], bytes).unwrap();
        match open_with(folder, SIZE, 2_000, Some(0)) {
            // Nobody can tell damage in the last group from a crash; all before it is there.
            Ok(mut opened) => {
                prop_assert!(opened.extent.durable() >= last_group && index + 1 == paths.len());
                for (number, time, record) in drain(&mut opened.reader) {
                    prop_assert_eq!((time, record), (number as i64, vec![b'x'; 150 + number as usize]));
                }
            }
            Err(SpoolError::Corrupt { path, offset: said, .. }) => {
                prop_assert_eq!(&path, &paths[index]);
                prop_assert!(said as usize <= offset && offset < said as usize + 1_000);
            }
            Err(other) => prop_assert!(false, "{other}"),
        }
    }
}

#[test]
fn several_records_are_synced_at_once_and_seen_only_then() {
    let folder = tempfile::tempdir().unwrap();
    let mut opened = open_at(folder.path(), 0);
    for number in 0..100 {
        opened.writer.append(b"x", at(number)).unwrap();
    }
    assert!(drain(&mut opened.reader).is_empty(), "not accepted yet");
    assert!(!opened.extent.wait_for(0, Duration::ZERO));
    assert_eq!(opened.writer.sync().unwrap(), 100);
    assert_eq!(opened.writer.syncs(), 1);
    assert_eq!(opened.writer.sync().unwrap(), 100);
    assert_eq!(opened.writer.syncs(), 1, "nothing to do");
    assert_eq!(drain(&mut opened.reader).len(), 100);
}

#[test]
fn groups_are_cut_where_the_time_of_arrival_changes() {
    let folder = tempfile::tempdir().unwrap();
    let mut opened = open_at(folder.path(), 0);
    for time in [1, 1, 2, 2, 2, 1] {
        opened.writer.append(b"x", at(time)).unwrap();
    }
    opened.writer.sync().unwrap();
    let mut sizes = Vec::new();
    while let group = opened.reader.read(Vec::new()).unwrap()
        && !group.records.is_empty()
    {
        sizes.push(group.records.len());
    }
    assert_eq!(sizes, [2, 3, 1]);
}

#[test]
fn a_full_spool_takes_more_when_something_was_sealed() {
    let folder = tempfile::tempdir().unwrap();
    let mut opened = open_with(folder.path(), 10_000, 2_000, None).unwrap();
    let fill = |opened: &mut Opened| {
        let mut count = 0;
        loop {
            match opened.writer.append(&[b'x'; 500], at(0)) {
                Ok(_) => count += 1,
                Err(error) => {
                    assert!(matches!(error, SpoolError::Full { .. }) && error.hint().is_some(), "{error}");
                    return count;
                }
            }
            opened.writer.sync().unwrap();
        }
    };
    let taken = fill(&mut opened);
    assert!((15..19).contains(&taken), "{taken}");
    assert!(opened.extent.bytes() <= 10_000);
    assert_eq!(fill(&mut opened), 0);
    opened.extent.release(9).unwrap();
    assert!((8..=10).contains(&fill(&mut opened)));
    assert!(opened.extent.bytes() <= 10_000);
}

#[test]
fn numbers_go_on_when_all_is_sealed_and_when_the_archive_is_ahead() {
    let folder = tempfile::tempdir().unwrap();
    let mut opened = open_at(folder.path(), 0);
    for _ in 0..50 {
        opened.writer.append(&[b'x'; 300], at(0)).unwrap();
        opened.writer.sync().unwrap();
    }
    opened.extent.release(50).unwrap();
    drop(opened);
    assert_eq!(segments(folder.path()).len(), 1);
    let mut opened = open_at(folder.path(), 50);
    assert_eq!(opened.writer.append(b"x", at(0)).unwrap(), 50);
    drop(opened);
    let mut opened = open_at(folder.path(), 70);
    assert_eq!((opened.writer.append(b"x", at(0)).unwrap(), opened.missing), (70, 0));
    opened.writer.sync().unwrap();
    drop(opened);
    let opened = open_at(folder.path(), 60);
    assert_eq!((opened.missing, opened.reader.next()), (10, 70), "ten records are nowhere");
}

#[test]
fn a_missing_segment_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut opened = open_at(folder.path(), 0);
    for _ in 0..30 {
        opened.writer.append(&[b'x'; 300], at(0)).unwrap();
        opened.writer.sync().unwrap();
    }
    drop(opened);
    let paths = segments(folder.path());
    fs::remove_file(&paths[1]).unwrap();
    let error = open_with(folder.path(), SIZE, 2_000, Some(0)).unwrap_err();
    assert!(matches!(error, SpoolError::Missing { .. }) && error.hint().is_some(), "{error}");
}

#[test]
fn one_process_has_it_open_and_its_identity_stays() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("p/s");
    assert_eq!(identify(&path, "first").unwrap(), "first");
    assert_eq!(identify(&path, "second").unwrap(), "first");
    let opened = open(&path, SIZE, None).unwrap();
    let error = open(&path, SIZE, None).unwrap_err();
    assert!(matches!(error, SpoolError::Locked { .. }) && error.hint().is_some(), "{error}");
    drop(opened);
    open(&path, SIZE, None).unwrap();
}

#[test]
fn of_a_record_that_is_too_long_enough_is_kept_to_tell() {
    let folder = tempfile::tempdir().unwrap();
    let mut opened = open_at(folder.path(), 0);
    opened.writer.append(&vec![b'x'; RECORD_BYTES + 10], at(0)).unwrap();
    opened.writer.append(b"", at(0)).unwrap();
    opened.writer.sync().unwrap();
    let lengths: Vec<usize> = drain(&mut opened.reader).iter().map(|(_, _, record)| record.len()).collect();
    assert_eq!(lengths, [RECORD_BYTES + 1, 0]);
}
