//! Sessions: for each group the stretches of time in which it never pauses for `gap`.
//!
//! A group's records lie in pieces that follow each other. A piece never spans a multiple of the piece's width (`max` over
//! [`SESSION_PIECES`]), and two of one multiple are a gap apart, so which pieces there are depends on the multiset of records alone. A
//! session is a chain of pieces less than a gap apart. It ends a gap behind its last record, or where the multiple begins that
//! would be one too many: so no session is longer than `max`, and none is cut that is shorter than three quarters of it.
//!
//! A session closes when the watermark has passed its end. What is older is late, unless it touches a session that is open: then it belongs to
//! that one, as in Flink (if that doesn't make the session so long that it should have been cut by now). Late records are counted, and no
//! row tells of them: there is no window that they are missing from.

use super::definition::{Caps, Closed, FARTHEST, STATE_OVERHEAD, THE_END};
use super::groups::Groups;
use super::open::Counts;
use super::plan::Plan;
use super::prepare::Batch;
use super::render::{Window, render};
use super::state::State;
use super::watch::Watch;
use crate::limits::SESSION_PIECES;
use crate::record::event::EventBatch;
use arrow::array::{Array, RecordBatch};
use arrow::compute::concat_batches;
use arrow::row::{RowConverter, SortField};
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Records of one group that belong together, of one multiple of the piece's width. Times are in µs.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) first: i64,
    pub(super) last: i64,
    pub(super) states: Box<[State]>,
}

/// What is open of one group.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    /// By time.
    pub(super) pieces: Vec<Piece>,
    /// The earliest time under which the queue has this group.
    queued: Option<i64>,
}

/// A session that has been closed.
struct Ended {
    end: i64,
    start: i64,
    key: Box<[u8]>,
    states: Box<[State]>,
}

/// The sessions of one definition.
#[derive(Debug)]
pub(super) struct Sessions {
    pub(super) plan: Plan,
    pub(super) gap: i64,
    pub(super) piece: i64,
    pub(super) converter: RowConverter,
    pub(super) groups: Groups,
    pub(super) state_cap: usize,
    /// By the group's number.
    pub(super) open: Vec<Pieces>,
    /// Groups by a time before which none of their sessions ends. A group may stand there more than once: the earliest counts.
    queue: BinaryHeap<Reverse<(i64, u32)>>,
    /// Closed and not drained, in the order in which they closed.
    pub(super) closed: Vec<Closed>,
    waiting: usize,
    /// The clock less the lateness.
    pub(super) watermark: Option<i64>,
    pub(super) provisional_through: Option<i64>,
    pub(super) late_total: u64,
    pub(super) late_before: u64,
    /// Set where alerts want to know which groups have records.
    pub(super) watch: Option<Watch>,
    overflow_total: u64,
    failed_total: u64,
}

