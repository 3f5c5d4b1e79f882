//! The second phase: opens archive, sources and receivers, and spawns nothing.

use super::Surroundings;
use super::asking::{Sealer, Wishes};
use super::books::{Books, Outgoing};
use super::decoding::Reader;
use super::flow::Flow;
use super::gathering::{Gathering, Outbox};
use super::memory::Memory;
use super::merged::{self, Definitions};
use super::merging::Merging;
use super::notifying::Notices;
use super::progress::Progress;
use super::stages::{self, Stages};
use super::state::Restored;
use crate::archive::{
    Archive, ArchiveError, ArchivePlan, Care, FlushConfig, Instance, InstanceError, Kind, Opened, Patience, Sharing,
};
use crate::config::{Plan, Role};
use crate::metric::Metrics;
use crate::record::receipt::Checkpoint;
use crate::sink::{self, Active, Quiet, Route, Sink, SinkError};
use crate::source::{self, Publisher, Setting, Source, SourceError};
use crate::time::{EventTime, Span};
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};

/// Why a pipeline cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("cannot open the archive of pipeline {pipeline}: {source}")]
    Archive { pipeline: String, source: ArchiveError },
    #[error("cannot open source {name}: {source}")]
    Source { name: String, source: SourceError },
    #[error("cannot open receiver {name}: {source}")]
    Sink { name: String, source: SinkError },
    #[error("cannot share windows: {source}")]
    Repartition { source: SourceError },
    #[error("cannot begin pipeline {pipeline}: {source}")]
    Instance { pipeline: String, source: InstanceError },
}

impl ConnectError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Archive { source, .. } => source.hint(),
            Self::Source { source, .. } | Self::Repartition { source } => source.hint(),
            Self::Sink { source, .. } => source.hint().map(str::to_owned),
            Self::Instance { .. } => Some("let `--data-dir` be a folder that this user may write to".to_owned()),
        }
    }
}

/// By name.
type Receivers = Vec<(String, Box<dyn Sink>)>;

/// A pipeline that is ready to run.
#[derive(Debug)]
pub struct Connected {
    pub(super) pipeline: String,
    pub(super) reader: Reader,
    /// Threads that decode; None: one for each processor.
    pub(super) threads: Option<NonZeroUsize>,
    pub(super) memory: Arc<Memory>,
    pub(super) tables: Vec<Kind>,
    pub(super) stages: Stages,
    /// Writes what is gathered for other daemons.
    pub(super) publisher: Option<Publisher>,
    pub(super) sources: Vec<(String, Box<dyn Source>)>,
    pub(super) archive: Option<(Archive, FlushConfig)>,
    /// How the archive is kept in shape.
    pub(super) care: Option<Care>,
    pub(super) books: Books,
    /// Alert events that an earlier run has sealed and not noted as delivered.
    pub(super) due: Vec<Outgoing>,
    /// Keeps this daemon's name from others.
    pub(super) _instance: Option<Instance>,
    pub(super) receivers: Receivers,
    pub(super) notices: Notices,
    pub(super) surroundings: Surroundings,
    pub(super) progress: Arc<Progress>,
    /// What is shown of alerts.
    pub(super) active: Active,
    /// Who asks for seals, and is told.
    pub(super) wishes: (Sealer, Wishes),
}

/// All receivers by name; where none is named, the terminal is.
fn receivers(plan: &mut Plan, surroundings: &Surroundings) -> Result<Receivers, ConnectError> {
    if plan.notify.is_empty() {
        plan.notify.push(("stdout".to_owned(), sink::Config::Stdout(sink::StdoutConfig {})));
    }
    let connect = |(name, config): &(String, sink::Config)| {
        let sink = config.connect(name, &surroundings.clock);
        Ok((name.clone(), sink.map_err(|source| ConnectError::Sink { name: name.clone(), source })?))
    };
    plan.notify.iter().map(connect).collect()
}

