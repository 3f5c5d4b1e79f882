//! The third phase: runs a connected pipeline until its input has ended or it is told to stop.

use super::Surroundings;
use super::books::{Books, Outgoing, Ticket};
use super::connect::Connected;
use super::decoding::{Decoding, Extent, Step};
use super::flow::{Flow, Outcome};
use super::memory::{Charge, Memory, Stage};
use super::notifying::Notifying;
use super::progress::Progress;
use super::storing::{Storing, Work};
use super::telling::Told;
use crate::archive::{ArchiveError, Caretaker, Kind};
use crate::decode::{self, Decoded};
use crate::limits;
use crate::record::alert::{AlertEvent, AlertStatus};
use crate::record::raw::PartitionId;
use crate::record::receipt::{Checkpoint, Receipt};
use crate::source::{Outlet, PartitionName, Source, SourceError};
use crate::time::Span;
use crate::time::clock::Monotonic;
use std::collections::{BTreeMap, VecDeque};
use std::num::NonZeroUsize;
use std::sync::{Arc, atomic::AtomicU64};
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};
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
}

impl RunError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Source { source, .. } => source.hint(),
            Self::Archive(source) => source.hint(),
            Self::Undelivered(_) => Some("the log names the receiver and its error".to_owned()),
        }
    }
}

/// A partition while it is read.
#[derive(Debug)]
struct Partition {
    name: PartitionName,
    /// How long nothing has come while the flow had nothing else to do.
    silence: Span,
    ended: bool,
}

pub(super) struct Runner {
    pub(super) pipeline: String,
    decode: decode::Plan,
    threads: NonZeroUsize,
    pub(super) memory: Arc<Memory>,
    /// The tables that are written; none without an archive.
    tables: Vec<Kind>,
    pub(super) flow: Flow,
    storing: Option<Storing>,
    /// Keeps the archive in shape until this is dropped.
    caretaker: Option<Caretaker>,
    notifying: Notifying,
    pub(super) surroundings: Surroundings,
    pub(super) progress: Arc<Progress>,
    partitions: Vec<Partition>,
    books: Books,
    /// Seals that are under way, in order.
    seals_asked: VecDeque<Asked>,
    /// When the last seal was asked for.
    last_seal: Monotonic,
    /// Tells the sources what is sealed, once they run.
    seals: Option<Arc<watch::Sender<Checkpoint>>>,
    pub(super) tombstones: Arc<AtomicU64>,
    last_tick: Monotonic,
    started: Monotonic,
    pub(super) told: Told,
    pub(super) end: End,
}

/// A seal that was asked for.
struct Asked {
    ticket: Ticket,
    receipt: oneshot::Receiver<Receipt>,
    /// Who waits for it.
    waiting: Vec<oneshot::Sender<()>>,
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
        let Self { pipeline, decode, memory, tables, flow, .. } = self;
        let Self { sources, archive, care, books, due, receivers, routes, surroundings, progress, .. } = self;
        let Surroundings { clock, telemetry, .. } = &surroundings;
        let caretaker = care.map(|care| Caretaker::spawn(care, Arc::clone(clock), telemetry.clone()));
        let mut runner = Runner {
            notifying: Notifying::spawn(&pipeline, receivers, routes, &surroundings.telemetry, stop.clone()),
            storing: archive.map(|(archive, flush)| Storing::spawn(archive, flush, Arc::clone(&memory))),
            caretaker: caretaker.transpose().map_err(RunError::Archive)?.flatten(),
            last_tick: surroundings.clock.monotonic(),
            started: surroundings.clock.monotonic(),
            last_seal: surroundings.clock.monotonic(),
            pipeline,
            decode,
            threads,
            memory,
            tables,
            flow,
            surroundings,
            progress,
            partitions: Vec::new(),
            books,
            seals_asked: VecDeque::new(),
            seals: None,
            tombstones: Arc::default(),
            told: Told::default(),
            end: End::default(),
        };
        // What an earlier run had sealed and not delivered, or not noted as delivered.
        runner.notifying.send(&due).await;
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
        (tasks, Decoding::start(&self.decode, self.threads, feeds, outlet.buffers(), memory))
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
                step = steps.next() => match step {
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
            if self.surroundings.clock.monotonic().since(self.last_tick) >= limits::TICK {
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
            while let Some(alerts) = self.flow.finish_next() {
                self.alert(alerts).await;
                if self.seal_is_due() {
                    self.seal(Vec::new()).await;
                }
            }
        }
        self.seal(Vec::new()).await;
        self.measure();
        self.await_seals().await;
        // What is delivered now is noted in one more seal.
        let (undelivered, delivered) = self.notifying.end().await;
        self.end.undelivered = undelivered;
        for (receiver, id) in delivered {
            self.books.delivered(receiver, &id);
        }
        if self.books.wants_seal() {
            self.seal(Vec::new()).await;
        }
        let stored = match self.storing.take() {
            Some(storing) => storing.end().await,
            None => Ok(()),
        };
        self.end.stopped = stopped;
        self.end.late = self.flow.late_counts();
        stored.map_err(RunError::Archive)?;
        match failed {
            Some(error) => Err(error),
            None if self.end.undelivered > 0 => Err(RunError::Undelivered(self.end.undelivered)),
            None => Ok(self.end),
        }
    }

