//! One budget of bytes that the stages of a pipeline share.
//!
//! Each stage says what it holds; nobody asks for permission, so nothing can lock up. What gives way, in this order: the
//! archive writes out its largest row group when it holds more than the others leave it, so that files get more and
//! smaller groups; sources wait while no room is left for one more batch. The states of windows and metrics are never dropped
//! for memory: they have caps of their own in `limits`.

use crate::limits::{BATCH_BYTES, MEMORY_PER_BATCH};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Who holds memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Raw batches that are taken from the sources, until they are decoded.
    Raw,
    /// Decoded rows, until they are encoded.
    Decoded,
    /// Row groups that are being built.
    Archive,
    /// Open windows and series of metrics, estimated.
    State,
    /// Sorting of what is written again.
    Upkeep,
}

impl Stage {
    pub(super) const ALL: [Self; 5] = [Self::Raw, Self::Decoded, Self::Archive, Self::State, Self::Upkeep];

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Decoded => "decoded",
            Self::Archive => "archive",
            Self::State => "state",
            Self::Upkeep => "upkeep",
        }
    }
}

/// The budget, and what each stage holds of it, in bytes.
#[derive(Debug)]
pub(super) struct Memory {
    budget: u64,
    held: [AtomicU64; Stage::ALL.len()],
    early_flushes: AtomicU64,
}

impl Memory {
    pub(super) fn new(budget: u64) -> Self {
        Self { budget, held: Default::default(), early_flushes: AtomicU64::new(0) }
    }

    pub(super) fn budget(&self) -> u64 {
        self.budget
    }

    pub(super) fn held(&self, stage: Stage) -> u64 {
        self.held[stage as usize].load(Ordering::Relaxed)
    }

    /// Says what a stage holds now, for those that know it as a whole.
    pub(super) fn set(&self, stage: Stage, bytes: u64) {
        self.held[stage as usize].store(bytes, Ordering::Relaxed);
    }

    /// Counts `bytes` until the charge is dropped.
    pub(super) fn charge(memory: &Arc<Self>, stage: Stage, bytes: u64) -> Charge {
        memory.held[stage as usize].fetch_add(bytes, Ordering::Relaxed);
        Charge { memory: Arc::clone(memory), stage, bytes }
    }

    /// Whether one more batch, raw and then decoded, fits beside all that is held.
    pub(super) fn has_room_for_a_batch(&self) -> bool {
        let held: u64 = Stage::ALL.into_iter().map(|stage| self.held(stage)).sum();
        held + (MEMORY_PER_BATCH * BATCH_BYTES) as u64 <= self.budget
    }

    /// What the archive may hold: what the others leave, and a quarter of the budget at least, for it must go on.
    pub(super) fn archive_share(&self) -> u64 {
        let others: u64 =
            [Stage::Raw, Stage::Decoded, Stage::State, Stage::Upkeep].into_iter().map(|stage| self.held(stage)).sum();
        self.budget.saturating_sub(others).max(self.budget / 4)
    }

    pub(super) fn count_early_flushes(&self, flushes: u64) {
        self.early_flushes.fetch_add(flushes, Ordering::Relaxed);
    }

    /// Row groups that were closed early, since the start.
    pub(super) fn early_flushes(&self) -> u64 {
        self.early_flushes.load(Ordering::Relaxed)
    }
}

/// Bytes that count as held until this is dropped.
#[derive(Debug)]
pub(super) struct Charge {
    memory: Arc<Memory>,
    stage: Stage,
    bytes: u64,
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.memory.held[self.stage as usize].fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_archive_gets_what_the_others_leave() {
        let memory = Arc::new(Memory::new(16 << 20));
        assert!(memory.has_room_for_a_batch());
        assert_eq!(memory.archive_share(), 16 << 20);
        let raw = Memory::charge(&memory, Stage::Raw, 3 << 20);
        memory.set(Stage::State, 5 << 20);
        memory.set(Stage::Archive, 7 << 20);
        assert_eq!(memory.archive_share(), 8 << 20);
        assert!(!memory.has_room_for_a_batch(), "what the archive holds takes room from batches");
        memory.set(Stage::Archive, 1 << 20);
        assert!(memory.has_room_for_a_batch());
        drop(raw);
        assert_eq!(memory.held(Stage::Raw), 0);
        memory.set(Stage::State, 15 << 20);
        assert_eq!(memory.archive_share(), 4 << 20, "it must go on");
    }
}
