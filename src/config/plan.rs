//! A pipeline that was checked: everything compiled, nothing connected.

use crate::record::schema::Schema;
use crate::transform::Transform;
use crate::{alert, archive, decode, metric, sink, source, window};
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;

/// What `load` makes of a pipeline file.
#[derive(Debug)]
pub struct Plan {
    /// The file that it was read from.
    pub file: String,
    /// The pipeline's name.
    pub pipeline: String,
    /// By name, in the order of the file; at least one.
    pub sources: Vec<(String, source::Config)>,
    pub decode: decode::Plan,
    /// In the order in which they are applied.
    pub transforms: Vec<Box<dyn Transform>>,
    /// The schema of the rows that come out of the transforms.
    pub schema: Arc<Schema>,
    pub metrics: Vec<metric::Plan>,
    pub windows: Vec<window::Plan>,
    pub alerts: Vec<alert::Plan>,
    pub archive: Option<archive::Config>,
    /// Receivers by name, in the order of the file. None: standard output.
    pub notify: Vec<(String, sink::Config)>,
    /// Each `to` names a receiver in `notify`.
    pub routes: Vec<sink::Route>,
    /// A loopback address.
    pub listen: SocketAddr,
    pub limits: Limits,
}

/// `limits:` checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// What the stages may hold together; at least [`limits::LEAST_MEMORY_BYTES`](crate::limits::LEAST_MEMORY_BYTES).
    pub memory_bytes: u64,
    /// Threads that decode. None: as many as there are processors to run on.
    pub threads: Option<NonZeroUsize>,
}
