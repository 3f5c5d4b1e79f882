//! The pure part of a pipeline: raw batch in, rows, dead letters and alert events out. No I/O, no clock, no tokio; a
//! live run, a backtest and a benchmark are this same code.

use super::decoding::Extent;
use crate::alert::Alerts;
use crate::config::Plan;
use crate::decode::{Counts, Decoded, Decoder, Speculation};
use crate::metric::Metrics;
use crate::record::alert::AlertEvent;
use crate::record::dead::DeadLetter;
use crate::record::event::{EventBatch, stamps};
use crate::record::raw::{PartitionId, RawBatch};
use crate::record::sample::WindowRows;
use crate::time::EventTime;
use crate::time::watermark::StreamClock;
use crate::transform::{Transform, TransformCounts};
use crate::window::Windows;
use arrow::array::{Int64Array, RecordBatch};
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
    clock: StreamClock,
    transforms: Vec<Box<dyn Transform>>,
    /// Shared with scrapes; locked once per batch.
    metrics: Arc<Mutex<Metrics>>,
    windows: Windows,
    alerts: Alerts,
}

impl Flow {
    /// Takes the stages out of a plan.
    pub fn new(plan: &mut Plan) -> Self {
        Self {
            decoder: Decoder::new(&plan.decode),
            clock: StreamClock::default(),
            transforms: std::mem::take(&mut plan.transforms),
            metrics: Arc::new(Mutex::new(Metrics::new(std::mem::take(&mut plan.metrics)))),
            windows: Windows::new(std::mem::take(&mut plan.windows)),
            alerts: Alerts::new(&plan.pipeline, std::mem::take(&mut plan.alerts)),
        }
    }

    /// The derived metrics, for scrapes.
    pub fn metrics(&self) -> Arc<Mutex<Metrics>> {
        Arc::clone(&self.metrics)
    }

    /// The event-time clock's reading.
    pub fn now(&self) -> Option<EventTime> {
        self.clock.now()
    }

    /// Adds a partition; the clock waits for it.
    ///
    /// # Panics
    /// When partitions are not registered in the order of their numbers.
    pub fn open(&mut self, partition: PartitionId) {
        assert_eq!(self.clock.register(), partition.0, "partitions are opened in the order of their numbers");
    }

    /// Decodes one batch and works it off, on one thread.
    pub fn batch(&mut self, raw: &RawBatch) -> Outcome {
        let decoded = self.decoder.decode(raw);
        self.decoded(Extent::of(raw), decoded)
    }

    /// Works off one batch that a decoder of its own has decoded; batches come in the order of the sources.
    pub fn decoded(&mut self, extent: Extent, decoded: Decoded) -> Outcome {
        let Extent { partition, end, .. } = extent;
        let Decoded { rows, dead, counts, speculation } = decoded;
        let mut readings = Vec::with_capacity(rows.num_rows());
        let times = stamps(&rows).values().iter().map(|micros| EventTime::from_micros(*micros));
        let newest = times.clone().max();
        self.clock.observe(partition.0, times, |reading| readings.push(reading.map(EventTime::micros)));
        let mut events =
            EventBatch { partition, rows, clock: Int64Array::from(readings), clock_after: self.clock.now(), end };
        let mut transformed = TransformCounts::default();
        for transform in &self.transforms {
            events = transform.apply(events, &mut transformed);
        }
        let unmeasured = lock(&self.metrics).observe(&events.rows);
        let closed = self.windows.push(&events);
        let alerts = self.evaluate(&closed);
        Outcome { rows: events.rows, dead, alerts, decoded: counts, speculation, transformed, unmeasured, newest }
    }

    /// The partition has been silent for so long that nobody waits for it any more.
    pub fn idle(&mut self, partition: PartitionId) -> Vec<AlertEvent> {
        self.clock.set_idle(partition.0);
        self.advance()
    }

    /// The partition has no more.
    pub fn end(&mut self, partition: PartitionId) -> Vec<AlertEvent> {
        self.clock.set_ended(partition.0);
        self.advance()
    }

    /// All input has been read to its end: closes the windows that are next in event time. `None` when all are closed.
    pub fn finish_next(&mut self) -> Option<Vec<AlertEvent>> {
        let closed = self.windows.finish_next();
        (!closed.is_empty()).then(|| self.evaluate(&closed))
    }

    /// Window results that are not stored yet; they count as stored from now on.
    pub fn drain_windows(&mut self) -> Vec<WindowRows> {
        self.windows.drain()
    }

    /// How much waits for [`Self::drain_windows`]: rows, and one more for each window.
    pub fn windows_waiting(&self) -> usize {
        self.windows.waiting()
    }

    /// What open windows and series hold, in bytes, estimated.
    pub fn state_bytes(&self) -> u64 {
        (self.windows.memory_bytes() + lock(&self.metrics).memory_bytes()) as u64
    }

    /// Records that came too late, by window, since the start.
    pub fn late_counts(&self) -> Vec<(Arc<str>, u64)> {
        self.windows.late_counts()
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
        self.alerts.overflow_count()
    }

    /// Conditions of alerts that could not be computed, since the start.
    pub fn alert_failures(&self) -> u64 {
        self.alerts.failed_count()
    }

    /// Alerts that are pending and firing.
    pub fn alert_counts(&self) -> (usize, usize) {
        self.alerts.counts()
    }

    fn advance(&mut self) -> Vec<AlertEvent> {
        let Some(now) = self.clock.now() else { return Vec::new() };
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
