//! Looking into files of an archive: do they hold what their seals say?

use super::ArchiveError;
use super::lines;
use super::staging::StagedFile;
use super::store::Store;
use super::table::Kind;
use arrow::array::{Array, AsArray};
use arrow::datatypes::TimestampMicrosecondType;
use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, Length};
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use std::fmt;
use std::io::{self, BufRead, BufReader, Cursor, Read};

/// Bytes of an object that are asked for at once.
const PIECE: u64 = 4 << 20;
/// Longest line that is read, in bytes: several times what the largest record can become.
const LINE_BYTES: u64 = 64 << 20;

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
    if file.path.ends_with(".parquet") {
        return parquet_rows(store, file, deep);
    }
    // Lines have no footer, and their length was looked at.
    if deep { line_rows(store, file) } else { Ok(None) }
}

fn parquet_rows(store: &dyn Store, file: &StagedFile, deep: bool) -> Result<Option<String>, ArchiveError> {
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
    Ok(compare(file, found, least, largest))
}

/// What is different in rows that were read.
fn compare(file: &StagedFile, found: u64, least: i64, largest: i64) -> Option<String> {
    let time = time_column(file.kind);
    if found != file.rows {
        return Some(format!("{found} rows can be read, {} were sealed", file.rows));
    }
    let differs = found > 0 && (least, largest) != (file.min_us, file.max_us);
    differs.then(|| format!("{time} goes from {least} to {largest} µs, sealed were {} to {}", file.min_us, file.max_us))
}

/// An object that is read from its start to its end.
struct Pieces<'s> {
    store: &'s dyn Store,
    key: &'s str,
    /// Where the next piece begins.
    at: u64,
    end: u64,
    piece: Cursor<Vec<u8>>,
}

impl Read for Pieces<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.piece.position() == self.piece.get_ref().len() as u64 && self.at < self.end {
            let piece = self.store.range(self.key, self.at, PIECE).map_err(io::Error::other)?;
            if piece.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.at += piece.len() as u64;
            self.piece = Cursor::new(piece);
        }
        self.piece.read(out)
    }
}

/// Reads all lines of a file.
fn line_rows(store: &dyn Store, file: &StagedFile) -> Result<Option<String>, ArchiveError> {
    let pieces = Pieces { store, key: &file.path, at: 0, end: file.bytes, piece: Cursor::default() };
    let counted = match file.path.rsplit('.').next() {
        Some("gz") => count(BufReader::new(MultiGzDecoder::new(pieces)), file),
        Some("zst") => zstd::Decoder::new(pieces).and_then(|unpacked| count(BufReader::new(unpacked), file)),
        _ => count(BufReader::new(pieces), file),
    };
    counted.or_else(|error| match error.downcast::<ArchiveError>() {
        Ok(error) => Err(error),
        Err(error) => Ok(Some(format!("cannot be unpacked: {error}"))),
    })
}

fn count(mut lines: impl BufRead, file: &StagedFile) -> io::Result<Option<String>> {
    let time = time_column(file.kind);
    let (mut found, mut least, mut largest) = (0, i64::MAX, i64::MIN);
    let mut line = Vec::new();
    while lines.by_ref().take(LINE_BYTES).read_until(b'\n', &mut line)? > 0 {
        found += 1;
        if line.pop() != Some(b'\n') {
            return Ok(Some(format!("line {found} has no end")));
        }
        let mut row = serde_json::Deserializer::from_slice(&line);
        let stamp = match ValueOf(time).deserialize(&mut row).and_then(|value| row.end().map(|()| value)) {
            Ok(value) => value.as_ref().and_then(lines::stamp),
            Err(error) => return Ok(Some(format!("line {found} is no row: {error}"))),
        };
        let Some(stamp) = stamp else { return Ok(Some(format!("line {found} has no {time}"))) };
        (least, largest) = (least.min(stamp), largest.max(stamp));
        line.clear();
    }
    Ok(compare(file, found, least, largest))
}

/// One value of a JSON object; all others are passed over.
struct ValueOf<'n>(&'n str);

impl<'de> DeserializeSeed<'de> for ValueOf<'_> {
    type Value = Option<serde_json::Value>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for ValueOf<'_> {
    type Value = Option<serde_json::Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(key) = map.next_key::<String>()? {
            if key == self.0 {
                found = Some(map.next_value()?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }
}

/// The column that a table's files have their times by.
fn time_column(kind: Kind) -> &'static str {
    match kind {
        Kind::Data | Kind::Dead => "ts",
        Kind::Windows => crate::record::sample::columns::WINDOW_START,
        Kind::Alerts => crate::record::sample::columns::WINDOW_END,
    }
}
