//! Which groups of a window had records, for alerts that miss those that have none.

use super::column::Column;
use super::definition::Definition;
use super::open::Open;
use super::plan::Plan;
use super::render::key_columns;
use super::session::Sessions;
use ahash::RandomState;
use arrow::row::RowConverter;
use hashbrown::HashSet;

/// The groups that were seen since they were last asked for.
#[derive(Debug)]
pub(super) struct Watch {
    seen: HashSet<Box<[u8]>, RandomState>,
    cap: usize,
}

impl Watch {
    /// With room for `cap` groups between two calls; further ones are seen when they come again.
    pub(super) fn new(cap: usize) -> Self {
        Self { seen: HashSet::with_hasher(RandomState::new()), cap }
    }

    pub(super) fn see(&mut self, key: &[u8]) {
        if !self.seen.contains(key) && self.seen.len() < self.cap {
            self.seen.insert(key.into());
        }
    }

    /// The values of the group columns as labels show them, in the order of the groups.
    fn take(&mut self, plan: &Plan, converter: &RowConverter) -> Vec<Vec<String>> {
        let mut keys: Vec<Box<[u8]>> = self.seen.drain().collect();
        keys.sort_unstable();
        let columns: Vec<Column> =
            key_columns(plan, converter, keys.iter().map(|key| &**key)).iter().map(Column::of).collect();
        (0..keys.len()).map(|at| columns.iter().map(|column| column.label(at).into_owned()).collect()).collect()
    }
}

impl Open {
    /// From now on, tells which groups had records.
    pub(super) fn watch(&mut self) {
        match self {
            Self::Panes(panes) => panes.watch = Some(Watch::new(panes.groups.cap())),
            Self::Sessions(sessions) => sessions.watch = Some(Watch::new(sessions.groups.cap())),
        }
    }

    /// The groups that had records since the last call.
    pub(super) fn take_seen(&mut self) -> Vec<Vec<String>> {
        let (plan, converter, watch) = match self {
            Self::Panes(panes) => {
                let Definition { plan, converter, watch, .. } = &mut **panes;
                (plan, converter, watch)
            }
            Self::Sessions(sessions) => {
                let Sessions { plan, converter, watch, .. } = &mut **sessions;
                (plan, converter, watch)
            }
        };
        watch.as_mut().map(|watch| watch.take(plan, converter)).unwrap_or_default()
    }
}
