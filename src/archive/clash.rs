//! Whether a pipeline's columns go with those that the archive has: of one name they have one type for ever, but that an int may become
//! a float; and versions of a schema only go up.

use super::chain::Keys;
use super::check::location_of;
use super::columns::{self, FileColumns};
use super::inspect::Parquet;
use super::partition;
use super::rewrite::wider;
use super::staging::StagedFile;
use super::store::Store;
use super::table::{Kind, Table};
use super::upkeep::store_with;
use super::{ArchiveError, Config, catalogue::Catalogue, check::Location};
use crate::place::Problem;
use crate::record::sample::WindowSchema;
use crate::record::schema::Schema;
use arrow::datatypes::{DataType, Field, SchemaRef};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Files of one writer and folder that are looked at: the oldest, the newest, and some between.
const LOOKED_AT: usize = 8;

/// How columns go with those that the archive has.
#[derive(Debug, Default)]
pub struct Compared {
    /// What would make the archive unreadable.
    pub refused: Vec<Problem>,
    /// What is probably not meant.
    pub noted: Vec<Problem>,
}

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

/// What files of the archive say.
#[derive(Debug, Default)]
struct Found {
    /// The first of each folder's column.
    clashes: BTreeMap<(String, String), Clash>,
    /// The greatest version of each schema, and a file that says so.
    versions: BTreeMap<String, (u32, String)>,
}

impl Config {
    /// Whether the archive is a local folder, so that looking into it asks nobody.
    pub fn is_local(&self) -> bool {
        matches!(self.location(), Ok(Location::Folder(_)))
    }

    /// Columns of these events and windows that the archive has with types that don't go with theirs, of whichever pipeline; and whether it has a
    /// newer version of the schema. Reads the footers of a few files.
    ///
    /// # Errors
    /// When the archive cannot be read. That there is none yet is no error.
    pub fn compare(&self, schema: &Schema, windows: &[WindowSchema]) -> Result<Compared, ArchiveError> {
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
            let hint = match (now.as_str(), there.as_str()) {
                ("int", "float") => {
                    "a float doesn't become an int again: make it float, or give it another name".to_owned()
                }
                ("float", "int") => {
                    "types of a Delta table never change: give it another name, or make it int again".to_owned()
                }
                _ => format!(
                    "a column's type never changes, but from int to float: give it another name, or make it {there} again"
                ),
            };
            self.url.problem(text).hint(hint)
        };
        // No Delta reader takes an int for a float.
        let found = look(store.as_ref(), &wanted, !self.is_delta())?;
        let newer = found.versions.get(&schema.name).filter(|(version, _)| *version > schema.version);
        let noted = newer.map(|(version, file)| {
            let text = format!(
                "the archive has rows of version {version} of schema {}, as in {}, and this is version {}",
                schema.name,
                store.show(file),
                schema.version
            );
            self.url.problem(text).hint("an older schema may lack columns: go back only if that is meant")
        });
        Ok(Compared { refused: found.clashes.into_values().map(problem).collect(), noted: noted.into_iter().collect() })
    }
}

fn window_folder(name: &str) -> String {
    format!("{}/{}", Kind::Windows.as_str(), partition::level("name", Some(name)))
}

/// What files in these folders say, compared with the columns that are wanted there.
fn look(store: &dyn Store, wanted: &BTreeMap<String, SchemaRef>, widens: bool) -> Result<Found, ArchiveError> {
    let mut found = Found::default();
    for home in store.list("_headrig")?.into_iter().filter(|name| !name.starts_with('.')) {
        let files = Catalogue::read(store, &Keys::of_home(&home))?.files;
        for (folder, schema) in wanted {
            let prefix = format!("{folder}/");
            let here = files.values().filter(|file| file.path.starts_with(&prefix) && file.cold.is_none());
            let mut here: Vec<&StagedFile> = here.filter(|file| file.is_parquet() || file.columns.is_some()).collect();
            here.sort_by_key(|file| (file.sealed_us, file.seal_number()));
            for file in spread(&here) {
                let Some((there, notes)) = said(store, file)? else { continue };
                found.take(folder, file, differing(schema, &there, widens), &notes);
            }
        }
    }
    Ok(found)
}

impl Found {
    fn take(
        &mut self,
        folder: &str,
        file: &StagedFile,
        differing: Vec<(String, String, String)>,
        notes: &BTreeMap<String, String>,
    ) {
        for (column, now, there) in differing {
            let clash = Clash { folder: folder.to_owned(), column, now, there, file: file.path.clone() };
            self.clashes.entry((folder.to_owned(), clash.column.clone())).or_insert(clash);
        }
        let version = notes.get(columns::SCHEMA_VERSION).and_then(|version| version.parse().ok());
        let Some((schema, version)) = notes.get(columns::SCHEMA).zip(version) else { return };
        if self.versions.get(schema).is_none_or(|(known, _)| *known < version) {
            self.versions.insert(schema.clone(), (version, file.path.clone()));
        }
    }
}

/// Columns, and notes by name.
type Said = (SchemaRef, BTreeMap<String, String>);

/// A file's columns, and what it says of its schema; `None` where it was replaced or has expired since, and says nothing any more.
fn said(store: &dyn Store, file: &StagedFile) -> Result<Option<Said>, ArchiveError> {
    if let Some(key) = &file.columns {
        let columns = store.read(key)?.and_then(|text| FileColumns::parse(key, &text));
        return Ok(columns.map(|columns| (columns.arrow(), columns.notes().clone())));
    }
    let Some(bytes) = store.size(&file.path)? else { return Ok(None) };
    let parquet = Parquet::open(store, &file.path, bytes)?;
    Ok(Some((Arc::clone(parquet.schema()), parquet.notes())))
}

