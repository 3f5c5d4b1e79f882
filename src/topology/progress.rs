//! How far a pipeline has come, for people who watch it.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts that the flow updates once per batch and anyone may read.
#[derive(Debug, Default)]
pub struct Progress {
    lines: AtomicU64,
    bytes: AtomicU64,
    rows: AtomicU64,
    dead: AtomicU64,
    /// Bytes that there are in all; 0 while nobody knows.
    total_bytes: AtomicU64,
}

/// A reading of [`Progress`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Totals {
    pub lines: u64,
    pub bytes: u64,
    pub rows: u64,
    pub dead: u64,
    pub total_bytes: Option<u64>,
}

impl Progress {
    pub(super) fn expect_bytes(&self, total: u64) {
        self.total_bytes.store(total, Ordering::Relaxed);
    }

    pub(super) fn add(&self, lines: u64, bytes: u64, rows: u64, dead: u64) {
        for (counter, more) in [(&self.lines, lines), (&self.bytes, bytes), (&self.rows, rows), (&self.dead, dead)] {
            counter.fetch_add(more, Ordering::Relaxed);
        }
    }

    pub fn totals(&self) -> Totals {
        let total = self.total_bytes.load(Ordering::Relaxed);
        Totals {
            lines: self.lines.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            rows: self.rows.load(Ordering::Relaxed),
            dead: self.dead.load(Ordering::Relaxed),
            total_bytes: (total > 0).then_some(total),
        }
    }
}
