//! Rows of several files put into one, in order, in as much memory as is given.
//!
//! Files are read one row group at a time. What fits in memory is sorted there; else sorted runs go to the scratch folder
//! and are merged, at most [`limits::MERGE_RUNS`] at once. The written file is read back before anybody hears of it: its
//! rows come to the same digest as those that were read, or it is thrown away.

use super::ArchiveError;
use super::columns;
use super::crew::Crew;
use super::digest::Digest;
use super::encode::Encoder;
use super::inspect::{Parquet, time_column};
use super::patience::PatientFile;
use super::runs::Sorter;
use super::staging::StagedFile;
use super::store::Store;
use super::table::{Kind, Rewritten, Table};
use arrow::array::{AsArray, RecordBatch, new_null_array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, SchemaRef, TimestampMicrosecondType};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::Type;
use parquet::file::metadata::{ColumnChunkMetaData, KeyValue};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What rewriting goes by.
pub(super) struct Rewriting<'r> {
    pub(super) store: &'r dyn Store,
    /// Local folder for runs.
    pub(super) scratch: &'r Path,
    pub(super) crew: &'r Crew,
    pub(super) memory_bytes: u64,
    pub(super) zstd_level: i32,
    /// Asked between batches; when it says no, all is given up.
    pub(super) goes_on: &'r dyn Fn() -> bool,
}

/// A file that was written.
pub(super) struct Written {
    pub(super) rows: u64,
    pub(super) bytes: u64,
    pub(super) min_us: i64,
    pub(super) max_us: i64,
    pub(super) digest: Digest,
    /// Of each file that was read, in order, its rows with the types that they have now.
    pub(super) read: Vec<Digest>,
}

impl Rewriting<'_> {
    /// Writes the rows of `files`, which are of one table and folder, to the new file `path`. `footer` goes into it.
    pub(super) fn write(
        &self,
        files: &[StagedFile],
        path: &Path,
        footer: &[(&str, String)],
    ) -> Result<Written, ArchiveError> {
        let inputs = files
            .iter()
            .map(|file| Parquet::open(self.store, &file.path, file.bytes))
            .collect::<Result<Vec<_>, _>>()?;
        let kind = files.first().map_or(Kind::Data, |file| file.kind);
        let table = self.table(kind, &inputs, path, footer)?;
        let mut sorter = Sorter::new(&table.arrow, table.order.clone(), self.scratch, self.memory_bytes)?;
        let (mut read, mut rows) = (Vec::new(), 0);
        let (mut min_us, mut max_us) = (i64::MAX, i64::MIN);
        for (input, file) in inputs.iter().zip(files) {
            let (mut digest, mut becomes, mut found) = (Digest::default(), Digest::default(), 0);
            // A file whose columns keep their types keeps its digest.
            let widens = widens(input.schema(), &table.arrow);
            input.read(|batch| {
                if !(self.goes_on)() {
                    return Err(ArchiveError::Stopped);
                }
                digest.add(&batch);
                found += batch.num_rows() as u64;
                let batch = conform(&batch, &table.arrow)?;
                if widens {
                    becomes.add(&batch);
                }
                let stamps = batch.column(table.time).as_primitive::<TimestampMicrosecondType>();
                min_us = stamps.values().iter().copied().fold(min_us, i64::min);
                max_us = stamps.values().iter().copied().fold(max_us, i64::max);
                sorter.push(batch)
            })?;
            let shown = || PathBuf::from(self.store.show(&file.path));
            if found != file.rows {
                let detail = format!("it has {found} rows, {} were sealed", file.rows);
                return Err(ArchiveError::Rewrite { path: shown(), detail });
            }
            let known = file.digest.as_deref().and_then(Digest::parse);
            if known.is_some_and(|known| known != digest) {
                let detail = "its rows are not those that were put into it".to_owned();
                return Err(ArchiveError::Rewrite { path: shown(), detail });
            }
            rows += found;
            read.push(if widens { becomes } else { digest });
        }
        let bytes = self.encode(&table, path, sorter)?;
        let digest = read_back(path)?;
        if digest != read.iter().fold(Digest::default(), |sum, one| sum.plus(*one)) {
            let detail = "what was written is not what was read".to_owned();
            return Err(ArchiveError::Rewrite { path: path.to_owned(), detail });
        }
        Ok(Written { rows, bytes, min_us, max_us, digest, read })
    }

    /// Writes sorted rows; returns the file's length in bytes.
    fn encode(&self, table: &Table, path: &Path, sorter: Sorter<'_>) -> Result<u64, ArchiveError> {
        let created = OpenOptions::new().write(true).create(true).truncate(true).open(path);
        let file = created.map_err(ArchiveError::io("write", path))?;
        // A full disk ends this round; the next one begins anew.
        let file = PatientFile { file, path: path.to_owned(), patience: Arc::default() };
        let mut encoder = Encoder::begin(file, path.to_owned(), table);
        sorter.sorted(&mut |rows| {
            if !(self.goes_on)() {
                return Err(ArchiveError::Stopped);
            }
            encoder.push(rows);
            if encoder.is_due() {
                encoder.encode(self.crew)?;
            }
            if encoder.memory_bytes() as u64 > self.memory_bytes {
                encoder.relieve(self.crew)?;
            }
            Ok(())
        })?;
        let file = encoder.finish(self.crew)?;
        let synced = file.sync_all().and_then(|()| file.metadata());
        Ok(synced.map_err(ArchiveError::io("sync", path))?.len())
    }

    /// How the new file is laid out: all columns that one of the old ones has, encoded as they were there.
    fn table(
        &self,
        kind: Kind,
        inputs: &[Parquet<'_>],
        path: &Path,
        footer: &[(&str, String)],
    ) -> Result<Table, ArchiveError> {
        let mut columns: Vec<Rewritten> = Vec::new();
        let mut seen: BTreeMap<String, usize> = BTreeMap::new();
        // Those that were written last know best in which order columns come.
        for input in inputs.iter().rev() {
            for (index, field) in input.schema().fields().iter().enumerate() {
                let here = described(input, index, field);
                let Some(at) = seen.get(field.name()) else {
                    seen.insert(field.name().clone(), columns.len());
                    columns.push(here);
                    continue;
                };
                let known = &mut columns[*at];
                let Some(kind) = wider(known.field.data_type(), field.data_type()) else {
                    let types = format!("{} and {}", known.field.data_type(), field.data_type());
                    let detail = format!("column {} has the types {types}", field.name());
                    return Err(ArchiveError::Rewrite { path: path.to_owned(), detail });
                };
                known.field = Arc::new(known.field.as_ref().clone().with_data_type(kind));
                known.bloom |= here.bloom;
                known.dictionary |= here.dictionary;
                known.texts = (known.texts.0 + here.texts.0, known.texts.1 + here.texts.1);
                if field.is_nullable() {
                    known.field = Arc::new(known.field.as_ref().clone().with_nullable(true));
                }
            }
        }
        for column in &mut columns {
            let everywhere = inputs.iter().all(|input| input.schema().index_of(column.field.name()).is_ok());
            if !everywhere {
                column.field = Arc::new(column.field.as_ref().clone().with_nullable(true));
            }
        }
        let time = columns.iter().position(|column| {
            column.field.name() == time_column(kind) && matches!(column.field.data_type(), DataType::Timestamp(..))
        });
        let Some(time) = time else {
            let detail = format!("there is no time {}", time_column(kind));
            return Err(ArchiveError::Rewrite { path: path.to_owned(), detail });
        };
        let mut notes = carried(inputs);
        notes.extend(footer.iter().map(|(key, value)| KeyValue::new((*key).to_owned(), value.clone())));
        Ok(Table::rewritten(kind, &columns, time, self.zstd_level, &notes))
    }
}

