//! Sources: where raw records come from, one file each.
//!
//! A source is connected (I/O, but nothing runs yet), says which partitions it has and then runs as one task until its
//! input ends or it is told to stop. It hands batches to an [`Outlet`], whose queue is bounded: when the pipeline is
//! slow, the source waits there. A source never acknowledges anything by itself; it is told what is stored, as a
//! [`Checkpoint`]: while it runs by [`Outlet::sealed`], and at the next start.
//!
//! Several daemons may share the partitions of a source. Then one is claimed ([`Feed::Claim`]) before it is read, and all of
//! it is sealed ([`Feed::Seal`]) before it is given to another daemon.
//!
//! The order of a source's [`Feed`]s per partition is: `Opened` (only for those that were not known when it was
//! connected), any number of `Batch`es whose positions only grow and of `Identified`, at most one `Ended`, and after it
//! at most one `Forgotten`. A partition that went to another
//! daemon ends, and if it comes back it is `Opened` as another one of the same name. Told to stop, a source finishes
//! the hand-over that it is in, ends no partition and returns; what it had read but not handed on is before the
//! position of the next start. Whoever receives goes on until the source has returned, or drops the receiver.
//!
//! Sources that read with blocking calls (`stdin`, `file`, `kafka`) have a thread of their own. Those that cannot be read
//! again (`nats`) put what comes into a `spool` on disk, which is then what they read (`spooled`). `jetstream` keeps its
//! position in the stream, and pulls no faster than the pipeline takes. `repartition` is how daemons share windows.

mod error;
mod file;
mod fingerprint;
mod follow;
mod generate;
mod jetstream;
mod kafka;
mod known;
mod lines;
pub mod nats;
mod outlet;
mod repartition;
mod scan;
mod spool;
mod spooled;
mod stdin;
mod structlog;
mod tail;
#[cfg(test)]
mod testing;
pub mod traffic;

pub use error::SourceError;
pub use jetstream::JetstreamConfig;
pub use kafka::BrokerError;
pub use outlet::{Buffers, Closed, Outlet};
pub use repartition::{Publisher, Repartition, RepartitionConfig};
pub use spool::SpoolError;

use crate::place::{Located, Problem, Secret};
use crate::record::raw::{PartitionId, RawBatch};
use crate::record::receipt::{Checkpoint, PartitionPosition};
use crate::telemetry::metrics::SelfMetrics;
use crate::time::clock::Clock;
use futures::future::BoxFuture;
use schemars::JsonSchema;
use serde::Deserialize;
use std::fmt;
use std::num::NonZeroU64;
use std::path::Path;
use std::sync::Arc;
use tokio::sync::oneshot;

/// What a source hands on.
#[derive(Debug)]
pub enum Feed {
    /// A partition that was not known when the source was connected. Comes before its first batch.
    Opened { id: PartitionId, name: PartitionName },
    /// Records, at least one.
    Batch(RawBatch),
    /// The partition's identity says more by now; it is the same partition.
    Identified { id: PartitionId, identity: String },
    /// The partition has no more.
    Ended(PartitionId),
    /// The source will never ask for this position again: checkpoints from here on need not have it. Nothing is to be
    /// done when the position that is known under the name has another identity.
    Forgotten(PartitionName),
    /// Asks that partitions of a shared source become this daemon's. Answered with where each goes on, of those that were read
    /// before; with nothing where there is no archive.
    Claim { partitions: Vec<(String, String)>, claimed: oneshot::Sender<Checkpoint> },
    /// Asks that all that was handed on before be sealed now, and is answered when it is.
    Seal(oneshot::Sender<()>),
}

/// What a partition is called in checkpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionName {
    /// The source's name in the pipeline file.
    pub source: Arc<str>,
    /// The partition's name within the source: a path, `stdin`, `generate`, `TOPIC/NUMBER`.
    pub partition: String,
    /// Tells this partition from an earlier one of the same name; empty where positions mean nothing to a later run.
    pub identity: String,
}

impl PartitionName {
    /// The partition, read up to `position`.
    pub fn at(&self, position: u64) -> PartitionPosition {
        let (source, partition, identity) = (self.source.to_string(), self.partition.clone(), self.identity.clone());
        PartitionPosition { source, partition, identity, position }
    }
}

