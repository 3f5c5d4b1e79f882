//! The pure part of a pipeline: raw batch in, rows, dead letters and alert events out. No I/O, no clock, no tokio; a
//! live run, a backtest and a benchmark are this same code.

use super::decoding::Extent;
use super::producers::{Producers, Skew};
use super::roster::Roster;
use super::state::{Restored, State, StateError, pack_all, unpack_all};
use crate::alert::{Absences, Alerts};
use crate::config::{Plan, Role};
use crate::decode::{Counts, Decoded, Decoder, Speculation};
use crate::limits;
use crate::metric::Metrics;
use crate::record::alert::{ActiveAlert, AlertEvent};
use crate::record::dead::DeadLetter;
use crate::record::event::{EventBatch, stamps};
use crate::record::raw::{PartitionId, RawBatch};
use crate::record::sample::WindowRows;
use crate::record::state::SavedPart;
use crate::source::PartitionName;
use crate::time::{EventTime, Span};
use crate::transform::{Transform, TransformCounts};
use crate::window::Windows;
use arrow::array::{Int64Array, RecordBatch};
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What became of one raw batch.
#[derive(Debug)]
pub struct Outcome {
    /// The rows behind the transforms, for the archive.
    pub rows: RecordBatch,
    pub dead: Vec<DeadLetter>,
    pub alerts: Vec<AlertEvent>,
    /// Rows with flaws, by kind.
    pub decoded: Counts,
    /// Which way the records were decoded.
    pub speculation: Speculation,
    pub transformed: TransformCounts,
    /// Values that a metric could not take.
    pub unmeasured: u64,
    /// The newest event time of the batch.
    pub newest: Option<EventTime>,
}

/// All stages from `decode` to `alert` of one pipeline.
#[derive(Debug)]
pub struct Flow {
    decoder: Decoder,
    /// Positions of the columns of `watermark_by`.
    watermark_by: Vec<usize>,
    roster: Roster,
    transforms: Vec<Box<dyn Transform>>,
    /// Shared with scrapes; locked once per batch.
    metrics: Arc<Mutex<Metrics>>,
    windows: Windows,
    alerts: Alerts,
    absences: Absences,
    /// Windows are closed by others, who get what was gathered here.
    gathers: bool,
}

impl Flow {
    /// Takes the stages out of a plan.
    pub fn new(plan: &mut Plan) -> Self {
        let gathers = matches!(plan.role, Role::Gather(_));
        let windows = std::mem::take(&mut plan.windows);
        let mut windows = if gathers { Windows::gathering(windows) } else { Windows::new(windows) };
        let absences = std::mem::take(&mut plan.absences);
        absences.iter().filter_map(|absence| absence.window()).for_each(|window| windows.watch(window));
        Self {
            decoder: Decoder::new(&plan.decode),
            roster: Roster::new(plan.watermark_by.clone()),
            watermark_by: plan.watermark_by.clone(),
            transforms: std::mem::take(&mut plan.transforms),
            metrics: Arc::new(Mutex::new(Metrics::new(std::mem::take(&mut plan.metrics)))),
            windows,
            alerts: Alerts::new(&plan.pipeline, std::mem::take(&mut plan.alerts)),
            absences: Absences::new(&plan.pipeline, absences),
            gathers,
        }
    }

    /// The derived metrics, for scrapes.
    pub fn metrics(&self) -> Arc<Mutex<Metrics>> {
        Arc::clone(&self.metrics)
    }

    /// The event-time clock's reading.
    pub fn now(&self) -> Option<EventTime> {
        self.roster.now()
    }

    /// All that results depend on, to go on with in another run: open windows, what of closed ones was not drained, pending and
    /// firing alerts, the clock. To be called between two batches; together with positions that cover what was
    /// worked off until then, it makes a restart invisible. Metrics are not in it: Prometheus knows that counters begin at
    /// zero when a process does. Equal states are equal bytes.
    ///
    /// At a seal it comes behind [`Self::drain_windows`], so that what the seal stores is not kept twice.
    ///
    /// # Errors
    /// When the state is larger than [`limits::STATE_BYTES`](crate::limits::STATE_BYTES).
    pub fn save(&self) -> Result<Vec<u8>, StateError> {
        let (clock, windows, mut alerts) = (self.roster.save(), self.windows.save(), self.alerts.save());
        alerts.extend(self.absences.save());
        pack_all(&State { clock, windows, alerts }, &self.roster.save_producers())
    }

