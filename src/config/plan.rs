//! A pipeline that was checked: everything compiled, nothing connected.

use crate::place::Problem;
use crate::record::schema::Schema;
use crate::source::Repartition;
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
    /// Positions, in the decoder's schema, of the text columns that tell producers apart. None: partitions aren't divided.
    pub watermark_by: Vec<usize>,
    pub windows: Vec<window::Plan>,
    pub alerts: Vec<alert::Plan>,
    /// Alerts over what doesn't come.
    pub absences: Vec<alert::Absence>,
    pub archive: Option<archive::Config>,
    /// Receivers by name, in the order of the file. None: standard output.
    pub notify: Vec<(String, sink::Config)>,
    /// Each `to` names a receiver in `notify`.
    pub routes: Vec<sink::Route>,
    pub inhibit: Vec<sink::Inhibit>,
    pub maintenance: Vec<sink::Maintenance>,
    /// A loopback address.
    pub listen: SocketAddr,
    pub limits: Limits,
    /// What it does of its windows.
    pub role: Role,
    /// What is sound, and should be changed some day.
    pub notes: Vec<Problem>,
}

/// Who closes a pipeline's windows.
#[derive(Debug, Clone)]
pub enum Role {
    /// The daemon that reads the records.
    Alone,
    /// All daemons of the group together: this one hands on what it has gathered.
    Gather(Repartition),
    /// This one, of what it and others have gathered.
    Merge {
        /// The pipeline whose windows these are.
        of: String,
        /// Where the records come from: windows wait for each partition.
        inputs: Vec<(String, source::Config)>,
    },
}

impl Plan {
    /// What runs of it: itself and, where daemons share its windows, what merges them, as a pipeline of its own with chains, positions and
    /// a group of its own. Windows, alerts and receivers are the second one's, all else the first one's.
    pub fn into_runs(mut self) -> Vec<Self> {
        let Role::Gather(repartition) = &self.role else { return vec![self] };
        let limited = |kinds: &[archive::Kind]| {
            let mut archive = self.archive.clone()?;
            archive.tables.value.retain(|kind| kinds.contains(kind));
            Some(archive)
        };
        let (own, merged) = (
            limited(&[archive::Kind::Data, archive::Kind::Dead]),
            limited(&[archive::Kind::Dead, archive::Kind::Windows, archive::Kind::Alerts]),
        );
        let merging = Self {
            file: self.file.clone(),
            pipeline: format!("{}.windows", self.pipeline),
            sources: vec![("repartition".to_owned(), repartition.source())],
            decode: self.decode.clone(),
            transforms: Vec::new(),
            schema: Arc::clone(&self.schema),
            metrics: Vec::new(),
            watermark_by: Vec::new(),
            windows: self.windows.clone(),
            alerts: std::mem::take(&mut self.alerts),
            // They are refused where daemons share windows.
            absences: Vec::new(),
            archive: merged,
            notify: std::mem::take(&mut self.notify),
            routes: std::mem::take(&mut self.routes),
            inhibit: std::mem::take(&mut self.inhibit),
            maintenance: std::mem::take(&mut self.maintenance),
            listen: self.listen,
            limits: self.limits,
            role: Role::Merge { of: self.pipeline.clone(), inputs: self.sources.clone() },
            notes: Vec::new(),
        };
        self.archive = own;
        vec![self, merging]
    }
}

/// `limits:` checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// What the stages may hold together; at least [`limits::LEAST_MEMORY_BYTES`](crate::limits::LEAST_MEMORY_BYTES).
    pub memory_bytes: u64,
    /// Threads that decode. None: as many as there are processors to run on.
    pub threads: Option<NonZeroUsize>,
}
