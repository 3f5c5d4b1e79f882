//! The third phase: runs a connected pipeline until its input has ended or it is told to stop.

use super::Surroundings;
use super::connect::Connected;
use super::decoding::{Decoding, Extent, Step};
use super::flow::{Flow, Outcome, lock};
use super::memory::{Charge, Memory, Stage};
use super::notifying::Notifying;
use super::progress::Progress;
use super::storing::{Storing, Work};
use crate::archive::{ArchiveError, Kind};
use crate::decode::{self, Decoded};
use crate::limits;
use crate::record::alert::{AlertEvent, AlertStatus};
use crate::record::raw::PartitionId;
use crate::record::receipt::{Checkpoint, Receipt};
use crate::source::{Outlet, PartitionName, Source, SourceError};
use crate::time::Span;
use crate::time::clock::Monotonic;
use prometheus::IntCounterVec;
use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroUsize;
use std::sync::{Arc, atomic::AtomicU64, atomic::Ordering};
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

struct Runner {
    pipeline: String,
    decode: decode::Plan,
    threads: NonZeroUsize,
    memory: Arc<Memory>,
    /// The tables that are written; none without an archive.
    tables: Vec<Kind>,
    flow: Flow,
    storing: Option<Storing>,
    notifying: Notifying,
    surroundings: Surroundings,
    progress: Arc<Progress>,
    partitions: Vec<Partition>,
    checkpoint: Checkpoint,
    receipts: Vec<oneshot::Receiver<Receipt>>,
    /// Tells the sources what is sealed, once they run.
    seals: Option<Arc<watch::Sender<Checkpoint>>>,
    tombstones: Arc<AtomicU64>,
    last_tick: Monotonic,
    told: Told,
    end: End,
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
        let Self { sources, archive, checkpoint, receivers, routes, surroundings, progress, .. } = self;
        let mut runner = Runner {
            notifying: Notifying::spawn(&pipeline, receivers, routes, &surroundings.telemetry, stop.clone()),
            storing: archive.map(|(archive, flush)| Storing::spawn(archive, flush, Arc::clone(&memory))),
            last_tick: surroundings.clock.monotonic(),
            pipeline,
            decode,
            threads,
            memory,
            tables,
            flow,
            surroundings,
            progress,
            partitions: Vec::new(),
            checkpoint,
            receipts: Vec::new(),
            seals: None,
            tombstones: Arc::default(),
            told: Told::default(),
            end: End::default(),
        };
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
                // closed, and is told.
                stop.cancel();
                break;
            }
            while let Some(result) = tasks.try_join_next() {
                failed = failed.or(source_failure(result));
                if failed.is_some() {
                    stop.cancel();
                }
            }
            if self.seal_is_due() {
                self.seal().await;
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
                    self.seal().await;
                }
            }
        }
        self.seal().await;
        self.measure();
        let stored = match self.storing.take() {
            Some(storing) => storing.end().await,
            None => Ok(()),
        };
        self.take_receipts();
        self.end.undelivered = self.notifying.end().await;
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
        self.flow.open(PartitionId(self.partitions.len()));
        self.partitions.push(Partition { name, silence: Span::ZERO, ended: false });
    }

    async fn step(&mut self, step: Step) {
        match step {
            Step::Opened(name) => self.open(name),
            Step::Batch(extent, decoded, charge) => self.batch(extent, decoded, charge).await,
            Step::Identified(partition, identity) => {
                let name = &mut self.partitions[partition.0].name;
                self.checkpoint.identify(&name.source, &name.partition, &name.identity, &identity);
                name.identity = identity;
            }
            Step::Forgotten(name) => self.checkpoint.forget(&name.source, &name.partition, &name.identity),
            Step::Ended(partition) => {
                self.partitions[partition.0].ended = true;
                let alerts = self.flow.end(partition);
                self.alert(alerts).await;
            }
        }
    }

    async fn batch(&mut self, extent: Extent, decoded: Decoded, charge: Charge) {
        let outcome = self.flow.decoded(extent, decoded);
        self.partitions[extent.partition.0].silence = Span::ZERO;
        let name = self.partitions[extent.partition.0].name.clone();
        self.checkpoint.set(name.at(extent.end));
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

    /// Counts what became of a batch.
    fn count(&mut self, source: &str, extent: Extent, outcome: &Outcome) {
        let Outcome { dead, decoded, speculation, transformed, unmeasured, newest, .. } = outcome;
        let counts = decoded.by_reason().into_iter().chain(dead.iter().map(|letter| (letter.reason.as_str(), 1)));
        for (reason, count) in counts.chain([("transform_error", transformed.failed), ("metric_value", *unmeasured)]) {
            self.count_error(reason, count);
        }
        self.end.filtered += transformed.dropped;
        let telemetry = &self.surroundings.telemetry;
        let labels = [self.pipeline.as_str(), source];
        telemetry.source_records.with_label_values(&labels).inc_by(extent.records);
        telemetry.source_bytes.with_label_values(&labels).inc_by(extent.bytes);
        for (way, count) in [("layout", speculation.hits), ("strict", extent.records - speculation.hits)] {
            telemetry.decode_records.with_label_values(&[self.pipeline.as_str(), way]).inc_by(count);
        }
        for (event, count) in [("learned", speculation.learned), ("forgotten", speculation.forgotten)] {
            telemetry.decode_layouts.with_label_values(&[self.pipeline.as_str(), event]).inc_by(count);
        }
        if transformed.dropped > 0 {
            telemetry.dropped.with_label_values(&[self.pipeline.as_str(), "filter"]).inc_by(transformed.dropped);
        }
        if let Some(newest) = newest {
            let lag = self.surroundings.clock.now() - *newest;
            telemetry.source_lag_seconds.with_label_values(&labels).set(lag.as_secs_f64().max(0.0));
        }
        let dead = dead.len() as u64;
        self.progress.add(extent.records, extent.bytes, extent.records - dead, dead);
    }

    fn count_error(&mut self, reason: &'static str, count: u64) {
        if count > 0 {
            *self.end.errors.entry(reason).or_default() += count;
            let labels = [self.pipeline.as_str(), reason];
            self.surroundings.telemetry.decode_errors.with_label_values(&labels).inc_by(count);
        }
    }

    async fn alert(&mut self, events: Vec<AlertEvent>) {
        if events.is_empty() {
            return;
        }
        let fired = events.iter().filter(|event| event.status == AlertStatus::Firing).count() as u64;
        self.end.fired += fired;
        self.end.resolved += events.len() as u64 - fired;
        self.notifying.send(&events).await;
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
        self.alert(alerts).await;
        self.take_receipts();
        self.memory.set(Stage::State, self.flow.state_bytes());
        self.measure();
        self.measure_memory(steps.queued_bytes());
    }

    fn seal_is_due(&self) -> bool {
        let now = self.surroundings.clock.monotonic();
        let most = limits::WINDOW_ROWS_WAITING.min((self.memory.budget() / limits::MEMORY_PER_WINDOW_ROW) as usize);
        let full = self.flow.windows_waiting() >= most;
        self.storing.as_ref().map_or(full, |storing| full || storing.seal_is_due(now))
    }

    async fn seal(&mut self) {
        if self.storing.is_none() {
            // Without an archive nobody keeps window results.
            drop(self.flow.drain_windows());
            return;
        }
        let mut windows = self.flow.drain_windows();
        if !self.tables.contains(&Kind::Windows) {
            windows.clear();
        }
        let (receipt, receiver) = oneshot::channel();
        let work = Work::Seal { checkpoint: self.checkpoint.clone(), watermark: self.flow.now(), windows, receipt };
        self.receipts.push(receiver);
        self.store(work).await;
    }

    fn take_receipts(&mut self) {
        let (pipeline, telemetry, end) = (&self.pipeline, &self.surroundings.telemetry, &mut self.end);
        self.receipts.retain_mut(|receiver| match receiver.try_recv() {
            Ok(receipt) => {
                for (kind, rows, files) in &receipt.tables {
                    let labels = [pipeline.as_str(), kind];
                    telemetry.archive_rows.with_label_values(&labels).inc_by(*rows);
                    telemetry.archive_files.with_label_values(&labels).inc_by(*files);
                }
                if receipt.type_clashes > 0 {
                    let clash = "type_clash";
                    telemetry.decode_errors.with_label_values(&[pipeline.as_str(), clash]).inc_by(receipt.type_clashes);
                    *end.errors.entry(clash).or_default() += receipt.type_clashes;
                }
                end.sealed_rows += receipt.rows;
                end.sealed_files += receipt.files;
                end.sealed_bytes += receipt.bytes;
                if let Some(seals) = &self.seals {
                    seals.send_replace(receipt.checkpoint);
                }
                false
            }
            Err(oneshot::error::TryRecvError::Empty) => true,
            Err(oneshot::error::TryRecvError::Closed) => false,
        });
    }

    /// Gauges and counters of the memory budget. What waits in the queue counts with what is being decoded.
    fn measure_memory(&mut self, queued_bytes: u64) {
        let (telemetry, pipeline) = (&self.surroundings.telemetry, self.pipeline.as_str());
        telemetry.memory_budget_bytes.with_label_values(&[pipeline]).set(self.memory.budget() as i64);
        for stage in Stage::ALL {
            let queued = if stage == Stage::Raw { queued_bytes } else { 0 };
            let held = self.memory.held(stage) + queued;
            telemetry.memory_bytes.with_label_values(&[pipeline, stage.as_str()]).set(held as i64);
        }
        self.told.raise("early", &telemetry.early_flushes, [pipeline, "row_group"], self.memory.early_flushes());
    }

    fn measure(&mut self) {
        let telemetry = &self.surroundings.telemetry;
        let pipeline = self.pipeline.as_str();
        if let Some(now) = self.flow.now() {
            let seconds = now.micros() as f64 / 1e6;
            telemetry.watermark_timestamp_seconds.with_label_values(&[pipeline]).set(seconds);
        }
        let (pending, firing) = self.flow.alert_counts();
        telemetry.alerts.with_label_values(&[pipeline, "pending"]).set(pending as i64);
        telemetry.alerts.with_label_values(&[pipeline, "firing"]).set(firing as i64);
        let told = &mut self.told;
        for (window, late) in self.flow.late_counts() {
            told.raise("late", &telemetry.window_late, [pipeline, &window], late);
        }
        told.raise("dropped", &telemetry.dropped, [pipeline, "tombstone"], self.tombstones.load(Ordering::Relaxed));
        for (reason, total) in
            [("window_groups", self.flow.window_overflow()), ("alert_groups", self.flow.alert_overflow())]
        {
            told.raise("dropped", &telemetry.dropped, [pipeline, reason], total);
        }
        for (reason, total) in
            [("window_value", self.flow.window_failures()), ("alert_condition", self.flow.alert_failures())]
        {
            told.raise("errors", &telemetry.decode_errors, [pipeline, reason], total);
        }
        let metrics = self.flow.metrics();
        let metrics = lock(&metrics);
        for (metric, series) in metrics.series_counts() {
            telemetry.series.with_label_values(&[pipeline, metric]).set(series as i64);
        }
        for (metric, overflow) in metrics.overflow_counts() {
            told.raise("series", &telemetry.series_overflow, [pipeline, metric], overflow);
        }
    }
}

