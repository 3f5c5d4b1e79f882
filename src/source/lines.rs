//! Cuts a stream of bytes into lines and these into batches. Pure.
//!
//! Bytes are read straight into the buffer that becomes the batch, so a line is never copied alone, and are looked at
//! once, while they are in the cache. A line ends with
//! `\n` or `\r\n`; lines of nothing but white space are no records. Of a line longer than `limits::RECORD_BYTES`, the first
//! `RECORD_BYTES + 1` bytes become the record, by which everybody can tell that it was too long, and the rest is
//! passed over without being kept: memory is bounded by `BATCH_BYTES + RECORD_BYTES + READ_BYTES`.

use super::Buffers;
use crate::limits::{BATCH_BYTES, BATCH_RECORDS, RECORD_BYTES};
use crate::record::raw::{PartitionId, Positions, RawBatch};
use crate::time::EventTime;
use memchr::memchr;
use std::io;
use std::ops::Range;

/// Bytes asked for in one read: a Linux pipe's usual 64 KiB and more from files.
pub(super) const READ_BYTES: usize = 128 << 10;

/// What is kept of a line that is too long.
const KEPT_BYTES: usize = RECORD_BYTES + 1;

/// The lines of one partition.
#[derive(Debug)]
pub(super) struct Lines {
    partition: PartitionId,
    /// Complete lines, then the beginning of the next one.
    bytes: Vec<u8>,
    records: Vec<Range<u32>>,
    /// The position in the stream of `bytes[0]`.
    base: u64,
    /// Where in `bytes` the line starts that has no end yet.
    open: usize,
    /// Up to where `bytes` has been searched for line ends; at least `open`.
    searched: usize,
    /// How much of the open line has been passed over, once it is too long.
    passed: Option<u64>,
    /// Set when a line that was passed over has ended: the batch must end here, too.
    cut: Option<Cut>,
    buffers: Buffers,
}

/// Where a batch ends.
#[derive(Debug, Clone, Copy)]
struct Cut {
    /// The batch's bytes end here.
    keep: usize,
    /// The next batch's bytes start here, …
    resume: usize,
    /// … and that is this position in the stream.
    position: u64,
}

impl Lines {
    /// Lines of a stream of which the next byte has `position`.
    pub(super) fn new(partition: PartitionId, position: u64, buffers: Buffers) -> Self {
        Self {
            partition,
            bytes: Vec::new(),
            records: Vec::new(),
            base: position,
            open: 0,
            searched: 0,
            passed: None,
            cut: None,
            buffers,
        }
    }

    /// The position behind the last byte that was read.
    pub(super) fn position(&self) -> u64 {
        match self.cut {
            Some(cut) => cut.position + (self.bytes.len() - cut.resume) as u64,
            None => self.base + self.bytes.len() as u64 + self.passed.unwrap_or(0),
        }
    }

    /// Where the first line starts that was not taken yet.
    pub(super) fn resume(&self) -> u64 {
        if self.records.is_empty() { self.base + self.open as u64 } else { self.base }
    }

    /// Whether a batch should be taken before more is read.
    pub(super) fn full(&self) -> bool {
        self.cut.is_some() || self.records.len() >= BATCH_RECORDS || self.open >= BATCH_BYTES
    }

    /// Whether there are records to take.
    pub(super) fn ready(&self) -> bool {
        !self.records.is_empty()
    }

    /// Reads once; 0 is the end of the input. `read` appends to the buffer that it is given, at least one byte and at most
    /// what its capacity allows ([`READ_BYTES`] or more, but no more than a batch), unless the input has ended.
    ///
    /// # Errors
    /// Those of `read`, with nothing lost.
    pub(super) fn fill(&mut self, read: impl FnOnce(&mut Vec<u8>) -> io::Result<usize>) -> io::Result<usize> {
        self.make_room();
        let result = read(&mut self.bytes);
        if result.as_ref().is_ok_and(|count| *count == 0) {
            self.shed();
        }
        self.search();
        result
    }

    /// Lets a large buffer go that only the beginning of a line waits in: of many followed files, most are silent.
    fn shed(&mut self) {
        if self.bytes.len() < self.bytes.capacity() / 4 {
            let rest = self.bytes.as_slice().to_vec();
            self.buffers.give_back(std::mem::replace(&mut self.bytes, rest));
        }
    }

