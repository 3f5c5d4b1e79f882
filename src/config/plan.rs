//! A pipeline that was checked: everything compiled or known to compile, nothing connected.

use super::stages::{Alert, Metric, Step, Window};
use crate::decode::{Envelope, Format};
use crate::place::Located;
use crate::record::schema::Schema;
use crate::{archive, sink, source};
use std::net::SocketAddr;
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
    pub decode: DecodePlan,
    /// In the order in which they are applied.
    pub transforms: Vec<Step>,
    /// The schema of the rows that come out of the transforms.
    pub schema: Arc<Schema>,
    pub metrics: Vec<Metric>,
    pub windows: Vec<Window>,
    pub alerts: Vec<Alert>,
    pub archive: Option<archive::Config>,
    /// Receivers by name, in the order of the file. None: standard output.
    pub notify: Vec<(String, sink::Config)>,
    /// Each `to` names a receiver in `notify`.
    pub routes: Vec<sink::Route>,
    /// A loopback address.
    pub listen: SocketAddr,
}

/// `decode:`, resolved.
#[derive(Debug, Clone)]
pub struct DecodePlan {
    pub envelope: Envelope,
    pub format: Format,
    /// The columns that decoding fills.
    pub schema: Arc<Schema>,
    /// Tried in order; empty means the default.
    pub time_formats: Vec<Located<String>>,
    /// A zone that exists; none means UTC.
    pub zone: Option<String>,
}
