//! The self-metrics that dashboards rely on, each with its fixed name and labels.
//!
//! Handles are cheap to clone and lock-free to count on; whoever counts per record counts locally and adds once
//! per batch.

use prometheus::core::Collector;
use prometheus::proto::MetricFamily;
use prometheus::{CounterVec, GaugeVec, IntCounterVec, IntGaugeVec, Opts, Registry};

/// All self-metrics of one daemon.
#[derive(Debug, Clone)]
pub struct SelfMetrics {
    registry: Registry,
    /// Records read, by pipeline and source.
    pub source_records: IntCounterVec,
    /// Bytes read, by pipeline and source.
    pub source_bytes: IntCounterVec,
    /// Time between the newest event and now, in seconds, by pipeline and source.
    pub source_lag_seconds: GaugeVec,
    /// Records by pipeline and the way they were decoded: by a learned `layout`, or the `strict` way.
    pub decode_records: IntCounterVec,
    /// Layouts by pipeline and event: `learned`, or all of them `forgotten` for being too many.
    pub decode_layouts: IntCounterVec,
    /// Records or fields that decoding found wrong, by pipeline and reason.
    pub decode_errors: IntCounterVec,
    /// Records that a rule took out, by pipeline and reason.
    pub dropped: IntCounterVec,
    /// Rows sealed in the archive, by pipeline and kind (`data`, `dead`, `windows`, `alerts`).
    pub archive_rows: IntCounterVec,
    /// Files sealed in the archive, by pipeline and kind.
    pub archive_files: IntCounterVec,
    /// What the archive had to try again, by pipeline and reason (`full`, `unreachable`, `refused`).
    pub archive_retries: IntCounterVec,
    /// Sealed files that upkeep has replaced, moved or let go, by pipeline and act (`compact`, `cool`, `expire`).
    pub upkeep_files: IntCounterVec,
    /// Commits to Delta logs, by pipeline and outcome (`put`, `conflict`).
    pub archive_logged: IntCounterVec,
    /// Records that came too late for a window, by pipeline and window.
    pub window_late: IntCounterVec,
    /// The event-time clock of a pipeline, in seconds since 1970.
    pub watermark_timestamp_seconds: GaugeVec,
    /// How far ahead of the median a producer's clock is, in seconds, by pipeline and producer.
    pub producer_skew_seconds: GaugeVec,
    /// Alerts by pipeline and state (`pending`, `firing`).
    pub alerts: IntGaugeVec,
    /// Alert events handed to a receiver, by pipeline, receiver and outcome (`delivered`, `failed`).
    pub notify: IntCounterVec,
    /// Series of a derived metric, by pipeline and metric.
    pub series: IntGaugeVec,
    /// Values that went to `_other_` because of a cap, by pipeline and metric.
    pub series_overflow: IntCounterVec,
    /// Bytes that a stage holds, by pipeline and stage (`raw`, `decoded`, `archive`, `state`, `upkeep`).
    pub memory_bytes: IntGaugeVec,
    /// Bytes that all stages of a pipeline may hold together.
    pub memory_budget_bytes: IntGaugeVec,
    /// What was flushed because memory was short, by pipeline and what (`row_group`).
    pub early_flushes: IntCounterVec,
    /// Bytes of a spool on disk, by pipeline and source.
    pub spool_bytes: IntGaugeVec,
    /// Connections or subscriptions that were lost, by pipeline, source and kind (`broken`, `silent`, `stalled`, …).
    pub source_interruptions: IntCounterVec,
    /// Seconds between the last message before an interruption and the first after it, by pipeline and source.
    pub source_gap_seconds: CounterVec,
    /// Successful and failed reloads.
    pub reloads: IntCounterVec,
}

