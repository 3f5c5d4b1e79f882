//! A table's files, and what is known of them before they are read: folders' values, and what seals say of rows and times.

use super::columns::Footers;
use crate::archive::{DEPRECATED, FileColumns, Kind, LiveFile, SCHEMA, SCHEMA_VERSION, SealedRows};
use datafusion::arrow::array::{Array, ArrayRef, UInt64Array};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, SchemaRef};
use datafusion::common::pruning::PruningStatistics;
use datafusion::common::stats::Precision;
use datafusion::common::{Column, ColumnStatistics, Result, ScalarValue, Statistics};
use object_store::ObjectMeta;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

/// A file of a table.
#[derive(Debug, Clone)]
pub(super) struct TableFile {
    pub(super) meta: ObjectMeta,
    pub(super) sealed: Option<SealedRows>,
    /// Values of the folders, of the columns' types.
    pub(super) partition: BTreeMap<String, ScalarValue>,
    /// Of JSON Lines, their columns; `None` of Parquet.
    pub(super) lines: Option<Arc<FileColumns>>,
}

/// A file that is read, and which of its row groups; all of them when `None`.
#[derive(Debug)]
pub(super) struct Chosen<'t> {
    pub(super) file: &'t TableFile,
    pub(super) groups: Option<Vec<bool>>,
}

/// The values of a file's folders, with the types of their columns.
pub(super) async fn partition(
    file: &LiveFile,
    meta: &ObjectMeta,
    footers: &Footers,
) -> Result<BTreeMap<String, ScalarValue>> {
    let mut values: BTreeMap<String, Option<String>> = file.partition.iter().cloned().collect();
    if !file.is_lines() && values.values().flatten().any(|value| crate::archive::is_cut(value)) {
        let footer = footers.read(meta).await?;
        let noted = footer.file_metadata().key_value_metadata().into_iter().flatten();
        let whole = noted.filter(|entry| entry.key == "headrig.partition").find_map(|entry| entry.value.as_deref());
        let whole: BTreeMap<String, Option<String>> =
            whole.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        for (name, value) in &mut values {
            if let Some(whole) = whole.get(name) {
                value.clone_from(whole);
            }
        }
    }
    let typed = |(name, value): (String, Option<String>)| {
        let text = ScalarValue::Utf8View(value);
        let kind = match name.as_str() {
            "date" => DataType::Date32,
            "hour" => DataType::Int64,
            _ => DataType::Utf8View,
        };
        let value = text.cast_to(&kind).unwrap_or_else(|_| ScalarValue::try_from(&kind).unwrap_or(ScalarValue::Null));
        (name, value)
    };
    Ok(values.into_iter().map(typed).collect())
}

/// Columns of these files that nobody should use any more, and what is used instead: as the newest version of each schema says, by what `footers`
/// and seals say of each file.
pub(super) async fn deprecated(footers: &Footers, files: &[TableFile]) -> Result<BTreeMap<String, Option<String>>> {
    let mut newest: BTreeMap<String, (u32, String)> = BTreeMap::new();
    for file in files {
        let (schema, version, deprecated) = match &file.lines {
            Some(columns) => {
                let note = |key| columns.note(key).map(str::to_owned);
                (note(SCHEMA), note(SCHEMA_VERSION), note(DEPRECATED))
            }
            None => {
                let footer = footers.read(&file.meta).await?;
                let noted = footer.file_metadata().key_value_metadata();
                let note = |key| noted?.iter().find(|entry| entry.key == key)?.value.clone();
                (note(SCHEMA), note(SCHEMA_VERSION), note(DEPRECATED))
            }
        };
        let Some((schema, version)) = schema.zip(version.and_then(|version| version.parse().ok())) else { continue };
        if newest.get(&schema).is_none_or(|(known, _)| *known <= version) {
            newest.insert(schema, (version, deprecated.unwrap_or_default()));
        }
    }
    // What cannot be read says nothing.
    let said = |(_, text): (u32, String)| serde_json::from_str::<BTreeMap<String, Option<String>>>(&text).ok();
    Ok(newest.into_values().filter_map(said).flatten().collect())
}

/// The values of a folders' column, one a file; null where a file has none.
pub(super) fn values(files: &[&TableFile], field: &Field) -> Result<ArrayRef> {
    let null = ScalarValue::try_from(field.data_type())?;
    ScalarValue::iter_to_array(files.iter().map(|file| file.partition.get(field.name()).unwrap_or(&null).clone()))
}

