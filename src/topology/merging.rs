//! What one daemon merges: its partitions of the topic through which daemons share windows. Pure.
//!
//! Each partition has windows, alerts and a clock of its own ([`Merged`]), which are kept with its position and go with it when another
//! daemon takes it over.

use super::merged::{Definitions, Merged};
use super::state::{Restored, StateError};
use crate::archive::PartState;
use crate::record::alert::{ActiveAlert, AlertEvent};
use crate::record::dead::{DeadLetter, DeadReason};
use crate::record::frame::FrameError;
use crate::record::partial::Partials;
use crate::record::raw::{PartitionId, RawBatch};
use crate::record::sample::WindowRows;
use crate::source::PartitionName;
use crate::time::EventTime;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The messages of one batch, read.
#[derive(Debug)]
pub(super) struct Messages {
    /// Each with its position.
    read: Vec<(u64, Result<Partials, FrameError>)>,
    raw: RawBatch,
}

impl Messages {
    /// Reads a batch.
    pub(super) fn read(raw: RawBatch) -> Self {
        let read = (0..raw.records.len()).map(|at| (raw.position(at), Partials::decode(raw.record(at)))).collect();
        Self { read, raw }
    }
}

/// What became of a batch.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) alerts: Vec<AlertEvent>,
    pub(super) dead: Vec<DeadLetter>,
    /// Messages that were merged before.
    pub(super) repeated: u64,
}

/// A message that this version cannot merge: those behind it must wait for one that can.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("cannot merge windows, a message is of version {found} and this headrig knows version {known}")]
pub struct MergeError {
    found: u8,
    known: u8,
}

#[derive(Debug)]
struct Part {
    name: PartitionName,
    merged: Merged,
    /// Something has changed since it was saved.
    changed: bool,
    /// It went to another daemon; forgotten when it is saved.
    ended: bool,
}

/// Totals since the start.
#[derive(Debug, Clone, Default)]
struct Totals {
    late: BTreeMap<Arc<str>, u64>,
    overflow: u64,
    failed: u64,
    alert_overflow: u64,
    alert_failed: u64,
}

/// All partitions that this daemon merges.
#[derive(Debug)]
pub(super) struct Merging {
    definitions: Definitions,
    parts: BTreeMap<PartitionId, Part>,
    /// Of partitions that were let go.
    gone: Totals,
    /// Partitions when alerts were shown last.
    shown: usize,
}

impl Merging {
    pub(super) fn new(definitions: Definitions) -> Self {
        Self { definitions, parts: BTreeMap::new(), gone: Totals::default(), shown: 0 }
    }

    /// The partition is this daemon's, with what was kept of it. Returns what of that has no place in this pipeline file.
    ///
    /// # Errors
    /// When what was kept cannot be read; then the partition begins without it, and its windows are provisional at first.
    pub(super) fn begin(
        &mut self,
        partition: PartitionId,
        name: &PartitionName,
        state: Option<&[u8]>,
    ) -> Result<Restored, StateError> {
        let restored = state.map(|bytes| Merged::restore(&self.definitions, bytes)).transpose();
        let (merged, told) = match restored {
            Ok(Some((merged, windows, alerts))) => (merged, Ok(Restored::of(windows, alerts))),
            Ok(None) => (Merged::new(&self.definitions), Ok(Restored::default())),
            Err(error) => (Merged::new(&self.definitions), Err(error)),
        };
        self.parts.insert(partition, Part { name: name.clone(), merged, changed: false, ended: false });
        told
    }

    /// Merges a batch.
    ///
    /// # Panics
    /// When the partition has not begun.
    ///
    /// # Errors
    /// When a message is of another version.
    pub(super) fn read(&mut self, messages: Messages) -> Result<Outcome, MergeError> {
        let Messages { read, raw } = messages;
        let part = self.parts.get_mut(&raw.partition).expect("a partition is claimed before it is read");
        part.changed = true;
        let mut outcome = Outcome::default();
        for (at, (position, message)) in read.into_iter().enumerate() {
            let merged = message.and_then(|partials| part.merged.merge(&partials).map_err(FrameError::from));
            match merged {
                Ok(merged) => {
                    for (source, input) in &merged.missing {
                        let (topic, position) = (&part.name.partition, position);
                        tracing::warn!(
                            topic,
                            position,
                            source,
                            input,
                            "parts of windows are missing, their rows are provisional"
                        );
                    }
                    outcome.alerts.extend(merged.alerts);
                    outcome.repeated += u64::from(merged.repeated);
                }
                Err(FrameError::Version { found, known }) => return Err(MergeError { found, known }),
                Err(error) => outcome.dead.push(DeadLetter {
                    partition: raw.partition,
                    position,
                    reason: DeadReason::BrokenPartial,
                    detail: error.to_string(),
                    raw: raw.record(at).to_vec(),
                    arrival: raw.arrival,
                }),
            }
        }
        Ok(outcome)
    }