    /// Goes on with what [`Self::save`] gave to an earlier run. Windows and alerts that are not defined as they were begin
    /// anew. To be called first of all; after an error nothing has changed.
    ///
    /// # Errors
    /// When the bytes are damaged, or of another version.
    ///
    /// # Panics
    /// When a partition has been opened before.
    pub fn restore(&mut self, bytes: &[u8]) -> Result<Restored, StateError> {
        assert_eq!(self.roster.opened(), 0, "state is restored before any partition is opened");
        let (State { clock, windows, alerts }, producers) = unpack_all(bytes)?;
        let roster = Roster::resume(clock, producers, Producers::new(self.watermark_by.clone()));
        let (absences, alerts): (Vec<_>, Vec<_>) = alerts.into_iter().partition(|part| self.absences.knows(part));
        let absences = self.absences.read(&absences)?;
        let (windows, alerts) = (self.windows.read(&windows, roster.newest())?, self.alerts.read(&alerts)?);
        self.roster = roster;
        self.absences.resume(absences);
        Ok(Restored::of(self.windows.resume(windows), self.alerts.resume(alerts)))
    }

    /// Says that an earlier run had read on to the event time `newest`, of whose state nothing is known. Rows of windows that
    /// start at or before it are `provisional`. For archives that hold positions and no state that can be read.
    pub fn begin_anew(&mut self, newest: EventTime) {
        self.windows.provisional_through(newest);
    }

    /// Adds a partition; the clock waits for it. Under the name of one that the restored state knows it goes on where that
    /// was.
    ///
    /// # Panics
    /// When partitions are not opened in the order of their numbers.
    pub fn open(&mut self, partition: PartitionId, name: &PartitionName) {
        self.roster.open(partition, name);
    }

    /// The partition has another name by now; it is the same partition.
    pub fn identify(&mut self, partition: PartitionId, name: &PartitionName) {
        self.roster.identify(partition, name);
    }

    /// Partitions of the restored state that hold the clock back, as they delivered until the end of the earlier run, and have
    /// not been opened in this one.
    pub fn awaited(&self) -> Vec<PartitionName> {
        self.roster.awaited()
    }

    /// Nobody waits any more for partitions of the restored state that have not been opened: they have ended, here at least. One
    /// that is opened later is a new one.
    pub fn give_up(&mut self) -> Vec<AlertEvent> {
        self.roster.give_up();
        self.advance()
    }

    /// Decodes one batch and works it off, on one thread.
    pub fn batch(&mut self, raw: &RawBatch) -> Outcome {
        let decoded = self.decoder.decode(raw);
        self.decoded(Extent::of(raw), decoded)
    }

    /// Works off one batch that a decoder of its own has decoded; batches come in the order of the sources.
    pub fn decoded(&mut self, extent: Extent, decoded: Decoded) -> Outcome {
        let Extent { partition, end, records, .. } = extent;
        if records > 0 && !self.absences.is_empty() {
            self.absences.saw_source(self.roster.source(partition));
        }
        let Decoded { rows, dead, counts, speculation } = decoded;
        let mut readings = Vec::with_capacity(rows.num_rows());
        let newest = stamps(&rows).values().iter().max().map(|micros| EventTime::from_micros(*micros));
        self.roster.observe(partition, &rows, |reading| readings.push(reading.map(EventTime::micros)));
        let mut events =
            EventBatch { partition, rows, clock: Int64Array::from(readings), clock_after: self.roster.now(), end };
        let mut transformed = TransformCounts::default();
        for transform in &self.transforms {
            events = transform.apply(events, &mut transformed);
        }
        let unmeasured = lock(&self.metrics).observe(&events.rows);
        let closed = if self.gathers {
            self.windows.gather(&events);
            Vec::new()
        } else {
            self.windows.push(&events)
        };
        let alerts = self.evaluate(&closed);
        Outcome { rows: events.rows, dead, alerts, decoded: counts, speculation, transformed, unmeasured, newest }
    }

    /// Notes which groups have come. Before a seal, too: one that is only in windows would be missed by the next run.
    fn note_seen(&mut self) {
        for (window, groups) in self.windows.take_seen() {
            self.absences.saw_groups(&window, &groups);
        }
    }

    /// It is `now`, by the time of day, and for another `quiet` nothing waited to be read. For producers that fall idle, and alerts over what doesn't come;
    /// to be called several times a second.
    pub fn tick(&mut self, now: EventTime, quiet: Span) -> Vec<AlertEvent> {
        self.note_seen();
        self.roster.tick(quiet);
        let mut alerts = self.advance();
        alerts.extend(self.absences.tick(now, quiet));
        alerts
    }