/// Who is told of what, and what of it not now.
fn notices(plan: &mut Plan, surroundings: &Surroundings, active: &Active) -> Notices {
    let (inhibit, maintenance) = (std::mem::take(&mut plan.inhibit), std::mem::take(&mut plan.maintenance));
    let quiet = Quiet::new(inhibit, maintenance, Arc::clone(&surroundings.silences), Arc::clone(active));
    Notices { routes: std::mem::take(&mut plan.routes), quiet }
}

/// Receivers that have to be told again what fires, for their own sake or as a route says so.
fn repeating(receivers: &[(String, Box<dyn Sink>)], routes: &[Route]) -> Vec<usize> {
    let repeats = |name: &String| {
        let to = |route: &Route| route.repeat_interval.is_some() && route.to.iter().any(|to| to.value == *name);
        routes.iter().any(to)
    };
    let all = receivers.iter().enumerate();
    all.filter(|(_, (name, sink))| sink.repeats().is_some() || repeats(name)).map(|(index, _)| index).collect()
}

impl Connected {
    /// Opens everything that `plan` names. What was opened before a failure is closed again.
    ///
    /// # Errors
    /// The first thing that cannot be opened.
    pub fn connect(mut plan: Plan, surroundings: Surroundings) -> Result<Self, ConnectError> {
        let pipeline = plan.pipeline.clone();
        let (archive, opened, instance) = connect_archive(&plan, &surroundings)?;
        let mut sources = Vec::new();
        let setting = Setting {
            pipeline: &pipeline,
            data_dir: &surroundings.data_dir,
            archived: archive.is_some(),
            instance: instance.as_ref().map(|instance| instance.name.as_str()),
            telemetry: &surroundings.telemetry,
        };
        for (name, config) in &plan.sources {
            let source = config
                .connect(name, &opened.known, Arc::clone(&surroundings.clock), &setting)
                .map_err(|source| ConnectError::Source { name: name.clone(), source })?;
            sources.push((name.clone(), source));
        }
        let mut receivers = receivers(&mut plan, &surroundings)?;
        let progress = Arc::new(Progress::default());
        if let Some(total) = sources.iter().map(|(_, source)| source.total_bytes()).sum::<Option<u64>>() {
            progress.expect_bytes(total);
        }
        let active = Active::default();
        let notices = notices(&mut plan, &surroundings, &active);
        let publisher = match &plan.role {
            Role::Gather(repartition) => {
                Some(repartition.connect(surroundings.clock.as_ref(), &setting).map_err(failed_to_share)?)
            }
            Role::Alone | Role::Merge { .. } => None,
        };
        let (mut stages, reader) = stages(&mut plan, &surroundings)?;
        let memory_bytes = plan.limits.memory_bytes;
        let care = plan.archive.as_ref().map(|c| c.care(&pipeline, surroundings.data_dir.clone(), memory_bytes));
        let names = receivers.iter().map(|(name, _)| name.clone()).collect();
        let mut books = Books::new(names, opened.own);
        books.repeat_to(repeating(&receivers, &notices.routes));
        let due = resume_stages(&pipeline, &mut stages, &mut books, &opened.state, opened.watermark);
        for Outgoing { event, to } in books.standing() {
            to.iter().for_each(|index| receivers[*index].1.stand(event));
        }
        Ok(Self {
            pipeline,
            threads: plan.limits.threads,
            memory: Arc::new(Memory::new(memory_bytes)),
            tables: plan.archive.map(|archive| archive.tables.value).unwrap_or_default(),
            reader,
            stages,
            publisher,
            sources,
            archive,
            care,
            books,
            due,
            _instance: instance,
            receivers,
            notices,
            surroundings,
            progress,
            active,
            wishes: Wishes::new(),
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
        if let Some(patience) = self.patience() {
            patience.limit_to(Span::ZERO);
        }
    }

    /// What the archive waits for; `None` without an archive.
    pub fn patience(&self) -> Option<Arc<Patience>> {
        self.archive.as_ref().map(|(archive, _)| archive.patience())
    }

    /// Seals at a word; `None` without an archive.
    pub fn sealer(&self) -> Option<Sealer> {
        self.archive.is_some().then(|| self.wishes.0.clone())
    }

    /// The derived metrics, for scrapes.
    pub fn metrics(&self) -> Arc<Mutex<Metrics>> {
        self.stages.metrics()
    }

    /// What is pending and firing, as of the last look.
    pub fn alerts(&self) -> Active {
        Arc::clone(&self.active)
    }

    pub fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.progress)
    }
}