    /// Makes sure that the buffer has room for one read. Nothing is filled with zeros: the system writes into memory that
    /// was only reserved.
    fn make_room(&mut self) {
        let before = self.bytes.len();
        if self.bytes.capacity() - before >= READ_BYTES {
            return;
        }
        // What lies there from the last batch goes in front of a buffer that has had a batch's size before.
        let mut warm = self.buffers.take();
        if warm.capacity() >= before + READ_BYTES {
            warm.extend_from_slice(&self.bytes);
            self.bytes = warm;
            return;
        }
        self.buffers.give_back(warm);
        // A second read into the same batch means that there is much to come: no more growing step by step.
        let room = if before == 0 { READ_BYTES } else { (BATCH_BYTES + READ_BYTES).max(before + READ_BYTES) - before };
        self.bytes.reserve_exact(room);
    }

    /// The complete lines so far; `None` when there are no records among them.
    pub(super) fn take(&mut self, arrival: EventTime) -> Option<RawBatch> {
        let Cut { keep, resume, position } = self.cut.take().unwrap_or(Cut {
            keep: self.open,
            resume: self.open,
            position: self.base + self.open as u64,
        });
        let rest = self.bytes[resume..].to_vec();
        let mut bytes = std::mem::replace(&mut self.bytes, rest);
        bytes.truncate(keep);
        let expected = self.records.len();
        let records = std::mem::take(&mut self.records);
        let base = std::mem::replace(&mut self.base, position);
        self.searched = self.searched.saturating_sub(resume);
        self.open = 0;
        self.search();
        if records.is_empty() {
            return None;
        }
        self.records.reserve(expected.saturating_sub(self.records.len()));
        Some(RawBatch {
            partition: self.partition,
            bytes,
            records,
            positions: Positions::Bytes { base },
            end: position,
            broker_time: None,
            arrival,
        })
    }

    /// As [`Self::take`] at the end of the input: the last line counts even without a line end. `None` when there is
    /// nothing more.
    pub(super) fn finish(&mut self, arrival: EventTime) -> Option<RawBatch> {
        while self.full() {
            if let Some(batch) = self.take(arrival) {
                return Some(batch);
            }
        }
        let end = self.bytes.len();
        if self.passed.is_some() {
            self.close_passed(end, 0);
        } else if self.open < end {
            self.close(end);
            self.open = end;
            self.searched = end;
        }
        self.take(arrival)
    }

    /// Finds line ends in what has not been searched yet, until the batch is full.
    fn search(&mut self) {
        while !self.full() {
            let Some(found) = memchr(b'\n', &self.bytes[self.searched..]) else {
                self.searched = self.bytes.len();
                self.pass_over();
                return;
            };
            let end = self.searched + found;
            if self.passed.is_some() {
                self.close_passed(end, 1);
            } else {
                self.close(end);
                self.open = end + 1;
                self.searched = self.open;
            }
        }
    }

    /// Makes a record of the open line, which ends before `end`.
    fn close(&mut self, end: usize) {
        let line = &self.bytes[self.open..end];
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.len() > RECORD_BYTES {
            self.push(KEPT_BYTES);
        } else if !line.trim_ascii_start().is_empty() {
            self.push(line.len());
        }
    }

    fn push(&mut self, length: usize) {
        self.records.push(self.open as u32..(self.open + length) as u32);
    }

    /// Ends a line of which a part was passed over. Its end, `terminator` bytes long, stands at `end`.
    fn close_passed(&mut self, end: usize, terminator: usize) {
        let resume = end + terminator;
        let position = self.base + resume as u64 + self.passed.take().unwrap_or(0);
        self.push(KEPT_BYTES);
        self.cut = Some(Cut { keep: self.open + KEPT_BYTES, resume, position });
        self.searched = resume;
    }

    /// Throws away what is too much of a line that is too long.
    fn pass_over(&mut self) {
        // One byte more than kept may still be the `\r` of a line that is just not too long.
        let allowed = if self.passed.is_some() { KEPT_BYTES } else { KEPT_BYTES + 1 };
        let kept_end = self.open + KEPT_BYTES;
        if self.bytes.len() - self.open >= allowed {
            let more = (self.bytes.len() - kept_end) as u64;
            self.passed = Some(self.passed.unwrap_or(0) + more);
            self.bytes.truncate(kept_end);
            self.searched = kept_end;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: EventTime = EventTime::from_micros(0);

    /// Hands out `data` in pieces of the given sizes, over and over.
    struct Chunks<'a> {
        data: &'a [u8],
        sizes: &'a [usize],
        turn: usize,
    }

    impl Chunks<'_> {
        fn read(&mut self, buffer: &mut Vec<u8>) -> io::Result<usize> {
            let room = buffer.capacity() - buffer.len();
            assert!(room >= READ_BYTES);
            let size = self.sizes[self.turn % self.sizes.len()].min(room).min(self.data.len());
            self.turn += 1;
            buffer.extend_from_slice(&self.data[..size]);
            self.data = &self.data[size..];
            Ok(size)
        }
    }

