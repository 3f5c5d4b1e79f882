//! What a file of JSON Lines doesn't say itself: its columns and their types, kept once beside the seals.
//!
//! `_headrig/PIPELINE/columns/HASH.json` is put before the first seal with files of these columns, and each of those files
//! names it. It is called by what it says: who puts it again puts the same, and a reader sees whether it is whole. Of files that name
//! none (of older versions, or copied without `_headrig`) the columns are what their lines have ([`learn`](super::lines_learn)).

use super::audit;
use super::store::name_of;
use super::table::{JSON_OF_ALERTS, Kind, Table};
use crate::record::schema::{ATTRIBUTES, BUILT_IN};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use parquet::file::metadata::KeyValue;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Notes in footers that are true of all files of a pipeline's version; the others are each file's own.
const NOTES: [&str; 3] = [SCHEMA, SCHEMA_VERSION, DEPRECATED];

/// Name of the schema that rows of `data` are of.
pub const SCHEMA: &str = "headrig.schema";
/// Its version, a number from 1.
pub const SCHEMA_VERSION: &str = "headrig.schema_version";
/// Columns that nobody should use any more: a JSON object from their names to what is used instead, or null.
pub const DEPRECATED: &str = "headrig.deprecated";

/// The columns of files, in their order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileColumns {
    columns: Vec<FileColumn>,
    /// What a Parquet file says in its footer, too.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    notes: BTreeMap<String, String>,
}

/// A column of files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileColumn {
    pub name: String,
    #[serde(rename = "type")]
    pub kind: FileType,
    /// Of a hex column, how many bytes its digits stand for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<i32>,
    /// Whether each row has a value.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub required: bool,
}

/// What the values of a column are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileType {
    Timestamp,
    Int,
    Float,
    Bool,
    Text,
    /// JSON that stands as such, and is text to readers.
    Json,
    /// Bytes, written as hexadecimal digits.
    Bytes,
    /// Hexadecimal digits.
    Hex,
}

impl FileColumns {
    pub(super) fn new(columns: Vec<FileColumn>) -> Self {
        Self { columns, notes: BTreeMap::new() }
    }

    /// Those of a table that is written.
    pub(super) fn of(table: &Table) -> Self {
        let column = |(field, inline): (&Arc<Field>, &bool)| column(field, *inline);
        let columns = table.arrow.fields().iter().zip(table.inline.iter()).map(column).collect();
        let notes = table.properties.key_value_metadata().into_iter().flatten();
        Self { columns, notes: notes_of(notes) }
    }

    /// Those that each file of a table has.
    pub(super) fn least(kind: Kind) -> Self {
        let least = kind.least_columns();
        let is_json = |field: &Field| match kind {
            Kind::Data => field.name() == BUILT_IN[ATTRIBUTES].0,
            Kind::Alerts => JSON_OF_ALERTS.contains(&field.name().as_str()),
            Kind::Dead | Kind::Windows => false,
        };
        Self::new(least.fields().iter().map(|field| column(field, is_json(field))).collect())
    }

    /// What is stored of them.
    pub(super) fn text(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("columns are JSON")
    }

    /// Key of the object with this text, in the folder of all.
    pub(super) fn key(folder: &str, text: &[u8]) -> String {
        format!("{folder}/{}.json", &audit::sha256(text)[..32])
    }

    /// What an object at `key` says; `None` when that isn't what was put there.
    pub fn parse(key: &str, text: &[u8]) -> Option<Self> {
        let is_whole = name_of(&Self::key("", text)) == name_of(key);
        serde_json::from_slice(text).ok().filter(|_| is_whole)
    }

    pub fn columns(&self) -> &[FileColumn] {
        &self.columns
    }

    /// What Parquet files of these columns say in their footers.
    pub fn note(&self, key: &str) -> Option<&str> {
        self.notes.get(key).map(String::as_str)
    }

    pub(super) fn notes(&self) -> &BTreeMap<String, String> {
        &self.notes
    }

    /// As Parquet files have them.
    pub fn arrow(&self) -> SchemaRef {
        let field = |column: &FileColumn| Field::new(&column.name, column.arrow(), !column.required);
        Arc::new(Schema::new(self.columns.iter().map(field).collect::<Vec<_>>()))
    }
}

impl FileColumn {
    fn arrow(&self) -> DataType {
        match self.kind {
            FileType::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            FileType::Int => DataType::Int64,
            FileType::Float => DataType::Float64,
            FileType::Bool => DataType::Boolean,
            FileType::Bytes => DataType::Binary,
            FileType::Hex => self.bytes.map_or(DataType::Utf8, DataType::FixedSizeBinary),
            FileType::Text | FileType::Json => DataType::Utf8,
        }
    }
}

/// # Panics
/// For a type that no table has.
fn column(field: &Field, is_json: bool) -> FileColumn {
    let (kind, bytes) = match field.data_type() {
        DataType::Timestamp(TimeUnit::Microsecond, _) => (FileType::Timestamp, None),
        DataType::Int64 => (FileType::Int, None),
        DataType::Float64 => (FileType::Float, None),
        DataType::Boolean => (FileType::Bool, None),
        DataType::Utf8 if is_json => (FileType::Json, None),
        DataType::Utf8 => (FileType::Text, None),
        DataType::Binary => (FileType::Bytes, None),
        DataType::FixedSizeBinary(bytes) => (FileType::Hex, Some(*bytes)),
        other => unreachable!("no table has a column of type {other}"),
    };
    FileColumn { name: field.name().clone(), kind, bytes, required: !field.is_nullable() }
}

/// Of a footer's entries, those that are true of all files of a version.
pub(super) fn notes_of<'n>(footer: impl Iterator<Item = &'n KeyValue>) -> BTreeMap<String, String> {
    let known = footer.filter(|entry| NOTES.contains(&entry.key.as_str()));
    known.filter_map(|entry| Some((entry.key.clone(), entry.value.clone()?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::table::tests::schema;

    #[test]
    fn columns_are_stored_whole_or_not_believed() {
        let footer = [KeyValue::new(SCHEMA_VERSION.to_owned(), "3".to_owned()), KeyValue::new("x".to_owned(), None)];
        let table = Table::data(&schema(), &[], &footer);
        let columns = FileColumns::of(&table);
        assert_eq!(columns.arrow().fields(), table.arrow.fields());
        assert_eq!((columns.note(SCHEMA_VERSION), columns.note("x")), (Some("3"), None));
        let text = columns.text();
        let key = FileColumns::key("_headrig/p/columns", &text);
        assert_eq!(FileColumns::parse(&key, &text), Some(columns));
        assert_eq!(FileColumns::parse(&key, &text[1..]), None);
        assert_eq!(FileColumns::parse("_headrig/p/columns/0.json", &text), None);
    }

    #[test]
    fn each_table_has_its_least_columns() {
        for kind in Kind::ALL {
            assert_eq!(FileColumns::least(kind).arrow().fields(), kind.least_columns().fields());
        }
    }
}
