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

/// Which rows have a value: a bit each, from the first row on. Nothing is kept as long as all have one.
#[derive(Debug, Default)]
struct Valid {
    words: Vec<u64>,
    has_gaps: bool,
}

impl Valid {
    /// The rows from `filled` to `row` have no value.
    #[cold]
    fn gap(&mut self, filled: usize, row: usize) {
        if !self.has_gaps {
            self.has_gaps = true;
            self.words.resize(filled / 64, u64::MAX);
            self.words.push((1 << (filled % 64)) - 1);
        }
        self.words.resize(row / 64 + 1, 0);
    }

    /// The row has a value.
    #[inline]
    fn set(&mut self, row: usize) {
        if self.has_gaps {
            if row / 64 >= self.words.len() {
                self.words.push(0);
            }
            self.words[row / 64] |= 1 << (row % 64);
        }
    }

    /// The bits of `rows` rows, of which `filled` were told; `None` when all are set.
    fn finish(&mut self, filled: usize, rows: usize) -> Option<NullBuffer> {
        if filled < rows {
            self.gap(filled, rows);
        }
        if !std::mem::take(&mut self.has_gaps) {
            return None;
        }
        let words = std::mem::take(&mut self.words);
        self.words.reserve(words.len());
        Some(NullBuffer::new(BooleanBuffer::new(Buffer::from_vec(words), 0, rows)))
    }
}

/// Texts, back to back.
#[derive(Debug)]
pub(super) struct Texts {
    bytes: Vec<u8>,
    /// Where each row's text begins, and where the last one ends. Offsets stay far below 2 GiB: a batch is bounded by
    /// `limits::BATCH_BYTES` and one record, and no text grows more than sixfold.
    offsets: Vec<i32>,
    valid: Valid,
}

impl Default for Texts {
    fn default() -> Self {
        Self { bytes: Vec::new(), offsets: vec![0], valid: Valid::default() }
    }
}

/// Bytes that are copied at once, whatever a short text's length: two vector moves instead of a call.
const SHORT: usize = 32;

impl Texts {
    fn rows(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Rows up to `row` that were not told have no text.
    #[inline]
    fn reach(&mut self, row: usize) {
        if self.rows() < row {
            self.skip(row);
        }
    }

    #[cold]
    fn skip(&mut self, row: usize) {
        self.valid.gap(self.rows(), row);
        self.offsets.resize(row + 1, self.bytes.len() as i32);
    }

    #[inline]
    pub(super) fn push(&mut self, row: usize, text: &[u8]) {
        self.reach(row);
        self.bytes.extend_from_slice(text);
        self.close(row);
    }

    #[inline]
    fn close(&mut self, row: usize) {
        self.offsets.push(self.bytes.len() as i32);
        self.valid.set(row);
    }

    /// The same for the text at `range` of `bytes`, which is faster where more bytes follow.
    #[inline]
    pub(super) fn push_cut(&mut self, row: usize, bytes: &[u8], range: std::ops::Range<usize>) {
        self.reach(row);
        let length = range.len();
        match bytes.get(range.start..).and_then(<[u8]>::first_chunk::<SHORT>) {
            Some(piece) if length <= SHORT => {
                let behind = self.bytes.len() + length;
                self.bytes.extend_from_slice(piece);
                self.bytes.truncate(behind);
            }
            _ => self.bytes.extend_from_slice(&bytes[range]),
        }
        self.close(row);
    }

    fn finish(&mut self, rows: usize) -> ArrayRef {
        let filled = self.rows();
        self.offsets.resize(rows + 1, self.bytes.len() as i32);
        let (bytes, offsets) = (std::mem::take(&mut self.bytes), std::mem::take(&mut self.offsets));
        self.bytes.reserve(bytes.len());
        self.offsets.reserve(offsets.len());
        self.offsets.push(0);
        let offsets = OffsetBuffer::new(ScalarBuffer::from(offsets));
        let texts = StringArray::try_new(offsets, Buffer::from_vec(bytes), self.valid.finish(filled, rows));
        Arc::new(texts.expect("only whole, checked texts were appended"))
    }
}

/// Numbers of one kind, zero where there is none.
#[derive(Debug, Default)]
pub(super) struct Numbers<T> {
    values: Vec<T>,
    valid: Valid,
}

impl<T: Copy + Default> Numbers<T> {
    #[inline]
    pub(super) fn push(&mut self, row: usize, value: T) {
        if self.values.len() < row {
            self.valid.gap(self.values.len(), row);
            self.values.resize(row, T::default());
        }
        self.values.push(value);
        self.valid.set(row);
    }

    fn finish(&mut self, rows: usize) -> (Vec<T>, Option<NullBuffer>) {
        let filled = self.values.len();
        self.values.resize(rows, T::default());
        let values = std::mem::take(&mut self.values);
        self.values.reserve(values.len());
        (values, self.valid.finish(filled, rows))
    }
}

/// One column that is being built.
#[derive(Debug)]
pub(super) enum Builder {
    Timestamp(Numbers<i64>),
    Int(Numbers<i64>),
    Float(Numbers<f64>),
    Bool(Numbers<bool>),
    Text(Texts),
    /// JSON as its text, and memory to write it in.
    Json(Texts, Vec<u8>),
}

impl Builder {
    fn new(kind: ColumnType) -> Self {
        match kind {
            ColumnType::Timestamp => Self::Timestamp(Numbers::default()),
            ColumnType::Int => Self::Int(Numbers::default()),
            ColumnType::Float => Self::Float(Numbers::default()),
            ColumnType::Bool => Self::Bool(Numbers::default()),
            ColumnType::Text => Self::Text(Texts::default()),
            ColumnType::Json => Self::Json(Texts::default(), Vec::new()),
        }
    }

    /// A column that is known to hold text.
    #[inline]
    pub(super) fn texts(&mut self) -> &mut Texts {
        let (Self::Text(texts) | Self::Json(texts, _)) = self else {
            unreachable!("the caller knows that this is a text column")
        };
        texts
    }

    /// Appends to a column that is known to hold times.
    #[inline]
    pub(super) fn append_micros(&mut self, row: usize, micros: i64) {
        let Self::Timestamp(times) = self else { unreachable!("the caller knows that this is a time column") };
        times.push(row, micros);
    }

    fn is_empty(&self) -> bool {
        match self {
            Self::Timestamp(column) | Self::Int(column) => column.values.is_empty(),
            Self::Float(column) => column.values.is_empty(),
            Self::Bool(column) => column.values.is_empty(),
            Self::Text(texts) | Self::Json(texts, _) => texts.rows() == 0,
        }
    }

    fn finish(&mut self, rows: usize) -> ArrayRef {
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
            Self::Text(texts) | Self::Json(texts, _) => texts.finish(rows),
        }
    }
}

/// All columns of a schema, one builder each.
#[derive(Debug)]
pub(super) struct Columns {
    pub(super) builders: Vec<Builder>,
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
        let finish = |((builder, nulls), needed): ((&mut Builder, &mut ArrayRef), &bool)| {
            if !builder.is_empty() {
                let column = builder.finish(rows);
                if *needed {
                    return column;
                }
            }
            if nulls.len() < rows {
                *nulls = new_null_array(nulls.data_type(), rows.next_power_of_two());
            }
            nulls.slice(0, rows)
        };
        let arrays = self.builders.iter_mut().zip(&mut self.nulls).zip(&self.needed).map(finish).collect();
        RecordBatch::try_new(Arc::clone(&self.arrow), arrays).expect("columns that are never null get each row's value")
    }
}
