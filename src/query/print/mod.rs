//! Results, written as they come: tables for people, CSV and JSON lines for programs, Parquet for the next query.

mod csv;
mod grid;

use super::QueryError;
use arrow_json::{LineDelimitedWriter, WriterBuilder, writer::LineDelimited};
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use std::io::{self, Write};

/// How a result is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Columns under each other, for people.
    Table,
    /// One JSON object a line.
    Json,
    /// Comma-separated values under a line of names; nothing is null, "" is an empty text.
    Csv,
    /// A Parquet file.
    Parquet,
}

/// The terminal that a table is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Screen {
    /// Characters in a line.
    pub width: usize,
    /// Rows that are shown from the beginning, and from the end, of a longer result.
    pub rows: usize,
}

/// Writes one result.
pub trait Printer: Send {
    /// # Errors
    /// When it cannot be written.
    fn rows(&mut self, rows: &RecordBatch) -> Result<(), QueryError>;

    /// Ends the result.
    ///
    /// # Errors
    /// When it cannot be written.
    fn finish(self: Box<Self>) -> Result<(), QueryError>;
}

/// Begins a result with these columns; `screen` when it is for a terminal.
///
/// # Errors
/// When it cannot be written, or has columns that the format doesn't take.
pub fn printer(
    format: Format,
    schema: &SchemaRef,
    out: Box<dyn Write + Send>,
    screen: Option<Screen>,
) -> Result<Box<dyn Printer>, QueryError> {
    Ok(match format {
        Format::Table => Box::new(grid::Grid::new(out, schema.clone(), screen)),
        Format::Csv => Box::new(csv::Csv::begin(out, schema)?),
        Format::Json => Box::new(Lines(WriterBuilder::new().with_explicit_nulls(true).build::<_, LineDelimited>(out))),
        Format::Parquet => {
            let zstd = ZstdLevel::try_new(3).map_err(io::Error::other)?;
            let properties = WriterProperties::builder().set_compression(Compression::ZSTD(zstd)).build();
            let writer = ArrowWriter::try_new(out, schema.clone(), Some(properties)).map_err(io::Error::other)?;
            Box::new(File(writer))
        }
    })
}

struct Lines(LineDelimitedWriter<Box<dyn Write + Send>>);

impl Printer for Lines {
    fn rows(&mut self, rows: &RecordBatch) -> Result<(), QueryError> {
        self.0.write(rows).map_err(of_arrow)
    }

    fn finish(mut self: Box<Self>) -> Result<(), QueryError> {
        self.0.finish().map_err(of_arrow)?;
        Ok(self.0.into_inner().flush()?)
    }
}

fn of_arrow(error: datafusion::arrow::error::ArrowError) -> QueryError {
    match error {
        datafusion::arrow::error::ArrowError::IoError(_, error) => error.into(),
        error => io::Error::other(error).into(),
    }
}

struct File(ArrowWriter<Box<dyn Write + Send>>);

impl Printer for File {
    fn rows(&mut self, rows: &RecordBatch) -> Result<(), QueryError> {
        Ok(self.0.write(rows).map_err(io::Error::other)?)
    }

    fn finish(self: Box<Self>) -> Result<(), QueryError> {
        Ok(self.0.into_inner().map_err(io::Error::other)?.flush()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use datafusion::arrow::array::{ArrayRef, Float64Array, Int64Array, StringViewArray, TimestampMicrosecondArray};
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Shared {
        fn taken(&self) -> Vec<u8> {
            std::mem::take(&mut self.0.lock().unwrap())
        }
    }

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn rows() -> RecordBatch {
        let stamps = TimestampMicrosecondArray::from(vec![Some(1_778_045_731_123_456), None]).with_timezone("UTC");
        let texts = StringViewArray::from(vec![Some("a \"b\", c\nd"), Some("")]);
        RecordBatch::try_from_iter([
            ("ts", Arc::new(stamps) as ArrayRef),
            ("n", Arc::new(Int64Array::from(vec![Some(1_234_567), Some(-1)])) as ArrayRef),
            ("x", Arc::new(Float64Array::from(vec![Some(0.1), None])) as ArrayRef),
            ("text", Arc::new(texts) as ArrayRef),
        ])
        .unwrap()
    }

    fn check(format: Format, screen: Option<Screen>, rows: &[RecordBatch]) -> Vec<u8> {
        let out = Shared::default();
        let mut printer = printer(format, &rows[0].schema(), Box::new(out.clone()), screen).unwrap();
        rows.iter().for_each(|rows| printer.rows(rows).unwrap());
        printer.finish().unwrap();
        out.taken()
    }

    fn text(bytes: Vec<u8>) -> String {
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn each_format_says_the_same() {
        assert_eq!(
            text(check(Format::Csv, None, &[rows()])),
            "ts,n,x,text\n2026-05-06T05:35:31.123456Z,1234567,0.1,\"a \"\"b\"\", c\nd\"\n,-1,,\"\"\n"
        );
        assert_eq!(
            text(check(Format::Json, None, &[rows()])),
            "{\"ts\":\"2026-05-06T05:35:31.123456Z\",\"n\":1234567,\"x\":0.1,\"text\":\"a \\\"b\\\", c\\nd\"}\n\
             {\"ts\":null,\"n\":-1,\"x\":null,\"text\":\"\"}\n"
        );
        let file = Bytes::from(check(Format::Parquet, None, &[rows()]));
        let read = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
        assert_eq!(read.build().unwrap().next().unwrap().unwrap(), rows());
        let lines = [
            " ts                         │ n       │ x   │ text       ",
            "────────────────────────────┼─────────┼─────┼────────────",
            " 2026-05-06 05:35:31.123456 │ 1234567 │ 0.1 │ a \"b\", c⏎d ",
            " ∅                          │      -1 │   ∅ │            ",
        ];
        assert_eq!(text(check(Format::Table, None, &[rows()])).lines().collect::<Vec<_>>(), lines);
    }

    #[test]
    fn tables_fit_their_terminal() {
        let many: Vec<RecordBatch> = (0..30).map(|_| rows()).collect();
        let shown = text(check(Format::Table, Some(Screen { width: 44, rows: 2 }), &many));
        assert!(shown.lines().all(|line| line.chars().count() <= 44), "{shown}");
        assert!(shown.contains("… 56 rows …") && shown.ends_with("60 rows\n"), "{shown}");
        assert_eq!(shown.lines().count(), 2 + 5 + 1, "{shown}");
        let tiny = text(check(Format::Table, Some(Screen { width: 14, rows: 2 }), &many));
        assert!(tiny.contains("columns are not shown"), "{tiny}");
        let none = text(check(Format::Table, Some(Screen { width: 60, rows: 2 }), &[rows().slice(0, 0)]));
        assert!(none.starts_with(" ts │ n │ x │ text \n") && none.ends_with("┼──────\n0 rows\n"), "{none}");
    }
}
