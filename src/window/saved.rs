//! The state of open windows ⇄ bytes, to go on after a restart.
//!
//! Groups are named by their columns' values and not by the keys that panes use, whose form is arrow's to change. They are
//! written once, in the order of their keys, and panes name them by number. So bytes depend on the state alone,
//! not on the order in which groups came nor on any hash.

use super::column::Column;
use super::definition::{Definition, Pane, THE_END};
use super::groups::Groups;
use super::ledger::{Closed, Ledger};
use super::open::Open;
use super::plan::Plan;
use super::render::{Window, complete, key_columns};
use super::session_saved;
use super::state::State;
use crate::record::state::{Damaged, SavedPart, read, read_first, write};
use crate::time::EventTime;
use arrow::array::ArrayRef;
use arrow::row::RowConverter;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What a body begins with: the definition's watermark in µs. Also those who cannot go on with the rest need it.
pub(super) type Head = Option<i64>;

/// What a body goes on with. `S` are the states of a group, borrowed or owned. Times are in µs.
#[derive(Serialize, Deserialize)]
struct Body<S> {
    next_start: i64,
    late_total: u64,
    provisional_through: Option<i64>,
    drained_through: Option<i64>,
    group_count: u32,
    /// The values of the group columns, for all groups that are named by number below.
    groups: Vec<Column>,
    /// By start: the groups, ascending, with their states.
    panes: Vec<(i64, Vec<(u32, S)>)>,
    closed: Vec<SavedClosed>,
}

/// A closed window that waits to be drained.
#[derive(Serialize, Deserialize)]
struct SavedClosed {
    start: i64,
    /// Group columns and aggregates; what is derived of them is computed again.
    rows: Option<Vec<Column>>,
    /// Late records by group.
    late: Vec<(u32, i64)>,
}

/// What became of an earlier run's state.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resumed {
    /// Definitions that go on where they were.
    pub kept: Vec<String>,
    /// Definitions that begin anew, as they are new or not what they were. Their rows are provisional at first.
    pub anew: Vec<String>,
    /// Names of definitions that are gone, or not what they were: what they held is dropped.
    pub dropped: Vec<String>,
}

/// State of an earlier run that was read and found to be sound.
#[derive(Debug)]
pub struct Restoring {
    /// One for each definition, in their order.
    steps: Vec<Step>,
    dropped: Vec<String>,
    /// The newest event time that the earlier run had read, in µs.
    newest: Option<i64>,
}

#[derive(Debug)]
enum Step {
    GoOn(Box<Held>),
    GoOnWithSessions(Box<session_saved::Held>),
    /// Windows that ended at or before this are closed, as another definition of the name had closed them.
    BeginAnew {
        closed_through: Option<i64>,
    },
}

/// What one definition held.
#[derive(Debug)]
struct Held {
    groups: Groups,
    panes: BTreeMap<i64, Pane>,
    ledger: Ledger,
    watermark: Option<i64>,
    next_start: i64,
    late_total: u64,
    provisional_through: Option<i64>,
}

/// Writes down what a definition holds.
pub(super) fn save(open: &Open) -> SavedPart {
    match open {
        Open::Panes(definition) => save_panes(definition),
        Open::Sessions(sessions) => session_saved::save(sessions),
    }
}

fn save_panes(definition: &Definition) -> SavedPart {
    let Definition { plan, converter, groups, panes, ledger, .. } = definition;
    let mut numbers: Vec<u32> = panes.values().flat_map(|pane| pane.keys().copied()).collect();
    numbers.sort_unstable();
    numbers.dedup();
    let late = ledger.closed().values().flat_map(|closed| closed.late.keys().map(|key| &**key));
    let mut keys: Vec<&[u8]> = numbers.iter().map(|number| groups.key(*number)).chain(late).collect();
    keys.sort_unstable();
    keys.dedup();
    let place = |key: &[u8]| keys.binary_search(&key).expect("all keys were collected") as u32;
    let mut places = vec![0; groups.numbers()];
    numbers.iter().for_each(|number| places[*number as usize] = place(groups.key(*number)));
    let panes = panes.iter().map(|(start, pane)| {
        let mut states: Vec<(u32, &[State])> =
            pane.iter().map(|(number, states)| (places[*number as usize], &**states)).collect();
        states.sort_unstable_by_key(|(place, _)| *place);
        (*start, states)
    });
    let inner = plan.groups.len() + plan.outputs.len();
    let closed = ledger.closed().iter().map(|(start, closed)| SavedClosed {
        start: *start,
        rows: closed.rows.as_ref().map(|rows| rows.columns()[2..2 + inner].iter().map(Column::of).collect()),
        late: closed.late.iter().map(|(key, count)| (place(key), *count)).collect(),
    });
    let mut body = write::<Head>(&definition.watermark_time());
    body.extend(write(&Body {
        next_start: definition.next_start,
        late_total: definition.late_total,
        provisional_through: definition.provisional_through,
        drained_through: ledger.drained_through(),
        group_count: keys.len() as u32,
        groups: key_columns(plan, converter, keys.iter().copied()).iter().map(Column::of).collect(),
        panes: panes.collect(),
        closed: closed.collect(),
    }));
    SavedPart { name: plan.name.to_string(), definition: plan.fingerprint, body }
}

