//! Whether a pipeline's columns go with those that the archive has: one name has one type for ever.

use super::chain::Keys;
use super::check::location_of;
use super::inspect::Parquet;
use super::partition;
use super::staging::StagedFile;
use super::store::Store;
use super::table::{Kind, Table};
use super::upkeep::store_with;
use super::{ArchiveError, Config, catalogue::Catalogue, check::Location};
use crate::place::Problem;
use crate::record::sample::WindowSchema;
use crate::record::schema::Schema;
use arrow::datatypes::{DataType, SchemaRef};
use std::collections::{BTreeMap, BTreeSet};

/// Files of one writer and folder that are looked at: the oldest, the newest, and some between.
const LOOKED_AT: usize = 8;

/// A column that would have two types.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Clash {
    /// `data`, or `windows/name=route_5m`.
    folder: String,
    column: String,
    now: String,
    there: String,
    file: String,
}

impl Config {
    /// Whether the archive is a local folder, so that looking into it asks nobody.
    pub fn is_local(&self) -> bool {
        matches!(self.location(), Ok(Location::Folder(_)))
    }

    /// Columns of these events and windows that the archive has with other types, of whichever pipeline. Reads the footers of a few files.
    ///
    /// # Errors
    /// When the archive cannot be read. That there is none yet is no error.
    pub fn clashes(&self, schema: &Schema, windows: &[WindowSchema]) -> Result<Vec<Problem>, ArchiveError> {
        let mut wanted = BTreeMap::new();
        let levels: Vec<String> = self.partition_by.iter().map(|level| level.value.clone()).collect();
        wanted.insert(Kind::Data.as_str().to_owned(), Table::data(schema, &levels, &[]).arrow);
        for window in windows {
            wanted.insert(window_folder(&window.window), SchemaRef::clone(&window.arrow));
        }
        location_of(&self.url.value)?;
        let store = store_with(&self.url.value, self.settings())?;
        let problem = |Clash { folder, column, now, there, file }: Clash| {
            let text = format!(
                "cannot write column {column} of {folder} as {now}, the archive has it as {there}, as in {}",
                store.show(&file)
            );
            let hint = format!("a column's type never changes: give it another name, or make it {there} again");
            self.url.problem(text).hint(hint)
        };
        Ok(clashes(store.as_ref(), &wanted)?.into_iter().map(problem).collect())
    }
}

fn window_folder(name: &str) -> String {
    format!("{}/{}", Kind::Windows.as_str(), partition::level("name", Some(name)))
}

/// Columns of these folders that files there have with other types.
fn clashes(store: &dyn Store, wanted: &BTreeMap<String, SchemaRef>) -> Result<Vec<Clash>, ArchiveError> {
    let mut found: BTreeMap<(String, String), Clash> = BTreeMap::new();
    for home in store.list("_headrig")?.into_iter().filter(|name| !name.starts_with('.')) {
        let files = Catalogue::read(store, &Keys::of_home(&home))?.files;
        for (folder, schema) in wanted {
            let prefix = format!("{folder}/");
            let here = files.values().filter(|file| file.path.starts_with(&prefix));
            let mut here: Vec<&StagedFile> = here.filter(|file| file.is_parquet() && file.cold.is_none()).collect();
            here.sort_by_key(|file| (file.sealed_us, file.seal_number()));
            for file in spread(&here) {
                // One that was replaced or has expired since says nothing any more.
                let Some(bytes) = store.size(&file.path)? else { continue };
                let parquet = Parquet::open(store, &file.path, bytes)?;
                for (column, now, there) in differing(schema, parquet.schema()) {
                    let clash = Clash { folder: folder.clone(), column, now, there, file: file.path.clone() };
                    found.entry((folder.clone(), clash.column.clone())).or_insert(clash);
                }
            }
        }
    }
    Ok(found.into_values().collect())
}

/// The first, the last, and some between them, at equal distances.
fn spread<'f>(files: &[&'f StagedFile]) -> Vec<&'f StagedFile> {
    let last = files.len().saturating_sub(1);
    let steps = (LOOKED_AT - 1).min(last.max(1));
    let chosen: BTreeSet<usize> = (0..=steps).map(|step| last * step / steps).collect();
    chosen.into_iter().filter_map(|index| files.get(index).copied()).collect()
}

