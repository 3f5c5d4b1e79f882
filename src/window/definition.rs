//! The open windows of one definition.
//!
//! Time is cut into panes of the greatest common divisor of `size` and `every`. A record updates the state of its
//! group in one pane; a window's result merges its panes when it closes. All times here are in µs, on the plan's axis: what comes in
//! and what goes out is converted.

use super::axis::Recent;
use super::groups::Groups;
use super::ledger::Ledger;
use super::plan::Plan;
use super::prepare::Batch;
use super::render::{Window, render};
use super::state::State;
use super::watch::Watch;
use crate::record::event::EventBatch;
use ahash::RandomState;
use arrow::array::{Array, RecordBatch};
use arrow::row::{RowConverter, SortField};
use hashbrown::HashMap;
use hashbrown::hash_map::Entry;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// Records are placed as if no later and no earlier than this: far outside of what times are used for, and far
/// enough from the ends of `i64` that no sum with a window's length overflows.
pub(super) const FARTHEST: i64 = 1 << 61;
/// A watermark behind which everything is closed.
pub(super) const THE_END: i64 = 1 << 62;

/// What a state takes besides itself, in bytes: its place in the pane's table, its box, its share of the group's key.
pub(super) const STATE_OVERHEAD: usize = 64;

pub(super) type Pane = HashMap<u32, Box<[State]>, RandomState>;

/// A window that was closed: start, end (µs), rows.
pub(super) type Closed = (i64, i64, RecordBatch);

/// How much one definition may hold.
#[derive(Debug, Clone, Copy)]
pub(super) struct Caps {
    pub(super) groups: usize,
    /// One for each group and each pane that holds it.
    pub(super) states: usize,
}

/// One definition's open panes, groups and ledger.
#[derive(Debug)]
pub(super) struct Definition {
    pub(super) plan: Plan,
    pub(super) recent: Recent,
    pub(super) late_total: u64,
    pub(super) overflow_total: u64,
    pub(super) failed_total: u64,
    pub(super) converter: RowConverter,
    pub(super) groups: Groups,
    pub(super) state_cap: usize,
    /// By start.
    pub(super) panes: BTreeMap<i64, Pane>,
    pub(super) ledger: Ledger,
    /// The clock less the lateness; windows that end at or before it are closed.
    pub(super) watermark: Option<i64>,
    /// Starts before this one belong to windows that are closed.
    pub(super) next_start: i64,
    /// End of the next window that has something to close, `i64::MAX` without one.
    pub(super) next_close: i64,
    /// Windows that start at or before this may miss records, as this definition began in the middle of the stream.
    pub(super) provisional_through: Option<i64>,
    /// What `late_total` was when this definition was restored.
    pub(super) late_before: u64,
    /// Set where alerts want to know which groups have records.
    pub(super) watch: Option<Watch>,
}

impl Definition {
    /// What the open panes hold, in bytes, estimated: what lies on the heap behind a state (quantiles, distinct values)
    /// is not looked at.
    pub(super) fn memory_bytes(&self) -> usize {
        let state = STATE_OVERHEAD + self.plan.slots.len() * std::mem::size_of::<State>();
        self.groups.held() * state
    }

    pub(super) fn new(plan: Plan, caps: Caps) -> Self {
        let fields = plan.inner.fields()[..plan.groups.len()].iter();
        let converter = RowConverter::new(fields.map(|f| SortField::new(f.data_type().clone())).collect())
            .expect("all types of columns have an order");
        Self {
            plan,
            recent: Recent::new(),
            late_total: 0,
            overflow_total: 0,
            failed_total: 0,
            converter,
            groups: Groups::new(caps.groups),
            state_cap: caps.states,
            panes: BTreeMap::new(),
            ledger: Ledger::new(caps.groups),
            watermark: None,
            next_start: -THE_END,
            next_close: i64::MAX,
            provisional_through: None,
            late_before: 0,
            watch: None,
        }
    }

    /// Places the records of `batch` one by one; `closed` takes the windows that this closes.
    pub(super) fn push(&mut self, batch: &EventBatch, closed: &mut Vec<Closed>) {
        if batch.rows.num_rows() == 0 {
            return;
        }
        let prepared = Batch::new(&self.plan, &self.converter, &batch.rows, &mut self.failed_total);
        let stamps = batch.stamps();
        for row in 0..batch.rows.num_rows() {
            if batch.clock.is_valid(row) {
                self.advance(batch.clock.value(row), closed);
            }
            if prepared.condition.as_ref().is_none_or(|condition| condition.value(row)) {
                if let Some(watch) = &mut self.watch {
                    watch.see(prepared.key(row));
                }
                let at = self.recent.place(&self.plan.axis, stamps.value(row).clamp(-FARTHEST, FARTHEST));
                self.place(at, &prepared, row);
            }
        }
    }

