//! Results of a window: one batch of rows per closed window.

use crate::time::EventTime;
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use std::sync::Arc;

/// Names of the columns that every window result has besides its groups, aggregates and derived values.
pub mod columns {
    pub const WINDOW_START: &str = "window_start";
    pub const WINDOW_END: &str = "window_end";
    pub const LATE: &str = "late";
    pub const PROVISIONAL: &str = "provisional";
}

/// The rows of one closed window `[start, end)`, one per group, sorted by group.
///
/// Columns in order: `window_start`, `window_end` (timestamps in µs, UTC), the group columns, the aggregates, the
/// derived values, `late` (int), `provisional` (bool).
#[derive(Debug, Clone)]
pub struct WindowRows {
    /// The window's name in the pipeline file.
    pub window: Arc<str>,
    pub start: EventTime,
    pub end: EventTime,
    pub rows: RecordBatch,
}

/// What the rows of a window look like, for those who use them: alert rules and the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WindowSchema {
    pub window: Arc<str>,
    /// The group columns, in the order of `group_by`.
    pub group_by: Vec<String>,
    /// Which records it counts, as SQL; `None`: all.
    pub condition: Option<String>,
    /// All columns of [`WindowRows::rows`].
    pub arrow: SchemaRef,
}
