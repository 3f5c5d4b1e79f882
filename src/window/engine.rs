//! [`Windows`]: all definitions of a pipeline over one stream of events.

use super::definition::{Caps, Closed};
use super::gathered::{self, Gathered};
use super::open::{Counts, Open};
use super::plan::Plan;
use super::saved::{Restoring, Resumed, save};
use crate::limits;
use crate::record::event::EventBatch;
use crate::record::sample::WindowRows;
use crate::record::state::{Damaged, SavedPart};
use crate::time::EventTime;
use std::num::NonZeroU32;
use std::sync::Arc;

/// The windows of one pipeline.
#[derive(Debug)]
pub struct Windows {
    definitions: Vec<Open>,
}

impl Windows {
    pub fn new(plans: Vec<Plan>) -> Self {
        Self::with_caps(plans, Caps { groups: limits::GROUPS_PER_WINDOW, states: limits::STATES_PER_WINDOW })
    }

    /// Windows that only gather, with room for a batch more than is gathered between two seals: nothing is dropped here that there
    /// is room for where it is merged.
    pub fn gathering(plans: Vec<Plan>) -> Self {
        Self::with_caps(plans, Caps { groups: 2 * limits::GROUPS_PER_WINDOW, states: 2 * limits::STATES_PER_WINDOW })
    }

    pub(super) fn with_caps(plans: Vec<Plan>, caps: Caps) -> Self {
        Self { definitions: plans.into_iter().map(|plan| Open::new(plan, caps)).collect() }
    }

    /// Places the records of `batch`, and then moves the clock to `batch.clock_after`. Returns the windows that this
    /// closed, in the order in which the clock closes them (end + lateness, then definition, then start).
    pub fn push(&mut self, batch: &EventBatch) -> Vec<WindowRows> {
        self.each(|definition, closed| {
            definition.push(batch, closed);
            if let Some(clock) = batch.clock_after {
                definition.advance(clock.micros(), closed);
            }
        })
    }

    /// Places the records of `batch` and closes nothing: when is for whoever merges what was gathered.
    pub fn gather(&mut self, batch: &EventBatch) {
        self.definitions.iter_mut().for_each(|open| open.panes_mut().gather(batch));
    }

    /// Takes out all that was gathered, for each of `partitions` those groups that are its; the same group always goes to the same one.
    /// Of each definition there is at least one part, so that who merges knows what was gathered; and as many as it takes for none to
    /// be larger than `most` bytes and the states of one group.
    ///
    /// # Panics
    /// When a definition is not [shared](Plan::shared).
    pub fn take_gathered(&mut self, partitions: NonZeroU32, most: usize) -> Vec<Vec<SavedPart>> {
        let mut all = vec![Vec::new(); partitions.get() as usize];
        self.definitions.iter_mut().for_each(|open| gathered::take(open.panes_mut(), most, &mut all));
        all
    }

    /// How much was gathered: states, one for each group and each pane that holds it.
    pub fn gathered(&self) -> usize {
        self.definitions.iter().map(|open| open.panes().groups.held()).sum()
    }

    /// Reads what other daemons have gathered.
    ///
    /// # Errors
    /// When a part of a definition that is as it is here cannot be read.
    pub fn read_gathered(&self, parts: &[SavedPart]) -> Result<Gathered, Damaged> {
        Gathered::read(&self.definitions, parts)
    }

    /// Takes in what others have gathered of records up to the time `newest`. The clock is moved by [`Self::advance`], behind it.
    /// A definition that the others don't have as it is here misses these records: its rows are provisional up to that time.
    ///
    /// # Panics
    /// When it was read for other definitions.
    pub fn merge(&mut self, gathered: Gathered, newest: Option<EventTime>) {
        gathered.apply(&mut self.definitions, newest.map(EventTime::micros));
    }

    /// From now on, [`Self::take_seen`] tells which groups of this window had records.
    pub fn watch(&mut self, window: &str) {
        self.definitions.iter_mut().filter(|open| *open.plan().name == *window).for_each(Open::watch);
    }

    /// The groups that had records since the last call, by window that is watched: the values of its group columns, as labels show them. Late
    /// records count, and those for which there was no room.
    pub fn take_seen(&mut self) -> Vec<(Arc<str>, Vec<Vec<String>>)> {
        let seen = self.definitions.iter_mut().map(|open| (Arc::clone(&open.plan().name), open.take_seen()));
        seen.filter(|(_, groups)| !groups.is_empty()).collect()
    }