    fn open(&mut self, name: PartitionName) {
        self.flow.open(PartitionId(self.partitions.len()), &name);
        self.partitions.push(Partition { name, silence: Span::ZERO, ended: false });
    }

    async fn step(&mut self, step: Step) {
        match step {
            Step::Opened(name) => self.open(name),
            Step::Batch(extent, decoded, charge) => self.batch(extent, decoded, charge).await,
            Step::Identified(partition, identity) => {
                let name = &mut self.partitions[partition.0].name;
                self.books.identify(name, &identity);
                name.identity = identity;
                self.flow.identify(partition, name);
            }
            Step::Forgotten(name) => self.books.forget(&name),
            Step::Ended(partition) => {
                self.partitions[partition.0].ended = true;
                let alerts = self.flow.end(partition);
                self.alert(alerts).await;
            }
            Step::Claim(partitions, claimed) if self.storing.is_some() => {
                // Nothing of these may be staged, as it could be by one who was thought dead and isn't.
                self.seal(Vec::new()).await;
                self.store(Work::Claim(partitions, claimed)).await;
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
        let outcome = self.flow.decoded(extent, decoded);
        let partition = &mut self.partitions[extent.partition.0];
        partition.silence = Span::ZERO;
        let name = partition.name.clone();
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

    async fn alert(&mut self, events: Vec<AlertEvent>) {
        if events.is_empty() {
            return;
        }
        let fired = events.iter().filter(|event| event.status == AlertStatus::Firing).count() as u64;
        self.end.fired += fired;
        self.end.resolved += events.len() as u64 - fired;
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

    async fn store(&mut self, work: Work) {
        let now = self.surroundings.clock.monotonic();
        if let Some(storing) = &mut self.storing {
            // A failure shows in `has_failed` and is reported when the thread is joined.
            let _ = storing.send(work, now).await;
        }
    }

    /// Idle partitions, receipts and gauges.
    async fn tick(&mut self, steps: &Decoding) {
        let waiting = steps.is_quiet();
        let now = self.surroundings.clock.monotonic();
        let passed = now.since(self.last_tick).min(Span::from_micros(2 * limits::TICK.micros()));
        self.last_tick = now;
        let mut alerts = Vec::new();
        for (number, partition) in self.partitions.iter_mut().enumerate().filter(|(_, p)| waiting && !p.ended) {
            let before = partition.silence;
            partition.silence = Span::from_micros(before.micros() + passed.micros());
            if before < limits::IDLE_AFTER && partition.silence >= limits::IDLE_AFTER {
                tracing::debug!(partition = partition.name.partition, "partition is idle");
                alerts.extend(self.flow.idle(PartitionId(number)));
            }
        }
        if now.since(self.started) >= limits::IDLE_AFTER && !self.flow.awaited().is_empty() {
            let names: Vec<String> = self.flow.awaited().into_iter().map(|name| name.partition).collect();
            tracing::debug!(partitions = names.join(" "), "partitions of the last run are not waited for any longer");
            alerts.extend(self.flow.give_up());
        }
        self.alert(alerts).await;
        self.take_receipts().await;
        for (receiver, id) in self.notifying.take_delivered() {
            self.books.delivered(receiver, &id);
        }
        self.memory.set(Stage::State, self.flow.state_bytes());
        self.memory.set(Stage::Upkeep, self.caretaker.as_ref().map_or(0, Caretaker::held_bytes));
        self.measure();
        self.measure_memory(steps.queued_bytes());
    }

    fn seal_is_due(&self) -> bool {
        let now = self.surroundings.clock.monotonic();
        let most = limits::WINDOW_ROWS_WAITING.min((self.memory.budget() / limits::MEMORY_PER_WINDOW_ROW) as usize);
        let full = self.flow.windows_waiting() >= most;
        let alerts = self.books.wants_seal() && now.since(self.last_seal) >= limits::ALERT_SEAL;
        self.storing.as_ref().map_or(full, |storing| full || alerts || storing.seal_is_due(now))
    }

    /// Asks for a seal of all that was worked off. `waiting` are told when it is done.
    async fn seal(&mut self, waiting: Vec<oneshot::Sender<()>>) {
        self.last_seal = self.surroundings.clock.monotonic();
        if self.storing.is_none() {
            // Without an archive nobody keeps window results.
            drop(self.flow.drain_windows());
            return;
        }
        let mut windows = self.flow.drain_windows();
        if !self.tables.contains(&Kind::Windows) {
            windows.clear();
        }
        let (done, receipt) = oneshot::channel();
        let state = self.flow.save().unwrap_or_else(|error| {
            tracing::error!(pipeline = self.pipeline, %error, "a restart would begin with new windows and alerts");
            Vec::new()
        });
        let (ticket, mut sealing) = self.books.sealing(self.flow.now(), &state);
        sealing.at = Some(self.surroundings.clock.now());
        self.seals_asked.push_back(Asked { ticket, receipt, waiting });
        self.store(Work::Seal { sealing, windows, receipt: done }).await;
    }

    /// Waits for all seals that were asked for.
    async fn await_seals(&mut self) {
        while let Some(asked) = self.seals_asked.pop_front() {
            // None comes when the archive has failed, which is reported when its thread is joined.
            if let Ok(receipt) = asked.receipt.await {
                self.sealed(asked.ticket, receipt, asked.waiting).await;
            }
        }
    }

    async fn take_receipts(&mut self) {
        while let Some(asked) = self.seals_asked.front_mut() {
            let receipt = match asked.receipt.try_recv() {
                Err(oneshot::error::TryRecvError::Empty) => return,
                received => received.ok(),
            };
            let Some(Asked { ticket, waiting, .. }) = self.seals_asked.pop_front() else { return };
            if let Some(receipt) = receipt {
                self.sealed(ticket, receipt, waiting).await;
            }
        }
    }

    /// A seal is done: tells whoever waits for it, and sends the alert events that are in it.
    async fn sealed(&mut self, ticket: Ticket, receipt: Receipt, waiting: Vec<oneshot::Sender<()>>) {
        self.count_sealed(&receipt);
        if let Some(seals) = &self.seals {
            seals.send_replace(receipt.checkpoint);
        }
        for sender in waiting {
            // Who has asked may be gone.
            let _ = sender.send(());
        }
        let due = self.books.sealed(ticket);
        self.notifying.send(&due).await;
    }
}

fn source_failure(result: Result<Result<(), RunError>, tokio::task::JoinError>) -> Option<RunError> {
    match result {
        Ok(result) => result.err(),
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}
