//! JSON Lines: one file of rows as JSON objects, one a line, compressed as they come. The simple alternative to Parquet.
//!
//! Times are RFC 3339 in UTC with microseconds; a null is left out, and so is a number that JSON has no name for (NaN, ±∞);
//! texts that are JSON themselves (`attributes`) stand as that; bytes are hexadecimal digits. What a batch becomes goes
//! through the compressor in pieces, so that a file takes the same memory however long it gets.

use super::ArchiveError;
use super::patience::PatientFile;
use super::table::Table;
use crate::limits;
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Float64Type, Int64Type, SchemaRef, TimeUnit, TimestampMicrosecondType};
use flate2::write::GzEncoder;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::IgnoredAny;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::sync::Arc;

/// Zstandard level: JSON has much to gain from a longer search, unlike Parquet's columns.
const ZSTD_LEVEL: i32 = 3;
/// Binary logarithm of how far back the compressor looks, in bytes: 512 kB for each of the files that are open.
const ZSTD_WINDOW: u32 = 19;
/// Bytes of lines that are handed to the compressor at once.
const PIECE: usize = 128 << 10;

/// How JSON Lines are compressed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Compression {
    #[default]
    Zstd,
    Gzip,
    None,
}

impl Compression {
    pub(super) const ALL: [Self; 3] = [Self::Zstd, Self::Gzip, Self::None];

    /// Behind `.jsonl`.
    pub(super) const fn suffix(self) -> &'static str {
        match self {
            Self::Zstd => ".zst",
            Self::Gzip => ".gz",
            Self::None => "",
        }
    }
}

/// A file of lines that rows are written to.
pub(super) struct Lines {
    path: PathBuf,
    compressor: Compressor,
    /// The columns' names as they begin a value: `"ts":`.
    names: Vec<String>,
    inline: Arc<[bool]>,
    waiting: Vec<RecordBatch>,
    waiting_rows: usize,
    waiting_bytes: usize,
    /// Bytes of rows, as Arrow arrays, that have gone through the compressor.
    taken_bytes: usize,
    piece: Vec<u8>,
}

enum Compressor {
    Zstd(zstd::Encoder<'static, Counted>),
    Gzip(GzEncoder<Counted>),
    None(BufWriter<Counted>),
}

/// A file, and how many bytes were written to it.
struct Counted {
    file: PatientFile,
    bytes: usize,
}

impl Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.bytes += written;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Lines {
    /// Begins `file`, which is at `path`.
    ///
    /// # Errors
    /// When the compressor has no memory.
    pub(super) fn begin(
        file: PatientFile,
        path: PathBuf,
        table: &Table,
        compression: Compression,
    ) -> Result<Self, ArchiveError> {
        let compressor =
            Compressor::new(Counted { file, bytes: 0 }, compression).map_err(ArchiveError::io("write", &path))?;
        let (waiting, piece) = (Vec::new(), Vec::new());
        let (names, inline) = (names(&table.arrow), Arc::clone(&table.inline));
        Ok(Self { path, compressor, names, inline, waiting, waiting_rows: 0, waiting_bytes: 0, taken_bytes: 0, piece })
    }

    /// Takes rows in. They are written by [`encode`](Self::encode) and [`finish`](Self::finish).
    pub(super) fn push(&mut self, rows: RecordBatch) {
        self.waiting_rows += rows.num_rows();
        self.waiting_bytes += rows.get_array_memory_size();
        self.waiting.push(rows);
    }

    /// Whether more rows should not wait.
    pub(super) fn is_due(&self) -> bool {
        self.waiting_rows >= limits::ENCODE_ROWS || self.waiting_bytes >= limits::ENCODE_BYTES
    }

    /// Bytes that waiting rows take in memory.
    pub(super) fn waiting_bytes(&self) -> usize {
        self.waiting_bytes
    }

    /// Bytes of the file so far; estimated for what waits.
    pub(super) fn bytes(&self) -> usize {
        let written = self.compressor.file().bytes;
        // What waits will shrink as what came before it did, or else is at most as large as it is.
        let waiting = (self.waiting_bytes as u128 * written as u128).checked_div(self.taken_bytes as u128);
        written + waiting.map_or(self.waiting_bytes, |bytes| bytes as usize)
    }

