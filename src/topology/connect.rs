//! The second phase: opens archive, sources and receivers, and spawns nothing.

use super::Surroundings;
use super::flow::Flow;
use super::memory::Memory;
use super::progress::Progress;
use crate::archive::{Archive, ArchiveError, ArchivePlan, FlushConfig, Kind};
use crate::config::Plan;
use crate::record::receipt::Checkpoint;
use crate::sink::{self, Route, Sink, SinkError};
use crate::source::{Setting, Source, SourceError};
use std::num::NonZeroUsize;
use std::sync::Arc;

/// Why a pipeline cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("cannot open the archive of pipeline {pipeline}: {source}")]
    Archive { pipeline: String, source: ArchiveError },
    #[error("cannot open source {name}: {source}")]
    Source { name: String, source: SourceError },
    #[error("cannot open receiver {name}: {source}")]
    Sink { name: String, source: SinkError },
}

impl ConnectError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Archive { source, .. } => source.hint(),
            Self::Source { source, .. } => source.hint(),
            Self::Sink { source, .. } => source.hint().map(str::to_owned),
        }
    }
}

/// A pipeline that is ready to run.
#[derive(Debug)]
pub struct Connected {
    pub(super) pipeline: String,
    pub(super) decode: crate::decode::Plan,
    /// Threads that decode; None: one for each processor.
    pub(super) threads: Option<NonZeroUsize>,
    pub(super) memory: Arc<Memory>,
    pub(super) tables: Vec<Kind>,
    pub(super) flow: Flow,
    pub(super) sources: Vec<(String, Box<dyn Source>)>,
    pub(super) archive: Option<(Archive, FlushConfig)>,
    pub(super) checkpoint: Checkpoint,
    pub(super) receivers: Vec<(String, Box<dyn Sink>)>,
    pub(super) routes: Vec<Route>,
    pub(super) surroundings: Surroundings,
    pub(super) progress: Arc<Progress>,
}

impl Connected {
    /// Opens everything that `plan` names. What was opened before a failure is closed again.
    ///
    /// # Errors
    /// The first thing that cannot be opened.
    pub fn connect(mut plan: Plan, surroundings: Surroundings) -> Result<Self, ConnectError> {
        let pipeline = plan.pipeline.clone();
        let (archive, checkpoint) = connect_archive(&plan, &surroundings)?;
        let mut sources = Vec::new();
        let setting = Setting {
            pipeline: &pipeline,
            data_dir: &surroundings.data_dir,
            archived: archive.is_some(),
            telemetry: &surroundings.telemetry,
        };
        for (name, config) in &plan.sources {
            let source = config
                .connect(name, &checkpoint, Arc::clone(&surroundings.clock), &setting)
                .map_err(|source| ConnectError::Source { name: name.clone(), source })?;
            sources.push((name.clone(), source));
        }
        if plan.notify.is_empty() {
            plan.notify.push(("stdout".to_owned(), sink::Config::Stdout(sink::StdoutConfig {})));
        }
        let mut receivers = Vec::new();
        for (name, config) in &plan.notify {
            let sink = config.connect().map_err(|source| ConnectError::Sink { name: name.clone(), source })?;
            receivers.push((name.clone(), sink));
        }
        let progress = Arc::new(Progress::default());
        if let Some(total) = sources.iter().map(|(_, source)| source.total_bytes()).sum::<Option<u64>>() {
            progress.expect_bytes(total);
        }
        let routes = std::mem::take(&mut plan.routes);
        let flow = Flow::new(&mut plan);
        Ok(Self {
            pipeline,
            threads: plan.limits.threads,
            memory: Arc::new(Memory::new(plan.limits.memory_bytes)),
            tables: plan.archive.map(|archive| archive.tables.value).unwrap_or_default(),
            decode: plan.decode,
            flow,
            sources,
            archive,
            checkpoint,
            receivers,
            routes,
            surroundings,
            progress,
        })
    }

    pub fn pipeline(&self) -> &str {
        &self.pipeline
    }

    /// Whether every source ends by itself.
    pub fn finite(&self) -> bool {
        self.sources.iter().all(|(_, source)| source.finite())
    }

    /// Lets sources that never end by themselves end at what is there now, where they can.
    pub fn bound(&mut self) {
        for (_, source) in &mut self.sources {
            source.bound();
        }
    }

    /// The derived metrics, for scrapes.
    pub fn metrics(&self) -> Arc<std::sync::Mutex<crate::metric::Metrics>> {
        self.flow.metrics()
    }

    pub fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.progress)
    }
}

type OpenArchive = (Option<(Archive, FlushConfig)>, Checkpoint);

fn connect_archive(plan: &Plan, surroundings: &Surroundings) -> Result<OpenArchive, ConnectError> {
    let Some(config) = &plan.archive else { return Ok((None, Checkpoint::default())) };
    let archive_plan = ArchivePlan {
        config: config.clone(),
        pipeline: plan.pipeline.clone(),
        schema: Arc::clone(&plan.schema),
        windows: plan.windows.iter().map(crate::window::Plan::schema).collect(),
        threads: ArchivePlan::all_cores(),
    };
    let (archive, checkpoint) = Archive::open(archive_plan, surroundings.clock.now())
        .map_err(|source| ConnectError::Archive { pipeline: plan.pipeline.clone(), source })?;
    Ok((Some((archive, config.flush.clone())), checkpoint))
}