/// A connected source.
pub trait Source: Send + fmt::Debug {
    /// The partitions known by now. Whoever runs the source registers all of them before anything runs, so that the
    /// event-time clock waits for each.
    fn partitions(&self) -> Vec<PartitionName>;
    /// Bytes that are left to read, for showing progress; `None` when nobody knows.
    fn total_bytes(&self) -> Option<u64> {
        None
    }
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
    /// Topics of a Kafka cluster, as a member of a consumer group.
    Kafka(Box<KafkaConfig>),
    /// Messages of a NATS server, as Fly.io's log stream is one.
    Nats(Box<nats::NatsConfig>),
    /// Messages of a JetStream stream.
    Jetstream(Box<JetstreamConfig>),
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
    /// What tells this daemon from others that share its sources, and stays the same when it is started again.
    pub instance: Option<&'s str>,
    pub telemetry: &'s SelfMetrics,
}

impl Config {
    /// Finds what is wrong without touching anything but the text. A problem of the source as a whole has the place 0:0.
    pub fn check(&self) -> Vec<Problem> {
        match self {
            Self::Stdin(_) | Self::Generate(_) => Vec::new(),
            Self::File(config) => file::check(config),
            Self::Kafka(config) => kafka::check(config),
            Self::Nats(config) => nats::check(config),
            Self::Jetstream(config) => jetstream::check(config),
        }
    }

    /// Tries to reach what the source reads from, reads nothing and leaves nothing behind. The problem is placed at the
    /// setting that says where.
    pub fn probe(&self, name: &str, clock: Arc<dyn Clock>, setting: &Setting<'_>) -> Option<Problem> {
        let at = match self {
            Self::Stdin(_) | Self::Generate(_) => return None,
            Self::File(config) => config.paths.first()?,
            Self::Kafka(config) => &config.brokers,
            Self::Nats(config) => &config.url,
            Self::Jetstream(config) => &config.url,
        };
        let tried = match self {
            // A spool is made when messages come; whether we may listen is all that matters here.
            Self::Nats(config) => nats::try_listening(config, name, setting),
            _ => self.connect(name, &Checkpoint::default(), clock, setting).map(drop),
        };
        let error = tried.err()?;
        let mut problem = at.problem(error.to_string());
        problem.hint = error.hint();
        Some(problem)
    }

    /// Whether several daemons share its partitions; then they have to be claimed before they are read.
    pub fn is_shared(&self) -> bool {
        match self {
            Self::Kafka(_) => true,
            Self::Jetstream(config) => !config.subjects.is_empty(),
            _ => false,
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
            Self::File(config) if config.follow => Box::new(follow::Follow::connect(config, name, stored, setting)?),
            Self::File(config) => Box::new(file::Files::connect(config, name, stored, setting)?),
            Self::Generate(config) => Box::new(generate::Generate::new(config, name, clock)),
            Self::Kafka(config) => Box::new(kafka::Kafka::connect(config, name, stored, clock.as_ref(), setting)?),
            Self::Nats(config) => Box::new(nats::Nats::connect(config, name, stored, clock, setting)?),
            Self::Jetstream(config) => Box::new(jetstream::Jetstream::connect(config, name, stored, setting)?),
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

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KafkaConfig {
    /// Where to ask for the cluster first: HOST:PORT, several with commas between them.
    pub brokers: Located<String>,
    pub topics: Vec<Located<String>>,
    /// The consumer group. Daemons of one group share the partitions.
    pub group: Located<String>,
    /// Where to begin with a partition of which the archive holds nothing. Default earliest.
    #[serde(default)]
    pub start: Start,
    /// How to log in. Default: not at all.
    pub sasl: Option<SaslConfig>,
    /// Encrypts the connection; `tls: {}` trusts the authorities that the system trusts. Default: no TLS.
    pub tls: Option<TlsConfig>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Start {
    /// With the oldest record that the broker has.
    #[default]
    Earliest,
    /// With what comes from now on.
    Latest,
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SaslConfig {
    pub mechanism: Mechanism,
    pub username: Located<String>,
    pub password: Secret,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum Mechanism {
    #[serde(rename = "PLAIN")]
    Plain,
    #[serde(rename = "SCRAM-SHA-256")]
    ScramSha256,
    #[serde(rename = "SCRAM-SHA-512")]
    ScramSha512,
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// A file of certificates (PEM) of the authorities that may have signed the broker's. Default: the system's.
    pub ca: Option<Located<String>>,
    /// Our own certificate (PEM), where the broker wants one; with `key`.
    pub certificate: Option<Located<String>>,
    /// The private key of `certificate` (PEM).
    pub key: Option<Located<String>>,
    /// What `key` is encrypted with.
    pub key_password: Option<Secret>,
}
