//! The third phase: runs a connected pipeline until its input has ended or it is told to stop.

use super::Surroundings;
use super::asking::Wishes;
use super::books::{Books, Outgoing};
use super::connect::Connected;
use super::decoding::{Decoding, Extent, Reader, Step};
use super::flow::Outcome;
use super::idleness::Idleness;
use super::memory::{Charge, Memory, Stage};
use super::merging::MergeError;
use super::notifying::Notifying;
use super::progress::Progress;
use super::publishing::Publishing;
use super::sealing::Asked;
use super::sharing::{AskedClaim, Beginning};
use super::stages::Stages;
use super::state::StateError;
use super::storing::{Storing, Work};
use super::telling::{Skews, Told};
use crate::archive::{ArchiveError, Caretaker, Kind};
use crate::decode::Decoded;
use crate::limits;
use crate::record::alert::{AlertEvent, AlertStatus};
use crate::record::raw::PartitionId;
use crate::record::receipt::Checkpoint;
use crate::sink::Active;
use crate::source::{Outlet, PartitionName, Source, SourceError};
use crate::time::clock::Monotonic;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::num::NonZeroUsize;
use std::sync::{Arc, atomic::AtomicU64};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

/// How a run ended, and what it did.
#[derive(Debug, Default)]
pub struct End {
    /// Whether it was told to stop before its input had ended.
    pub stopped: bool,
    /// Rows kept although something was wrong with them, and dead letters, by reason.
    pub errors: BTreeMap<&'static str, u64>,
    /// Rows that a filter took out.
    pub filtered: u64,
    /// Records that came too late, by window.
    pub late: Vec<(Arc<str>, u64)>,
    /// Alert events by what they say.
    pub fired: u64,
    pub resolved: u64,
    /// Alert events that a receiver didn't take.
    pub undelivered: u64,
    /// What was sealed: rows, files, bytes.
    pub sealed_rows: u64,
    pub sealed_files: u64,
    pub sealed_bytes: u64,
}

/// Why a run failed. What had been sealed before is safe; the rest is read again at the next start, where the source can.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("cannot go on reading source {name}: {source}")]
    Source { name: String, source: SourceError },
    #[error("cannot store in the archive: {0}")]
    Archive(ArchiveError),
    #[error("cannot deliver {0} alert events")]
    Undelivered(u64),
    #[error("cannot share windows: {0}")]
    Publish(SourceError),
    #[error(transparent)]
    Merge(MergeError),
    #[error(transparent)]
    State(StateError),
}

impl RunError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Source { source, .. } => source.hint(),
            Self::Archive(source) => source.hint(),
            Self::Undelivered(_) => Some("the log names the receiver and its error".to_owned()),
            Self::Publish(source) => source.hint(),
            Self::Merge(_) => Some("another daemon of the group is newer; bring this one up to its version".to_owned()),
            Self::State(_) => Some(
                "windows hold more than can be kept; let them have fewer groups, or `repartition` more partitions"
                    .to_owned(),
            ),
        }
    }
}

/// A partition while it is read.
#[derive(Debug)]
pub(super) struct Partition {
    pub(super) name: PartitionName,
    pub(super) ended: bool,
    /// Whether it is known where it begins, where daemons share windows.
    pub(super) begun: bool,
}

pub(super) struct Runner {
    pub(super) pipeline: String,
    reader: Reader,
    threads: NonZeroUsize,
    pub(super) memory: Arc<Memory>,
    /// The tables that are written; none without an archive.
    pub(super) tables: Vec<Kind>,
    pub(super) stages: Stages,
    pub(super) storing: Option<Storing>,
    pub(super) notifying: Notifying,
    /// Writes what was gathered to where it is merged.
    pub(super) publishing: Option<Publishing>,
    /// Keeps the archive in shape until this is dropped.
    caretaker: Option<Caretaker>,
    pub(super) surroundings: Surroundings,
    pub(super) progress: Arc<Progress>,
    /// What is shown of alerts.
    pub(super) active: Active,
    pub(super) partitions: Vec<Partition>,
    pub(super) books: Books,
    /// Claims that are under way, in order.
    pub(super) claims: VecDeque<AskedClaim>,
    /// Partitions that are claimed and have not been opened.
    pub(super) claimed: HashMap<(String, String), Beginning>,
    /// Why this run cannot go on.
    pub(super) failure: Option<RunError>,
    /// Seals that are under way, in order.
    pub(super) seals_asked: VecDeque<Asked>,
    /// When the last seal was asked for.
    pub(super) last_seal: Monotonic,
    /// Who waits for a seal.
    pub(super) wishes: Wishes,
    /// Tells the sources what is sealed, once they run.
    pub(super) seals: Option<Arc<watch::Sender<Checkpoint>>>,
    pub(super) tombstones: Arc<AtomicU64>,
    idleness: Idleness,
    pub(super) told: Told,
    pub(super) skews: Skews,
    pub(super) end: End,
}

