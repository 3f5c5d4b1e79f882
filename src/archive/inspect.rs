//! Looking into files of an archive: do they hold what their seals say?

use super::ArchiveError;
use super::staging::StagedFile;
use super::store::Store;
use super::table::Kind;
use arrow::array::{Array, AsArray};
use arrow::datatypes::TimestampMicrosecondType;
use bytes::Bytes;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, Length};
use std::io::Cursor;

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

/// What is different in a file from what was sealed: its number of rows; with `deep`, what the rows really are.
pub(super) fn rows(store: &dyn Store, file: &StagedFile, deep: bool) -> Result<Option<String>, ArchiveError> {
    let path = std::path::PathBuf::from(store.show(&file.path));
    let failed = |cause: ParquetError| match cause {
        ParquetError::External(inner) => match inner.downcast::<ArchiveError>() {
            Ok(error) => *error,
            Err(inner) => ArchiveError::Encode { path: path.clone(), cause: ParquetError::External(inner) },
        },
        cause => ArchiveError::Encode { path: path.clone(), cause },
    };
    let object = Object { store, key: &file.path, bytes: file.bytes };
    // The builder wants to own its reader and to read it from any thread; whole files are small enough for that.
    let metadata = parquet::file::metadata::ParquetMetaDataReader::new().parse_and_finish(&object).map_err(&failed)?;
    let said = u64::try_from(metadata.file_metadata().num_rows()).unwrap_or(0);
    if said != file.rows {
        return Ok(Some(format!("{said} rows, {} were sealed", file.rows)));
    }
    if !deep {
        return Ok(None);
    }
    let whole = object.range(0, file.bytes).map_err(&failed)?;
    let builder = ParquetRecordBatchReaderBuilder::try_new(whole).map_err(&failed)?;
    let time = time_column(file.kind);
    let (mut found, mut least, mut largest) = (0, i64::MAX, i64::MIN);
    for batch in builder.build().map_err(&failed)? {
        let batch = batch.map_err(|cause| failed(cause.into()))?;
        found += batch.num_rows() as u64;
        let Some(stamps) = batch.column_by_name(time).filter(|column| column.null_count() == 0) else {
            return Ok(Some(format!("rows without {time}")));
        };
        let Some(stamps) = stamps.as_primitive_opt::<TimestampMicrosecondType>() else {
            return Ok(Some(format!("column {time} is no timestamp in microseconds")));
        };
        least = stamps.values().iter().copied().fold(least, i64::min);
        largest = stamps.values().iter().copied().fold(largest, i64::max);
    }
    if found != file.rows {
        return Ok(Some(format!("{found} rows can be read, {} were sealed", file.rows)));
    }
    if found > 0 && (least, largest) != (file.min_us, file.max_us) {
        return Ok(Some(format!(
            "{time} goes from {least} to {largest} µs, sealed were {} to {}",
            file.min_us, file.max_us
        )));
    }
    Ok(None)
}

/// The column that a table's files have their times by.
fn time_column(kind: Kind) -> &'static str {
    match kind {
        Kind::Data | Kind::Dead => "ts",
        Kind::Windows => crate::record::sample::columns::WINDOW_START,
        Kind::Alerts => crate::record::sample::columns::WINDOW_END,
    }
}