fn failed_to_share(source: SourceError) -> ConnectError {
    ConnectError::Repartition { source }
}

/// What the pipeline does with what its sources bring, and how that is read.
fn stages(plan: &mut Plan, surroundings: &Surroundings) -> Result<(Stages, Reader), ConnectError> {
    match plan.role.clone() {
        Role::Merge { of, inputs } => {
            let definitions = Definitions {
                windows: std::mem::take(&mut plan.windows),
                alerts: std::mem::take(&mut plan.alerts),
                inputs: input_names(&of, &inputs, surroundings)?,
                pipeline: of,
            };
            Ok((Stages::Partials(Box::new(Merging::new(definitions))), Reader::Partials))
        }
        role => {
            let sharing = match role {
                Role::Gather(repartition) => {
                    let gathering = Gathering::new(repartition.partitions);
                    Some(stages::Sharing { gathering, outbox: Outbox::default() })
                }
                _ => None,
            };
            let flow = Flow::new(plan);
            Ok((Stages::Records(Box::new(flow), sharing), Reader::Lines(plan.decode.clone())))
        }
    }
}

/// The partitions of the sources whose records are gathered.
fn input_names(
    pipeline: &str,
    sources: &[(String, source::Config)],
    surroundings: &Surroundings,
) -> Result<Vec<merged::Name>, ConnectError> {
    let setting = Setting {
        pipeline,
        data_dir: &surroundings.data_dir,
        archived: true,
        instance: None,
        telemetry: &surroundings.telemetry,
    };
    let mut names = Vec::new();
    for (name, config) in sources {
        let source = config
            .connect(name, &Checkpoint::default(), Arc::clone(&surroundings.clock), &setting)
            .map_err(|source| ConnectError::Source { name: name.clone(), source })?;
        names.extend(source.partitions().iter().map(merged::input_name));
    }
    Ok(names)
}

/// As [`resume`], with what was gathered for others and not published.
pub(super) fn resume_stages(
    pipeline: &str,
    stages: &mut Stages,
    books: &mut Books,
    state: &[u8],
    watermark: Option<EventTime>,
) -> Vec<Outgoing> {
    let outbox = books.flow_of(state).ok().map(Outbox::split);
    let messages = match outbox {
        None => Vec::new(),
        Some(Ok((messages, _))) => messages,
        Some(Err(error)) => {
            tracing::error!(pipeline, %error, "cannot read what was gathered for other daemons; where it was not published, windows are provisional");
            Vec::new()
        }
    };
    match stages {
        Stages::Records(flow, sharing) => {
            match sharing {
                Some(sharing) => sharing.outbox.take_over(messages),
                None if messages.is_empty() => {}
                None => tracing::warn!(
                    pipeline,
                    messages = messages.len(),
                    "windows are not shared any longer, what was gathered for them is dropped"
                ),
            }
            resume(pipeline, flow, books, state, watermark)
        }
        Stages::Partials(_) => outbox_of(pipeline, books, state).0,
    }
}

/// The alert events that an earlier run has sealed and not noted as delivered, and the flow's state.
fn outbox_of<'s>(pipeline: &str, books: &mut Books, state: &'s [u8]) -> (Vec<Outgoing>, &'s [u8]) {
    let (due, state) = books.restore(state).unwrap_or_else(|error| {
        tracing::error!(pipeline, %error, "alert events that were sealed and not delivered are in the archive only");
        (Vec::new(), &[])
    });
    // What was gathered for others is in front of it.
    (due, Outbox::split(state).map_or(&[][..], |(_, state)| state))
}