/// How a column is encoded in a file, which its first row group tells.
fn described(input: &Parquet<'_>, index: usize, field: &Arc<Field>) -> Rewritten {
    let groups = input.metadata.row_groups();
    let column = groups.first().and_then(|group| group.columns().get(index));
    Rewritten {
        field: Arc::clone(field),
        bloom: column.is_some_and(|column| column.bloom_filter_offset().is_some()),
        dictionary: column.is_some_and(|column| column.dictionary_page_offset().is_some()),
        texts: column.filter(|column| is_text(column)).map_or((0, 0), |c| (c.compressed_size(), c.uncompressed_size())),
    }
}

/// Whether a column has texts or bytes that are in no dictionary.
fn is_text(column: &ColumnChunkMetaData) -> bool {
    let is_text = matches!(column.column_type(), Type::BYTE_ARRAY | Type::FIXED_LEN_BYTE_ARRAY);
    is_text && column.dictionary_page_offset().is_none()
}

/// What the footer of the newest schema's newest file says that is true of all.
fn carried(inputs: &[Parquet<'_>]) -> Vec<KeyValue> {
    const KEYS: [&str; 5] =
        ["headrig.pipeline", columns::SCHEMA, columns::SCHEMA_VERSION, columns::DEPRECATED, "headrig.partition"];
    let newest = inputs.iter().max_by_key(|input| input.schema_version());
    let notes = newest.and_then(|input| input.metadata.file_metadata().key_value_metadata());
    notes.into_iter().flatten().filter(|entry| KEYS.contains(&entry.key.as_str())).cloned().collect()
}

/// The type that takes the values of both: of an int that has become a float, that. `None` where there is none.
pub(super) fn wider(one: &DataType, other: &DataType) -> Option<DataType> {
    match (one, other) {
        (one, other) if one == other => Some(one.clone()),
        (DataType::Int64, DataType::Float64) | (DataType::Float64, DataType::Int64) => Some(DataType::Float64),
        _ => None,
    }
}

/// Whether a column becomes a wider one.
fn widens(from: &SchemaRef, to: &SchemaRef) -> bool {
    from.fields()
        .iter()
        .any(|field| to.field_with_name(field.name()).is_ok_and(|to| to.data_type() != field.data_type()))
}

/// Rows with the columns of `schema`, and their types; those that they don't have are null.
fn conform(rows: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, ArchiveError> {
    let column = |field: &Arc<Field>| match rows.column_by_name(field.name()) {
        Some(column) if column.data_type() == field.data_type() => Ok(Arc::clone(column)),
        Some(column) => cast(column, field.data_type()),
        None => Ok(new_null_array(field.data_type(), rows.num_rows())),
    };
    let columns = schema.fields().iter().map(column).collect::<Result<_, _>>()?;
    Ok(RecordBatch::try_new(Arc::clone(schema), columns)?)
}

/// The digest of a local file's rows.
fn read_back(path: &Path) -> Result<Digest, ArchiveError> {
    let file = File::open(path).map_err(ArchiveError::io("read", path))?;
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(ArchiveError::encode(path))?;
    let mut digest = Digest::default();
    for batch in builder.build().map_err(ArchiveError::encode(path))? {
        digest.add(&batch?);
    }
    Ok(digest)
}
