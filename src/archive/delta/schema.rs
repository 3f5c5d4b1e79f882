//! A table's columns, as a Delta log has them.

use super::action::MetaData;
use crate::archive::partition::Level;
use crate::archive::table::{Kind, Table};
use arrow::datatypes::{DataType, Schema, TimeUnit};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// What a pipeline knows of one of its tables.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Layout {
    fields: Vec<Field>,
    pub(super) partition_columns: Vec<String>,
}

/// A struct of Spark's, of which the protocol has taken its schemas.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Struct {
    #[serde(rename = "type")]
    kind: String,
    fields: Vec<Field>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Field {
    name: String,
    /// A primitive type's name; of other writers also a struct, a list or a map.
    #[serde(rename = "type")]
    kind: Value,
    nullable: bool,
    #[serde(default)]
    metadata: Map<String, Value>,
}

impl Field {
    /// Nulls are always possible: files from before a column was there have none of it.
    fn new(name: &str, kind: &str) -> Self {
        Self { name: name.to_owned(), kind: kind.into(), nullable: true, metadata: Map::new() }
    }
}

impl Layout {
    /// Of a table's files and their folders, which come last.
    ///
    /// # Errors
    /// What cannot be said in a log, for whoever has configured it.
    pub(crate) fn of(table: &Table) -> Result<Self, String> {
        let mut fields = columns(&table.arrow)?;
        let level = |level: &Level| match level {
            Level::Date => Field::new("date", "date"),
            Level::Hour => Field::new("hour", "long"),
            Level::Column { name, .. } => Field::new(name, "string"),
        };
        // Windows have a table each, below a folder that says which: a column to whoever reads folders, and Polars wants it to be one here.
        let name = (table.kind == Kind::Windows).then(|| Field::new("name", "string"));
        let levels: Vec<Field> = name.into_iter().chain(table.levels.iter().map(level)).collect();
        let partition_columns = levels.iter().map(|field| field.name.clone()).collect();
        fields.extend(levels);
        for (number, field) in fields.iter().enumerate() {
            if fields[..number].iter().any(|before| before.name.eq_ignore_ascii_case(&field.name)) {
                return Err(format!("the column {:?} is there twice, a Delta table tells no case apart", field.name));
            }
            if let Some(bad) = field.name.chars().find(|c| " ,;{}()\n\t=".contains(*c)) {
                return Err(format!("the column {:?} has a {bad:?} in its name", field.name));
            }
        }
        Ok(Self { fields, partition_columns })
    }

    /// Schema of a new log.
    pub(super) fn schema_string(&self) -> String {
        text(&self.fields)
    }

    /// The schema that a log with `known` needs besides; `None` when it has all columns already.
    ///
    /// # Errors
    /// How the two contradict each other.
    pub(super) fn missing_in(&self, known: &MetaData) -> Result<Option<String>, String> {
        if known.partition_columns != self.partition_columns {
            let list = |names: &[String]| names.join(", ");
            let (theirs, ours) = (list(&known.partition_columns), list(&self.partition_columns));
            return Err(format!("it is partitioned by [{theirs}], and this pipeline partitions by [{ours}]"));
        }
        let mut fields = read(known)?;
        let before = fields.len();
        for field in &self.fields {
            match fields.iter().find(|there| there.name.eq_ignore_ascii_case(&field.name)) {
                Some(there) if there.kind == field.kind => {}
                Some(there) => {
                    let (name, theirs, ours) = (&field.name, &there.kind, &field.kind);
                    return Err(format!("its column {name} is of type {theirs}, and this pipeline's of type {ours}"));
                }
                None => fields.push(field.clone()),
            }
        }
        Ok((fields.len() > before).then(|| text(&fields)))
    }
}

/// What a log's own rules forbid to write to it, if anything.
pub(super) fn forbids(known: &MetaData, removes_rows: bool) -> Result<(), String> {
    if removes_rows && known.configuration.get("delta.appendOnly").is_some_and(|value| value == "true") {
        return Err("rows have to be removed, and its property delta.appendOnly forbids that".to_owned());
    }
    match read(known)?.into_iter().find(|field| field.metadata.contains_key("delta.invariants")) {
        Some(field) => Err(format!("its column {} has invariants, which aren't looked at", field.name)),
        None => Ok(()),
    }
}

fn read(known: &MetaData) -> Result<Vec<Field>, String> {
    let schema: Result<Struct, _> = serde_json::from_str(&known.schema_string);
    schema.map(|schema| schema.fields).map_err(|error| format!("its schema cannot be read: {error}"))
}

fn text(fields: &[Field]) -> String {
    serde_json::to_string(&Struct { kind: "struct".to_owned(), fields: fields.to_vec() }).expect("a schema is JSON")
}

fn columns(schema: &Schema) -> Result<Vec<Field>, String> {
    let column = |field: &std::sync::Arc<arrow::datatypes::Field>| {
        let kind = kind(field.data_type());
        let kind =
            kind.ok_or_else(|| format!("no type of it is that of column {} ({})", field.name(), field.data_type()));
        Ok(Field::new(field.name(), kind?))
    };
    schema.fields().iter().map(column).collect()
}