impl Sessions {
    pub(super) fn new(plan: Plan, gap: i64, piece: i64, caps: Caps) -> Self {
        let fields = plan.inner.fields()[..plan.groups.len()].iter();
        let converter = RowConverter::new(fields.map(|f| SortField::new(f.data_type().clone())).collect())
            .expect("all types of columns have an order");
        Self {
            plan,
            gap,
            piece,
            converter,
            groups: Groups::new(caps.groups),
            state_cap: caps.states,
            open: Vec::new(),
            queue: BinaryHeap::new(),
            closed: Vec::new(),
            waiting: 0,
            watermark: None,
            provisional_through: None,
            late_total: 0,
            late_before: 0,
            watch: None,
            overflow_total: 0,
            failed_total: 0,
        }
    }

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
                self.place(stamps.value(row).clamp(-FARTHEST, FARTHEST), &prepared, row);
            }
        }
    }

    pub(super) fn advance(&mut self, clock: i64, closed: &mut Vec<Closed>) {
        let watermark = clock.clamp(-FARTHEST, FARTHEST) - self.plan.lateness;
        if self.watermark.is_none_or(|before| before < watermark) {
            self.watermark = Some(watermark);
            self.close_through(watermark, closed);
        }
    }

    pub(super) fn finish(&mut self, closed: &mut Vec<Closed>) {
        let before = closed.len();
        self.close_through(THE_END, closed);
        let end = closed[before..].iter().map(|(_, end, _)| *end).max();
        self.watermark = self.watermark.max(end);
    }

    pub(super) fn next_close(&mut self) -> Option<i64> {
        while let Some(Reverse((time, group))) = self.queue.peek().copied() {
            let actual = self.due(time, group);
            if actual == Some(time) {
                return Some(time + self.plan.lateness);
            }
            self.queue.pop();
            self.enqueue(actual, group);
        }
        None
    }

    /// Rows of the same table, in as few batches as may be: what each closed has been handed out.
    pub(super) fn drain(&mut self) -> Vec<Closed> {
        self.waiting = 0;
        let closed = std::mem::take(&mut self.closed);
        let (Some(start), Some(end)) = (closed.iter().map(|c| c.0).min(), closed.iter().map(|c| c.1).max()) else {
            return Vec::new();
        };
        let rows = concat_batches(&self.plan.schema, closed.iter().map(|(_, _, rows)| rows));
        vec![(start, end, rows.expect("all have the window's schema"))]
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.groups.held() * (STATE_OVERHEAD + self.plan.slots.len() * std::mem::size_of::<State>())
    }

    pub(super) fn provisional_through(&mut self, newest: i64) {
        self.provisional_through = self.provisional_through.max(Some(newest.clamp(-FARTHEST, FARTHEST)));
    }

    pub(super) fn closed_through(&mut self, time: Option<i64>) {
        self.watermark = time;
    }

    pub(super) fn counts(&self) -> Counts {
        Counts {
            late: self.late_total,
            late_before: self.late_before,
            overflow: self.overflow_total,
            failed: self.failed_total,
        }
    }

    /// Keeps the rows of a closed session until they are drained.
    pub(super) fn keep(&mut self, start: i64, end: i64, rows: RecordBatch) {
        self.waiting += 1 + rows.num_rows();
        self.closed.push((start, end, rows));
    }

    /// Where sessions are cut that begin with a piece that begins at `first`.
    fn cut(&self, first: i64) -> i64 {
        first - first.rem_euclid(self.piece) + SESSION_PIECES * self.piece
    }

    fn place(&mut self, stamp: i64, batch: &Batch, row: usize) {
        let key = batch.key(row);
        let known = self.groups.find(key);
        if let Some(watermark) = self.watermark
            // A session that begins there would have been cut, or would have ended, whatever comes behind.
            && (self.cut(stamp) <= watermark
                || stamp + self.gap <= watermark && known.is_none_or(|group| !self.touches(group, stamp)))
        {
            self.late_total += 1;
            return;
        }
        let Some((group, at)) = self.piece_for(known, key, stamp) else {
            self.overflow_total += 1;
            return;
        };
        for (state, slot) in self.open[group as usize].pieces[at].states.iter_mut().zip(&batch.slots) {
            if slot.selected.as_ref().is_none_or(|selected| selected.value(row)) {
                state.add(&slot.values, row);
            }
        }
    }

    /// Whether a record at `stamp` is less than a gap away from an open session of the group.
    fn touches(&self, group: u32, stamp: i64) -> bool {
        let pieces = &self.open[group as usize].pieces;
        let next = pieces.partition_point(|piece| piece.first <= stamp);
        next > 0 && stamp - pieces[next - 1].last < self.gap
            || pieces.get(next).is_some_and(|piece| piece.first - stamp < self.gap)
    }

    /// The piece that a record at `stamp` belongs to, as group and place: one that is there, two of which it makes one, or a new one.
    /// `None` without room for a new one.
    fn piece_for(&mut self, known: Option<u32>, key: &[u8], stamp: i64) -> Option<(u32, usize)> {
        let multiple = |time: i64| time.div_euclid(self.piece);
        let joins = |a: i64, b: i64| multiple(a) == multiple(b) && b - a < self.gap;
        if let Some(group) = known {
            let pieces = &mut self.open[group as usize].pieces;
            let next = pieces.partition_point(|piece| piece.first <= stamp);
            let before = next > 0 && joins(pieces[next - 1].last.min(stamp), stamp);
            let behind = pieces.get(next).is_some_and(|piece| joins(stamp, piece.first));
            if before {
                pieces[next - 1].last = pieces[next - 1].last.max(stamp);
                if behind {
                    let Piece { last, states, .. } = pieces.remove(next);
                    let own = &mut pieces[next - 1];
                    own.last = own.last.max(last);
                    own.states.iter_mut().zip(&states).for_each(|(own, other)| own.merge(other));
                    self.groups.release(group);
                }
                return Some((group, next - 1));
            }
            if behind {
                pieces[next].first = stamp;
                self.requeue(group);
                return Some((group, next));
            }
        }
        if self.groups.held() >= self.state_cap {
            return None;
        }
        let group = self.groups.number(key)?;
        let states = self.plan.slots.iter().map(|slot| State::new(slot.keep)).collect();
        let at = self.add(group, Piece { first: stamp, last: stamp, states });
        self.requeue(group);
        Some((group, at))
    }

    /// Adds a piece where it belongs. [`Self::requeue`] is for the caller.
    pub(super) fn add(&mut self, group: u32, piece: Piece) -> usize {
        self.groups.hold(group);
        if self.open.len() <= group as usize {
            self.open.resize_with(group as usize + 1, Pieces::default);
        }
        let pieces = &mut self.open[group as usize].pieces;
        let at = pieces.partition_point(|other| other.first <= piece.first);
        pieces.insert(at, piece);
        at
    }

    /// The group's first session as the number of its pieces and its end; `None` without any.
    fn first_session(&self, group: u32) -> Option<(usize, i64)> {
        let pieces = &self.open[group as usize].pieces;
        let first = pieces.first()?;
        let cut = self.cut(first.first);
        let chain = pieces.windows(2).take_while(|two| two[1].first - two[0].last < self.gap && two[1].first < cut);
        let count = 1 + chain.count();
        Some((count, (pieces[count - 1].last + self.gap).min(cut)))
    }

    /// Queues the group where its first session may end earlier than the queue knows.
    pub(super) fn requeue(&mut self, group: u32) {
        let due = self.first_session(group).map(|(_, end)| end);
        if due.is_some_and(|due| self.open[group as usize].queued.is_none_or(|queued| due < queued)) {
            self.enqueue(due, group);
        }
    }

    fn enqueue(&mut self, due: Option<i64>, group: u32) {
        if let Some(due) = due {
            self.open[group as usize].queued = Some(due);
            self.queue.push(Reverse((due, group)));
        }
    }

    /// When the first session of a group ends that the queue has under `time`; `None` when that entry is void.
    fn due(&mut self, time: i64, group: u32) -> Option<i64> {
        if self.open[group as usize].queued != Some(time) {
            return None;
        }
        let due = self.first_session(group).map(|(_, end)| end);
        if due != Some(time) {
            self.open[group as usize].queued = None;
        }
        due
    }

    fn close_through(&mut self, watermark: i64, closed: &mut Vec<Closed>) {
        let mut ended = Vec::new();
        while let Some(Reverse((time, group))) = self.queue.peek().copied().filter(|entry| entry.0.0 <= watermark) {
            self.queue.pop();
            let due = self.due(time, group);
            if due == Some(time) {
                ended.push(self.end(group));
                self.open[group as usize].queued = None;
                self.requeue(group);
            } else {
                self.enqueue(due, group);
            }
        }
        self.emit(ended, closed);
    }

    /// Takes the first session of a group out.
    fn end(&mut self, group: u32) -> Ended {
        let (count, end) = self.first_session(group).expect("it is due");
        let mut pieces = self.open[group as usize].pieces.drain(..count);
        let Piece { first, mut states, .. } = pieces.next().expect("a session has a piece");
        for piece in pieces {
            states.iter_mut().zip(&piece.states).for_each(|(own, other)| own.merge(other));
        }
        let key = self.groups.key(group).into();
        (0..count).for_each(|_| self.groups.release(group));
        Ended { end, start: first, key, states }
    }

    /// Hands out sessions in the order of their ends, those of the same time together.
    fn emit(&mut self, mut ended: Vec<Ended>, closed: &mut Vec<Closed>) {
        ended.sort_unstable_by(|a, b| (a.end, a.start, &a.key).cmp(&(b.end, b.start, &b.key)));
        let mut ended = ended.into_iter().peekable();
        while let Some(Ended { end, start, key, states }) = ended.next() {
            let mut groups = vec![(key, states)];
            while let Some(same) = ended.next_if(|next| (next.end, next.start) == (end, start)) {
                groups.push((same.key, same.states));
            }
            let provisional = self.provisional_through.is_some_and(|through| start <= through);
            let window = Window { start, end, provisional };
            let rows = render(&self.plan, &self.converter, window, &groups, &mut self.failed_total);
            self.keep(start, end, rows.clone());
            closed.push((start, end, rows));
        }
    }
}
