//! Comma-separated values, as RFC 4180 has them, with `\n` behind each line.

use super::{Printer, QueryError};
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};
use std::fmt::Write as _;
use std::io::{self, Write};

/// A result as CSV.
pub(super) struct Csv {
    out: Box<dyn Write + Send>,
    line: String,
    cell: String,
}

impl Csv {
    pub(super) fn begin(mut out: Box<dyn Write + Send>, schema: &SchemaRef) -> Result<Self, QueryError> {
        let mut line = String::new();
        for (number, field) in schema.fields().iter().enumerate() {
            push(&mut line, number, field.name());
        }
        line.push('\n');
        out.write_all(line.as_bytes())?;
        Ok(Self { out, line, cell: String::new() })
    }
}

fn push(line: &mut String, number: usize, value: &str) {
    if number > 0 {
        line.push(',');
    }
    if value.is_empty() || value.contains([',', '"', '\n', '\r']) {
        line.push('"');
        line.push_str(&value.replace('"', "\"\""));
        line.push('"');
    } else {
        line.push_str(value);
    }
}

impl Printer for Csv {
    fn rows(&mut self, rows: &RecordBatch) -> Result<(), QueryError> {
        let options = FormatOptions::new();
        let formatters = rows.columns().iter().map(|column| ArrayFormatter::try_new(column.as_ref(), &options));
        let formatters: Vec<_> = formatters.collect::<Result<_, _>>().map_err(io::Error::other)?;
        self.line.clear();
        for row in 0..rows.num_rows() {
            for (number, (column, formatter)) in rows.columns().iter().zip(&formatters).enumerate() {
                if column.is_null(row) {
                    self.line.push_str(if number > 0 { "," } else { "" });
                    continue;
                }
                self.cell.clear();
                write!(self.cell, "{}", formatter.value(row)).map_err(io::Error::other)?;
                push(&mut self.line, number, &self.cell);
            }
            self.line.push('\n');
        }
        Ok(self.out.write_all(self.line.as_bytes())?)
    }

    fn finish(mut self: Box<Self>) -> Result<(), QueryError> {
        Ok(self.out.flush()?)
    }
}