/// The column that a seal's least and greatest time are of.
const fn time_column(kind: Kind) -> &'static str {
    match kind {
        Kind::Data | Kind::Dead => "ts",
        Kind::Windows => "window_start",
        Kind::Alerts => "window_end",
    }
}

fn stamp(micros: i64) -> ScalarValue {
    ScalarValue::TimestampMicrosecond(Some(micros), Some("UTC".into()))
}

/// What all these seals say together; `None` when one says nothing.
pub(super) fn sum(files: &[Chosen<'_>]) -> Option<SealedRows> {
    let add = |sum: SealedRows, rows: SealedRows| SealedRows {
        rows: sum.rows + rows.rows,
        min_us: sum.min_us.min(rows.min_us),
        max_us: sum.max_us.max(rows.max_us),
    };
    let all: Option<Vec<SealedRows>> = files.iter().map(|chosen| chosen.file.sealed).collect();
    all?.into_iter().reduce(add)
}

/// What is known of rows without looking into files.
pub(super) fn statistics(
    kind: Kind,
    of_files: &[FieldRef],
    of_folders: &[FieldRef],
    rows: Option<SealedRows>,
) -> Statistics {
    let column = |field: &FieldRef| match rows {
        Some(rows) if field.name() == time_column(kind) && matches!(field.data_type(), DataType::Timestamp(..)) => {
            let (min_value, max_value) = (Precision::Exact(stamp(rows.min_us)), Precision::Exact(stamp(rows.max_us)));
            ColumnStatistics {
                null_count: Precision::Exact(0),
                min_value,
                max_value,
                ..ColumnStatistics::new_unknown()
            }
        }
        _ => ColumnStatistics::new_unknown(),
    };
    Statistics {
        num_rows: rows.map_or(Precision::Absent, |rows| Precision::Exact(rows.rows as usize)),
        total_byte_size: Precision::Absent,
        column_statistics: of_files.iter().chain(of_folders).map(column).collect(),
    }
}

/// What is known of files before they are read, for skipping whole ones.
pub(super) struct Known<'t> {
    pub(super) kind: Kind,
    pub(super) schema: &'t SchemaRef,
    pub(super) files: &'t [&'t TableFile],
    /// Whether times are looked at, or folders.
    pub(super) of_time: bool,
}

impl Known<'_> {
    fn bounds(&self, column: &Column, of_seal: fn(SealedRows) -> i64) -> Option<ArrayRef> {
        let field = self.schema.field_with_name(&column.name).ok()?;
        if !self.of_time {
            let any = self.files.iter().any(|file| file.partition.contains_key(field.name()));
            return any.then(|| values(self.files, field).ok()).flatten();
        }
        let null = ScalarValue::TimestampMicrosecond(None, Some("UTC".into()));
        let bound = |file: &&TableFile| file.sealed.map_or(null.clone(), |rows| stamp(of_seal(rows)));
        let is_time = field.name() == time_column(self.kind) && *field.data_type() == null.data_type();
        is_time.then(|| ScalarValue::iter_to_array(self.files.iter().map(bound)).ok()).flatten()
    }
}

impl PruningStatistics for Known<'_> {
    fn min_values(&self, column: &Column) -> Option<ArrayRef> {
        self.bounds(column, |rows| rows.min_us)
    }

    fn max_values(&self, column: &Column) -> Option<ArrayRef> {
        self.bounds(column, |rows| rows.max_us)
    }

    fn num_containers(&self) -> usize {
        self.files.len()
    }

    fn null_counts(&self, column: &Column) -> Option<ArrayRef> {
        let values = self.bounds(column, |rows| rows.min_us).filter(|_| !self.of_time)?;
        // All rows of a file have a folder's value, so all are null, or none.
        let rows = |file: &TableFile| file.sealed.map_or(1, |rows| rows.rows);
        let count = |(number, file): (usize, &&TableFile)| match file.partition.contains_key(&column.name) {
            true => Some(if values.is_null(number) { rows(file) } else { 0 }),
            false => None,
        };
        Some(Arc::new(self.files.iter().enumerate().map(count).collect::<UInt64Array>()))
    }

    fn row_counts(&self) -> Option<ArrayRef> {
        let rows = |file: &&TableFile| Some(file.sealed.map_or(1, |rows| rows.rows));
        (!self.of_time).then(|| Arc::new(self.files.iter().map(rows).collect::<UInt64Array>()) as ArrayRef)
    }

    fn contained(&self, _: &Column, _: &HashSet<ScalarValue>) -> Option<datafusion::arrow::array::BooleanArray> {
        None
    }
}
