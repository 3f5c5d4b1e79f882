//! Tables for people: columns under each other, made to fit the terminal.
//!
//! Widths are known only when all rows are there, so rows are kept until then; for a terminal only those that it shows.

use super::{Printer, QueryError, Screen};
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::{DataType, SchemaRef};
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};
use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io::{self, Write};
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// Least width that a column is made narrower to.
const LEAST: usize = 8;
/// What stands for null.
const NULL: &str = "∅";

/// A result as a table.
pub(super) struct Grid {
    out: Box<dyn Write + Send>,
    screen: Option<Screen>,
    schema: SchemaRef,
    first: Vec<Vec<String>>,
    /// Rows behind those, as many as are shown from the end.
    last: VecDeque<Vec<String>>,
    rows: usize,
}

impl Grid {
    pub(super) fn new(out: Box<dyn Write + Send>, schema: SchemaRef, screen: Option<Screen>) -> Self {
        Self { out, screen, schema, first: Vec::new(), last: VecDeque::new(), rows: 0 }
    }

    fn keep(&mut self, row: Vec<String>) {
        self.rows += 1;
        let Some(screen) = self.screen else { return self.first.push(row) };
        if self.first.len() < screen.rows {
            return self.first.push(row);
        }
        // One more than is shown: a note instead of a single row would save nothing.
        if self.last.len() > screen.rows {
            self.last.pop_front();
        }
        self.last.push_back(row);
    }

    fn write(&mut self) -> io::Result<()> {
        let schema = SchemaRef::clone(&self.schema);
        let names: Vec<String> = schema.fields().iter().map(|field| clean(field.name())).collect();
        let skipped = self.rows - self.first.len() - self.last.len();
        let skipped = if skipped > 0 {
            self.last.pop_front();
            skipped + 1
        } else {
            0
        };
        let mut widths: Vec<usize> = names.iter().map(|name| name.width()).collect();
        for row in self.first.iter().chain(&self.last) {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.width());
            }
        }
        let shown = self.screen.map_or(widths.len(), |screen| fit(&mut widths, screen.width));
        let widths = &widths[..shown];
        let right: Vec<bool> = schema.fields().iter().map(|field| is_number(field.data_type())).collect();
        let mut text = String::new();
        line(&mut text, &names, widths, &vec![false; shown]);
        let rules: Vec<String> = widths.iter().map(|width| "─".repeat(width + 2)).collect();
        text.push_str(&rules.join("┼"));
        text.push('\n');
        self.first.iter().for_each(|row| line(&mut text, row, widths, &right));
        if skipped > 0 {
            writeln!(text, " … {skipped} rows …").map_err(io::Error::other)?;
        }
        self.last.iter().for_each(|row| line(&mut text, row, widths, &right));
        if self.screen.is_some() {
            text.push_str(&match (self.rows, names.len() - shown) {
                (1, 0) => "1 row\n".to_owned(),
                (rows, 0) => format!("{rows} rows\n"),
                (rows, more) => format!("{rows} rows; {more} columns are not shown, --format json has all\n"),
            });
        }
        self.out.write_all(text.as_bytes())
    }
}

fn line(text: &mut String, cells: &[String], widths: &[usize], right: &[bool]) {
    for (number, ((cell, width), right)) in cells.iter().zip(widths).zip(right).enumerate() {
        if number > 0 {
            text.push('│');
        }
        let cell = cut(cell, *width);
        let room = " ".repeat(width.saturating_sub(cell.width()));
        let (before, behind) = if *right { (room.as_str(), "") } else { ("", room.as_str()) };
        text.push(' ');
        text.push_str(before);
        text.push_str(&cell);
        text.push_str(behind);
        text.push(' ');
    }
    text.push('\n');
}

/// Makes the widest columns narrower until all fit; returns how many fit.
fn fit(widths: &mut [usize], room: usize) -> usize {
    let total = |widths: &[usize]| widths.iter().map(|width| width + 3).sum::<usize>().saturating_sub(1);
    while total(widths) > room {
        let Some(widest) = widths.iter_mut().filter(|width| **width > LEAST).max() else { break };
        *widest -= 1;
    }
    let mut shown = widths.len();
    while shown > 1 && total(&widths[..shown]) > room {
        shown -= 1;
    }
    shown
}

fn cut(cell: &str, width: usize) -> String {
    if cell.width() <= width {
        return cell.to_owned();
    }
    let mut out = String::new();
    let mut taken = 0;
    for character in cell.chars() {
        let next = character.width().unwrap_or(0);
        if taken + next + 1 > width {
            break;
        }
        taken += next;
        out.push(character);
    }
    out.push('…');
    out
}

/// A text in one line, without characters that move the cursor.
fn clean(text: &str) -> String {
    let shown = |character: char| match character {
        '\n' => '⏎',
        '\t' => ' ',
        character if character.is_control() => '�',
        character => character,
    };
    text.chars().map(shown).collect()
}

fn is_number(kind: &DataType) -> bool {
    kind.is_numeric()
}

impl Printer for Grid {
    fn rows(&mut self, rows: &RecordBatch) -> Result<(), QueryError> {
        let options = FormatOptions::new().with_timestamp_tz_format(Some("%Y-%m-%d %H:%M:%S%.f"));
        let formatters = rows.columns().iter().map(|column| ArrayFormatter::try_new(column.as_ref(), &options));
        let formatters: Vec<_> = formatters.collect::<Result<_, _>>().map_err(io::Error::other)?;
        let shown = |row: usize| {
            let cell = |(column, formatter): (&datafusion::arrow::array::ArrayRef, &ArrayFormatter<'_>)| {
                if column.is_null(row) { NULL.to_owned() } else { clean(&formatter.value(row).to_string()) }
            };
            rows.columns().iter().zip(&formatters).map(cell).collect()
        };
        (0..rows.num_rows()).for_each(|row| self.keep(shown(row)));
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<(), QueryError> {
        self.write()?;
        Ok(self.out.flush()?)
    }
}