    /// Writes all rows that wait.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(super) fn encode(&mut self) -> Result<(), ArchiveError> {
        self.taken_bytes += self.waiting_bytes;
        (self.waiting_rows, self.waiting_bytes) = (0, 0);
        let waiting = std::mem::take(&mut self.waiting);
        waiting.iter().try_for_each(|rows| self.write(rows)).map_err(ArchiveError::io("write", &self.path))
    }

    fn write(&mut self, rows: &RecordBatch) -> io::Result<()> {
        let columns: Vec<Values<'_>> =
            rows.columns().iter().zip(self.inline.iter()).map(|(column, inline)| Values::of(column, *inline)).collect();
        for row in 0..rows.num_rows() {
            self.piece.push(b'{');
            for (name, values) in self.names.iter().zip(&columns) {
                let before = self.piece.len();
                if self.piece[before - 1] != b'{' {
                    self.piece.push(b',');
                }
                self.piece.extend_from_slice(name.as_bytes());
                if !values.put(&mut self.piece, row) {
                    self.piece.truncate(before);
                }
            }
            self.piece.extend_from_slice(b"}\n");
            if self.piece.len() >= PIECE {
                self.compressor.write_all(&self.piece)?;
                self.piece.clear();
            }
        }
        Ok(())
    }

    /// Writes all, and the compressor's end; returns the file, which is not synced yet.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub(super) fn finish(&mut self) -> Result<&File, ArchiveError> {
        self.encode()?;
        let piece = std::mem::take(&mut self.piece);
        let ended = self.compressor.write_all(&piece).and_then(|()| self.compressor.finish());
        ended.map_err(ArchiveError::io("write", &self.path))?;
        Ok(&self.compressor.file().file.file)
    }
}

impl Compressor {
    fn new(file: Counted, compression: Compression) -> io::Result<Self> {
        Ok(match compression {
            Compression::Zstd => {
                let mut encoder = zstd::Encoder::new(file, ZSTD_LEVEL)?;
                encoder.window_log(ZSTD_WINDOW)?;
                encoder.include_checksum(true)?;
                Self::Zstd(encoder)
            }
            Compression::Gzip => Self::Gzip(GzEncoder::new(file, flate2::Compression::default())),
            Compression::None => Self::None(BufWriter::with_capacity(PIECE, file)),
        })
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Zstd(encoder) => encoder.write_all(bytes),
            Self::Gzip(encoder) => encoder.write_all(bytes),
            Self::None(buffer) => buffer.write_all(bytes),
        }
    }

    fn finish(&mut self) -> io::Result<()> {
        match self {
            Self::Zstd(encoder) => encoder.do_finish(),
            Self::Gzip(encoder) => encoder.try_finish(),
            Self::None(buffer) => buffer.flush(),
        }
    }

    fn file(&self) -> &Counted {
        match self {
            Self::Zstd(encoder) => encoder.get_ref(),
            Self::Gzip(encoder) => encoder.get_ref(),
            Self::None(buffer) => buffer.get_ref(),
        }
    }
}

fn names(schema: &SchemaRef) -> Vec<String> {
    let name = |name: &String| format!("{}:", serde_json::Value::from(name.as_str()));
    schema.fields().iter().map(|field| name(field.name())).collect()
}