    /// Places the records of `batch` whatever the clock says: whether they are late is for others to decide.
    pub(super) fn gather(&mut self, batch: &EventBatch) {
        if batch.rows.num_rows() == 0 {
            return;
        }
        let prepared = Batch::new(&self.plan, &self.converter, &batch.rows, &mut self.failed_total);
        let stamps = batch.stamps();
        for row in 0..batch.rows.num_rows() {
            if prepared.condition.as_ref().is_none_or(|condition| condition.value(row)) {
                let at = self.recent.place(&self.plan.axis, stamps.value(row).clamp(-FARTHEST, FARTHEST));
                self.place(at, &prepared, row);
            }
        }
    }

    /// Takes out all that is open, and lets go of its groups: (group, pane, states), the groups by number.
    pub(super) fn take_open(&mut self) -> Vec<(u32, i64, Box<[State]>)> {
        let panes = std::mem::take(&mut self.panes);
        self.next_close = i64::MAX;
        panes.into_iter().flat_map(|(start, pane)| pane.into_iter().map(move |(group, s)| (group, start, s))).collect()
    }

    /// The stream's clock has come to `clock`.
    pub(super) fn advance(&mut self, clock: i64, closed: &mut Vec<Closed>) {
        let watermark = self.recent.place(&self.plan.axis, clock.clamp(-FARTHEST, FARTHEST) - self.plan.lateness);
        if self.watermark.is_none_or(|before| before < watermark) {
            self.watermark = Some(watermark);
            if self.next_close <= watermark {
                self.close_through(watermark, closed);
            }
        }
    }

    /// Nothing more will come of this run's input. Only what was closed stays closed: there may be another run, with more.
    pub(super) fn finish(&mut self, closed: &mut Vec<Closed>) {
        let before = closed.len();
        self.close_through(THE_END, closed);
        if closed.len() > before {
            let last = self.next_start - self.plan.every;
            self.watermark = self.watermark.max(Some(last + self.plan.size));
        }
    }

    /// All up to the event time `newest` (µs) was read before this definition was there.
    pub(super) fn provisional_through(&mut self, newest: i64) {
        let newest = self.plan.axis.place(newest.clamp(-FARTHEST, FARTHEST));
        self.provisional_through = self.provisional_through.max(Some(newest));
    }

    /// See `Windows::drain`.
    pub(super) fn drain(&mut self) -> Vec<Closed> {
        let Self { ledger, plan, converter, provisional_through, failed_total, .. } = self;
        let drained = ledger.drain(plan, converter, *provisional_through, failed_total);
        drained.into_iter().map(|(start, rows)| closed_at(plan, start, rows)).collect()
    }

    /// All windows that end at or before this time (µs) are closed.
    pub(super) fn closed_through(&mut self, time: Option<i64>) {
        self.watermark = time.map(|time| self.plan.axis.place(time));
        self.ledger.set_drained_through(self.watermark);
    }

    /// The watermark as a time: where its day began, with a zone.
    pub(super) fn watermark_time(&self) -> Option<i64> {
        self.watermark.map(|at| self.plan.axis.time(at))
    }

    /// What the clock has to show for the next window to close, `None` without an open one.
    pub(super) fn next_close(&self) -> Option<i64> {
        (self.next_close != i64::MAX).then(|| self.plan.axis.time(self.next_close) + self.plan.lateness)
    }

    fn place(&mut self, stamp: i64, batch: &Batch, row: usize) {
        let Some(states) = self.admit(stamp, batch.key(row), 1) else { return };
        for (state, slot) in states.iter_mut().zip(&batch.slots) {
            if slot.selected.as_ref().is_none_or(|selected| selected.value(row)) {
                state.add(&slot.values, row);
            }
        }
    }

    /// Takes in what another daemon has gathered of a group in the pane at `pane`: `records`, one at least.
    pub(super) fn place_gathered(&mut self, pane: i64, key: &[u8], gathered: &[State], records: u64) {
        let Some(states) = self.admit(pane, key, records) else { return };
        states.iter_mut().zip(gathered).for_each(|(own, other)| own.merge(other));
    }

    /// The states that `records` of a group with the time `stamp` (or of its whole pane) go into; `None` when they are
    /// too late for all windows, or there is no room.
    fn admit(&mut self, stamp: i64, key: &[u8], records: u64) -> Option<&mut [State]> {
        // The windows that hold `stamp` start from `oldest` to `newest`.
        let newest = floor(stamp, self.plan.every);
        let oldest = floor(stamp - self.plan.size, self.plan.every) + self.plan.every;
        if let Some(watermark) = self.watermark
            && oldest + self.plan.size <= watermark
        {
            self.late_total += records;
            let last_closed = floor(watermark - self.plan.size, self.plan.every);
            self.ledger.late(&self.plan, oldest, newest.min(last_closed), key, records as i64);
            if newest <= last_closed {
                return None;
            }
        }
        let pane = floor(stamp, self.plan.pane);
        let room = self.groups.held() < self.state_cap || self.has_state(pane, key);
        let Some(group) = room.then(|| self.groups.number(key)).flatten() else {
            self.overflow_total += records;
            return None;
        };
        Some(self.states(pane, group))
    }

