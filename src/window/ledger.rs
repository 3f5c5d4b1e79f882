//! Closed windows whose rows are not stored yet, and the late records that they missed.
//!
//! Rows are handed out once when a window closes, for the alerts, and kept here until they are drained for the
//! archive. What comes late in between is still told in the row's `late`; what comes later is only counted.

use super::plan::Plan;
use super::render::{Groups, Window, render};
use super::state::State;
use arrow::array::{ArrayRef, Int64Array, RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::row::RowConverter;
use std::collections::BTreeMap;
use std::sync::Arc;

#[derive(Debug, Default)]
pub(super) struct Closed {
    pub(super) rows: Option<RecordBatch>,
    /// Late records by group key.
    pub(super) late: BTreeMap<Box<[u8]>, i64>,
}

/// The ledger of one definition; windows are named by their start on the axis.
#[derive(Debug)]
pub(super) struct Ledger {
    closed: BTreeMap<i64, Closed>,
    /// Largest end (µs) of a window that was drained.
    drained_through: Option<i64>,
    /// Rows in all of `closed`, and one more for each window.
    waiting: usize,
    /// Entries in all `late` maps.
    entries: usize,
    /// Most entries; further ones are only in the definition's counter.
    cap: usize,
}

impl Ledger {
    pub(super) fn new(cap: usize) -> Self {
        Self { closed: BTreeMap::new(), drained_through: None, waiting: 0, entries: 0, cap }
    }

    pub(super) fn close(&mut self, start: i64, rows: RecordBatch) {
        self.waiting += 1 + rows.num_rows();
        self.closed.entry(start).or_default().rows = Some(rows);
    }

    /// Notes `records` of group `key` that missed the windows starting from `first` to `last`, `every` apart.
    pub(super) fn late(&mut self, plan: &Plan, first: i64, last: i64, key: &[u8], records: i64) {
        // Starts are multiples of `every`, and so is the first one behind what was drained.
        let undrained = self.drained_through.map_or(first, |through| {
            let after = through - plan.size;
            after - after.rem_euclid(plan.every) + plan.every
        });
        let mut start = first.max(undrained);
        while start <= last {
            let known = self.closed.get_mut(&start).and_then(|closed| closed.late.get_mut(key));
            if let Some(count) = known {
                *count += records;
            } else if self.entries < self.cap {
                self.entries += 1;
                self.closed.entry(start).or_default().late.insert(key.into(), records);
            }
            start += plan.every;
        }
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting + self.entries
    }

    /// All closed windows that were not drained, by start.
    pub(super) fn closed(&self) -> &BTreeMap<i64, Closed> {
        &self.closed
    }

    pub(super) fn drained_through(&self) -> Option<i64> {
        self.drained_through
    }

    /// Says that all windows that end at or before `end` were drained.
    pub(super) fn set_drained_through(&mut self, end: Option<i64>) {
        self.drained_through = end;
    }

    /// Takes back what [`Self::closed`] gave of one window.
    pub(super) fn take_back(&mut self, start: i64, closed: Closed) {
        self.waiting += closed.rows.as_ref().map_or(0, |rows| 1 + rows.num_rows());
        self.entries += closed.late.len();
        self.closed.insert(start, closed);
    }

    /// Takes all rows out, each with its late records, as (start, rows). Rows that are only made now are provisional up
    /// to the window that starts at `provisional`.
    pub(super) fn drain(
        &mut self,
        plan: &Plan,
        converter: &RowConverter,
        provisional: Option<i64>,
        failed: &mut u64,
    ) -> Vec<(i64, RecordBatch)> {
        let closed = std::mem::take(&mut self.closed);
        (self.entries, self.waiting) = (0, 0);
        if let Some(last) = closed.keys().next_back() {
            self.drained_through = self.drained_through.max(Some(last + plan.size));
        }
        let window = |start| Window::of(plan, start, provisional);
        closed
            .into_iter()
            .map(|(start, closed)| (start, closed.finish(plan, converter, window(start), failed)))
            .collect()
    }
}

impl Closed {
    fn finish(self, plan: &Plan, converter: &RowConverter, window: Window, failed: &mut u64) -> RecordBatch {
        let Self { rows, mut late } = self;
        let rows = rows.unwrap_or_else(|| RecordBatch::new_empty(plan.schema.clone()));
        if late.is_empty() {
            return rows;
        }
        let mut keys = keys_of(plan, converter, &rows);
        let mut counts: Vec<i64> = keys.iter().map(|key| late.remove(key).unwrap_or(0)).collect();
        let unseen: Groups = late.keys().map(|key| (key.clone(), empty_states(plan))).collect();
        counts.extend(late.values());
        keys.extend(late.into_keys());
        let rows = concat_batches(&plan.schema, [&rows, &render(plan, converter, window, &unseen, failed)])
            .expect("both have the window's schema");
        let mut order: Vec<u32> = (0..keys.len() as u32).collect();
        order.sort_by(|a, b| keys[*a as usize].cmp(&keys[*b as usize]));
        let rows = with_late(plan, &rows, counts);
        take_record_batch(&rows, &UInt32Array::from(order)).expect("the order names each row once")
    }
}

fn empty_states(plan: &Plan) -> Box<[State]> {
    plan.slots.iter().map(|slot| State::new(slot.keep)).collect()
}

fn with_late(plan: &Plan, rows: &RecordBatch, late: Vec<i64>) -> RecordBatch {
    let mut columns = rows.columns().to_vec();
    let at = columns.len() - 2;
    columns[at] = Arc::new(Int64Array::from(late));
    RecordBatch::try_new(plan.schema.clone(), columns).expect("`late` is the last column but one")
}

/// The keys of a window's rows, from their group columns.
fn keys_of(plan: &Plan, converter: &RowConverter, rows: &RecordBatch) -> Vec<Box<[u8]>> {
    if plan.groups.is_empty() {
        return vec![Box::default(); rows.num_rows()];
    }
    let columns: &[ArrayRef] = &rows.columns()[2..2 + plan.groups.len()];
    let keys = converter.convert_columns(columns).expect("the group columns have the schema's types");
    keys.iter().map(|key| key.data().into()).collect()
}
