//! The columns of a batch while it is built.
//!
//! A record fills few of a schema's columns. So a column is told only of the values that it gets, each with its row;
//! the rows between are null and are filled in when the next value comes or the batch ends. What a record doesn't
//! have costs nothing.

use crate::record::schema::{ColumnType, Schema};
use arrow::array::{
    Array, ArrayRef, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
    new_null_array,
};
use arrow::buffer::{BooleanBuffer, Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::SchemaRef;
use std::sync::Arc;

/// Which rows have no value, as ranges: what has one costs nothing.
#[derive(Debug, Default)]
struct Gaps(Vec<(u32, u32)>);

impl Gaps {
    /// The rows from `filled` to `row` have no value.
    #[inline]
    fn add(&mut self, filled: usize, row: usize) {
        self.0.push((filled as u32, row as u32));
    }

    /// A bit for each of `rows` rows, of which `filled` were told; `None` when all have a value.
    fn finish(&mut self, filled: usize, rows: usize) -> Option<NullBuffer> {
        if filled < rows {
            self.add(filled, rows);
        }
        if self.0.is_empty() {
            return None;
        }
        let mut words = vec![u64::MAX; rows.div_ceil(64)];
        for (start, end) in self.0.drain(..) {
            clear(&mut words, start as usize, end as usize);
        }
        Some(NullBuffer::new(BooleanBuffer::new(Buffer::from_vec(words), 0, rows)))
    }
}

/// Clears the bits from `start` to `end`, of which there is one at least.
fn clear(words: &mut [u64], start: usize, end: usize) {
    let (first, last) = (start / 64, (end - 1) / 64);
    let (before, behind) = ((1 << (start % 64)) - 1, (u64::MAX << ((end - 1) % 64)) << 1);
    if first == last {
        words[first] &= before | behind;
        return;
    }
    words[first] &= before;
    words[first + 1..last].fill(0);
    words[last] &= behind;
}

/// Texts, back to back, in memory that is kept from batch to batch and copied when one is finished.
///
/// There is room behind what is used, so that a short text and what follows it are copied at once, and only the place
/// of the next one says how much of that counts.
#[derive(Debug, Default)]
pub(super) struct Texts {
    bytes: Vec<u8>,
    /// Bytes that count. This and the offsets stay far below 2 GiB: a batch is bounded by `limits::BATCH_BYTES` and one
    /// record, and no text grows more than sixfold.
    used: u32,
    /// Where each row's text begins, and where the last one ends; room behind it.
    offsets: Vec<i32>,
    rows: usize,
    gaps: Gaps,
    /// A column of which each row had the same text. One that has it again is a slice of it.
    same: Option<StringArray>,
}

/// Bytes that are copied at once, whatever a short text's length: two vector moves instead of a call.
const SHORT: usize = 32;
/// Bytes of a column that are kept whatever use is made of them.
const KEPT: usize = 16 * 1024;

impl Texts {
    /// Any text, where rows without one or too little room may be before it.
    #[inline(never)]
    pub(super) fn push(&mut self, row: usize, text: &[u8]) {
        let end = self.used as usize + text.len();
        self.make_room(row, end);
        if self.rows < row {
            self.gaps.add(self.rows, row);
            self.fill(row);
        }
        self.bytes[self.used as usize..end].copy_from_slice(text);
        self.used = end as u32;
        self.offsets[row + 1] = end as i32;
        self.rows = row + 1;
    }

    /// The same for the text at `range` of `bytes`, which is faster where more bytes follow.
    #[inline(always)]
    pub(super) fn push_cut(&mut self, row: usize, bytes: &[u8], range: std::ops::Range<usize>) {
        let (used, length) = (self.used as usize, range.end.wrapping_sub(range.start));
        if self.rows == row
            && length <= SHORT
            && let Some(from) = bytes.get(range.start..range.start + SHORT)
            && let Some(to) = self.bytes.get_mut(used..used + SHORT)
            && let Some(end) = self.offsets.get_mut(row + 1)
        {
            to.copy_from_slice(from);
            let behind = self.used + length as u32;
            *end = behind as i32;
            self.used = behind;
            self.rows = row + 1;
        } else {
            self.push(row, &bytes[range]);
        }
    }

    /// Room for one more row, with a text that ends at `end`, and for a short text behind that.
    fn make_room(&mut self, row: usize, end: usize) {
        if self.offsets.len() < row + 3 {
            self.offsets.resize(2 * row + 64, 0);
        }
        if self.bytes.len() < end + SHORT {
            self.bytes.resize(end + end / 2 + 8 * SHORT, 0);
        }
    }

    /// The rows up to `row` that were not told have no text.
    fn fill(&mut self, row: usize) {
        self.offsets[self.rows + 1..=row].fill(self.used as i32);
        self.rows = row;
    }

    fn finish(&mut self, rows: usize) -> ArrayRef {
        let nulls = self.gaps.finish(self.rows, rows);
        self.make_room(rows, self.used as usize);
        self.fill(rows);
        let (bytes, offsets) = (&self.bytes[..self.used as usize], &self.offsets[..=rows]);
        let is_same = rows > 0 && nulls.is_none() && is_same(bytes, offsets);
        let same = self
            .same
            .take()
            .filter(|same| is_same && same.len() >= rows && same.value(0).as_bytes() == &bytes[..bytes.len() / rows]);
        let texts = same.unwrap_or_else(|| {
            let offsets = OffsetBuffer::new(ScalarBuffer::from(offsets.to_vec()));
            let texts = StringArray::try_new(offsets, Buffer::from_vec(bytes.to_vec()), nulls);
            texts.expect("only whole, checked texts were appended")
        });
        // A long text once is no reason to keep its room.
        if self.bytes.len() > 4 * bytes.len() + KEPT {
            self.bytes = Vec::new();
        }
        (self.used, self.rows) = (0, 0);
        let column = Arc::new(texts.slice(0, rows));
        self.same = is_same.then_some(texts);
        column
    }
}

/// Whether all rows, of which none is null, have the same text.
fn is_same(bytes: &[u8], offsets: &[i32]) -> bool {
    let rows = offsets.len() - 1;
    let length = bytes.len() / rows;
    // A column of different texts differs early, and a text of another length shows in an offset.
    bytes.len() == rows * length
        && bytes[length..] == bytes[..bytes.len() - length]
        && offsets.iter().enumerate().all(|(row, offset)| *offset as usize == row * length)
}

/// Numbers of one kind, zero where there is none.
#[derive(Debug, Default)]
pub(super) struct Numbers<T> {
    values: Vec<T>,
    gaps: Gaps,
}

impl<T: Copy + Default> Numbers<T> {
    #[inline]
    pub(super) fn push(&mut self, row: usize, value: T) {
        if self.values.len() < row {
            self.skip(row);
        }
        self.values.push(value);
    }

    #[inline(never)]
    fn skip(&mut self, row: usize) {
        self.gaps.add(self.values.len(), row);
        self.values.resize(row, T::default());
    }

    fn finish(&mut self, rows: usize) -> (Vec<T>, Option<NullBuffer>) {
        let filled = self.values.len();
        self.values.resize(rows, T::default());
        let values = std::mem::take(&mut self.values);
        self.values.reserve(values.len());
        (values, self.gaps.finish(filled, rows))
    }
}

/// One column that is being built.
#[derive(Debug)]
pub(super) enum Builder {
    Timestamp(Numbers<i64>),
    Int(Numbers<i64>),
    Float(Numbers<f64>),
    Bool(Numbers<bool>),
    /// Its texts are in [`Columns::texts`], so that they are found without asking what the column is.
    Text,
    /// JSON as its text; memory to write it in.
    Json(Vec<u8>),
}

impl Builder {
    fn new(kind: ColumnType) -> Self {
        match kind {
            ColumnType::Timestamp => Self::Timestamp(Numbers::default()),
            ColumnType::Int => Self::Int(Numbers::default()),
            ColumnType::Float => Self::Float(Numbers::default()),
            ColumnType::Bool => Self::Bool(Numbers::default()),
            ColumnType::Text => Self::Text,
            ColumnType::Json => Self::Json(Vec::new()),
        }
    }

    /// Appends to a column that is known to hold times.
    #[inline]
    pub(super) fn append_micros(&mut self, row: usize, micros: i64) {
        let Self::Timestamp(times) = self else { unreachable!("the caller knows that this is a time column") };
        times.push(row, micros);
    }

    fn is_empty(&self, texts: &Texts) -> bool {
        match self {
            Self::Timestamp(column) | Self::Int(column) => column.values.is_empty(),
            Self::Float(column) => column.values.is_empty(),
            Self::Bool(column) => column.values.is_empty(),
            Self::Text | Self::Json(_) => texts.rows == 0,
        }
    }

    fn finish(&mut self, texts: &mut Texts, rows: usize) -> ArrayRef {
        match self {
            Self::Timestamp(column) => {
                let (values, nulls) = column.finish(rows);
                Arc::new(TimestampMicrosecondArray::new(values.into(), nulls).with_timezone("UTC"))
            }
            Self::Int(column) => {
                let (values, nulls) = column.finish(rows);
                Arc::new(Int64Array::new(values.into(), nulls))
            }
            Self::Float(column) => {
                let (values, nulls) = column.finish(rows);
                Arc::new(Float64Array::new(values.into(), nulls))
            }
            Self::Bool(column) => {
                let (values, nulls) = column.finish(rows);
                Arc::new(BooleanArray::new(values.into(), nulls))
            }
            Self::Text | Self::Json(_) => texts.finish(rows),
        }
    }
}

/// All columns of a schema, one builder each.
#[derive(Debug)]
pub(super) struct Columns {
    pub(super) builders: Vec<Builder>,
    /// One for each column, of which only those of text are used.
    pub(super) texts: Vec<Texts>,
    /// The number of the row that is being built, from the batch's first.
    pub(super) row: usize,
    /// Whether anybody reads the column; nulls otherwise.
    needed: Vec<bool>,
    /// For each column, nulls to take as many of as a batch needs that has no value there.
    nulls: Vec<ArrayRef>,
    arrow: SchemaRef,
}

impl Columns {
    pub(super) fn new(schema: &Schema, needed: &[bool]) -> Self {
        Self {
            needed: needed
                .iter()
                .zip(schema.arrow.fields())
                .map(|(needed, field)| *needed || !field.is_nullable())
                .collect(),
            builders: schema.columns.iter().map(|column| Builder::new(column.kind)).collect(),
            texts: schema.columns.iter().map(|_| Texts::default()).collect(),
            row: 0,
            nulls: schema.columns.iter().map(|column| new_null_array(&column.kind.arrow(), 0)).collect(),
            arrow: Arc::clone(&schema.arrow),
        }
    }

    /// The rows since the last call.
    ///
    /// # Panics
    /// When a row has no value for a column that is never null: a bug of the decoder.
    pub(super) fn finish(&mut self) -> RecordBatch {
        let rows = std::mem::take(&mut self.row);
        let columns = self.builders.iter_mut().zip(&mut self.texts).zip(&mut self.nulls).zip(&self.needed);
        let finish = |(((builder, texts), nulls), needed): (((&mut Builder, &mut Texts), &mut ArrayRef), &bool)| {
            if !builder.is_empty(texts) {
                let column = builder.finish(texts, rows);
                if *needed {
                    return column;
                }
            }
            if nulls.len() < rows {
                *nulls = new_null_array(nulls.data_type(), rows.next_power_of_two());
            }
            nulls.slice(0, rows)
        };
        let arrays = columns.map(finish).collect();
        RecordBatch::try_new(Arc::clone(&self.arrow), arrays).expect("columns that are never null get each row's value")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::AsArray;
    use proptest::prelude::*;

    /// Rows that all have the same text, now and then but for one.
    fn one_text() -> impl Strategy<Value = Vec<String>> {
        let text = proptest::sample::select(vec!["", "é", "app", "apps", "a longer text, which is not copied at once"]);
        (text, 1usize..9, 0usize..20).prop_map(|(text, rows, other)| {
            (0..rows).map(|row| if row == other { "app" } else { text }.to_owned()).collect()
        })
    }

    proptest! {
        #[test]
        fn rows_that_were_not_told_are_null(
            texts in proptest::collection::vec(proptest::option::weighted(0.6, "[a-zé]{0,40}"), 0..300)
        ) {
            let mut column = Texts::default();
            // The second time it has been used before.
            for _ in 0..2 {
                for (row, text) in texts.iter().enumerate() {
                    let Some(text) = text else { continue };
                    let around = format!("ab{text}{}", "c".repeat(row % 40));
                    column.push_cut(row, around.as_bytes(), 2..2 + text.len());
                }
                let array = column.finish(texts.len());
                let found: Vec<Option<&str>> = array.as_string::<i32>().iter().collect();
                prop_assert_eq!(found, texts.iter().map(Option::as_deref).collect::<Vec<_>>());
            }
        }

        #[test]
        fn a_column_of_one_text_may_be_that_of_the_batch_before(
            batches in proptest::collection::vec(prop_oneof![one_text(), proptest::collection::vec("a{1,3}", 1..4)], 1..9)
        ) {
            let mut column = Texts::default();
            for texts in batches {
                for (row, text) in texts.iter().enumerate() {
                    column.push_cut(row, format!("{text}{}", " ".repeat(40)).as_bytes(), 0..text.len());
                }
                let array = column.finish(texts.len());
                let found: Option<Vec<&str>> = array.as_string::<i32>().iter().collect();
                prop_assert_eq!(found, Some(texts.iter().map(String::as_str).collect()));
            }
        }

        #[test]
        fn bits_are_cleared_from_start_to_end(start in 0usize..200, length in 1usize..200) {
            let mut words = [u64::MAX; 7];
            clear(&mut words, start, start + length);
            for bit in 0..448 {
                let is_set = words[bit / 64] >> (bit % 64) & 1 == 1;
                prop_assert_eq!(is_set, !(start..start + length).contains(&bit));
            }
        }
    }
}
