//! Records with offsets of their own → batches.

use crate::limits::{BATCH_BYTES, BATCH_RECORDS, RECORD_BYTES};
use crate::record::raw::{Offset, PartitionId, Positions, RawBatch};
use crate::source::Buffers;
use crate::time::EventTime;

/// What one partition has brought and not handed on yet.
#[derive(Debug)]
pub(super) struct Offsets {
    partition: PartitionId,
    buffers: Buffers,
    bytes: Vec<u8>,
    records: Vec<std::ops::Range<u32>>,
    offsets: Vec<Offset>,
    /// The least position that may come next: a record below it was there already.
    next: u64,
}

impl Offsets {
    pub(super) fn new(partition: PartitionId, next: u64, buffers: Buffers) -> Self {
        Self { partition, buffers, bytes: Vec::new(), records: Vec::new(), offsets: Vec::new(), next }
    }

    /// Takes a record; false when it is one of those that were taken before. Of one that is longer than
    /// [`RECORD_BYTES`] no more is kept than shows that.
    pub(super) fn push(&mut self, record: &[u8], offset: Offset) -> bool {
        if offset.position < self.next {
            return false;
        }
        if self.records.is_empty() {
            self.bytes = self.buffers.take();
        }
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&record[..record.len().min(RECORD_BYTES + 1)]);
        self.records.push(start as u32..self.bytes.len() as u32);
        // The decoder reads a few bytes at a time and stops at the record's end; lines from files end in one more byte.
        self.bytes.push(b'\n');
        self.offsets.push(offset);
        self.next = offset.position + 1;
        true
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn is_full(&self) -> bool {
        self.bytes.len() >= BATCH_BYTES || self.records.len() >= BATCH_RECORDS
    }

    /// The batch, when there is a record in it.
    pub(super) fn take(&mut self, arrival: EventTime) -> Option<RawBatch> {
        if self.records.is_empty() {
            return None;
        }
        Some(RawBatch {
            partition: self.partition,
            bytes: std::mem::take(&mut self.bytes),
            records: std::mem::take(&mut self.records),
            positions: Positions::Offsets(std::mem::take(&mut self.offsets)),
            end: self.next,
            broker_time: None,
            arrival,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(position: u64) -> Offset {
        Offset { position, time: Some(EventTime::from_micros(position as i64 * 1_000)) }
    }

    const NOW: EventTime = EventTime::from_micros(9);

    #[test]
    fn gaps_stay_gaps_and_nothing_is_taken_twice() {
        let mut offsets = Offsets::new(PartitionId(3), 5, Buffers::default());
        assert!(offsets.bytes() == 0 && offsets.take(NOW).is_none());
        let taken: Vec<bool> = [4, 5, 5, 9, 7, 10].map(|position| offsets.push(b"ab", at(position))).to_vec();
        assert_eq!(taken, [false, true, false, true, false, true]);
        let batch = offsets.take(NOW).unwrap();
        assert_eq!((batch.partition, batch.end, batch.arrival), (PartitionId(3), 11, NOW));
        for (index, position) in [5, 9, 10].into_iter().enumerate() {
            assert_eq!(batch.record(index), b"ab");
            assert_eq!(batch.position(index), position);
            assert_eq!(batch.broker_time(index), at(position).time);
        }
        assert!(offsets.bytes() == 0 && offsets.take(NOW).is_none());
        assert!(!offsets.push(b"x", at(10)), "also behind a batch");
    }

    #[test]
    fn a_batch_is_full_by_bytes_or_by_records_and_a_long_record_is_cut() {
        let mut offsets = Offsets::new(PartitionId(0), 0, Buffers::default());
        for position in 0..BATCH_RECORDS as u64 {
            assert!(!offsets.is_full());
            offsets.push(b"", at(position));
        }
        assert!(offsets.is_full());
        offsets.take(NOW);
        assert!(!offsets.is_full());
        offsets.push(&vec![b'x'; 5 * RECORD_BYTES], at(1 << 40));
        assert!(offsets.is_full());
        let batch = offsets.take(NOW).unwrap();
        assert_eq!(batch.record(0).len(), RECORD_BYTES + 1, "enough to be a dead letter");
    }
}
