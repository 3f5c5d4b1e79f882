//! Sources: where raw records come from, one file each.
//!
//! A source is connected (I/O, but nothing runs yet), says which partitions it has and then runs as one task until its
//! input ends or it is told to stop. It hands batches to an [`Outlet`], whose queue is bounded: when the pipeline is
//! slow, the source waits there. A source never acknowledges anything by itself; it is told what is stored, as a
//! [`Checkpoint`]: while it runs by [`Outlet::sealed`], and at the next start.
//!
//! The order of a source's [`Feed`]s per partition is: `Opened` (only for those that were not known when it was
//! connected), any number of `Batch`es whose positions only grow, at most one `Ended`. Told to stop, a source finishes
//! the hand-over that it is in, ends no partition and returns; what it had read but not handed on is before the
//! position of the next start. Whoever receives goes on until the source has returned, or drops the receiver.
//!
//! Sources that read with blocking calls (`stdin`, `file`) have a thread of their own. Those that cannot be read again
//! (`nats`) put what comes into a `spool` on disk, which is then what they read (`spooled`). `jetstream` keeps its position in
//! the stream, and pulls no faster than the pipeline takes.

mod error;
mod file;
mod fingerprint;
mod follow;
mod generate;
mod jetstream;
mod lines;
pub mod nats;
mod outlet;
mod pulled;
mod spool;
mod spooled;
mod stdin;
mod structlog;
#[cfg(test)]
mod testing;
pub mod traffic;

pub use error::SourceError;
pub use outlet::{Buffers, Closed, Outlet};
pub use spool::SpoolError;

use crate::place::{Located, Problem};
use crate::record::raw::{PartitionId, RawBatch};
use crate::record::receipt::Checkpoint;
use crate::telemetry::metrics::SelfMetrics;
use crate::time::clock::Clock;
use futures::future::BoxFuture;
use schemars::JsonSchema;
use serde::Deserialize;
use std::fmt;
use std::num::NonZeroU64;
use std::path::Path;
use std::sync::Arc;

/// What a source hands on.
#[derive(Debug)]
pub enum Feed {
    /// A partition that was not known when the source was connected. Comes before its first batch.
    Opened { id: PartitionId, name: PartitionName },
    /// Records, at least one.
    Batch(RawBatch),
    /// The partition has no more.
    Ended(PartitionId),
}

/// What a partition is called in checkpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionName {
    /// The source's name in the pipeline file.
    pub source: Arc<str>,
    /// The partition's name within the source: a path, `stdin`, `generate`.
    pub partition: String,
    /// Tells this partition from an earlier one of the same name; empty where positions mean nothing to a later run.
    pub identity: String,
}

/// A connected source.
pub trait Source: Send + fmt::Debug {
    /// The partitions known by now. Whoever runs the source registers all of them before anything runs, so that the
    /// event-time clock waits for each.
    fn partitions(&self) -> Vec<PartitionName>;
    /// Bytes that are left to read, for showing progress; `None` when nobody knows.
    fn total_bytes(&self) -> Option<u64>;
    /// Whether it ends by itself.
    fn finite(&self) -> bool;
    /// Lets a source that never ends by itself end at what is there now, where it can.
    fn bound(&mut self) {}
    /// Reads until the input ends or [`Outlet::stopped`]. `ids` are those of [`Self::partitions`], in that order.
    fn run(self: Box<Self>, ids: Vec<PartitionId>, outlet: Outlet) -> BoxFuture<'static, Result<(), SourceError>>;
}

/// A source, as written in `sources:`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(tag = "type")]
pub enum Config {
    /// Lines from standard input.
    Stdin(StdinConfig),
    /// Lines from files.
    File(FileConfig),
    /// The built-in log generator.
    Generate(GenerateConfig),
    /// Messages of a NATS server, as Fly.io's log stream is one.
    Nats(nats::NatsConfig),
    /// Messages of a JetStream stream.
    Jetstream(jetstream::JetstreamConfig),
}

/// What a source needs to know of the pipeline that it works for.
#[derive(Debug, Clone, Copy)]
pub struct Setting<'s> {
    /// The pipeline's name.
    pub pipeline: &'s str,
    /// What must outlive the process lies below this folder.
    pub data_dir: &'s Path,
    /// Whether there is an archive, which will say what is sealed.
    pub archived: bool,
    pub telemetry: &'s SelfMetrics,
}

impl Config {
    /// Finds what is wrong without touching anything but the text. A problem of the source as a whole has the place 0:0.
    pub fn check(&self) -> Vec<Problem> {
        match self {
            Self::Stdin(_) | Self::Generate(_) => Vec::new(),
            Self::File(config) => file::check(config),
            Self::Nats(config) => nats::check(config),
            Self::Jetstream(config) => jetstream::check(config),
        }
    }

    /// Opens what the source reads from. Starts nothing.
    ///
    /// `name` is the source's name in the pipeline file; `stored` is what the archive holds already; `setting` is what is the
    /// same for all sources of a pipeline.
    ///
    /// # Errors
    /// When the input isn't there or cannot be read.
    pub fn connect(
        &self,
        name: &str,
        stored: &Checkpoint,
        clock: Arc<dyn Clock>,
        setting: &Setting<'_>,
    ) -> Result<Box<dyn Source>, SourceError> {
        Ok(match self {
            Self::Stdin(_) => Box::new(stdin::Stdin::connect(name)?),
            Self::File(config) if config.follow => Box::new(follow::Follow::connect(config, name, stored)?),
            Self::File(config) => Box::new(file::Files::connect(config, name, stored)?),
            Self::Generate(config) => Box::new(generate::Generate::new(config, name, clock)),
            Self::Nats(config) => Box::new(nats::Nats::connect(config, name, stored, clock, setting)?),
            Self::Jetstream(config) => Box::new(jetstream::Jetstream::connect(config, name, stored, clock, setting)?),
        })
    }
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StdinConfig {}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FileConfig {
    /// Paths or globs (`*`, `?`, `[…]`, `**`).
    pub paths: Vec<Located<String>>,
    /// Go on at the end of a file and wait for more lines and new files. Default false: a file ends at its end.
    #[serde(default)]
    pub follow: bool,
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GenerateConfig {
    /// Lines a second. Default 1,000.
    #[serde(default = "default_rate")]
    pub rate: NonZeroU64,
    /// The same seed gives the same lines.
    #[serde(default)]
    pub seed: u64,
    /// Whether errors and slow requests rise for a while, again and again.
    #[serde(default)]
    pub incident: bool,
    /// End after so many lines. Default: never.
    pub events: Option<NonZeroU64>,
}

fn default_rate() -> NonZeroU64 {
    NonZeroU64::new(1_000).expect("not zero")
}