    /// The partition goes to another daemon, or has ended.
    pub(super) fn end(&mut self, partition: PartitionId) {
        if let Some(part) = self.parts.get_mut(&partition) {
            part.ended = true;
        }
    }

    /// All messages are there: closes the windows that are next in event time. `None` when all are closed.
    pub(super) fn finish_next(&mut self) -> Option<Vec<AlertEvent>> {
        let mut all = None;
        for part in self.parts.values_mut() {
            if let Some(alerts) = part.merged.finish_next() {
                part.changed = true;
                all.get_or_insert_with(Vec::new).extend(alerts);
            }
        }
        all
    }

    /// Window results that are not stored yet; they count as stored from now on.
    pub(super) fn drain(&mut self) -> Vec<WindowRows> {
        let mut all = Vec::new();
        for part in self.parts.values_mut() {
            let rows = part.merged.drain();
            part.changed |= !rows.is_empty();
            all.extend(rows);
        }
        all
    }

    /// How much waits for [`Self::drain`].
    pub(super) fn waiting(&self) -> usize {
        self.parts.values().map(|part| part.merged.windows().waiting()).sum()
    }

    /// What is to be kept with each partition that has changed since the last call. To be called for a seal, which forgets those that
    /// went to other daemons.
    ///
    /// # Errors
    /// When the state of one is too large.
    pub(super) fn save(&mut self) -> Result<Vec<PartState>, StateError> {
        let mut states = Vec::new();
        for part in self.parts.values_mut().filter(|part| part.changed) {
            let (source, partition) = (part.name.source.to_string(), part.name.partition.clone());
            states.push(PartState { source, partition, bytes: part.merged.save()? });
            part.changed = false;
        }
        let Self { parts, gone, .. } = self;
        parts.values().filter(|part| part.ended).for_each(|part| gone.add(&part.merged));
        parts.retain(|_, part| !part.ended);
        Ok(states)
    }

    /// How far all partitions have come.
    pub(super) fn now(&self) -> Option<EventTime> {
        self.parts.values().filter_map(|part| part.merged.now()).min()
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.parts.values().map(|part| part.merged.windows().memory_bytes()).sum()
    }

    /// What is pending and firing, if that may have changed since the last call.
    pub(super) fn changed_active(&mut self) -> Option<Vec<ActiveAlert>> {
        // A partition that came is new to all; of one that went only the number tells.
        let mut changed = std::mem::replace(&mut self.shown, self.parts.len()) != self.parts.len();
        self.parts.values_mut().for_each(|part| changed |= part.merged.take_changed());
        changed.then(|| self.parts.values().flat_map(|part| part.merged.alerts().active()).collect())
    }

    /// Alerts that are pending and firing.
    pub(super) fn alert_counts(&self) -> (usize, usize) {
        let counts = self.parts.values().map(|part| part.merged.alerts().counts());
        counts.fold((0, 0), |(pending, firing), (p, f)| (pending + p, firing + f))
    }

    fn totals(&self) -> Totals {
        let mut totals = self.gone.clone();
        self.parts.values().for_each(|part| totals.add(&part.merged));
        totals
    }

    /// Records that came too late, by window, since the start of this run.
    pub(super) fn late_counts(&self) -> Vec<(Arc<str>, u64)> {
        self.totals().late.into_iter().collect()
    }

    /// Records that a window could not hold, since the start.
    pub(super) fn window_overflow(&self) -> u64 {
        self.totals().overflow
    }

    /// Values that a window could not compute, since the start.
    pub(super) fn window_failures(&self) -> u64 {
        self.totals().failed
    }

    /// Rows that an alert could not follow, since the start.
    pub(super) fn alert_overflow(&self) -> u64 {
        self.totals().alert_overflow
    }

    /// Conditions that could not be computed, since the start.
    pub(super) fn alert_failures(&self) -> u64 {
        self.totals().alert_failed
    }
}

impl Totals {
    fn add(&mut self, merged: &Merged) {
        let sum = |counts: Vec<(Arc<str>, u64)>| counts.iter().map(|(_, count)| count).sum::<u64>();
        for (window, late) in merged.windows().late_counts() {
            *self.late.entry(window).or_default() += late;
        }
        self.overflow += sum(merged.windows().overflow_counts());
        self.failed += sum(merged.windows().failed_counts());
        self.alert_overflow += merged.alerts().overflow_count();
        self.alert_failed += merged.alerts().failed_count();
    }
}
