//! Looking into files of an archive: one row group at a time, so that a large file needs no more memory than a small one.

use super::ArchiveError;
use super::columns;
use super::digest::Digest;
use super::lines_read;
use super::order::{self, Order};
use super::staging::StagedFile;
use super::store::Store;
use super::table::Kind;
use crate::limits;
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{SchemaRef, TimestampMicrosecondType};
use arrow::row::OwnedRow;
use bytes::Bytes;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};
use parquet::file::reader::{ChunkReader, Length};
use std::collections::BTreeMap;
use std::io::Cursor;
use std::path::PathBuf;
use std::sync::Arc;

/// One object, as the Parquet reader wants it.
struct Object<'s> {
    store: &'s dyn Store,
    key: &'s str,
    bytes: u64,
}

impl Length for Object<'_> {
    fn len(&self) -> u64 {
        self.bytes
    }
}

impl Object<'_> {
    fn range(&self, start: u64, length: u64) -> Result<Bytes, ParquetError> {
        let found =
            self.store.range(self.key, start, length).map_err(|error| ParquetError::External(Box::new(error)))?;
        if found.len() as u64 == length {
            Ok(found.into())
        } else {
            Err(ParquetError::EOF("the file ends early".to_owned()))
        }
    }
}

impl ChunkReader for Object<'_> {
    type T = Cursor<Bytes>;

    fn get_read(&self, start: u64) -> Result<Self::T, ParquetError> {
        self.range(start, self.bytes.saturating_sub(start)).map(Cursor::new)
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        self.range(start, length as u64)
    }
}

/// The bytes of one row group, where they are in their file.
struct Part {
    start: u64,
    bytes: Bytes,
    /// Of the whole file.
    length: u64,
}

impl Length for Part {
    fn len(&self) -> u64 {
        self.length
    }
}

impl ChunkReader for Part {
    type T = Cursor<Bytes>;

    fn get_read(&self, start: u64) -> Result<Self::T, ParquetError> {
        let length = self.bytes.len() as u64 + self.start;
        self.get_bytes(start, usize::try_from(length.saturating_sub(start)).unwrap_or(0)).map(Cursor::new)
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        let from = start.checked_sub(self.start).and_then(|from| usize::try_from(from).ok());
        match from.and_then(|from| Some(from..from.checked_add(length)?)).filter(|range| range.end <= self.bytes.len())
        {
            Some(range) => Ok(self.bytes.slice(range)),
            None => Err(ParquetError::EOF("a column lies outside of its row group".to_owned())),
        }
    }
}

/// A Parquet file of an archive.
pub(super) struct Parquet<'s> {
    store: &'s dyn Store,
    key: String,
    length: u64,
    pub(super) metadata: Arc<ParquetMetaData>,
    arrow: ArrowReaderMetadata,
}

impl<'s> Parquet<'s> {
    /// Reads the footer of the object at `key`, which has `length` bytes.
    pub(super) fn open(store: &'s dyn Store, key: &str, length: u64) -> Result<Self, ArchiveError> {
        let failed = |cause| fail(store, key, cause);
        let object = Object { store, key, bytes: length };
        let metadata = Arc::new(ParquetMetaDataReader::new().parse_and_finish(&object).map_err(failed)?);
        let arrow = ArrowReaderMetadata::try_new(Arc::clone(&metadata), ArrowReaderOptions::new()).map_err(failed)?;
        Ok(Self { store, key: key.to_owned(), length, metadata, arrow })
    }

    pub(super) fn schema(&self) -> &SchemaRef {
        self.arrow.schema()
    }

    /// What the footer says of a file's schema.
    pub(super) fn notes(&self) -> BTreeMap<String, String> {
        columns::notes_of(self.metadata.file_metadata().key_value_metadata().into_iter().flatten())
    }

    /// Version of the schema that the rows are of; 0 where the footer names none.
    pub(super) fn schema_version(&self) -> u32 {
        self.notes().get(columns::SCHEMA_VERSION).and_then(|version| version.parse().ok()).unwrap_or(0)
    }

    /// Calls `each` with all rows, in batches of some [`limits::UPKEEP_BATCH_BYTES`].
    pub(super) fn read(
        &self,
        mut each: impl FnMut(RecordBatch) -> Result<(), ArchiveError>,
    ) -> Result<(), ArchiveError> {
        let failed = |cause| fail(self.store, &self.key, cause);
        for (number, group) in self.metadata.row_groups().iter().enumerate() {
            let ranges = group.columns().iter().map(|column| column.byte_range());
            let (start, end) =
                ranges.fold((u64::MAX, 0), |(low, high), (start, length)| (low.min(start), high.max(start + length)));
            let object = Object { store: self.store, key: &self.key, bytes: self.length };
            let bytes = object.range(start, end.saturating_sub(start)).map_err(failed)?;
            let part = Part { start, bytes, length: self.length };
            let rows = usize::try_from(group.num_rows()).unwrap_or(0).max(1);
            let row_bytes = usize::try_from(group.total_byte_size()).unwrap_or(0) / rows;
            let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(part, self.arrow.clone());
            let reader = builder.with_row_groups(vec![number]).with_batch_size(batch_rows(row_bytes)).build();
            for batch in reader.map_err(failed)? {
                each(batch.map_err(|cause| failed(cause.into()))?)?;
            }
        }
        Ok(())
    }
}

