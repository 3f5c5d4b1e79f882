//! What a running pipeline tells of itself: self-metrics, and the counts of its end.

use super::decoding::Extent;
use super::flow::{Outcome, lock};
use super::memory::Stage;
use super::merging;
use super::producers::Skew;
use super::run::Runner;
use crate::limits;
use crate::record::receipt::Receipt;
use crate::time::clock::Monotonic;
use prometheus::IntCounterVec;
use std::collections::{BTreeMap, HashMap};
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

impl Runner {
    /// Counts what became of a batch.
    pub(super) fn count(&mut self, source: &str, extent: Extent, outcome: &Outcome) {
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

    /// Counts what became of a batch of what others have gathered.
    pub(super) fn count_partials(&mut self, source: &str, extent: Extent, outcome: &merging::Outcome) {
        for letter in &outcome.dead {
            self.count_error(letter.reason.as_str(), 1);
        }
        let telemetry = &self.surroundings.telemetry;
        let labels = [self.pipeline.as_str(), source];
        telemetry.source_records.with_label_values(&labels).inc_by(extent.records);
        telemetry.source_bytes.with_label_values(&labels).inc_by(extent.bytes);
        if outcome.repeated > 0 {
            telemetry.dropped.with_label_values(&[self.pipeline.as_str(), "repeated"]).inc_by(outcome.repeated);
        }
        let dead = outcome.dead.len() as u64;
        self.progress.add(extent.records, extent.bytes, extent.records - dead, dead);
    }

    pub(super) fn count_error(&mut self, reason: &'static str, count: u64) {
        if count > 0 {
            *self.end.errors.entry(reason).or_default() += count;
            let labels = [self.pipeline.as_str(), reason];
            self.surroundings.telemetry.decode_errors.with_label_values(&labels).inc_by(count);
        }
    }

    /// Counts what a seal has made visible.
    pub(super) fn count_sealed(&mut self, receipt: &Receipt) {
        let (pipeline, telemetry, end) = (&self.pipeline, &self.surroundings.telemetry, &mut self.end);
        for (kind, rows, files) in &receipt.tables {
            let labels = [pipeline.as_str(), kind];
            telemetry.archive_rows.with_label_values(&labels).inc_by(*rows);
            telemetry.archive_files.with_label_values(&labels).inc_by(*files);
        }
        telemetry.count_logged(pipeline, receipt.logged.put, receipt.logged.conflicts);
        if receipt.type_clashes > 0 {
            let clash = "type_clash";
            telemetry.decode_errors.with_label_values(&[pipeline.as_str(), clash]).inc_by(receipt.type_clashes);
            *end.errors.entry(clash).or_default() += receipt.type_clashes;
        }
        end.sealed_rows += receipt.rows;
        end.sealed_files += receipt.files;
        end.sealed_bytes += receipt.bytes;
    }

    /// Gauges and counters of the memory budget. What waits in the queue counts with what is being decoded.
    pub(super) fn measure_memory(&mut self, queued_bytes: u64) {
        let (telemetry, pipeline) = (&self.surroundings.telemetry, self.pipeline.as_str());
        telemetry.memory_budget_bytes.with_label_values(&[pipeline]).set(self.memory.budget() as i64);
        for stage in Stage::ALL {
            let queued = if stage == Stage::Raw { queued_bytes } else { 0 };
            let held = self.memory.held(stage) + queued;
            telemetry.memory_bytes.with_label_values(&[pipeline, stage.as_str()]).set(held as i64);
        }
        self.told.raise("early", &telemetry.early_flushes, [pipeline, "row_group"], self.memory.early_flushes());
    }

    /// Shows which alerts are pending and firing, where that has changed.
    pub(super) fn show_active(&mut self) {
        if let Some(active) = self.stages.changed_active() {
            *self.active.lock().unwrap_or_else(PoisonError::into_inner) = active;
        }
    }

    pub(super) fn measure(&mut self) {
        self.show_active();
        let telemetry = &self.surroundings.telemetry;
        let pipeline = self.pipeline.as_str();
        if let Some(now) = self.stages.now() {
            let seconds = now.micros() as f64 / 1e6;
            telemetry.watermark_timestamp_seconds.with_label_values(&[pipeline]).set(seconds);
        }
        let (pending, firing) = self.stages.alert_counts();
        telemetry.alerts.with_label_values(&[pipeline, "pending"]).set(pending as i64);
        telemetry.alerts.with_label_values(&[pipeline, "firing"]).set(firing as i64);
        let told = &mut self.told;
        for (window, late) in self.stages.late_counts() {
            told.raise("late", &telemetry.window_late, [pipeline, &window], late);
        }
        told.raise("dropped", &telemetry.dropped, [pipeline, "tombstone"], self.tombstones.load(Ordering::Relaxed));
        for (reason, total) in
            [("window_groups", self.stages.window_overflow()), ("alert_groups", self.stages.alert_overflow())]
        {
            told.raise("dropped", &telemetry.dropped, [pipeline, reason], total);
        }
        for (reason, total) in
            [("window_value", self.stages.window_failures()), ("alert_condition", self.stages.alert_failures())]
        {
            told.raise("errors", &telemetry.decode_errors, [pipeline, reason], total);
        }
        let overflow = self.stages.producer_overflow();
        told.raise("producers", &telemetry.decode_errors, [pipeline, "producers"], overflow);
        let metrics = self.stages.metrics();
        let metrics = lock(&metrics);
        for (metric, series) in metrics.series_counts() {
            telemetry.series.with_label_values(&[pipeline, metric]).set(series as i64);
        }
        for (metric, overflow) in metrics.overflow_counts() {
            told.raise("series", &telemetry.series_overflow, [pipeline, metric], overflow);
        }
    }
}

/// What was told of producers' clocks.
#[derive(Debug, Default)]
pub(super) struct Skews {
    last: Option<Monotonic>,
    /// Producers that have a series, and whether they were logged.
    told: BTreeMap<String, bool>,
}

impl Runner {
    /// Tells how far producers' clocks are off, from time to time.
    pub(super) fn tell_skews(&mut self, now: Monotonic) {
        let Skews { last, told } = &mut self.skews;
        if last.is_some_and(|last| now.since(last) < limits::SKEW_EVERY) {
            return;
        }
        *last = Some(now);
        let before = std::mem::take(told);
        let (pipeline, gauge) = (self.pipeline.as_str(), &self.surroundings.telemetry.producer_skew_seconds);
        for Skew { producer, skew } in self.stages.take_skews() {
            gauge.with_label_values(&[pipeline, producer.as_str()]).set(skew.as_secs_f64());
            let is_off = skew.micros().abs() >= limits::SKEW_LOGGED.micros();
            if is_off && !before.get(&producer).copied().unwrap_or(false) {
                tracing::warn!(pipeline, producer, skew = %skew, "a producer's clock is off");
            }
            told.insert(producer, is_off);
        }
        for producer in before.keys().filter(|producer| !told.contains_key(*producer)) {
            // It has one: it was told of.
            let _ = gauge.remove_label_values(&[pipeline, producer.as_str()]);
        }
    }
}

/// What counters have been told of totals that stages keep since this run began. The counters live on over a reload.
#[derive(Debug, Default)]
pub(super) struct Told(HashMap<(&'static str, String), u64>);

impl Told {
    /// Adds to the counter what `total` has grown by since the last call for `what` and the second label.
    fn raise(&mut self, what: &'static str, counter: &IntCounterVec, labels: [&str; 2], total: u64) {
        let told = self.0.entry((what, labels[1].to_owned())).or_default();
        counter.with_label_values(&labels).inc_by(total - *told);
        *told = total;
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
