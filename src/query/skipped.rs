//! What a query read and what it skipped, for `explain` and `--stats`.

use crate::units::ByteSize;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::metrics::MetricValue;
use std::fmt::Write;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Files, and their bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Files {
    pub files: u64,
    pub bytes: u64,
}

impl Files {
    pub(super) fn add(&mut self, bytes: u64) {
        self.files += 1;
        self.bytes += bytes;
    }
}

impl std::fmt::Display for Files {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let files = if self.files == 1 { "file" } else { "files" };
        write!(f, "{} {files}, {}", self.files, ByteSize(self.bytes))
    }
}

/// What was decided about the files of one table in one place of a query.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scan {
    pub table: String,
    pub all: Files,
    /// Skipped by the values of their folders.
    pub by_folder: Files,
    /// Skipped by the least and greatest time that their seals say.
    pub by_time: Files,
    /// Skipped by the bloom filters of all of their row groups.
    pub by_bloom: Files,
    pub left: Files,
    /// Row groups whose bloom filters were asked, and those that were skipped by them.
    pub asked_groups: u64,
    pub skipped_groups: u64,
}

/// Of all the scans of a query.
#[derive(Debug, Default)]
pub(super) struct Scans(Mutex<Vec<Scan>>);

impl Scans {
    fn held(&self) -> MutexGuard<'_, Vec<Scan>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn note(&self, scan: Scan) {
        self.held().push(scan);
    }

    pub(super) fn take(&self) -> Vec<Scan> {
        std::mem::take(&mut self.held())
    }
}

/// Parts of files that were skipped when their footers were read, and what was left.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pruned {
    pub row_groups: u64,
    pub by_statistics: u64,
    pub by_bloom: u64,
    pub by_limit: u64,
    pub pages: u64,
    pub pages_skipped: u64,
    /// Rows that were not put together, as their filter's columns were looked at first.
    pub rows_filtered: u64,
    pub file_ranges: u64,
}

/// What a query read and skipped.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reading {
    pub scans: Vec<Scan>,
    pub pruned: Pruned,
    /// Bytes and requests that were asked of the disk or the store, footers included.
    pub bytes: u64,
    pub requests: u64,
}

/// Adds up what the scans of a plan that has run say.
pub(super) fn pruned(plan: &dyn ExecutionPlan) -> Pruned {
    let mut sum = Pruned::default();
    add(plan, &mut sum);
    sum
}

fn add(plan: &dyn ExecutionPlan, sum: &mut Pruned) {
    for metric in plan.metrics().iter().flat_map(|metrics| metrics.iter()) {
        match metric.value() {
            MetricValue::PruningMetrics { name, pruning_metrics } => {
                let (skipped, left) = (pruning_metrics.pruned() as u64, pruning_metrics.matched() as u64);
                match name.as_ref() {
                    "row_groups_pruned_statistics" => {
                        sum.by_statistics += skipped;
                        sum.row_groups += skipped + left;
                    }
                    "row_groups_pruned_bloom_filter" => sum.by_bloom += skipped,
                    "limit_pruned_row_groups" => sum.by_limit += skipped,
                    "page_index_pages_pruned" => {
                        sum.pages_skipped += skipped;
                        sum.pages += skipped + left;
                    }
                    "files_ranges_pruned_statistics" => sum.file_ranges += skipped,
                    _ => {}
                }
            }
            MetricValue::Count { name, count } if name == "pushdown_rows_pruned" => {
                sum.rows_filtered += count.value() as u64;
            }
            MetricValue::Count { name, count } if name == "row_groups_pruned_dynamic_filter" => {
                sum.by_limit += count.value() as u64;
            }
            _ => {}
        }
    }
    plan.children().iter().for_each(|child| add(child.as_ref(), sum));
}

impl Reading {
    /// All files of the scans, and those that were left to read.
    pub fn files(&self) -> (Files, Files) {
        let sum = |of: fn(&Scan) -> Files| {
            self.scans.iter().map(of).fold(Files::default(), |sum, scan| Files {
                files: sum.files + scan.files,
                bytes: sum.bytes + scan.bytes,
            })
        };
        (sum(|scan| scan.all), sum(|scan| scan.left))
    }

    /// For people: a line per way of skipping; with `ran`, what was found out while reading, too.
    pub fn lines(&self, ran: bool) -> Vec<String> {
        let mut lines = Vec::new();
        for scan in &self.scans {
            lines.push(format!("{}: {}", scan.table, scan.all));
            let how = [("folder", scan.by_folder), ("time", scan.by_time), ("bloom filter", scan.by_bloom)];
            for (how, files) in how.into_iter().filter(|(_, files)| files.files > 0) {
                lines.push(format!("  skipped by {how}: {files}"));
            }
            if scan.asked_groups > 0 {
                let (skipped, asked) = (scan.skipped_groups, scan.asked_groups);
                lines.push(format!("  skipped by bloom filter: {skipped} of {asked} row groups"));
            }
            lines.push(format!("  left to read: {}", scan.left));
        }
        if !ran {
            return lines;
        }
        let Pruned { row_groups, by_statistics, by_bloom, by_limit, pages, pages_skipped, rows_filtered, .. } =
            self.pruned;
        if row_groups > 0 {
            let mut line = format!("row groups: {row_groups}");
            for (how, count) in [("statistics", by_statistics), ("bloom filter", by_bloom), ("limit", by_limit)] {
                if count > 0 {
                    write!(line, ", {count} skipped by {how}").expect("a text takes all");
                }
            }
            lines.push(line);
        }
        if pages > 0 {
            lines.push(format!("pages of filtered columns: {pages}, {pages_skipped} skipped by page index"));
        }
        if rows_filtered > 0 {
            lines.push(format!("rows: {rows_filtered} skipped by their filter before other columns were read"));
        }
        let of = self.files().0.bytes;
        let share = if of == 0 { 0.0 } else { self.bytes as f64 * 100.0 / of as f64 };
        lines.push(format!("read: {} ({share:.2} %) in {} requests", ByteSize(self.bytes), self.requests));
        lines
    }
}