impl SelfMetrics {
    /// # Panics
    /// Never: names and labels are constants of this file.
    pub fn new() -> Self {
        let registry = Registry::new();
        let counter = |name, help, labels: &[&str]| {
            register(&registry, IntCounterVec::new(Opts::new(name, help), labels).expect("constant names are valid"))
        };
        let gauge = |name, help, labels: &[&str]| {
            register(&registry, GaugeVec::new(Opts::new(name, help), labels).expect("constant names are valid"))
        };
        let int_gauge = |name, help, labels: &[&str]| {
            register(&registry, IntGaugeVec::new(Opts::new(name, help), labels).expect("constant names are valid"))
        };
        let build_info = int_gauge("headrig_build_info", "Version of this daemon, always 1", &["version"]);
        build_info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        Self {
            source_records: counter("headrig_source_records_total", "Records read", &["pipeline", "source"]),
            source_bytes: counter("headrig_source_bytes_total", "Bytes read", &["pipeline", "source"]),
            source_lag_seconds: gauge(
                "headrig_source_lag_seconds",
                "Time between the newest event and now",
                &["pipeline", "source"],
            ),
            decode_records: counter("headrig_decode_records_total", "Records decoded by way", &["pipeline", "way"]),
            decode_layouts: counter("headrig_decode_layouts_total", "Layouts by event", &["pipeline", "event"]),
            decode_errors: counter(
                "headrig_decode_errors_total",
                "Records or fields that decoding found wrong",
                &["pipeline", "reason"],
            ),
            dropped: counter("headrig_dropped_total", "Records that were taken out", &["pipeline", "reason"]),
            archive_rows: counter("headrig_archive_rows_total", "Rows sealed in the archive", &["pipeline", "kind"]),
            archive_files: counter("headrig_archive_files_total", "Files sealed in the archive", &["pipeline", "kind"]),
            archive_retries: retries(&registry),
            upkeep_files: upkeep_files(&registry),
            archive_logged: logged(&registry),
            window_late: counter(
                "headrig_window_late_total",
                "Records that came too late for a window",
                &["pipeline", "window"],
            ),
            producer_skew_seconds: skews(&registry),
            watermark_timestamp_seconds: watermarks(&registry),
            alerts: int_gauge("headrig_alerts", "Alerts by state", &["pipeline", "state"]),
            notify: counter(
                "headrig_notify_total",
                "Alert events handed to a receiver",
                &["pipeline", "receiver", "outcome"],
            ),
            series: int_gauge("headrig_series", "Series of a derived metric", &["pipeline", "metric"]),
            series_overflow: counter(
                "headrig_series_overflow_total",
                "Values that went to _other_ because of a cap",
                &["pipeline", "metric"],
            ),
            memory_bytes: int_gauge("headrig_memory_bytes", "Bytes that a stage holds", &["pipeline", "stage"]),
            memory_budget_bytes: int_gauge(
                "headrig_memory_budget_bytes",
                "Bytes that all stages may hold together",
                &["pipeline"],
            ),
            early_flushes: counter("headrig_early_flushes_total", "Flushes for want of memory", &["pipeline", "what"]),
            spool_bytes: int_gauge("headrig_spool_bytes", "Bytes of a spool on disk", &["pipeline", "source"]),
            source_interruptions: interruptions(&registry),
            source_gap_seconds: gap_seconds(&registry),
            reloads: counter("headrig_reloads_total", "Reloads of the configuration", &["outcome"]),
            registry,
        }
    }

    /// The metrics as they stand, sorted by name.
    pub fn gather(&self) -> Vec<MetricFamily> {
        self.registry.gather()
    }
}

impl SelfMetrics {
    /// Counts commits to Delta logs, and those that had to be made anew.
    pub fn count_logged(&self, pipeline: &str, put: u64, conflicts: u64) {
        for (outcome, count) in [("put", put), ("conflict", conflicts)] {
            if count > 0 {
                self.archive_logged.with_label_values(&[pipeline, outcome]).inc_by(count);
            }
        }
    }
}

impl Default for SelfMetrics {
    fn default() -> Self {
        Self::new()
    }
}

fn skews(registry: &Registry) -> GaugeVec {
    let help = "How far ahead of the median a producer's clock is, for those that are off most";
    let options = Opts::new("headrig_producer_skew_seconds", help);
    register(registry, GaugeVec::new(options, &["pipeline", "producer"]).expect("constant names are valid"))
}

fn watermarks(registry: &Registry) -> GaugeVec {
    let options = Opts::new("headrig_watermark_timestamp_seconds", "Event-time clock of the pipeline");
    register(registry, GaugeVec::new(options, &["pipeline"]).expect("constant names are valid"))
}

fn retries(registry: &Registry) -> IntCounterVec {
    let options = Opts::new("headrig_archive_retries_total", "What the archive had to try again");
    register(registry, IntCounterVec::new(options, &["pipeline", "reason"]).expect("constant names are valid"))
}

fn interruptions(registry: &Registry) -> IntCounterVec {
    let options = Opts::new("headrig_source_interruptions_total", "Connections or subscriptions that were lost");
    register(registry, IntCounterVec::new(options, &["pipeline", "source", "kind"]).expect("constant names are valid"))
}

fn upkeep_files(registry: &Registry) -> IntCounterVec {
    let options = Opts::new("headrig_archive_upkeep_files_total", "Sealed files that upkeep has taken away");
    register(registry, IntCounterVec::new(options, &["pipeline", "act"]).expect("constant names are valid"))
}

fn logged(registry: &Registry) -> IntCounterVec {
    let options =
        Opts::new("headrig_archive_delta_commits_total", "Commits to the Delta logs beside an archive's files");
    register(registry, IntCounterVec::new(options, &["pipeline", "outcome"]).expect("constant names are valid"))
}

fn gap_seconds(registry: &Registry) -> CounterVec {
    let help = "Seconds between the last message before an interruption and the first after it";
    let options = Opts::new("headrig_source_gap_seconds_total", help);
    register(registry, CounterVec::new(options, &["pipeline", "source"]).expect("constant names are valid"))
}

fn register<C: Collector + Clone + 'static>(registry: &Registry, collector: C) -> C {
    registry.register(Box::new(collector.clone())).expect("names are registered once");
    collector
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_contract() {
        let metrics = SelfMetrics::new();
        metrics.source_records.with_label_values(&["p", "s"]).inc_by(3);
        metrics.decode_errors.with_label_values(&["p", "type_clash"]).inc();
        let names: Vec<String> = metrics.gather().iter().map(|f| f.name().to_owned()).collect();
        assert_eq!(
            names,
            ["headrig_build_info", "headrig_decode_errors_total", "headrig_source_records_total"],
            "families without a series are not shown"
        );
    }
}