    /// Moves the clock where there are no records to do so, and returns the windows that this closed.
    pub fn advance(&mut self, clock: EventTime) -> Vec<WindowRows> {
        self.each(|definition, closed| definition.advance(clock.micros(), closed))
    }

    /// All that is needed to go on after a restart, one part per definition. Equal states are equal bytes.
    pub fn save(&self) -> Vec<SavedPart> {
        self.definitions.iter().map(save).collect()
    }

    /// Reads what [`Self::save`] gave to an earlier run, whose newest record was of the time `newest`.
    ///
    /// # Errors
    /// When a part of a definition that is as it was cannot be read.
    pub fn read(&self, saved: &[SavedPart], newest: Option<EventTime>) -> Result<Restoring, Damaged> {
        Restoring::read(&self.definitions, saved, newest)
    }

    /// Goes on where the earlier run was. To be called before anything is pushed.
    pub fn resume(&mut self, restoring: Restoring) -> Resumed {
        restoring.apply(&mut self.definitions)
    }

    /// Says that records up to the time `newest` may have been read by an earlier run of which nothing is known: rows of
    /// windows that start at or before it are provisional.
    pub fn provisional_through(&mut self, newest: EventTime) {
        self.definitions.iter_mut().for_each(|definition| definition.provisional_through(newest.micros()));
    }

    /// The input is complete: closes all windows. What is pushed after that for a window that this closed is late.
    pub fn finish(&mut self) -> Vec<WindowRows> {
        self.each(Open::finish)
    }

    /// As [`Self::finish`], but only those windows that the clock would close next, so that nobody has to hold the rows
    /// of all at once. To be called until it returns none.
    pub fn finish_next(&mut self) -> Vec<WindowRows> {
        let next = self.definitions.iter_mut().filter_map(Open::next_close).min();
        let closed = next.map(|clock| self.advance(EventTime::from_micros(clock))).unwrap_or_default();
        // A window so far off that no clock gets there, or none at all.
        if closed.is_empty() { self.finish() } else { closed }
    }

    /// Hands out, for storing, the rows of all windows closed since the last call, with their late records counted up
    /// to now. A late record whose group had no row gets one here, without values. Rows are kept in memory until
    /// this is called; call it regularly.
    pub fn drain(&mut self) -> Vec<WindowRows> {
        self.each(|definition, closed| *closed = definition.drain())
    }

    /// How much waits for [`Self::drain`]: rows, and one more for each window.
    pub fn waiting(&self) -> usize {
        self.definitions.iter().map(Open::waiting).sum()
    }

    /// What the open windows hold, in bytes, estimated.
    pub fn memory_bytes(&self) -> usize {
        self.definitions.iter().map(Open::memory_bytes).sum()
    }

    /// Late records of this run so far, by window name: those that missed at least one window that they belong to.
    pub fn late_counts(&self) -> Vec<(Arc<str>, u64)> {
        self.counts(|counts| counts.late - counts.late_before)
    }

    /// As [`Self::late_counts`], with those of the earlier runs whose state this one goes on with.
    pub fn late_totals(&self) -> Vec<(Arc<str>, u64)> {
        self.counts(|counts| counts.late)
    }

    /// Records so far that were not aggregated because of [`limits::GROUPS_PER_WINDOW`] or
    /// [`limits::STATES_PER_WINDOW`], by window name.
    pub fn overflow_counts(&self) -> Vec<(Arc<str>, u64)> {
        self.counts(|counts| counts.overflow)
    }

    /// Values so far that an expression could not compute and that counted as null, by window name.
    pub fn failed_counts(&self) -> Vec<(Arc<str>, u64)> {
        self.counts(|counts| counts.failed)
    }

    fn counts(&self, count: impl Fn(Counts) -> u64) -> Vec<(Arc<str>, u64)> {
        self.definitions.iter().map(|open| (open.plan().name.clone(), count(open.counts()))).collect()
    }

    fn each(&mut self, mut step: impl FnMut(&mut Open, &mut Vec<Closed>)) -> Vec<WindowRows> {
        let mut all = Vec::new();
        for (number, definition) in self.definitions.iter_mut().enumerate() {
            let mut closed = Vec::new();
            step(definition, &mut closed);
            let plan = definition.plan();
            all.extend(closed.into_iter().map(|(start, end, rows)| {
                let (start_time, end_time) = (EventTime::from_micros(start), EventTime::from_micros(end));
                let rows = WindowRows { window: plan.name.clone(), start: start_time, end: end_time, rows };
                ((end + plan.lateness, number, start), rows)
            }));
        }
        all.sort_by_key(|(order, _)| *order);
        all.into_iter().map(|(_, rows)| rows).collect()
    }
}
