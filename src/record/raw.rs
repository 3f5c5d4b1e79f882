//! Raw records as a source read them.

use crate::time::EventTime;
use std::ops::Range;

/// The number of a source partition (a file, a Kafka partition, a stream) within a running pipeline, counted
/// from 0 in the order in which partitions were opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartitionId(pub usize);

/// Where each record of a batch stands in its partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Positions {
    /// A record's position is the byte offset at which it starts: `base` + its start in the batch's bytes.
    Bytes { base: u64 },
    /// Records are numbered one after the other from `first`.
    Sequence { first: u64 },
    /// Each record has its own, growing and with gaps (a compacted topic, the marks of transactions).
    Offsets(Vec<Offset>),
}

/// Where a broker keeps one record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offset {
    pub position: u64,
    /// The broker's stamp of this record. It is the same each time the record is read, as everything that is made of it
    /// must be.
    pub time: Option<EventTime>,
}

/// Records of one partition, in order, with their bytes back to back in one buffer.
#[derive(Debug, Clone)]
pub struct RawBatch {
    pub partition: PartitionId,
    pub bytes: Vec<u8>,
    /// Start and end of each record in `bytes`, without the line's end.
    pub records: Vec<Range<u32>>,
    pub positions: Positions,
    /// Where the record after the last one starts; what a receipt for this batch says.
    pub end: u64,
    /// When the broker took the batch, where there is one and [`Positions::Offsets`] doesn't say it record by record.
    pub broker_time: Option<EventTime>,
    /// When the batch was read.
    pub arrival: EventTime,
}

impl RawBatch {
    pub fn record(&self, index: usize) -> &[u8] {
        let range = &self.records[index];
        &self.bytes[range.start as usize..range.end as usize]
    }

    pub fn position(&self, index: usize) -> u64 {
        match &self.positions {
            Positions::Bytes { base } => base + u64::from(self.records[index].start),
            Positions::Sequence { first } => first + index as u64,
            Positions::Offsets(offsets) => offsets[index].position,
        }
    }

    /// When the broker took a record, where that is known.
    pub fn broker_time(&self, index: usize) -> Option<EventTime> {
        match &self.positions {
            Positions::Offsets(offsets) => offsets[index].time.or(self.broker_time),
            Positions::Bytes { .. } | Positions::Sequence { .. } => self.broker_time,
        }
    }
}
