//! The state of open sessions ⇄ bytes, as `saved` does it for panes.

use super::column::Column;
use super::render::{Window, complete, key_columns};
use super::saved::{Head, UNKNOWN_GROUP, head, in_range, keys};
use super::session::{Piece, Sessions};
use super::state::State;
use crate::record::state::{Damaged, SavedPart, read, write};
use serde::{Deserialize, Serialize};

/// What stands behind the head, which is the watermark. Times are in µs.
#[derive(Serialize, Deserialize)]
struct Body<S> {
    late_total: u64,
    provisional_through: Option<i64>,
    group_count: u32,
    /// The values of the group columns, in the order of the groups' keys.
    groups: Vec<Column>,
    /// Of each group, in the same order: first and last record, and states, of its pieces.
    pieces: Vec<Vec<(i64, i64, S)>>,
    closed: Vec<SavedClosed>,
}

/// A closed session, or several of the same time, that waits to be drained.
#[derive(Serialize, Deserialize)]
struct SavedClosed {
    start: i64,
    end: i64,
    rows: u32,
    /// Group columns and aggregates; what is derived of them is computed again.
    columns: Vec<Column>,
}

/// What was read of an earlier run.
#[derive(Debug)]
pub(super) struct Held {
    watermark: Head,
    late_total: u64,
    provisional_through: Option<i64>,
    groups: Vec<(Box<[u8]>, Vec<Piece>)>,
    closed: Vec<(i64, i64, arrow::array::RecordBatch)>,
}

/// Writes down what is open, and what waits.
pub(super) fn save(sessions: &Sessions) -> SavedPart {
    let plan = &sessions.plan;
    let open = (0..).zip(&sessions.open).filter(|(_, open)| !open.pieces.is_empty());
    let mut open: Vec<(&[u8], &[Piece])> =
        open.map(|(number, open)| (sessions.groups.key(number), open.pieces.as_slice())).collect();
    open.sort_unstable_by_key(|(key, _)| *key);
    let pieces = |pieces: &[Piece]| pieces.iter().map(|p| (p.first, p.last, p.states.to_vec())).collect();
    let inner = plan.groups.len() + plan.outputs.len();
    let closed = sessions.closed.iter().map(|(start, end, rows)| SavedClosed {
        start: *start,
        end: *end,
        rows: rows.num_rows() as u32,
        columns: rows.columns()[2..2 + inner].iter().map(Column::of).collect(),
    });
    let mut body = write::<Head>(&sessions.watermark);
    body.extend(write(&Body::<Vec<State>> {
        late_total: sessions.late_total,
        provisional_through: sessions.provisional_through,
        group_count: open.len() as u32,
        groups: key_columns(plan, &sessions.converter, open.iter().map(|(key, _)| *key))
            .iter()
            .map(Column::of)
            .collect(),
        pieces: open.iter().map(|(_, of_group)| pieces(of_group)).collect(),
        closed: closed.collect(),
    }));
    SavedPart { name: plan.name.to_string(), definition: plan.fingerprint, body }
}

impl Held {
    pub(super) fn read(sessions: &Sessions, bytes: &[u8]) -> Result<Self, Damaged> {
        let (watermark, bytes) = head(bytes)?;
        let body: Body<Box<[State]>> = read(bytes)?;
        in_range(body.provisional_through)?;
        Damaged::unless(body.late_total <= 1 << 62, "a window has more late records than there can be")?;
        let keys = keys(&sessions.plan, &sessions.converter, body.groups, body.group_count as usize)?;
        Damaged::unless(keys.len() == body.pieces.len(), UNKNOWN_GROUP.0)?;
        let states: usize = body.pieces.iter().map(Vec::len).sum();
        let room = keys.len() <= sessions.groups.cap() && states <= sessions.state_cap;
        Damaged::unless(room, "a window has more states than it may")?;
        let ascending = keys.is_sorted_by(|a, b| a < b);
        Damaged::unless(ascending, "a window has a group twice")?;
        let groups = keys.into_iter().zip(body.pieces);
        let groups = groups.map(|(key, saved)| Ok((key, pieces(sessions, saved)?))).collect::<Result<_, Damaged>>()?;
        let closed = body.closed.into_iter().map(|closed| closed.read(sessions, body.provisional_through));
        Ok(Self {
            watermark,
            late_total: body.late_total,
            provisional_through: body.provisional_through,
            groups,
            closed: closed.collect::<Result<_, _>>()?,
        })
    }

    /// # Panics
    /// When it was read for other sessions, or something is open.
    pub(super) fn apply(self, sessions: &mut Sessions) {
        sessions.watermark = self.watermark;
        (sessions.late_total, sessions.late_before) = (self.late_total, self.late_total);
        sessions.provisional_through = self.provisional_through;
        for (key, pieces) in self.groups {
            let group = sessions.groups.number(&key).expect("it was read with room for its groups");
            for piece in pieces {
                sessions.add(group, piece);
            }
            sessions.requeue(group);
        }
        for (start, end, rows) in self.closed {
            sessions.keep(start, end, rows);
        }
    }
}

fn pieces(sessions: &Sessions, saved: Vec<(i64, i64, Box<[State]>)>) -> Result<Vec<Piece>, Damaged> {
    let slots = &sessions.plan.slots;
    let mut pieces: Vec<Piece> = Vec::with_capacity(saved.len().min(1 << 10));
    Damaged::unless(!saved.is_empty(), "a group has no sessions")?;
    for (first, last, states) in saved {
        in_range(Some(first))?;
        in_range(Some(last))?;
        let multiple = |time: i64| time.div_euclid(sessions.piece);
        let behind = pieces.last().is_none_or(|before| {
            before.last < first && (multiple(before.last) != multiple(first) || first - before.last >= sessions.gap)
        });
        let sound = first <= last && multiple(first) == multiple(last) && behind;
        Damaged::unless(sound, "a session has records where none can be")?;
        let sound = states.len() == slots.len() && states.iter().zip(slots).all(|(s, slot)| s.is_sound(slot.keep));
        Damaged::unless(sound, "a group's state is not of its aggregates")?;
        pieces.push(Piece { first, last, states });
    }
    Ok(pieces)
}

impl SavedClosed {
    fn read(
        self,
        sessions: &Sessions,
        provisional: Option<i64>,
    ) -> Result<(i64, i64, arrow::array::RecordBatch), Damaged> {
        let Self { start, end, rows, columns } = self;
        in_range(Some(start))?;
        in_range(Some(end))?;
        let (plan, count) = (&sessions.plan, rows as usize);
        let fields = &plan.inner.fields()[..plan.groups.len() + plan.outputs.len()];
        Damaged::unless(columns.len() == fields.len(), "a closed window has other columns than its definition")?;
        let arrays = columns.into_iter().zip(fields).map(|(column, field)| column.array(field.data_type(), count));
        let window = Window { start, end, provisional: provisional.is_some_and(|through| start <= through) };
        // Values that cannot be computed were counted when the session closed.
        Ok((start, end, complete(plan, window, arrays.collect::<Result<_, _>>()?, count, &mut 0)))
    }
}