/// The first, the last, and some between them, at equal distances.
fn spread<'f>(files: &[&'f StagedFile]) -> Vec<&'f StagedFile> {
    let last = files.len().saturating_sub(1);
    let steps = (LOOKED_AT - 1).min(last.max(1));
    let chosen: BTreeSet<usize> = (0..=steps).map(|step| last * step / steps).collect();
    chosen.into_iter().filter_map(|index| files.get(index).copied()).collect()
}

/// Columns that both have, with types that don't go together: name, type now, type there. With `widens`, one that takes what is
/// there does.
fn differing(now: &SchemaRef, there: &SchemaRef, widens: bool) -> Vec<(String, String, String)> {
    let clash = |field: &Arc<Field>| {
        let (now, there) = (field.data_type(), there.field_with_name(field.name()).ok()?.data_type());
        let takes = now == there || (widens && wider(now, there).is_some_and(|wider| wider == *now));
        (!takes).then(|| (field.name().clone(), called(now), called(there)))
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
    use super::super::{Archive, FileFormat};
    use super::*;
    use crate::record::schema::{BUILT_IN, Column, ColumnType};
    use crate::time::EventTime;
    use std::num::NonZeroU8;

    fn check(root: &std::path::Path, own: &[(&str, ColumnType)], windows: &[WindowSchema]) -> Vec<String> {
        let columns = BUILT_IN.iter().chain(own).map(|(name, kind)| Column {
            hex_bytes: NonZeroU8::new(8).filter(|_| *name == "trace"),
            ..Column::new(*name, *kind)
        });
        let schema = Schema::new("test", 4, columns.collect());
        let problems = plan(root, &["date"]).config.compare(&schema, windows).unwrap().refused;
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
              (a column's type never changes, but from int to float: give it another name, or make it int again)"
            ]
        );
        let float = [("path", ColumnType::Text), ("status", ColumnType::Float)];
        assert_eq!(check(root.path(), &float, &[]), Vec::<String>::new(), "an int may become a float");
        let hex = check(root.path(), &[("trace", ColumnType::Text)], &[]);
        assert!(
            hex.len() == 1 && hex[0].contains("column trace of data as hex of 8 bytes, the archive has it as text"),
            "{hex:?}"
        );
    }

    /// A seal with `status` as a float in an archive of this format, and what is said of an int then, and of older versions.
    fn narrowed(format: FileFormat) -> Compared {
        let root = tempfile::tempdir().unwrap();
        let columns = BUILT_IN.iter().chain(&[("status", ColumnType::Float)]);
        let columns: Vec<Column> = columns.map(|(name, kind)| Column::new(*name, *kind)).collect();
        let mut wide = plan(root.path(), &["date"]);
        wide.config.format = format;
        wide.schema = Arc::new(Schema::new("test", 7, columns));
        let (mut archive, _) = Archive::open(wide.clone(), EventTime::from_micros(0)).unwrap();
        let rows = events(0, 9);
        let column = |field: &Arc<Field>| match field.name().as_str() {
            "status" => arrow::compute::cast(rows.column_by_name("status").unwrap(), field.data_type()).unwrap(),
            name => Arc::clone(rows.column_by_name(name).unwrap()),
        };
        let columns = wide.schema.arrow.fields().iter().map(column).collect();
        let rows = arrow::array::RecordBatch::try_new(Arc::clone(&wide.schema.arrow), columns).unwrap();
        archive.write_events(&rows).unwrap();
        archive.seal(&sealing(9)).unwrap();
        drop(archive);
        assert!(wide.config.compare(&wide.schema, &[]).unwrap().noted.is_empty(), "it is the same version");
        let own = plan(root.path(), &["date"]);
        assert_eq!((&*own.schema.name, own.schema.version), ("test", 3));
        own.config.compare(&own.schema, &[]).unwrap()
    }

    #[test]
    fn a_float_stays_one_and_versions_go_up_in_either_format() {
        for format in [FileFormat::Parquet, FileFormat::Jsonl] {
            let Compared { refused, noted } = narrowed(format);
            let ([refused], [noted]) = (&refused[..], &noted[..]) else { panic!("{refused:?} {noted:?}") };
            assert!(
                refused.message.starts_with("cannot write column status of data as int, the archive has it as float")
            );
            assert_eq!(
                refused.hint.as_deref(),
                Some("a float doesn't become an int again: make it float, or give it another name")
            );
            assert!(
                noted.message.starts_with("the archive has rows of version 7 of schema test, as in ")
                    && noted.message.ends_with(", and this is version 3"),
                "{noted:?}"
            );
        }
    }

    #[test]
    fn windows_are_compared_with_windows_of_their_name() {
        let there = Arc::new(arrow::datatypes::Schema::new(vec![Field::new("n", DataType::Int64, false)]));
        let now = Arc::new(arrow::datatypes::Schema::new(vec![
            Field::new("n", DataType::Float64, true),
            Field::new("m", DataType::Float64, true),
        ]));
        assert_eq!(differing(&now, &there, false), [("n".to_owned(), "float".to_owned(), "int".to_owned())]);
        assert_eq!(differing(&now, &there, true), []);
        assert_eq!(differing(&there, &now, true), [("n".to_owned(), "int".to_owned(), "float".to_owned())]);
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
