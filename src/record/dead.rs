//! Dead letters: records that could not become events, kept with the reason.

use super::raw::PartitionId;
use crate::time::EventTime;

/// Why a record is dead. The text form is a label value of `headrig_decode_errors_total` and the `reason` column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DeadReason {
    /// The transport's envelope is not valid JSON or lacks what makes it one.
    BrokenEnvelope,
    /// `format: json` was asked for and the message is not one JSON object.
    NotJson,
    /// `format: logfmt` was asked for and the message is not logfmt.
    NotLogfmt,
    /// The record is longer than `limits::RECORD_BYTES`.
    TooLong,
    /// A column that the schema marks `required` is missing.
    MissingRequired,
    /// A message in the topic through which daemons share windows is none of theirs.
    BrokenPartial,
}

impl DeadReason {
    pub const ALL: [Self; 6] = [
        Self::BrokenEnvelope,
        Self::NotJson,
        Self::NotLogfmt,
        Self::TooLong,
        Self::MissingRequired,
        Self::BrokenPartial,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BrokenEnvelope => "broken_envelope",
            Self::NotJson => "not_json",
            Self::NotLogfmt => "not_logfmt",
            Self::TooLong => "too_long",
            Self::MissingRequired => "missing_required",
            Self::BrokenPartial => "broken_partial",
        }
    }
}

/// One record that could not become an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    pub partition: PartitionId,
    pub position: u64,
    pub reason: DeadReason,
    /// What exactly is wrong, for people.
    pub detail: String,
    /// The record as it came; at most `limits::RECORD_BYTES` of it.
    pub raw: Vec<u8>,
    pub arrival: EventTime,
}