/// What counters have been told of totals that stages keep since this run began. The counters live on over a reload.
#[derive(Debug, Default)]
struct Told(HashMap<(&'static str, String), u64>);

impl Told {
    /// Adds to the counter what `total` has grown by since the last call for `what` and the second label.
    fn raise(&mut self, what: &'static str, counter: &IntCounterVec, labels: [&str; 2], total: u64) {
        let told = self.0.entry((what, labels[1].to_owned())).or_default();
        counter.with_label_values(&labels).inc_by(total - *told);
        *told = total;
    }
}

fn source_failure(result: Result<Result<(), RunError>, tokio::task::JoinError>) -> Option<RunError> {
    match result {
        Ok(result) => result.err(),
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_go_on_over_a_reload() {
        let telemetry = crate::telemetry::metrics::SelfMetrics::new();
        let counter = || telemetry.window_late.with_label_values(&["p", "w"]).get();
        for (run, expected) in [([2, 5, 5], 5), ([0, 1, 3], 8)] {
            let mut told = Told::default();
            for total in run {
                told.raise("late", &telemetry.window_late, ["p", "w"], total);
                told.raise("dropped", &telemetry.dropped, ["p", "w"], 9);
            }
            assert_eq!(counter(), expected);
        }
        assert_eq!(telemetry.dropped.with_label_values(&["p", "w"]).get(), 18);
    }
}