/// Columns that both have, with different types: name, type now, type there.
fn differing(now: &SchemaRef, there: &SchemaRef) -> Vec<(String, String, String)> {
    let clash = |field: &std::sync::Arc<arrow::datatypes::Field>| {
        let (now, there) = (field.data_type(), there.field_with_name(field.name()).ok()?.data_type());
        (now != there).then(|| (field.name().clone(), called(now), called(there)))
    };
    now.fields().iter().filter_map(clash).collect()
}

/// What a schema file calls a type.
fn called(kind: &DataType) -> String {
    match kind {
        DataType::Timestamp(..) => "timestamp".to_owned(),
        DataType::Int64 => "int".to_owned(),
        DataType::Float64 => "float".to_owned(),
        DataType::Boolean => "bool".to_owned(),
        DataType::Utf8 => "text".to_owned(),
        DataType::Binary => "bytes".to_owned(),
        DataType::FixedSizeBinary(bytes) => format!("hex of {bytes} bytes"),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::compact::tests::file;
    use super::super::table::tests::schema;
    use super::super::tests::{events, open, plan, sealing};
    use super::*;
    use crate::record::schema::{BUILT_IN, Column, ColumnType};
    use arrow::datatypes::Field;
    use std::num::NonZeroU8;
    use std::sync::Arc;

    fn check(root: &std::path::Path, own: &[(&str, ColumnType)], windows: &[WindowSchema]) -> Vec<String> {
        let columns = BUILT_IN.iter().chain(own).map(|(name, kind)| Column {
            hex_bytes: NonZeroU8::new(8).filter(|_| *name == "trace"),
            ..Column::new(*name, *kind)
        });
        let schema = Schema::new("test", 4, columns.collect());
        let problems = plan(root, &["date"]).config.clashes(&schema, windows).unwrap();
        let root = format!("{}/", root.display());
        problems
            .into_iter()
            .map(|found| format!("{} ({})", found.message, found.hint.unwrap()).replace(&root, ""))
            .collect()
    }

    #[test]
    fn a_name_keeps_its_type() {
        let root = tempfile::tempdir().unwrap();
        let own = [("path", ColumnType::Text), ("status", ColumnType::Text), ("new", ColumnType::Bool)];
        assert_eq!(check(root.path(), &own, &[]), Vec::<String>::new(), "there is no archive yet");
        let (mut archive, _) = open(root.path());
        archive.write_events(&events(0, 9)).unwrap();
        archive.seal(&sealing(9)).unwrap();
        let sound = [("path", ColumnType::Text), ("status", ColumnType::Int), ("new", ColumnType::Bool)];
        assert_eq!(check(root.path(), &sound, &[]), Vec::<String>::new());
        assert_eq!(
            check(root.path(), &own, &[]),
            [
                "cannot write column status of data as text, the archive has it as int, as in data/date=2026-05-06/auto-000000000001-0.parquet \
              (a column's type never changes: give it another name, or make it int again)"
            ]
        );
        let hex = check(root.path(), &[("trace", ColumnType::Text)], &[]);
        assert!(
            hex.len() == 1 && hex[0].contains("column trace of data as hex of 8 bytes, the archive has it as text"),
            "{hex:?}"
        );
    }

    #[test]
    fn windows_are_compared_with_windows_of_their_name() {
        let there = Arc::new(arrow::datatypes::Schema::new(vec![Field::new("n", DataType::Int64, false)]));
        let now = Arc::new(arrow::datatypes::Schema::new(vec![
            Field::new("n", DataType::Float64, true),
            Field::new("m", DataType::Float64, true),
        ]));
        assert_eq!(differing(&now, &there), [("n".to_owned(), "float".to_owned(), "int".to_owned())]);
        assert_eq!(window_folder("route/5m"), "windows/name=route%2F5m");
        assert_eq!(schema().columns.len(), 15);
    }

    #[test]
    fn files_are_looked_at_from_the_first_to_the_last() {
        let files: Vec<StagedFile> = (0..100).map(|number| file(&format!("data/{number}.parquet"), 1, 0)).collect();
        let chosen = |count: usize| -> Vec<String> {
            let files: Vec<&StagedFile> = files.iter().take(count).collect();
            spread(&files).iter().map(|file| file.path.clone()).collect()
        };
        assert_eq!(chosen(0), Vec::<String>::new());
        assert_eq!(chosen(1), ["data/0.parquet"]);
        assert_eq!(chosen(2), ["data/0.parquet", "data/1.parquet"]);
        let many = chosen(100);
        assert_eq!((many.len(), many[0].as_str(), many[7].as_str()), (8, "data/0.parquet", "data/99.parquet"));
    }
}