impl Connected {
    /// Runs until every source has ended, or `stop` is cancelled and everything handed on is stored.
    ///
    /// # Errors
    /// The first source or archive failure; what could be stored until then is sealed.
    pub async fn run(self, stop: CancellationToken) -> Result<End, RunError> {
        let (runtime, stop) = (Handle::current(), stop.child_token());
        // On a thread of its own, where a batch may take its time: neither HTTP nor receivers wait for it, and nothing is
        // handed from thread to thread for each batch, as `block_in_place` would.
        match tokio::task::spawn_blocking(move || runtime.block_on(self.drive(&runtime, stop))).await {
            Ok(result) => result,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }

    async fn drive(self, runtime: &Handle, stop: CancellationToken) -> Result<End, RunError> {
        // The runtime has a worker for each processor that the process may use, by affinity and by its control group.
        let processors = NonZeroUsize::new(runtime.metrics().num_workers().min(limits::DECODE_THREADS));
        let threads = self.threads.or(processors).unwrap_or(NonZeroUsize::MIN);
        let Self { pipeline, reader, memory, tables, stages, publisher, .. } = self;
        let Self {
            sources, archive, care, books, due, receivers, notices, surroundings, progress, active, wishes, ..
        } = self;
        let Surroundings { clock, telemetry, .. } = &surroundings;
        let caretaker = care.map(|care| Caretaker::spawn(care, Arc::clone(clock), telemetry.clone()));
        let mut runner = Runner {
            notifying: Notifying::spawn(&pipeline, receivers, &notices, &surroundings, books.standing(), stop.clone()),
            storing: archive.map(|(archive, flush)| Storing::spawn(archive, flush, Arc::clone(&memory))),
            caretaker: caretaker.transpose().map_err(RunError::Archive)?.flatten(),
            idleness: Idleness::start(surroundings.clock.monotonic()),
            last_seal: surroundings.clock.monotonic(),
            wishes: wishes.1,
            publishing: publisher.map(Publishing::spawn),
            pipeline,
            reader,
            threads,
            memory,
            tables,
            stages,
            surroundings,
            progress,
            active,
            partitions: Vec::new(),
            books,
            claims: VecDeque::new(),
            claimed: HashMap::new(),
            failure: None,
            seals_asked: VecDeque::new(),
            seals: None,
            tombstones: Arc::default(),
            told: Told::default(),
            skews: Skews::default(),
            end: End::default(),
        };
        runner.show_active();
        // What an earlier run had sealed and not delivered, or not noted as delivered.
        runner.notifying.send(&due).await;
        runner.publish();
        let (mut tasks, steps) = runner.spawn_sources(sources, &stop);
        let failed = runner.work_off(steps, &mut tasks, &stop).await;
        runner.finish(failed, stop.is_cancelled()).await
    }
}

type SourceTasks = JoinSet<Result<(), RunError>>;

impl Runner {
    /// Registers all known partitions, so that event time waits for each, and only then starts the sources.
    fn spawn_sources(
        &mut self,
        sources: Vec<(String, Box<dyn Source>)>,
        stop: &CancellationToken,
    ) -> (SourceTasks, Decoding) {
        let mut ids = Vec::new();
        for (_, source) in &sources {
            let names = source.partitions();
            let first = self.partitions.len();
            ids.push((first..first + names.len()).map(PartitionId).collect::<Vec<_>>());
            for name in names {
                self.open(name);
            }
        }
        let clock = Arc::clone(&self.surroundings.clock);
        let (outlet, feeds) = Outlet::channel(limits::RAW_QUEUE, self.partitions.len(), stop.clone(), clock);
        self.seals = Some(outlet.seals());
        self.tombstones = outlet.tombstones();
        let mut tasks = JoinSet::new();
        for ((name, source), ids) in sources.into_iter().zip(ids) {
            let running = source.run(ids, outlet.clone());
            tasks.spawn(async move { running.await.map_err(|source| RunError::Source { name, source }) });
        }
        let memory = Arc::clone(&self.memory);
        (tasks, Decoding::start(&self.reader, self.threads, feeds, outlet.buffers(), memory))
    }