    fn has_state(&self, pane: i64, key: &[u8]) -> bool {
        let (pane, group) = (self.panes.get(&pane), self.groups.find(key));
        pane.zip(group).is_some_and(|(pane, group)| pane.contains_key(&group))
    }

    /// Rows of closed windows that nobody has drained, and one more for each window.
    pub(super) fn waiting(&self) -> usize {
        self.ledger.waiting()
    }

    fn states(&mut self, start: i64, group: u32) -> &mut [State] {
        let Self { panes, groups, plan, next_close, next_start, watermark, .. } = self;
        let pane = panes.entry(start).or_insert_with(|| {
            // Windows that ended while there were no panes are closed too.
            let closed = watermark.map_or(-THE_END, |w| floor(w - plan.size, plan.every) + plan.every);
            *next_start = (*next_start).max(closed);
            let first = first_open(plan, start, *next_start);
            *next_close = (*next_close).min(first + plan.size);
            Pane::default()
        });
        pane.entry(group).or_insert_with(|| {
            groups.hold(group);
            plan.slots.iter().map(|slot| State::new(slot.keep)).collect()
        })
    }

    /// The end of the first window that has panes and is open.
    pub(super) fn first_close(&self) -> i64 {
        let first = self.panes.keys().next();
        first.map_or(i64::MAX, |pane| first_open(&self.plan, *pane, self.next_start) + self.plan.size)
    }

    fn close_through(&mut self, watermark: i64, closed: &mut Vec<Closed>) {
        // Only windows that have panes are visited, however far the clock has jumped.
        while let Some(pane) = self.panes.keys().next() {
            let start = first_open(&self.plan, *pane, self.next_start);
            if start + self.plan.size > watermark {
                self.next_close = start + self.plan.size;
                return;
            }
            let rows = self.close(start);
            self.ledger.close(start, rows.clone());
            closed.push(closed_at(&self.plan, start, rows));
            self.next_start = start + self.plan.every;
        }
        self.next_close = i64::MAX;
    }

    /// Merges the panes of the window at `start`, and lets go of those that no later window needs.
    fn close(&mut self, start: i64) -> RecordBatch {
        let mut merged = Pane::default();
        let mut released = Vec::new();
        while let Some(first) = self.panes.first_entry().filter(|pane| *pane.key() < start + self.plan.every) {
            for (group, states) in first.remove() {
                released.push(group);
                merge(&mut merged, group, Cow::Owned(states.into_vec()));
            }
        }
        for (_, pane) in self.panes.range(..start + self.plan.size) {
            for (group, states) in pane {
                merge(&mut merged, *group, Cow::Borrowed(states));
            }
        }
        let mut groups: Vec<_> = merged.into_iter().map(|(group, s)| (self.groups.key(group).into(), s)).collect();
        groups.sort_unstable_by(|(a, _): &(Box<[u8]>, _), (b, _)| a.cmp(b));
        released.into_iter().for_each(|group| self.groups.release(group));
        let window = Window::of(&self.plan, start, self.provisional_through);
        if let Some(top) = &self.plan.top {
            top.apply(&self.plan, &self.converter, window, &mut groups);
        }
        render(&self.plan, &self.converter, window, &groups, &mut self.failed_total)
    }
}

fn closed_at(plan: &Plan, start: i64, rows: RecordBatch) -> Closed {
    (plan.axis.time(start), plan.axis.time(start + plan.size), rows)
}

fn merge(merged: &mut Pane, group: u32, states: Cow<'_, [State]>) {
    match merged.entry(group) {
        Entry::Occupied(mut own) => {
            own.get_mut().iter_mut().zip(states.iter()).for_each(|(own, other)| own.merge(other));
        }
        Entry::Vacant(vacant) => {
            vacant.insert(states.into_owned().into_boxed_slice());
        }
    }
}

/// Start of the first window that holds the pane at `pane` and is not closed.
fn first_open(plan: &Plan, pane: i64, next_start: i64) -> i64 {
    let holding = floor(pane - plan.size + plan.pane - 1, plan.every) + plan.every;
    holding.max(next_start)
}

/// The largest multiple of `width` that is not above `time`.
fn floor(time: i64, width: i64) -> i64 {
    time - time.rem_euclid(width)
}