    /// The producers whose clocks are off most, since the last call.
    pub(super) fn take_skews(&mut self) -> Vec<Skew> {
        self.roster.take_skews()
    }

    /// Records of producers that have no watermark of their own, as there are too many of them, since the start.
    pub fn producer_overflow(&self) -> u64 {
        self.roster.producer_overflow()
    }

    /// The partition has been silent for so long that nobody waits for it any more.
    pub fn idle(&mut self, partition: PartitionId) -> Vec<AlertEvent> {
        self.roster.idle(partition);
        self.advance()
    }

    /// The partition has no more. It is forgotten, also by what is saved.
    pub fn end(&mut self, partition: PartitionId) -> Vec<AlertEvent> {
        self.roster.end(partition);
        self.advance()
    }

    /// All input has been read to its end: closes the windows that are next in event time. `None` when all are closed.
    pub fn finish_next(&mut self) -> Option<Vec<AlertEvent>> {
        if self.gathers {
            return None;
        }
        let closed = self.windows.finish_next();
        (!closed.is_empty()).then(|| self.evaluate(&closed))
    }

    /// Window results that are not stored yet; they count as stored from now on.
    pub fn drain_windows(&mut self) -> Vec<WindowRows> {
        self.note_seen();
        self.windows.drain()
    }

    /// What was gathered for others since the last call, for each of `partitions`.
    pub fn take_gathered(&mut self, partitions: NonZeroU32) -> Vec<Vec<SavedPart>> {
        self.windows.take_gathered(partitions, limits::PARTIAL_BYTES)
    }

    /// How much waits for [`Self::drain_windows`] (rows, and one more for each window) or [`Self::take_gathered`] (states).
    pub fn windows_waiting(&self) -> usize {
        if self.gathers { self.windows.gathered() } else { self.windows.waiting() }
    }

    /// What open windows and series hold, in bytes, estimated.
    pub fn state_bytes(&self) -> u64 {
        (self.windows.memory_bytes() + lock(&self.metrics).memory_bytes()) as u64
    }

    /// Records that came too late, by window, since the start of this run.
    pub fn late_counts(&self) -> Vec<(Arc<str>, u64)> {
        self.windows.late_counts()
    }

    /// As [`Self::late_counts`], with those of the earlier runs whose state this one goes on with.
    pub fn late_totals(&self) -> Vec<(Arc<str>, u64)> {
        self.windows.late_totals()
    }

    /// Records that a window could not hold because of its cap on groups, since the start.
    pub fn window_overflow(&self) -> u64 {
        self.windows.overflow_counts().iter().map(|(_, count)| count).sum()
    }

    /// Records of which a window could not compute something, since the start.
    pub fn window_failures(&self) -> u64 {
        self.windows.failed_counts().iter().map(|(_, count)| count).sum()
    }

    /// Rows whose condition was true and that an alert could not follow because of its cap on groups, since the start.
    pub fn alert_overflow(&self) -> u64 {
        self.alerts.overflow_count() + self.absences.overflow_count()
    }

    /// Conditions of alerts that could not be computed, since the start.
    pub fn alert_failures(&self) -> u64 {
        self.alerts.failed_count()
    }

    /// What is pending and firing, if that may have changed since the last call.
    pub fn changed_active(&mut self) -> Option<Vec<ActiveAlert>> {
        let changed = self.absences.take_changed() | self.alerts.take_changed();
        changed.then(|| self.alerts.active().chain(self.absences.active()).collect())
    }

    /// Alerts that are pending and firing.
    pub fn alert_counts(&self) -> (usize, usize) {
        let (pending, firing) = self.alerts.counts();
        (pending, firing + self.absences.firing())
    }

    fn advance(&mut self) -> Vec<AlertEvent> {
        let Some(now) = self.roster.now().filter(|_| !self.gathers) else { return Vec::new() };
        let closed = self.windows.advance(now);
        self.evaluate(&closed)
    }

    fn evaluate(&mut self, closed: &[WindowRows]) -> Vec<AlertEvent> {
        closed.iter().flat_map(|window| self.alerts.evaluate(window)).collect()
    }
}

/// Locks shared metrics; a panic elsewhere leaves counters that are still good to read.
pub(super) fn lock(metrics: &Mutex<Metrics>) -> MutexGuard<'_, Metrics> {
    metrics.lock().unwrap_or_else(PoisonError::into_inner)
}
