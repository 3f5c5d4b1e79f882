//! What an archive has to know of its pipeline, and what it says of itself.

use super::columns;
use super::patience::Patience;
use super::table::{Kind, Table};
use super::{Config, partition};
use crate::record::receipt::Checkpoint;
use crate::record::sample::WindowSchema;
use crate::record::schema::Schema;
use crate::time::EventTime;
use parquet::file::metadata::KeyValue;
use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;

/// What an archive has to know of its pipeline.
#[derive(Debug, Clone)]
pub struct ArchivePlan {
    pub config: Config,
    /// The pipeline's name; files carry it, and each pipeline has chains of its own.
    pub pipeline: String,
    pub schema: Arc<Schema>,
    pub windows: Vec<WindowSchema>,
    /// Threads that encode, the one that calls included; files are the same with any number.
    pub threads: NonZeroUsize,
    /// Local folder for files that are being filled, when the archive is in a bucket.
    pub data_dir: PathBuf,
    /// How daemons share the pipeline's sources; `None` when one daemon reads all.
    pub sharing: Option<Sharing>,
    /// How long a place that takes nothing is waited for, once the archive is open.
    pub patience: Arc<Patience>,
}

/// One daemon of several that share partitions.
#[derive(Debug, Clone)]
pub struct Sharing {
    /// Names this daemon's chain: the same when it is started again, and nobody else's. Letters, digits and `-`.
    pub chain: String,
    /// Names of the sources whose partitions are shared; they have to be claimed.
    pub sources: Vec<String>,
    /// Whether a claim also gives the states of the chains that the partitions come from ([`Claimed::inherited`]).
    pub inherits: bool,
}

/// What a claim has brought.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Claimed {
    /// Where each partition goes on, of those that were read before.
    pub checkpoint: Checkpoint,
    /// What was kept with each of them.
    pub parts: Vec<PartState>,
    /// [`Opened::state`] of the chains that they come from, the oldest first; where they are to be [inherited](Sharing::inherits).
    pub inherited: Vec<Vec<u8>>,
}

/// What is kept of one partition, and goes with it when it is claimed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartState {
    pub source: String,
    pub partition: String,
    pub bytes: Vec<u8>,
}

impl ArchivePlan {
    /// As many threads as there are cores that this process may use, by affinity and cgroup; 1 where that is not known.
    pub fn all_cores() -> NonZeroUsize {
        std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
    }
}

/// How far an archive has come when it is opened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Opened {
    /// Positions of the partitions that are this writer's, as far as they are sealed.
    pub own: Checkpoint,
    /// The same of all partitions of the pipeline, whoever holds them.
    pub known: Checkpoint,
    /// What was kept with this writer's newest seal; empty when nothing.
    pub state: Vec<u8>,
    /// How far event time had come at that seal.
    pub watermark: Option<EventTime>,
}

/// What one seal shall say besides the rows that are staged.
#[derive(Debug, Clone, Default)]
pub struct Sealing {
    /// Where each partition's next record starts.
    pub checkpoint: Checkpoint,
    pub watermark: Option<EventTime>,
    /// Partitions whose identities have changed since the last seal, in order.
    pub identified: Vec<Identified>,
    /// What [`Opened::state`] gives back at the next start.
    pub state: Vec<u8>,
    /// States of partitions of shared sources, of those that have changed. One that moves and is not among them keeps none.
    pub parts: Vec<PartState>,
    /// Records since the last seal, and those of them that a filter took out.
    pub records: u64,
    pub filtered: u64,
    /// The time of day, for whoever keeps the archive in shape; `None` where nobody knows.
    pub at: Option<EventTime>,
}

/// A partition that has another identity by now and is still the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identified {
    pub source: String,
    pub partition: String,
    pub before: String,
    pub after: String,
}

/// What one seal made visible of one table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sealed {
    pub kind: Kind,
    pub rows: u64,
    pub files: u64,
    pub bytes: u64,
}

pub(super) fn fixed_footer(plan: &ArchivePlan, writer: &str) -> Vec<KeyValue> {
    [("headrig.pipeline", plan.pipeline.as_str()), ("headrig.writer", writer)]
        .map(|(key, value)| KeyValue::new(key.to_owned(), value.to_owned()))
        .to_vec()
}

pub(super) fn data_table(plan: &ArchivePlan, footer: &[KeyValue]) -> Table {
    let mut footer = footer.to_vec();
    let mut note = |key: &str, value: String| footer.push(KeyValue::new(key.to_owned(), value));
    note(columns::SCHEMA, plan.schema.name.clone());
    note(columns::SCHEMA_VERSION, plan.schema.version.to_string());
    let deprecated = plan.schema.columns.iter().filter_map(|c| Some((&c.name, &c.deprecated.as_ref()?.instead)));
    let deprecated: BTreeMap<_, _> = deprecated.collect();
    if !deprecated.is_empty() {
        note(columns::DEPRECATED, serde_json::to_string(&deprecated).expect("a map of texts is JSON"));
    }
    let levels: Vec<String> = plan.config.partition_by.iter().map(|l| l.value.clone()).collect();
    Table::data(&plan.schema, &levels, &footer)
}

pub(super) fn plain_table(
    kind: Kind,
    arrow: arrow::datatypes::SchemaRef,
    time: &str,
    plain: &[&str],
    footer: &[KeyValue],
) -> Table {
    Table::plain(kind, kind.as_str().to_owned(), arrow, time, plain, footer)
}

pub(super) fn window_table(window: &WindowSchema, footer: &[KeyValue]) -> Table {
    let folder = format!("{}/{}", Kind::Windows.as_str(), partition::level("name", Some(&window.window)));
    Table::plain(Kind::Windows, folder, window.arrow.clone(), crate::record::sample::columns::WINDOW_START, &[], footer)
}