/// One column of a batch, by what its values become.
enum Values<'a> {
    Stamps(&'a arrow::array::TimestampMicrosecondArray),
    Ints(&'a arrow::array::Int64Array),
    Floats(&'a arrow::array::Float64Array),
    Bools(&'a arrow::array::BooleanArray),
    Texts(&'a arrow::array::StringArray),
    /// Texts that are JSON.
    Json(&'a arrow::array::StringArray),
    Bytes(&'a arrow::array::BinaryArray),
    FixedBytes(&'a arrow::array::FixedSizeBinaryArray),
}

impl<'a> Values<'a> {
    /// # Panics
    /// For a type that no table has.
    fn of(column: &'a ArrayRef, inline: bool) -> Self {
        match column.data_type() {
            DataType::Timestamp(TimeUnit::Microsecond, _) => {
                Self::Stamps(column.as_primitive::<TimestampMicrosecondType>())
            }
            DataType::Int64 => Self::Ints(column.as_primitive::<Int64Type>()),
            DataType::Float64 => Self::Floats(column.as_primitive::<Float64Type>()),
            DataType::Boolean => Self::Bools(column.as_boolean()),
            DataType::Utf8 if inline => Self::Json(column.as_string()),
            DataType::Utf8 => Self::Texts(column.as_string()),
            DataType::Binary => Self::Bytes(column.as_binary()),
            DataType::FixedSizeBinary(_) => Self::FixedBytes(column.as_fixed_size_binary()),
            other => unreachable!("no table has a column of type {other}"),
        }
    }

    /// Appends the value of a row; `false` where there is none.
    fn put(&self, out: &mut Vec<u8>, row: usize) -> bool {
        match self {
            Self::Stamps(values) if values.is_valid(row) => put_stamp(out, values.value(row)),
            Self::Ints(values) if values.is_valid(row) => put(out, &values.value(row)),
            Self::Floats(values) if values.is_valid(row) && values.value(row).is_finite() => {
                put(out, &values.value(row))
            }
            Self::Bools(values) if values.is_valid(row) => put(out, &values.value(row)),
            Self::Texts(values) if values.is_valid(row) => put(out, values.value(row)),
            Self::Json(values) if values.is_valid(row) => put_json(out, values.value(row)),
            Self::Bytes(values) if values.is_valid(row) => put_hex(out, values.value(row)),
            Self::FixedBytes(values) if values.is_valid(row) => put_hex(out, values.value(row)),
            _ => return false,
        }
        true
    }
}

fn put<T: serde::Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) {
    serde_json::to_writer(out, value).expect("a text, a number or a truth value is JSON, and memory takes it");
}

/// A time as `"2026-05-06T05:35:31.000000Z"`; one outside of the years -9999 to 9999 as its µs since 1970.
fn put_stamp(out: &mut Vec<u8>, micros: i64) {
    match Timestamp::from_microsecond(micros) {
        Ok(stamp) => write!(out, "\"{stamp:.6}\"").expect("memory takes it"),
        Err(_) => put(out, &micros),
    }
}

/// The µs since 1970 of what [`put_stamp`] wrote.
pub fn stamp(value: &serde_json::Value) -> Option<i64> {
    match value {
        serde_json::Value::String(text) => text.parse::<Timestamp>().ok().map(Timestamp::as_microsecond),
        value => value.as_i64(),
    }
}

/// A text that is JSON as that; one that isn't after all (a mask may have broken it) as a text.
fn put_json(out: &mut Vec<u8>, text: &str) {
    if serde_json::from_str::<IgnoredAny>(text).is_err() {
        return put(out, text);
    }
    let from = out.len();
    out.extend_from_slice(text.as_bytes());
    // Within JSON they can only be white space, and a row is one line.
    out[from..].iter_mut().filter(|byte| matches!(byte, b'\n' | b'\r')).for_each(|byte| *byte = b' ');
}

fn put_hex(out: &mut Vec<u8>, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    out.push(b'"');
    out.extend(bytes.iter().flat_map(|byte| [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]));
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::patience::Patience;
    use crate::archive::table::tests::schema;
    use arrow::array::{
        BinaryArray, BooleanArray, FixedSizeBinaryArray, Float64Array, Int64Array, StringArray,
        TimestampMicrosecondArray,
    };
    use arrow::datatypes::{Field, Schema};
    use proptest::prelude::*;
    use serde_json::{Value, json};
    use std::io::Read;

    fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
        let field = |(name, column): &(&str, ArrayRef)| Field::new(*name, column.data_type().clone(), true);
        let schema = Schema::new(columns.iter().map(field).collect::<Vec<_>>());
        RecordBatch::try_new(Arc::new(schema), columns.into_iter().map(|(_, column)| column).collect()).unwrap()
    }

    /// The file that these batches become.
    fn written(batches: &[RecordBatch], inline: &[bool], compression: Compression) -> Vec<u8> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        let file = PatientFile {
            file: File::create(&path).unwrap(),
            path: path.clone(),
            patience: Arc::new(Patience::default()),
        };
        let mut table = Table::data(&schema(), &[], &[]);
        (table.arrow, table.inline) = (batches[0].schema(), inline.into());
        let mut lines = Lines::begin(file, path.clone(), &table, compression).unwrap();
        for batch in batches {
            lines.push(batch.clone());
            if lines.is_due() {
                lines.encode().unwrap();
            }
        }
        assert!(lines.bytes() > 0);
        lines.finish().unwrap();
        assert_eq!(lines.bytes(), std::fs::metadata(&path).unwrap().len() as usize);
        std::fs::read(path).unwrap()
    }

    fn text(batches: &[RecordBatch], inline: &[bool]) -> String {
        String::from_utf8(written(batches, inline, Compression::None)).unwrap()
    }

    #[test]
    fn each_type_has_its_form_and_nulls_are_left_out() {
        let stamps = TimestampMicrosecondArray::from(vec![Some(1_778_045_731_000_001), None, Some(i64::MAX)])
            .with_timezone("UTC");
        let fixed =
            FixedSizeBinaryArray::try_from_sparse_iter_with_size([None, Some([0u8, 0xaf]), None].into_iter(), 2);
        let rows = batch(vec![
            ("ts", Arc::new(stamps)),
            ("n", Arc::new(Int64Array::from(vec![None, Some(-1), Some(i64::MIN)]))),
            ("f", Arc::new(Float64Array::from(vec![Some(1.0), Some(f64::NAN), Some(1e300)]))),
            ("b", Arc::new(BooleanArray::from(vec![Some(true), None, Some(false)]))),
            ("a \"name\"", Arc::new(StringArray::from(vec![Some("é\n\"\u{1}"), None, Some("")]))),
            ("j", Arc::new(StringArray::from(vec![Some("{\"a\":\n[1, 2]}"), Some("{broken"), Some("7")]))),
            ("raw", Arc::new(BinaryArray::from(vec![Some(b"\xff\x00".as_slice()), None, Some(b"")]))),
            ("hex", Arc::new(fixed.unwrap())),
        ]);
        let inline = [false, false, false, false, false, true, false, false];
        let expected = concat!(
            r#"{"ts":"2026-05-06T05:35:31.000001Z","f":1.0,"b":true,"a \"name\"":"é\n\"\u0001","j":{"a": [1, 2]},"raw":"ff00"}"#,
            "\n",
            r#"{"n":-1,"j":"{broken","hex":"00af"}"#,
            "\n",
            r#"{"ts":9223372036854775807,"n":-9223372036854775808,"f":1e+300,"b":false,"a \"name\"":"","j":7,"raw":""}"#,
            "\n"
        );
        assert_eq!(text(&[rows], &inline), expected);
        for micros in [0, -1, 1_778_045_731_000_001, i64::MAX] {
            let mut out = Vec::new();
            put_stamp(&mut out, micros);
            assert_eq!(stamp(&serde_json::from_slice(&out).unwrap()), Some(micros));
        }
    }

    #[test]
    fn every_compression_holds_the_same_lines() {
        let numbers =
            |from: i64| batch(vec![("n", Arc::new(Int64Array::from_iter_values(from..from + 6_000)) as ArrayRef)]);
        let batches: Vec<RecordBatch> = (0..20).map(|part| numbers(part * 6_000)).collect();
        let plain = text(&batches, &[false]).into_bytes();
        assert_eq!(plain.iter().filter(|byte| **byte == b'\n').count(), 120_000);
        let gzip = written(&batches, &[false], Compression::Gzip);
        let mut unpacked = Vec::new();
        #[expect(clippy::disallowed_methods, reason = "the test wrote it")]
        flate2::read::GzDecoder::new(gzip.as_slice()).read_to_end(&mut unpacked).unwrap();
        assert!(unpacked == plain && gzip.len() < plain.len() / 2);
        let packed = written(&batches, &[false], Compression::Zstd);
        assert!(zstd::decode_all(packed.as_slice()).unwrap() == plain && packed.len() < plain.len() / 2);
    }

    proptest! {
        #[test]
        fn any_text_is_one_line_and_reads_back(texts in proptest::collection::vec(proptest::option::of("\\PC*|[\u{0}-\u{1f}{}\\[\\]\":,0-9 ]*"), 1..8)) {
            let rows = batch(vec![("t", Arc::new(StringArray::from(texts.clone()))), ("j", Arc::new(StringArray::from(texts.clone())))]);
            let written = text(&[rows], &[false, true]);
            prop_assert_eq!(written.lines().count(), texts.len());
            for (line, expected) in written.lines().zip(&texts) {
                let row: Value = serde_json::from_str(line).unwrap();
                let verbatim = expected.as_ref().map(|text| json!(text));
                prop_assert_eq!(row.get("t"), verbatim.as_ref());
                let inline = expected.as_ref().map(|text| serde_json::from_str(text).unwrap_or_else(|_| json!(text)));
                prop_assert_eq!(row.get("j"), inline.as_ref());
            }
        }
    }
}