/// Rows of so many bytes that are read at once.
fn batch_rows(row_bytes: usize) -> usize {
    (limits::UPKEEP_BATCH_BYTES / row_bytes.max(1)).clamp(16, limits::UPKEEP_BATCH_ROWS)
}

fn fail(store: &dyn Store, key: &str, cause: ParquetError) -> ArchiveError {
    let path = PathBuf::from(store.show(key));
    match cause {
        ParquetError::External(inner) => match inner.downcast::<ArchiveError>() {
            Ok(error) => *error,
            Err(inner) => ArchiveError::Encode { path, cause: ParquetError::External(inner) },
        },
        cause => ArchiveError::Encode { path, cause },
    }
}

/// What is different in a file from what was sealed: its number of rows; with `deep`, what the rows really are.
pub(super) fn rows(store: &dyn Store, file: &StagedFile, deep: bool) -> Result<Option<String>, ArchiveError> {
    if file.is_parquet() {
        return parquet_rows(store, file, deep);
    }
    // Lines have no footer, and their length was looked at.
    if deep { lines_read::rows(store, file) } else { Ok(None) }
}

fn parquet_rows(store: &dyn Store, file: &StagedFile, deep: bool) -> Result<Option<String>, ArchiveError> {
    let parquet = Parquet::open(store, &file.path, file.bytes)?;
    let said = u64::try_from(parquet.metadata.file_metadata().num_rows()).unwrap_or(0);
    if said != file.rows {
        return Ok(Some(format!("{said} rows, {} were sealed", file.rows)));
    }
    if !deep {
        return Ok(None);
    }
    let time = time_column(file.kind);
    let (mut found, mut least, mut largest, mut digest) = (0, i64::MAX, i64::MIN, Digest::default());
    let mut flaw = None;
    let mut said = SaidOrder::of(&parquet)?;
    parquet.read(|batch| {
        found += batch.num_rows() as u64;
        if file.digest.is_some() {
            digest.add(&batch);
        }
        if let Some(said) = &mut said
            && !said.goes_on(&batch)?
        {
            flaw = Some("rows are not in the order that its footer says".to_owned());
        }
        let stamps = batch.column_by_name(time).filter(|column| column.null_count() == 0);
        match stamps.map(|stamps| stamps.as_primitive_opt::<TimestampMicrosecondType>()) {
            None => flaw = Some(format!("rows without {time}")),
            Some(None) => flaw = Some(format!("column {time} is no timestamp in microseconds")),
            Some(Some(stamps)) => {
                least = stamps.values().iter().copied().fold(least, i64::min);
                largest = stamps.values().iter().copied().fold(largest, i64::max);
            }
        }
        Ok(())
    })?;
    if flaw.is_some() {
        return Ok(flaw);
    }
    if let Some(difference) = compare(file, found, least, largest) {
        return Ok(Some(difference));
    }
    let expected = file.digest.as_deref().and_then(Digest::parse);
    Ok(expected
        .filter(|expected| *expected != digest)
        .map(|_| "its rows are not those that were put into it".to_owned()))
}

/// The order that a file says its rows are in.
struct SaidOrder {
    order: Order,
    last: Option<OwnedRow>,
}

impl SaidOrder {
    fn of(parquet: &Parquet<'_>) -> Result<Option<Self>, ArchiveError> {
        let groups = parquet.metadata.row_groups();
        let Some(marks) = groups.iter().find_map(|group| group.sorting_columns()).filter(|marks| !marks.is_empty())
        else {
            return Ok(None);
        };
        let columns = marks.iter().filter_map(|mark| usize::try_from(mark.column_idx).ok()).collect();
        Ok(Some(Self { order: Order::new(parquet.schema(), columns)?, last: None }))
    }

    /// Whether `rows` come behind those before, and in order.
    fn goes_on(&mut self, rows: &RecordBatch) -> Result<bool, ArchiveError> {
        let keys = self.order.keys(rows)?;
        let in_order = order::is_in_order(std::slice::from_ref(&keys));
        let behind = self.last.as_ref().is_none_or(|last| keys.iter().next().is_none_or(|first| last.row() <= first));
        self.last = keys.iter().next_back().map(|last| last.owned()).or(self.last.take());
        Ok(in_order && behind)
    }
}

/// What is different in rows that were read: how many, and their least and largest time.
pub(super) fn compare(file: &StagedFile, found: u64, least: i64, largest: i64) -> Option<String> {
    if found != file.rows {
        return Some(format!("{found} rows can be read, {} were sealed", file.rows));
    }
    let differs = found > 0 && (least, largest) != (file.min_us, file.max_us);
    let time = time_column(file.kind);
    differs.then(|| format!("{time} goes from {least} to {largest} µs, sealed were {} to {}", file.min_us, file.max_us))
}

/// The column that a table's files have their times by.
pub(super) fn time_column(kind: Kind) -> &'static str {
    match kind {
        Kind::Data | Kind::Dead => "ts",
        Kind::Windows => crate::record::sample::columns::WINDOW_START,
        Kind::Alerts => crate::record::sample::columns::WINDOW_END,
    }
}
