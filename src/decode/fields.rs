//! Which key of a log record goes into which column.
//!
//! A schema's `from` lists become a tree of tables, one for the top level and one for each object that a dotted path
//! goes through. Records of one program have their keys in the same order nearly always, so each table remembers the
//! key that stood at each place last time and compares before it hashes.

use crate::record::schema::Schema;
use hashbrown::HashMap;

/// What to do with the value of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Action {
    /// The column, and the key's rank in its `from` list (0 is tried first).
    pub(super) column: Option<(u16, u8)>,
    /// The table for the members, where the value is an object.
    pub(super) table: Option<u16>,
}

#[derive(Debug, Default)]
struct Table {
    actions: HashMap<Box<str>, Action, ahash::RandomState>,
    recent: Vec<(String, Action)>,
}

/// The lookup tables of a schema. Table 0 is the record's top level.
#[derive(Debug)]
pub(super) struct Fields {
    tables: Vec<Table>,
}

/// Keys longer than this are not remembered by place.
const REMEMBERED_KEY_BYTES: usize = 64;
/// Places remembered in a table.
const REMEMBERED_PLACES: usize = 64;

impl Fields {
    pub(super) fn new(schema: &Schema) -> Self {
        let mut fields = Self { tables: vec![Table::default()] };
        for (index, column) in schema.columns.iter().enumerate() {
            for (rank, path) in column.from.iter().enumerate() {
                let target = (index as u16, rank.min(usize::from(u8::MAX)) as u8);
                fields.insert(path, target);
                if path.len() > 1 {
                    // Some loggers flatten: the dotted path may also stand as one key.
                    fields.insert(&[path.join(".")], target);
                }
            }
        }
        fields
    }

    fn insert(&mut self, path: &[String], target: (u16, u8)) {
        let mut table = 0;
        for (depth, key) in path.iter().enumerate() {
            let last = depth + 1 == path.len();
            let next = self.tables.len();
            let action = self.tables[table].actions.entry(key.as_str().into()).or_default();
            if last {
                // Where two columns name the same key, the first column in the schema has it.
                action.column.get_or_insert(target);
            } else {
                table = usize::from(*action.table.get_or_insert(next as u16));
                if table == next {
                    self.tables.push(Table::default());
                }
            }
        }
    }

    /// The action for `key`; `None` when the schema doesn't name it.
    pub(super) fn action(&self, table: u16, key: &str) -> Option<Action> {
        self.tables[usize::from(table)].actions.get(key).copied()
    }

    /// The same for the `place`-th key of its object.
    pub(super) fn find(&mut self, table: u16, place: usize, key: &str) -> Option<Action> {
        let table = &mut self.tables[usize::from(table)];
        if let Some((recent, action)) = table.recent.get(place)
            && recent == key
        {
            return Some(*action);
        }
        let action = *table.actions.get(key)?;
        if place < REMEMBERED_PLACES && key.len() <= REMEMBERED_KEY_BYTES {
            if table.recent.len() <= place {
                table.recent.resize_with(place + 1, Default::default);
            }
            let (recent, remembered) = &mut table.recent[place];
            recent.clear();
            recent.push_str(key);
            *remembered = action;
        }
        Some(action)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::schema::{BUILT_IN, Column, ColumnType};

    fn schema(extra: &[(&str, &[&str])]) -> Schema {
        let column = |name: &str, kind, from| Column { from, ..Column::new(name, kind) };
        let mut columns: Vec<Column> = BUILT_IN.iter().map(|(n, k)| column(n, *k, Vec::new())).collect();
        for (name, from) in extra {
            let from = from.iter().map(|path| path.split('.').map(str::to_owned).collect()).collect();
            columns.push(column(name, ColumnType::Text, from));
        }
        Schema::new("test", 1, columns)
    }

    #[test]
    fn aliases_and_paths_lead_to_their_columns() {
        let mut fields =
            Fields::new(&schema(&[("status", &["status", "status_code"]), ("model", &["metadata.model"])]));
        assert_eq!(fields.find(0, 0, "status_code").unwrap().column, Some((12, 1)));
        assert_eq!(fields.find(0, 0, "status").unwrap().column, Some((12, 0)));
        assert_eq!(fields.find(0, 0, "status").unwrap().column, Some((12, 0)), "remembered");
        let nested = fields.find(0, 3, "metadata").unwrap();
        assert_eq!(nested.column, None);
        assert_eq!(fields.find(nested.table.unwrap(), 0, "model").unwrap().column, Some((13, 0)));
        assert_eq!(fields.find(0, 1, "metadata.model").unwrap().column, Some((13, 0)));
        assert_eq!(fields.find(0, 0, "nosuch"), None);
    }
}