/// The type whose Parquet files are those that this type is stored as; `None` where the protocol has none.
fn kind(kind: &DataType) -> Option<&'static str> {
    Some(match kind {
        DataType::Timestamp(TimeUnit::Microsecond, Some(_)) => "timestamp",
        DataType::Date32 => "date",
        DataType::Int8 => "byte",
        DataType::Int16 => "short",
        DataType::Int32 => "integer",
        DataType::Int64 => "long",
        DataType::Float32 => "float",
        DataType::Float64 => "double",
        DataType::Boolean => "boolean",
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "string",
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => "binary",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::delta::action::Format;
    use crate::archive::table::tests::schema;
    use crate::record::schema::{Column, ColumnType, Schema as OurSchema};
    use std::collections::BTreeMap;
    use std::num::NonZeroU8;

    fn metadata(schema_string: &str, partition_columns: &[&str]) -> MetaData {
        MetaData {
            id: "x".to_owned(),
            name: None,
            description: None,
            format: Format { provider: "parquet".to_owned(), options: BTreeMap::new() },
            schema_string: schema_string.to_owned(),
            partition_columns: partition_columns.iter().map(|name| (*name).to_owned()).collect(),
            created_time: None,
            configuration: BTreeMap::new(),
        }
    }

    fn layout(schema: &OurSchema, partition_by: &[&str]) -> Result<Layout, String> {
        let levels: Vec<String> = partition_by.iter().map(|name| (*name).to_owned()).collect();
        Layout::of(&Table::data(schema, &levels, &[]))
    }

    #[test]
    fn every_type_of_a_schema_has_one_in_a_log() {
        let kinds = [
            (ColumnType::Timestamp, "timestamp"),
            (ColumnType::Int, "long"),
            (ColumnType::Float, "double"),
            (ColumnType::Bool, "boolean"),
            (ColumnType::Text, "string"),
            (ColumnType::Json, "string"),
        ];
        let mut columns: Vec<Column> = schema().columns;
        let first = columns.len();
        columns.extend((0..).zip(kinds).map(|(number, (kind, _))| Column::new(format!("c{number}"), kind)));
        columns.push(Column { hex_bytes: NonZeroU8::new(16), ..Column::new("id", ColumnType::Text) });
        let layout = layout(&OurSchema::new("test", 1, columns), &["date", "hour", "path"]).unwrap();
        let kind = |name: &str| layout.fields.iter().find(|field| field.name == name).unwrap().kind.clone();
        for (number, (_, expected)) in (0..).zip(kinds) {
            assert_eq!(kind(&format!("c{number}")), expected);
        }
        assert_eq!(
            (kind("id"), kind("ts"), kind("attributes")),
            ("binary".into(), "timestamp".into(), "string".into())
        );
        assert_eq!((kind("date"), kind("hour"), kind("path")), ("date".into(), "long".into(), "string".into()));
        assert_eq!(layout.partition_columns, ["date", "hour", "path"]);
        assert_eq!(layout.fields.len(), first + kinds.len() + 1 + 2, "path is only a folder");
        assert_eq!(kind_of_text(&layout.schema_string()), "struct");
    }

    fn kind_of_text(schema: &str) -> String {
        serde_json::from_str::<Value>(schema).unwrap()["type"].as_str().unwrap().to_owned()
    }

    #[test]
    fn a_table_of_windows_says_which() {
        let least = Kind::Windows.least_columns();
        let table = Table::plain(Kind::Windows, "windows/name=w".to_owned(), least, "window_start", &[], &[]);
        // There it is a folder, and no column of the files.
        assert!(Layout::of(&table).unwrap_err().contains("\"name\" is there twice"));
        let columns = table.arrow.project(&[1, 2, 3, 4]).unwrap();
        let table = Table::plain(Kind::Windows, "windows/name=w".to_owned(), columns.into(), "window_start", &[], &[]);
        assert_eq!(Layout::of(&table).unwrap().partition_columns, ["name", "date"]);
    }

    #[test]
    fn what_has_no_type_there_is_refused() {
        for kind in [DataType::UInt64, DataType::Timestamp(TimeUnit::Microsecond, None), DataType::Null] {
            let field = arrow::datatypes::Field::new("x", kind, true);
            let error = columns(&Schema::new(vec![field])).unwrap_err();
            assert!(error.contains("column x"), "{error}");
        }
    }

    #[test]
    fn columns_are_added_and_never_changed() {
        let known = layout(&schema(), &["date"]).unwrap();
        let log = metadata(&known.schema_string(), &["date"]);
        assert_eq!(known.missing_in(&log), Ok(None));
        let mut columns = schema().columns;
        columns.push(Column::new("more", ColumnType::Float));
        let newer = layout(&OurSchema::new("test", 4, columns.clone()), &["date"]).unwrap();
        let wider = newer.missing_in(&log).unwrap().unwrap();
        assert!(wider.contains(r#""name":"more","type":"double""#), "{wider}");
        assert_eq!(known.missing_in(&metadata(&wider, &["date"])), Ok(None), "an older daemon goes on with it");
        columns.last_mut().unwrap().kind = ColumnType::Text;
        let other = layout(&OurSchema::new("test", 5, columns), &["date"]).unwrap();
        let error = other.missing_in(&metadata(&wider, &["date"])).unwrap_err();
        assert_eq!(error, r#"its column more is of type "double", and this pipeline's of type "string""#);
        let error = known.missing_in(&metadata(&wider, &["date", "hour"])).unwrap_err();
        assert_eq!(error, "it is partitioned by [date, hour], and this pipeline partitions by [date]");
    }

    #[test]
    fn rules_that_others_have_made_are_kept() {
        let mut log = metadata(&layout(&schema(), &["date"]).unwrap().schema_string(), &["date"]);
        assert_eq!(forbids(&log, true), Ok(()));
        log.configuration.insert("delta.appendOnly".to_owned(), "true".to_owned());
        assert_eq!(forbids(&log, false), Ok(()));
        assert!(forbids(&log, true).unwrap_err().contains("appendOnly"));
        log.schema_string =
            log.schema_string.replacen("\"metadata\":{}", "\"metadata\":{\"delta.invariants\":\"x\"}", 1);
        assert!(forbids(&log, false).unwrap_err().contains("column ts"));
    }
}