/// Goes on with the state that an earlier run has sealed; returns the alert events that it has not noted as delivered. A state
/// that cannot be read must not keep rows from being stored: then windows and alerts begin anew, and say so.
pub(super) fn resume(
    pipeline: &str,
    flow: &mut Flow,
    books: &mut Books,
    state: &[u8],
    watermark: Option<EventTime>,
) -> Vec<Outgoing> {
    let (due, state) = outbox_of(pipeline, books, state);
    let restored = if state.is_empty() { None } else { Some(flow.restore(state)) };
    match restored {
        Some(Ok(restored)) => {
            tell(pipeline, &restored);
            restored.abandoned.iter().for_each(|alert| books.abandon(&alert.labels, alert.starts_at));
        }
        nothing => {
            if let Some(Err(error)) = nothing {
                tracing::error!(pipeline, %error, "windows and alerts begin anew");
            }
            if let Some(newest) = watermark {
                flow.begin_anew(newest);
            }
        }
    }
    due
}

/// Says what of an earlier run's state has no place in this pipeline file.
pub(super) fn tell(pipeline: &str, restored: &Restored) {
    let Restored { windows_kept, windows_anew, windows_dropped, alerts_dropped, abandoned } = restored;
    tracing::debug!(pipeline, kept = windows_kept.join(" "), "windows go on where they were");
    for (windows, what) in [
        (windows_anew, "windows begin anew, their first rows are provisional"),
        (windows_dropped, "windows are gone or defined otherwise, what they held open is dropped"),
    ] {
        if !windows.is_empty() {
            tracing::warn!(pipeline, windows = windows.join(" "), "{what}");
        }
    }
    if !alerts_dropped.is_empty() {
        tracing::warn!(
            pipeline,
            alerts = alerts_dropped.join(" "),
            "alert rules are gone or defined otherwise, and begin anew"
        );
    }
    for alert in abandoned {
        tracing::warn!(pipeline, ?alert, "a firing alert will not be resolved, its rule is gone");
    }
}

type OpenArchive = (Option<(Archive, FlushConfig)>, Opened, Option<Instance>);

fn connect_archive(plan: &Plan, surroundings: &Surroundings) -> Result<OpenArchive, ConnectError> {
    let Some(config) = &plan.archive else { return Ok((None, Opened::default(), None)) };
    let shared: Vec<String> =
        plan.sources.iter().filter(|(_, source)| source.is_shared()).map(|(name, _)| name.clone()).collect();
    let sharing =
        (!shared.is_empty()).then(|| Instance::take(&surroundings.data_dir, &plan.pipeline, surroundings.clock.now()));
    let failed = |source| ConnectError::Instance { pipeline: plan.pipeline.clone(), source };
    let sharing = sharing.transpose().map_err(failed)?;
    let (sharing, instance) = match sharing {
        Some(instance) => (
            Some(Sharing {
                chain: instance.name.clone(),
                sources: shared,
                inherits: matches!(plan.role, Role::Gather(_)),
            }),
            Some(instance),
        ),
        None => (None, None),
    };
    let archive_plan = ArchivePlan {
        config: config.clone(),
        pipeline: plan.pipeline.clone(),
        schema: Arc::clone(&plan.schema),
        windows: plan.windows.iter().map(crate::window::Plan::schema).collect(),
        threads: ArchivePlan::all_cores(),
        data_dir: surroundings.data_dir.clone(),
        sharing,
        patience: Arc::new(Patience::new(&plan.pipeline, config.patience, &surroundings.telemetry)),
    };
    let (archive, opened) = Archive::open(archive_plan, surroundings.clock.now())
        .map_err(|source| ConnectError::Archive { pipeline: plan.pipeline.clone(), source })?;
    Ok((Some((archive, config.flush.clone())), opened, instance))
}