impl Restoring {
    pub(super) fn read(definitions: &[Open], saved: &[SavedPart], newest: Option<EventTime>) -> Result<Self, Damaged> {
        let step = |open: &Open| match saved.iter().find(|part| part.name == *open.plan().name) {
            Some(part) if part.definition == open.plan().fingerprint => match open {
                Open::Panes(definition) => Held::read(definition, &part.body).map(|held| Step::GoOn(Box::new(held))),
                Open::Sessions(sessions) => {
                    session_saved::Held::read(sessions, &part.body).map(|held| Step::GoOnWithSessions(Box::new(held)))
                }
            },
            Some(part) => Ok(Step::BeginAnew { closed_through: head(&part.body)?.0 }),
            None => Ok(Step::BeginAnew { closed_through: None }),
        };
        let goes_on = |part: &&SavedPart| {
            definitions
                .iter()
                .map(Open::plan)
                .any(|plan| *plan.name == *part.name && plan.fingerprint == part.definition)
        };
        Ok(Self {
            steps: definitions.iter().map(step).collect::<Result<_, _>>()?,
            dropped: saved.iter().filter(|part| !goes_on(part)).map(|part| part.name.clone()).collect(),
            newest: newest.map(EventTime::micros),
        })
    }

    /// # Panics
    /// When the definitions are not those for which it was read.
    pub(super) fn apply(self, definitions: &mut [Open]) -> Resumed {
        assert_eq!(self.steps.len(), definitions.len(), "state is applied to the windows for which it was read");
        let mut resumed = Resumed { dropped: self.dropped, ..Resumed::default() };
        for (open, step) in definitions.iter_mut().zip(self.steps) {
            let name = open.plan().name.to_string();
            match (step, &mut *open) {
                (Step::GoOn(held), Open::Panes(definition)) => {
                    held.apply(definition);
                    resumed.kept.push(name);
                }
                (Step::GoOnWithSessions(held), Open::Sessions(sessions)) => {
                    held.apply(sessions);
                    resumed.kept.push(name);
                }
                (Step::GoOn(_) | Step::GoOnWithSessions(_), _) => unreachable!("it was read for this definition"),
                (Step::BeginAnew { closed_through }, open) => {
                    // A window is emitted once, also where the definition was another one then.
                    open.closed_through(closed_through);
                    self.newest.into_iter().for_each(|newest| open.provisional_through(newest));
                    resumed.anew.push(name);
                }
            }
        }
        resumed
    }
}

impl Held {
    fn read(definition: &Definition, bytes: &[u8]) -> Result<Self, Damaged> {
        let (watermark, bytes) = head(bytes)?;
        let body: Body<Box<[State]>> = read(bytes)?;
        in_range(Some(body.next_start))?;
        in_range(body.provisional_through)?;
        in_range(body.drained_through)?;
        Damaged::unless(body.late_total <= 1 << 62, "a window has more late records than there can be")?;
        let Definition { plan, converter, .. } = definition;
        let keys = keys(plan, converter, body.groups, body.group_count as usize)?;
        let mut groups = Groups::new(definition.groups.cap());
        let mut panes = BTreeMap::new();
        for (start, states) in body.panes {
            in_range(Some(start))?;
            let known = panes.last_key_value().is_some_and(|(last, _)| *last >= start);
            Damaged::unless(!known && start % plan.pane == 0, "a pane starts where none can")?;
            panes.insert(start, pane(plan, states, &keys, &mut groups)?);
            Damaged::unless(groups.held() <= definition.state_cap, "a window has more states than it may")?;
        }
        let mut ledger = Ledger::new(definition.groups.cap());
        ledger.set_drained_through(body.drained_through);
        for closed in body.closed {
            in_range(Some(closed.start))?;
            let known = ledger.closed().last_key_value().is_some_and(|(last, _)| *last >= closed.start);
            Damaged::unless(!known && closed.start % plan.every == 0, "a window starts where none can")?;
            ledger.take_back(closed.start, closed.read(plan, &keys, body.provisional_through)?);
        }
        let (next_start, late_total, provisional_through) =
            (body.next_start, body.late_total, body.provisional_through);
        Ok(Self { groups, panes, ledger, watermark, next_start, late_total, provisional_through })
    }

