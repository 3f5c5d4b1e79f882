//! What columns an event has, and where in a log record they come from.

use arrow::datatypes::{DataType, Field, Schema as ArrowSchema, SchemaRef, TimeUnit};
use std::num::NonZeroU8;
use std::sync::Arc;

/// The type of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ColumnType {
    /// Microseconds since 1970 in UTC; RFC 3339, an epoch number or a `strptime` pattern in the log.
    Timestamp,
    /// 64-bit signed.
    Int,
    /// 64-bit.
    Float,
    Bool,
    Text,
    /// Any JSON value, kept as its text.
    Json,
}

impl ColumnType {
    pub fn arrow(self) -> DataType {
        match self {
            Self::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            Self::Int => DataType::Int64,
            Self::Float => DataType::Float64,
            Self::Bool => DataType::Boolean,
            Self::Text | Self::Json => DataType::Utf8,
        }
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Timestamp => "timestamp",
            Self::Int => "int",
            Self::Float => "float",
            Self::Bool => "bool",
            Self::Text => "text",
            Self::Json => "json",
        }
    }
}

/// The columns that every schema has, in this order, before those of its own.
///
/// `ts_source` says which time `ts` is: `event`, `envelope`, `broker` or `arrival`.
pub const BUILT_IN: [(&str, ColumnType); 12] = [
    ("ts", ColumnType::Timestamp),
    ("ts_source", ColumnType::Text),
    ("ingest_ts", ColumnType::Timestamp),
    ("app", ColumnType::Text),
    ("instance", ColumnType::Text),
    ("region", ColumnType::Text),
    ("host", ColumnType::Text),
    ("provider", ColumnType::Text),
    ("level", ColumnType::Text),
    ("event", ColumnType::Text),
    ("message", ColumnType::Text),
    ("attributes", ColumnType::Json),
];

/// Index of the built-in column that takes what fits no other.
pub const ATTRIBUTES: usize = 11;

/// One column of a schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    pub name: String,
    pub kind: ColumnType,
    /// Keys or dotted paths (split at the dots) in the log record; the first that is there wins.
    pub from: Vec<Vec<String>>,
    /// The unit of the values, for people and exposition ("ms", "bytes").
    pub unit: Option<String>,
    /// Whether few enough different values are expected that a dictionary pays.
    pub dictionary: bool,
    /// Whether a bloom filter shall be written.
    pub bloom: bool,
    /// Stored in the archive as this many bytes, which the text gives as twice as many hex digits in small letters;
    /// only of a text column. Everywhere else the column is text.
    pub hex_bytes: Option<NonZeroU8>,
    /// A record without it becomes a dead letter.
    pub required: bool,
    /// Too many different values for a metric label; `check` refuses it there.
    pub high_cardinality: bool,
    /// Still filled and written, but nobody should use it any more.
    pub deprecated: Option<Deprecated>,
    pub description: Option<String>,
}

/// What is used instead of a column.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Deprecated {
    /// Another column; `None` where there is none.
    pub instead: Option<String>,
}

impl Column {
    /// A column that nothing in a log record fills and nothing else is known of.
    pub fn new(name: impl Into<String>, kind: ColumnType) -> Self {
        Self {
            name: name.into(),
            kind,
            from: Vec::new(),
            unit: None,
            dictionary: false,
            bloom: false,
            hex_bytes: None,
            required: false,
            high_cardinality: false,
            deprecated: None,
            description: None,
        }
    }
}

/// A resolved schema: built-in columns first, then its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schema {
    pub name: String,
    /// Counts up with each change of the schema's columns, from 1.
    pub version: u32,
    /// All columns, [`BUILT_IN`] ones first and in that order.
    pub columns: Vec<Column>,
    /// The same as Arrow fields, all nullable but `ts`, `ts_source` and `ingest_ts`.
    pub arrow: SchemaRef,
}

impl Schema {
    /// # Panics
    /// When `columns` doesn't start with the built-in ones.
    pub fn new(name: impl Into<String>, version: u32, columns: Vec<Column>) -> Self {
        assert!(
            BUILT_IN.iter().zip(&columns).filter(|(b, c)| b.0 == c.name && b.1 == c.kind).count() == BUILT_IN.len(),
            "a schema starts with the built-in columns"
        );
        let fields: Vec<Field> = columns
            .iter()
            .map(|c| {
                let nullable = !matches!(c.name.as_str(), "ts" | "ts_source" | "ingest_ts");
                Field::new(&c.name, c.kind.arrow(), nullable)
            })
            .collect();
        Self { name: name.into(), version, columns, arrow: Arc::new(ArrowSchema::new(fields)) }
    }

    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|c| c.name == name)
    }
}
