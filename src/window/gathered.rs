//! What one daemon has gathered of windows that are merged over several ⇄ bytes.
//!
//! A part holds groups and, for each group and pane, the states. Groups are named by their columns' values, as in `saved`. Which
//! partition a group goes to depends on its values as alerts show them, so that all rows of one alert meet in one place.

use super::column::Column;
use super::definition::Definition;
use super::distinct;
use super::open::Open;
use super::render::key_columns;
use super::saved::{UNKNOWN_GROUP, in_range, keys};
use super::state::State;
use crate::record::state::{Damaged, SavedPart, read, read_first, write};
use std::collections::BTreeMap;
use std::num::NonZeroU32;

/// What a part begins with.
type Head = (u32, Vec<Column>);

/// What a part goes on with: group, pane, states; the groups ascending.
type Item = (u32, i64, Box<[State]>);

/// What one group has gathered, by pane.
type Panes<'s> = Vec<(i64, &'s [State])>;

/// What others have gathered, read and found to be sound.
#[derive(Debug)]
pub struct Gathered {
    /// One for each definition, in their order; `None` where the others don't have it.
    definitions: Vec<Option<Vec<Merge>>>,
}

/// One group's records of one pane.
#[derive(Debug)]
struct Merge {
    key: Box<[u8]>,
    pane: i64,
    states: Box<[State]>,
    records: u64,
}

/// Takes all out of `definition` and adds it to the partitions that it is for.
pub(super) fn take(definition: &mut Definition, most: usize, partitions: &mut [Vec<SavedPart>]) {
    assert!(definition.plan.counted.is_some(), "what is gathered is counted");
    let open = definition.take_open();
    let mut by_group: BTreeMap<&[u8], Panes<'_>> = BTreeMap::new();
    for (group, pane, states) in &open {
        by_group.entry(definition.groups.key(*group)).or_default().push((*pane, states));
    }
    let columns: Vec<Column> =
        key_columns(&definition.plan, &definition.converter, by_group.keys().copied()).iter().map(Column::of).collect();
    let mut shares: Vec<Vec<usize>> = vec![Vec::new(); partitions.len()];
    for at in 0..by_group.len() {
        shares[owner(&definition.plan.name, &columns, at, partitions.len())].push(at);
    }
    let groups: Vec<(&[u8], Panes<'_>)> = by_group.into_iter().collect();
    for (partition, share) in partitions.iter_mut().zip(shares) {
        let mut part = Building::default();
        for at in share {
            if part.bytes.len() + part.key_bytes >= most {
                partition.push(std::mem::take(&mut part).finish(definition, &columns));
            }
            part.add(at, &groups[at]);
        }
        if part.rows.is_empty() {
            let (name, fingerprint) = (definition.plan.name.to_string(), definition.plan.fingerprint);
            partition.push(SavedPart { name, definition: fingerprint, body: Vec::new() });
        } else {
            partition.push(part.finish(definition, &columns));
        }
    }
    open.iter().for_each(|(group, ..)| definition.groups.release(*group));
}

/// The partition that a group belongs to. Which one must never change: windows may be open in it.
fn owner(window: &str, columns: &[Column], at: usize, partitions: usize) -> usize {
    let partitions = NonZeroU32::new(partitions as u32).expect("there is a partition");
    let mut text = Vec::new();
    for part in std::iter::once(window.into()).chain(columns.iter().map(|column| column.label(at))) {
        // Lengths keep neighbours apart.
        text.extend_from_slice(&(part.len() as u32).to_le_bytes());
        text.extend_from_slice(part.as_bytes());
    }
    // The upper half: in the lower one a folded product is less even.
    ((distinct::hash(&text) >> 32) as u32 % partitions) as usize
}

/// A part that groups are added to.
#[derive(Default)]
struct Building {
    rows: Vec<usize>,
    key_bytes: usize,
    items: usize,
    /// Items as they will stand in the part.
    bytes: Vec<u8>,
}

impl Building {
    fn add(&mut self, row: usize, (key, panes): &(&[u8], Panes<'_>)) {
        let place = self.rows.len() as u32;
        self.rows.push(row);
        self.key_bytes += key.len();
        self.items += panes.len();
        for (pane, states) in panes {
            self.bytes.extend(write(&(place, pane, states)));
        }
    }

    fn finish(self, definition: &Definition, columns: &[Column]) -> SavedPart {
        let columns: Vec<Column> = columns.iter().map(|column| column.select(&self.rows)).collect();
        let head: Head = (self.rows.len() as u32, columns);
        let mut body = write(&head);
        // As a list is written: how many, and then each.
        body.extend(write(&self.items));
        body.extend(self.bytes);
        let plan = &definition.plan;
        SavedPart { name: plan.name.to_string(), definition: plan.fingerprint, body }
    }
}

impl Gathered {
    pub(super) fn read(definitions: &[Open], parts: &[SavedPart]) -> Result<Self, Damaged> {
        let its = |open: &Open| {
            let definition = open.panes();
            let same = |part: &&SavedPart| {
                *definition.plan.name == *part.name && definition.plan.fingerprint == part.definition
            };
            let mut known = None;
            for part in parts.iter().filter(same) {
                let merges: &mut Vec<Merge> = known.get_or_insert_default();
                // One without a body says that the definition was gathered.
                if !part.body.is_empty() {
                    merges.extend(read_part(definition, &part.body)?);
                }
            }
            Ok(known)
        };
        Ok(Self { definitions: definitions.iter().map(its).collect::<Result<_, _>>()? })
    }

    /// # Panics
    /// When the definitions are not those for which it was read.
    pub(super) fn apply(self, definitions: &mut [Open], newest: Option<i64>) {
        assert_eq!(self.definitions.len(), definitions.len(), "it is merged into the windows for which it was read");
        for (open, merges) in definitions.iter_mut().zip(self.definitions) {
            let definition = open.panes_mut();
            match merges {
                Some(merges) => {
                    for Merge { key, pane, states, records } in merges {
                        definition.place_gathered(pane, &key, &states, records);
                    }
                }
                None => newest.into_iter().for_each(|newest| definition.provisional_through(newest)),
            }
        }
    }
}

fn read_part(definition: &Definition, body: &[u8]) -> Result<Vec<Merge>, Damaged> {
    let Definition { plan, converter, .. } = definition;
    let ((count, columns), rest) = read_first::<Head>(body)?;
    let keys = keys(plan, converter, columns, count as usize)?;
    let items: Vec<Item> = read(rest)?;
    let merge = |(place, pane, states): Item| {
        in_range(Some(pane))?;
        Damaged::unless(pane % plan.pane == 0, "a pane starts where none can")?;
        let sound = states.len() == plan.slots.len()
            && states.iter().zip(&plan.slots).all(|(state, slot)| state.is_sound(slot.keep));
        Damaged::unless(sound, "a group's state is not of its aggregates")?;
        let records = plan.counted.and_then(|at| states[at].counted()).filter(|records| *records > 0);
        let key = keys.get(place as usize).ok_or(UNKNOWN_GROUP)?.clone();
        Ok(Merge { key, pane, states, records: records.ok_or(Damaged("a group has no records"))? })
    };
    items.into_iter().map(merge).collect()
}
