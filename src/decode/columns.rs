//! The columns of a batch while it is built.

use crate::record::schema::{ColumnType, Schema};
use arrow::array::{
    ArrayRef, BooleanBuilder, Float64Builder, Int64Builder, RecordBatch, StringBuilder, TimestampMicrosecondBuilder,
};
use arrow::datatypes::SchemaRef;
use std::sync::Arc;

/// One column that is being built.
#[derive(Debug)]
pub(super) enum Builder {
    Timestamp(TimestampMicrosecondBuilder),
    Int(Int64Builder),
    Float(Float64Builder),
    Bool(BooleanBuilder),
    Text(StringBuilder),
    /// JSON as its text, and memory to write it in.
    Json(StringBuilder, Vec<u8>),
}

impl Builder {
    fn new(kind: ColumnType) -> Self {
        match kind {
            ColumnType::Timestamp => Self::Timestamp(TimestampMicrosecondBuilder::new().with_timezone("UTC")),
            ColumnType::Int => Self::Int(Int64Builder::new()),
            ColumnType::Float => Self::Float(Float64Builder::new()),
            ColumnType::Bool => Self::Bool(BooleanBuilder::new()),
            ColumnType::Text => Self::Text(StringBuilder::new()),
            ColumnType::Json => Self::Json(StringBuilder::new(), Vec::new()),
        }
    }

    pub(super) fn append_null(&mut self) {
        match self {
            Self::Timestamp(builder) => builder.append_null(),
            Self::Int(builder) => builder.append_null(),
            Self::Float(builder) => builder.append_null(),
            Self::Bool(builder) => builder.append_null(),
            Self::Text(builder) | Self::Json(builder, _) => builder.append_null(),
        }
    }

    /// Appends to a column that is known to hold text.
    pub(super) fn append_text(&mut self, text: Option<&str>) {
        let (Self::Text(builder) | Self::Json(builder, _)) = self else {
            unreachable!("the caller knows that this is a text column")
        };
        builder.append_option(text);
    }

    /// Appends to a column that is known to hold times.
    pub(super) fn append_micros(&mut self, micros: i64) {
        let Self::Timestamp(builder) = self else { unreachable!("the caller knows that this is a time column") };
        builder.append_value(micros);
    }

    fn finish(&mut self) -> ArrayRef {
        match self {
            Self::Timestamp(builder) => Arc::new(builder.finish()),
            Self::Int(builder) => Arc::new(builder.finish()),
            Self::Float(builder) => Arc::new(builder.finish()),
            Self::Bool(builder) => Arc::new(builder.finish()),
            Self::Text(builder) | Self::Json(builder, _) => Arc::new(builder.finish()),
        }
    }
}

/// All columns of a schema, one builder each.
#[derive(Debug)]
pub(super) struct Columns {
    pub(super) builders: Vec<Builder>,
    arrow: SchemaRef,
}

impl Columns {
    pub(super) fn new(schema: &Schema) -> Self {
        let builders = schema.columns.iter().map(|column| Builder::new(column.kind)).collect();
        Self { builders, arrow: Arc::clone(&schema.arrow) }
    }

    /// The rows since the last call.
    ///
    /// # Panics
    /// When a row was not appended to every column: a bug of the decoder.
    pub(super) fn finish(&mut self) -> RecordBatch {
        let arrays = self.builders.iter_mut().map(Builder::finish).collect();
        RecordBatch::try_new(Arc::clone(&self.arrow), arrays).expect("each row is appended to every column")
    }
}
