//! Decoded records: Arrow batches with the pipeline's schema.

use super::raw::PartitionId;
use crate::time::EventTime;
use arrow::array::{Array, BooleanArray, Int64Array, RecordBatch, TimestampMicrosecondArray};
use arrow::compute::filter_record_batch;
use arrow::error::ArrowError;

/// Events of one partition, in order of arrival.
///
/// `clock` has one value a row: the reading of the pipeline's `StreamClock` after that record, in microseconds,
/// null before the first. It is taken before any row is filtered out, so that a filter never changes event time.
#[derive(Debug, Clone)]
pub struct EventBatch {
    pub partition: PartitionId,
    pub rows: RecordBatch,
    pub clock: Int64Array,
    /// The clock's reading behind the last record of the batch, also where all rows were filtered out.
    pub clock_after: Option<EventTime>,
    /// Where the record after the last one starts.
    pub end: u64,
}

impl EventBatch {
    /// Keeps the rows for which `mask` is true; false and null go.
    ///
    /// # Errors
    /// When `mask` is not as long as the batch.
    pub fn filter(&self, mask: &BooleanArray) -> Result<Self, ArrowError> {
        let clock = arrow::compute::filter(&self.clock, mask)?;
        Ok(Self {
            partition: self.partition,
            rows: filter_record_batch(&self.rows, mask)?,
            clock: clock.as_any().downcast_ref::<Int64Array>().expect("a filter keeps the type").clone(),
            clock_after: self.clock_after,
            end: self.end,
        })
    }

    /// The event times: column `ts`, which every schema has first and which is never null.
    pub fn stamps(&self) -> &TimestampMicrosecondArray {
        stamps(&self.rows)
    }
}

/// Column `ts` of rows that have a pipeline's schema.
pub fn stamps(rows: &RecordBatch) -> &TimestampMicrosecondArray {
    rows.column(0).as_any().downcast_ref().expect("ts is the first column of every schema")
}