    /// What the lines must be, by the plainest means.
    fn expected(data: &[u8], base: u64) -> Vec<(u64, Vec<u8>)> {
        let mut position = base;
        let mut records = Vec::new();
        for line in data.split_inclusive(|b| *b == b'\n') {
            let text = line.strip_suffix(b"\n").unwrap_or(line);
            let text = text.strip_suffix(b"\r").unwrap_or(text);
            if text.len() > RECORD_BYTES {
                records.push((position, text[..KEPT_BYTES].to_vec()));
            } else if !text.trim_ascii().is_empty() {
                records.push((position, text.to_vec()));
            }
            position += line.len() as u64;
        }
        records
    }

    /// Cuts `data`, read in pieces of `sizes`, and compares records and positions. With `hasty`, a batch is taken
    /// after every read.
    fn check(data: &[u8], sizes: &[usize], hasty: bool) {
        let base = 1_000;
        let mut reader = Chunks { data, sizes, turn: 0 };
        let mut lines = Lines::new(PartitionId(0), base, Buffers::default());
        let mut records = Vec::new();
        let mut last_end = base;
        let buffers = lines.buffers.clone();
        let mut add = |batch: RawBatch| {
            assert!(!batch.records.is_empty() && batch.records.len() <= BATCH_RECORDS);
            assert!(batch.end > last_end && batch.bytes.len() <= BATCH_BYTES + RECORD_BYTES + READ_BYTES);
            last_end = batch.end;
            for index in 0..batch.records.len() {
                records.push((batch.position(index), batch.record(index).to_vec()));
            }
            buffers.give_back(batch.bytes);
        };
        loop {
            while lines.full() {
                if let Some(batch) = lines.take(NOW) {
                    add(batch);
                }
            }
            let count = lines.fill(|buffer| reader.read(buffer)).unwrap();
            assert!(lines.bytes.len() <= BATCH_BYTES + RECORD_BYTES + READ_BYTES);
            if count == 0 {
                break;
            }
            if hasty && let Some(batch) = lines.take(NOW) {
                add(batch);
            }
        }
        assert_eq!(lines.position(), base + data.len() as u64);
        while let Some(batch) = lines.finish(NOW) {
            add(batch);
        }
        let expected = expected(data, base);
        assert_eq!(records.len(), expected.len());
        assert!(records == expected, "records or positions differ");
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn any_chunking_gives_the_same_records(
            lines in prop::collection::vec(prop_oneof![
                "[a-z \r]{0,12}\n", Just("\n".to_owned()), Just("  \r\n".to_owned()), "[\\x00a-c]{1,5}",
            ], 0..60),
            sizes in prop::collection::vec(1usize..40, 1..6),
            hasty: bool,
        ) {
            check(lines.concat().as_bytes(), &sizes, hasty);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn lines_around_the_limit_are_cut_alike(
            lengths in prop::collection::vec((RECORD_BYTES - 2..RECORD_BYTES + 4, 0usize..4), 1..4),
            huge in prop::option::of(RECORD_BYTES * 2..RECORD_BYTES * 4),
            sizes in prop::collection::vec(prop_oneof![1_000usize..9_000, 60_000usize..READ_BYTES], 1..4),
            ended: bool,
            hasty: bool,
        ) {
            let mut data = Vec::new();
            for (length, end) in lengths.into_iter().chain(huge.map(|length| (length, 0))) {
                data.resize(data.len() + length, b'x');
                data.extend_from_slice([&b"\n"[..], b"\r\n", b"\nshort\n\n", b"\r\r\nafter\n"][end]);
            }
            if !ended {
                data.pop();
            }
            check(&data, &sizes, hasty);
        }
    }

    #[test]
    fn short_lines_are_batched_by_number() {
        check("x\n".repeat(3 * BATCH_RECORDS + 7).as_bytes(), &[READ_BYTES], false);
        check("\n".repeat(2 * BATCH_BYTES + 7).as_bytes(), &[READ_BYTES], false);
        check(b"", &[1], false);
    }
}