    fn apply(self, definition: &mut Definition) {
        definition.groups = self.groups;
        definition.panes = self.panes;
        definition.ledger = self.ledger;
        definition.watermark = self.watermark.map(|time| definition.plan.axis.place(time));
        definition.next_start = self.next_start;
        (definition.late_total, definition.late_before) = (self.late_total, self.late_total);
        definition.provisional_through = self.provisional_through;
        definition.next_close = definition.first_close();
    }
}

impl SavedClosed {
    fn read(self, plan: &Plan, keys: &[Box<[u8]>], provisional: Option<i64>) -> Result<Closed, Damaged> {
        let window = Window::of(plan, self.start, provisional);
        let rows = self.rows.map(|columns| {
            let fields = &plan.inner.fields()[..plan.groups.len() + plan.outputs.len()];
            Damaged::unless(columns.len() == fields.len(), "a closed window has other columns than its definition")?;
            let count = columns.first().map_or(0, Column::len);
            let arrays = columns.into_iter().zip(fields).map(|(column, field)| column.array(field.data_type(), count));
            // Values that cannot be computed were counted when the window closed.
            Ok(complete(plan, window, arrays.collect::<Result<_, _>>()?, count, &mut 0))
        });
        let late = self.late.into_iter().map(|(place, count)| {
            Damaged::unless((1..=1 << 48).contains(&count), "a closed window has late records that cannot be")?;
            Ok((keys.get(place as usize).ok_or(UNKNOWN_GROUP)?.clone(), count))
        });
        Ok(Closed { rows: rows.transpose()?, late: late.collect::<Result<_, _>>()? })
    }
}

pub(super) const UNKNOWN_GROUP: Damaged = Damaged("it names a group that isn't there");

pub(super) fn head(bytes: &[u8]) -> Result<(Head, &[u8]), Damaged> {
    let (watermark, rest) = read_first::<Head>(bytes)?;
    in_range(watermark)?;
    Ok((watermark, rest))
}

/// Whether adding a window's length to a time of a definition is sure not to overflow.
pub(super) fn in_range(time: Option<i64>) -> Result<(), Damaged> {
    let near = time.is_none_or(|time| time.unsigned_abs() <= THE_END.unsigned_abs());
    Damaged::unless(near, "it has a time that no clock comes to")
}

/// The keys of all groups.
pub(super) fn keys(
    plan: &Plan,
    converter: &RowConverter,
    columns: Vec<Column>,
    count: usize,
) -> Result<Vec<Box<[u8]>>, Damaged> {
    Damaged::unless(columns.len() == plan.groups.len(), "its groups have other columns than the definition")?;
    if columns.is_empty() {
        Damaged::unless(count <= 1, "it has groups without columns")?;
        return Ok(vec![Box::default(); count]);
    }
    let types = plan.inner.fields().iter().map(|field| field.data_type());
    let columns: Vec<ArrayRef> =
        columns.into_iter().zip(types).map(|(column, kind)| column.array(kind, count)).collect::<Result<_, _>>()?;
    let rows = converter.convert_columns(&columns).map_err(|_| Damaged("its groups are too large"))?;
    Ok(rows.iter().map(|row| row.data().into()).collect())
}

fn pane(
    plan: &Plan,
    states: Vec<(u32, Box<[State]>)>,
    keys: &[Box<[u8]>],
    groups: &mut Groups,
) -> Result<Pane, Damaged> {
    let mut pane = Pane::with_capacity_and_hasher(states.len(), ahash::RandomState::new());
    for (place, states) in states {
        let sound = states.len() == plan.slots.len()
            && states.iter().zip(&plan.slots).all(|(state, slot)| state.is_sound(slot.keep));
        Damaged::unless(sound, "a group's state is not of its aggregates")?;
        let key = keys.get(place as usize).ok_or(UNKNOWN_GROUP)?;
        let number = groups.number(key).ok_or(Damaged("a window has more groups than it may"))?;
        groups.hold(number);
        Damaged::unless(pane.insert(number, states).is_none(), "a pane has a group twice")?;
    }
    Ok(pane)
}