    /// The loop: steps first, then ticks. Ends when all sources have returned; returns the first failure.
    async fn work_off(
        &mut self,
        mut steps: Decoding,
        tasks: &mut SourceTasks,
        stop: &CancellationToken,
    ) -> Option<RunError> {
        let mut failed = None;
        let mut ticks = tokio::time::interval(limits::TICK.to_std());
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                step = steps.next(), if !self.is_held() || stop.is_cancelled() => match step {
                    Some(step) => self.step(step).await,
                    None => break,
                },
                _ = ticks.tick() => self.tick(&steps).await,
            }
            if self.storing.as_ref().is_some_and(Storing::has_failed) {
                // Nothing can be stored any more. A source with nothing to hand on wouldn't notice that the queue is
                // closed, and is told; one that waits for a seal would wait for ever.
                stop.cancel();
                self.seals_asked.clear();
                break;
            }
            if let Some(failure) = self.failure.take() {
                failed = failed.or(Some(failure));
                stop.cancel();
                self.seals_asked.clear();
                break;
            }
            while let Some(result) = tasks.try_join_next() {
                failed = failed.or(source_failure(result));
                if failed.is_some() {
                    stop.cancel();
                }
            }
            if self.seal_is_due() {
                self.seal(Vec::new()).await;
            }
            // The timer has no turn while feeds wait, and then counters have to be told all the same.
            if self.idleness.unseen(self.surroundings.clock.monotonic()) >= limits::TICK {
                self.tick(&steps).await;
            }
        }
        drop(steps);
        while let Some(result) = tasks.join_next().await {
            failed = failed.or(source_failure(result));
        }
        failed
    }

    /// Closes windows where the input is complete, seals what is left, and waits for archive and receivers.
    async fn finish(mut self, failed: Option<RunError>, stopped: bool) -> Result<End, RunError> {
        let intact = self.storing.as_ref().is_none_or(|storing| !storing.has_failed());
        if failed.is_none() && !stopped && intact {
            while let Some(alerts) = self.stages.finish_next() {
                self.alert(alerts).await;
                if self.seal_is_due() {
                    self.seal(Vec::new()).await;
                }
            }
        }
        if !matches!(failed, Some(RunError::Merge(_) | RunError::State(_))) {
            self.seal(Vec::new()).await;
        }
        self.measure();
        self.await_seals().await;
        let published = self.end_publishing().await;
        // What is delivered now is noted in one more seal.
        let (undelivered, delivered) = self.notifying.end().await;
        self.end.undelivered = undelivered;
        for (receiver, id) in delivered {
            self.books.delivered(receiver, &id);
        }
        if self.books.wants_seal() || published {
            self.seal(Vec::new()).await;
        }
        let failed = failed.or(self.failure.take());
        let stored = match self.storing.take() {
            Some(storing) => storing.end().await,
            None => Ok(()),
        };
        self.end.stopped = stopped;
        self.end.late = self.stages.late_counts();
        stored.map_err(RunError::Archive)?;
        match failed {
            Some(error) => Err(error),
            None if self.end.undelivered > 0 => Err(RunError::Undelivered(self.end.undelivered)),
            None => Ok(self.end),
        }
    }

    fn open(&mut self, name: PartitionName) {
        self.stages.open(PartitionId(self.partitions.len()), &name);
        self.idleness.open();
        self.partitions.push(Partition { name, ended: false, begun: false });
    }

    async fn step(&mut self, step: Step) {
        self.settle_claims();
        match step {
            Step::Opened(name) => {
                self.open(name);
                self.begin_claimed();
            }
            Step::Batch(extent, decoded, charge) => self.batch(extent, decoded, charge).await,
            Step::Partials(extent, messages, _charge) => self.partials(extent, messages).await,
            Step::Identified(partition, identity) => {
                let name = &mut self.partitions[partition.0].name;
                self.books.identify(name, &identity);
                name.identity = identity;
                self.stages.identify(partition, name);
            }
            Step::Forgotten(name) => self.books.forget(&name),
            Step::Ended(partition) => {
                self.partitions[partition.0].ended = true;
                self.idleness.end(partition);
                let alerts = self.stages.end(partition);
                self.alert(alerts).await;
            }
            Step::Claim(partitions, claimed) if self.storing.is_some() => {
                // Nothing of these may be staged, as it could be by one who was thought dead and isn't.
                self.seal(Vec::new()).await;
                self.claim(partitions, claimed).await;
            }
            Step::Claim(_, claimed) => {
                // Who has asked may be gone, as below.
                let _ = claimed.send(Checkpoint::default());
            }
            Step::Seal(sealed) if self.storing.is_some() => self.seal(vec![sealed]).await,
            Step::Seal(sealed) => {
                let _ = sealed.send(());
            }
        }
    }

    async fn batch(&mut self, extent: Extent, decoded: Decoded, charge: Charge) {
        let outcome = self.stages.records(extent, decoded);
        self.idleness.heard(extent.partition);
        let name = self.partitions[extent.partition.0].name.clone();
        self.books.read(&name, extent.end, extent.records, outcome.transformed.dropped);
        self.count(&name.source, extent, &outcome);
        let Outcome { rows, dead, alerts, .. } = outcome;
        if rows.num_rows() > 0 && self.tables.contains(&Kind::Data) {
            self.store(Work::Rows(rows, charge)).await;
        } else {
            drop((rows, charge));
        }
        if !dead.is_empty() && self.tables.contains(&Kind::Dead) {
            self.store(Work::Dead(name, dead)).await;
        }
        if let Some(storing) = &mut self.storing {
            storing.touch(self.surroundings.clock.monotonic());
        }
        self.alert(alerts).await;
    }

    pub(super) async fn alert(&mut self, events: Vec<AlertEvent>) {
        if events.is_empty() {
            return;
        }
        let fired = events.iter().filter(|event| event.status == AlertStatus::Firing).count() as u64;
        self.end.fired += fired;
        self.end.resolved += events.len() as u64 - fired;
        // Before anything is told: what fires keeps other alerts back.
        self.show_active();
        let outgoing = self.notifying.route(&events);
        if self.storing.is_some() {
            for Outgoing { event, to } in outgoing {
                self.books.alert(event, to);
            }
        } else {
            self.notifying.send(&outgoing).await;
        }
        if self.tables.contains(&Kind::Alerts) {
            self.store(Work::Alerts(events)).await;
        }
    }

    pub(super) async fn store(&mut self, work: Work) {
        let now = self.surroundings.clock.monotonic();
        if let Some(storing) = &mut self.storing {
            // A failure shows in `has_failed` and is reported when the thread is joined.
            let _ = storing.send(work, now).await;
        }
    }

    /// Idle partitions, receipts and gauges.
    async fn tick(&mut self, steps: &Decoding) {
        let now = self.surroundings.clock.monotonic();
        let mut alerts = Vec::new();
        let looked = self.idleness.look(now, steps.is_quiet());
        for number in looked.idle {
            tracing::debug!(partition = self.partitions[number.0].name.partition, "partition is idle");
            alerts.extend(self.stages.idle(number));
        }
        if self.idleness.gives_up(now) && !self.stages.awaited().is_empty() {
            let names: Vec<String> = self.stages.awaited().into_iter().map(|name| name.partition).collect();
            tracing::debug!(partitions = names.join(" "), "partitions of the last run are not waited for any longer");
            alerts.extend(self.stages.give_up());
        }
        alerts.extend(self.stages.tick(self.surroundings.clock.now(), looked.quiet));
        self.alert(alerts).await;
        self.settle_claims();
        self.publish();
        self.check_publishing().await;
        self.take_receipts().await;
        for (receiver, id) in self.notifying.take_delivered() {
            self.books.delivered(receiver, &id);
        }
        self.memory.set(Stage::State, self.stages.state_bytes());
        self.memory.set(Stage::Upkeep, self.caretaker.as_ref().map_or(0, Caretaker::held_bytes));
        self.measure();
        self.tell_skews(now);
        self.measure_memory(steps.queued_bytes());
    }
}

fn source_failure(result: Result<Result<(), RunError>, tokio::task::JoinError>) -> Option<RunError> {
    match result {
        Ok(result) => result.err(),
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}
