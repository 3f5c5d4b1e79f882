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
//! | `data/ dead/ windows/ alerts/` | Hive folders of whole, sealed files; nothing else is ever there but `_delta_log/` |
//! | `_headrig/{pipeline}/chains/{chain}/{number}.json` | seals and claims; put if absent, never changed |
//! | `_headrig/{pipeline}/summaries/{chain}/{number}.json` | seals that were folded together |
//! | `_headrig/{pipeline}/staging/{chain}/` | files that no seal names yet, or that a seal names and a crash left unmoved |
//! | `_headrig/{pipeline}/state/{chain}/` | window and alert state of the newest seal, and what is kept of single partitions, when it is large |
//! | `_delta_log/` in a table's folder | with `table: delta`: what counts, for readers of Delta tables (`delta/`) |
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

mod audit;
#[cfg(test)]
mod audit_tests;
mod bucket;
mod caretaker;
mod catalogue;
mod chain;
#[cfg(test)]
mod chain_tests;
mod change;
mod check;
mod claim;
mod clash;
mod columns;
mod compact;
mod crew;
mod delta;
mod dictionary;
mod digest;
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
mod lines_learn;
mod lines_read;
#[cfg(test)]
mod lines_tests;
mod live;
mod offline;
mod order;
#[cfg(test)]
mod order_tests;
mod partition;
mod patience;
mod plan;
mod profile;
mod retain;
#[cfg(test)]
mod retain_tests;
mod rewrite;
mod runs;
mod seal;
mod sealing;
mod settings;
mod staging;
mod store;
mod swap;
#[cfg(test)]
mod sweep_tests;
mod table;
#[cfg(test)]
mod tests;
mod upkeep;
#[cfg(test)]
mod upkeep_tests;
mod verify;
mod writer;

pub use caretaker::{Care, Caretaker};
pub use clash::Compared;
pub use columns::{DEPRECATED, FileColumn, FileColumns, FileType, SCHEMA, SCHEMA_VERSION};
pub use error::ArchiveError;
pub use filling::FileFormat;
pub use instance::{Instance, InstanceError};
pub use lines::{Compression, stamp};
pub use lines_learn::learn;
pub use lines_read::{LINE_BYTES, unpacked};
pub use live::{Live, LiveFile, SealedRows, held_partitions, home, live_files, objects};
pub use offline::{Round, Step, compact, pipelines, retain};
pub use partition::is_cut;
pub use patience::Patience;
pub use plan::{ArchivePlan, Claimed, Identified, Opened, PartState, Sealed, Sealing, Sharing};
pub use settings::StoreConfig;
pub use table::Kind;
pub use upkeep::Done;
#[cfg(test)]
pub(crate) use upkeep::Upkeep;

#[cfg(test)]
pub(crate) use verify::verify_in;
pub use verify::{Finding, Flaw, Look, PipelineReport, Report, verify};
pub use writer::Archive;
#[cfg(test)]
pub(crate) use writer::Place;

use crate::place::Located;
use crate::time::Span;
use crate::units::ByteSize;
use schemars::JsonSchema;
use serde::Deserialize;
use std::num::{NonZeroU64, NonZeroUsize};

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
    /// How small files become large ones. Without it: by its defaults in a local folder, and not in a bucket.
    pub compact: Option<Located<CompactConfig>>,
    /// How long rows are kept, by table. Without it: for ever.
    pub retain: Option<RetainConfig>,
    /// Whether each seal carries hashes of its files and of the seal before, so that `headrig verify --audit` finds what was
    /// changed. Default false.
    #[serde(default)]
    pub audit: bool,
    /// What else says which files a table has. Default `plain`: nothing does.
    pub table: Option<Located<TableFormat>>,
}

impl Config {
    /// Whether Delta Lake logs are kept beside the files.
    pub(crate) fn is_delta(&self) -> bool {
        self.table.as_ref().is_some_and(|table| table.value == TableFormat::Delta)
    }
}

/// How readers find out which files a table has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TableFormat {
    /// By listing its folder.
    #[default]
    Plain,
    /// By that, or by a Delta Lake log beside the files.
    Delta,
}

/// How long rows of each table are kept; those of others for ever. A partition goes as a whole.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RetainConfig {
    pub data: Option<KeepConfig>,
    pub dead: Option<KeepConfig>,
    pub windows: Option<KeepConfig>,
    pub alerts: Option<KeepConfig>,
}

impl RetainConfig {
    /// How long a table's rows are kept; `None`: for ever.
    pub fn of(&self, kind: Kind) -> Option<&KeepConfig> {
        match kind {
            Kind::Data => self.data.as_ref(),
            Kind::Dead => self.dead.as_ref(),
            Kind::Windows => self.windows.as_ref(),
            Kind::Alerts => self.alerts.as_ref(),
        }
    }

    /// Whether everything is kept for ever.
    pub fn is_empty(&self) -> bool {
        Kind::ALL.into_iter().all(|kind| self.of(kind).is_none())
    }
}

/// How long a table's rows are kept.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KeepConfig {
    /// Age of a partition, from its end on, at which it goes: away, or to `cold`. At least 1h.
    pub keep: Located<Span>,
    /// Another archive that is cheaper to keep.
    pub cold: Option<ColdConfig>,
}

/// Where old rows go before they go for good.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ColdConfig {
    /// A folder or a bucket, as `archive.url`, and another one than that.
    pub url: Located<String>,
    /// Age of a partition, from its end on, at which it is deleted there; more than the `keep` beside `cold`.
    pub keep: Located<Span>,
    /// Zstandard level, 1 to 22. Default 19.
    #[serde(default = "ColdConfig::default_level")]
    pub level: Located<i32>,
}

impl ColdConfig {
    pub(crate) fn default_level() -> Located<i32> {
        Located::nowhere(19)
    }
}

/// When small files of a folder that no seal touches any more become large ones.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CompactConfig {
    /// Whether the daemon does it. Default true.
    pub enabled: bool,
    /// Small files of one folder that make it worth it; at least 2. Default 8.
    pub files: NonZeroUsize,
    /// Bytes of the files that they become; what is half as large stays as it is. Default 256MB.
    pub size: ByteSize,
    /// How long no seal must have touched the folder. Default 10m.
    pub after: Span,
    /// How often is looked for work. Default 5m.
    pub every: Span,
    /// How long replaced files are kept, for queries that are about to read them. Default 15m.
    pub grace: Span,
    /// Zstandard level of the files that they become, 1 to 22; ids, which it makes no smaller, keep 1. Default 9.
    pub level: i32,
}

impl Default for CompactConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            files: NonZeroUsize::new(8).expect("not zero"),
            size: ByteSize(256_000_000),
            after: Span::from_secs(600),
            every: Span::from_secs(300),
            grace: Span::from_secs(900),
            level: table::COMPACT_LEVEL,
        }
    }
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
