//! The pipeline file as it is written: every key that exists, and no other.

use crate::decode::{Envelope, Format};
use crate::place::{Entries, Located};
use crate::units::ByteSize;
use crate::{alert, archive, decode, metric, sink, source, transform, window};
use schemars::JsonSchema;
use serde::Deserialize;
use std::num::NonZeroUsize;

/// A pipeline: where logs come from, what is made of them and where that goes.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "headrig pipeline")]
pub(super) struct Pipeline {
    /// The pipeline's name: small letters, digits, `_` and `-`.
    // Optional here so that all the rest is still checked where it is missing.
    #[schemars(required, regex(pattern = "^[a-z0-9][a-z0-9_-]*$"))]
    pub pipeline: Option<Located<String>>,
    /// Where records come from, each source under a name of its own. At least one.
    #[schemars(required, extend("minProperties" = 1))]
    pub sources: Option<Located<Entries<source::Config>>>,
    /// How a record becomes a row.
    #[serde(default = "default_decode")]
    pub decode: decode::Config,
    /// Steps over rows, in this order.
    #[serde(default)]
    pub transform: Vec<transform::Config>,
    /// Metrics derived from rows, served at `/metrics`.
    #[serde(default)]
    pub metrics: Vec<metric::Config>,
    /// Columns that tell producers apart: each producer has a watermark of its own, so that one whose clock is ahead doesn't make
    /// the others late.
    #[serde(default)]
    pub watermark_by: Vec<Located<String>>,
    /// Aggregates in event time.
    #[serde(default)]
    pub windows: Vec<window::Config>,
    /// Lets the daemons of the source's Kafka group share windows and alerts, through a topic of their own.
    pub repartition: Option<Located<source::RepartitionConfig>>,
    /// Rules over the results of windows.
    #[serde(default)]
    pub alerts: Vec<alert::Config>,
    /// Where rows are kept. Without it, they aren't.
    pub archive: Option<archive::Config>,
    /// Receivers of alerts. Without one, alerts go to standard output.
    #[serde(default)]
    pub notify: Entries<sink::Config>,
    /// Which alerts go to which receivers.
    #[serde(default)]
    pub route: Vec<sink::Route>,
    /// Alerts that are not told while a graver one fires.
    #[serde(default)]
    pub inhibit: Vec<sink::Inhibit>,
    /// Times in which alerts are expected, and not told.
    #[serde(default)]
    pub maintenance: Vec<sink::Maintenance>,
    #[serde(default)]
    pub server: Server,
    #[serde(default)]
    pub limits: Limits,
}

/// The keys of [`Pipeline`].
pub(super) const PARTS: [&str; 16] = [
    "pipeline",
    "sources",
    "decode",
    "transform",
    "metrics",
    "watermark_by",
    "windows",
    "repartition",
    "alerts",
    "archive",
    "notify",
    "route",
    "inhibit",
    "maintenance",
    "server",
    "limits",
];

/// What the pipeline may take of the machine.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Limits {
    /// Bytes that batches, row groups, windows and metrics may hold together; at least 16MB. Default 128MB.
    pub memory: Option<Located<ByteSize>>,
    /// Threads that decode, 1 to 64. Default: as many as the process has processors. Results don't depend on it.
    pub threads: Option<Located<NonZeroUsize>>,
}

/// The HTTP listener.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Server {
    /// Address and port. Default 127.0.0.1:8686.
    #[serde(default = "default_listen")]
    pub listen: Located<String>,
}

impl Default for Server {
    fn default() -> Self {
        Self { listen: default_listen() }
    }
}

fn default_listen() -> Located<String> {
    Located::nowhere("127.0.0.1:8686".to_owned())
}

fn default_decode() -> decode::Config {
    decode::Config {
        envelope: Envelope::default(),
        format: Format::default(),
        schema: Located::nowhere("access".to_owned()),
        time_formats: Vec::new(),
        zone: None,
        max_future: None,
    }
}
