//! The archive: Parquet files (or JSON Lines) under Hive partitions, visible only when whole.
//!
//! Rows are encoded into *staged* files as they come. A *seal* makes everything staged since the last one durable and
//! visible at once: staged files are made durable, one entry of the writer's chain names them together with the source
//! positions that they cover and the state behind them, and only then they are placed where readers look. What a crash
//! leaves is finished or thrown away at the next start, by the newest seal. A *claim* is the entry by which a partition goes
//! from one daemon's chain to another's. One thread owns an archive; only a [`Receipt`] says that rows are safe.
//!
//! | where | what |
//! | --- | --- |
//! | `data/ dead/ windows/ alerts/` | Hive folders of whole, sealed files; nothing else is ever there |
//! | `_headrig/{pipeline}/chains/{chain}/{number}.json` | seals and claims; put if absent, never changed |
//! | `_headrig/{pipeline}/summaries/{chain}/{number}.json` | seals that were folded together |
//! | `_headrig/{pipeline}/staging/{chain}/` | files that no seal names yet, or that a seal names and a crash left unmoved |
//! | `_headrig/{pipeline}/state/{chain}/` | window and alert state of the newest seal, when it is large |
//! | `_headrig/{pipeline}/locks/{chain}` | in a local folder: locked while a daemon writes; holds its writer id |
//!
//! The place is a local folder or a bucket: all that is asked of it is in `store.rs`. Why there is no claim before each
//! seal, and files are not filled where readers look: docs/decisions.md.
//!
//! Everything blocks, on the caller's thread; only columns are encoded by a crew of threads beside it, for which the
//! caller waits, so that nothing is under way when a call has returned. After any error an archive refuses further
//! work: what it holds in memory is no longer known to be whole. Opening it again goes on from the newest seal.
//! But a place that takes nothing for now is waited for first (`patience.rs`).
//!
//! [`Receipt`]: crate::record::receipt::Receipt

mod bucket;
mod chain;
#[cfg(test)]
mod chain_tests;
mod check;
mod claim;
mod crew;
mod dictionary;
mod disk;
mod encode;
mod error;
mod filling;
#[cfg(test)]
pub(crate) mod faulty;
mod fold;
mod folder;
mod hex;
mod hybrid;
mod inspect;
mod instance;
mod lines;
#[cfg(test)]
mod lines_tests;
mod partition;
mod patience;
mod plan;
mod profile;
mod seal;
mod sealing;
mod settings;
mod staging;
mod store;
mod table;
#[cfg(test)]
mod tests;
mod verify;
mod writer;

pub use error::ArchiveError;
pub use filling::FileFormat;
pub use instance::{Instance, InstanceError};
pub use lines::Compression;
pub use patience::Patience;
pub use plan::{ArchivePlan, Identified, Opened, Sealed, Sealing, Sharing};
pub use settings::StoreConfig;
pub use table::Kind;
#[cfg(test)]
pub(crate) use verify::verify_in;
pub use verify::{Finding, Flaw, PipelineReport, Report, verify};
pub use writer::Archive;
#[cfg(test)]
pub(crate) use writer::Place;

use crate::place::Located;
use crate::time::Span;
use crate::units::ByteSize;
use schemars::JsonSchema;
use serde::Deserialize;
use std::num::NonZeroU64;

/// `archive:` as written.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// `file:///absolute/folder`, a folder relative to the working directory, or a bucket: `s3://logs/app`, `gs://…`, `az://…`.
    pub url: Located<String>,
    /// Settings of the bucket. What isn't said here is the environment's.
    pub store: Option<Located<StoreConfig>>,
    /// Hive partitions, outermost first: `date` and `hour` (of `ts`, in UTC) or text columns. Default `[date]`.
    #[serde(default = "default_partitions")]
    pub partition_by: Vec<Located<String>>,
    /// What files are: `parquet`, or `jsonl`. Default parquet.
    #[serde(default)]
    pub format: FileFormat,
    /// How JSON Lines are compressed. Default zstd.
    pub compression: Option<Located<Compression>>,
    #[serde(default)]
    pub flush: FlushConfig,
    /// How long a full disk, or a store that cannot be reached or refuses, is waited for, while sources are held back.
    /// Default: for as long as it takes; with `--once`, not at all.
    pub patience: Option<Span>,
    /// Which tables are written. Default all: `[data, dead, windows, alerts]`.
    #[serde(default = "default_tables")]
    pub tables: Located<Vec<Kind>>,
}

/// When staged rows are sealed: whatever comes first, and at the end.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FlushConfig {
    /// Time since the first row that is not sealed. Default 60s.
    pub every: Span,
    /// Staged rows. Default 1,000,000.
    pub rows: NonZeroU64,
    /// Staged bytes, encoded. Default 128MB.
    pub bytes: ByteSize,
}

impl Default for FlushConfig {
    fn default() -> Self {
        Self {
            every: Span::from_secs(60),
            rows: NonZeroU64::new(1_000_000).expect("not zero"),
            bytes: ByteSize(128_000_000),
        }
    }
}

fn default_tables() -> Located<Vec<Kind>> {
    Located::nowhere(Kind::ALL.to_vec())
}

fn default_partitions() -> Vec<Located<String>> {
    vec![Located::nowhere("date".to_owned())]
}
