//! The four tables of an archive: their columns, how each is encoded, and rows of theirs made from hand-offs.

use super::hex::HexColumn;
use super::order;
use super::partition::Level;
use crate::record::alert::AlertEvent;
use crate::record::dead::DeadLetter;
use crate::record::raw::PartitionId;
use crate::record::schema::{BUILT_IN, Column, ColumnType, Schema};
use crate::{limits, time::EventTime};
use arrow::array::{
    ArrayRef, BinaryBuilder, Int64Array, RecordBatch, StringArray, StringBuilder, TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field, Schema as ArrowSchema, SchemaRef, TimeUnit};
use arrow::error::ArrowError;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterPropertiesBuilder};
use parquet::schema::types::ColumnPath;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Which table a file belongs to; its text is the top folder and the `kind` of `headrig_archive_rows_total`.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Data,
    Dead,
    Windows,
    Alerts,
}

impl Kind {
    pub const ALL: [Self; 4] = [Self::Data, Self::Dead, Self::Windows, Self::Alerts];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::Dead => "dead",
            Self::Windows => "windows",
            Self::Alerts => "alerts",
        }
    }

    /// Columns that each file of this table has, for readers of an archive that has none yet.
    pub fn least_columns(self) -> SchemaRef {
        match self {
            Self::Data => {
                Arc::clone(&Schema::new("", 1, BUILT_IN.map(|(name, kind)| Column::new(name, kind)).into()).arrow)
            }
            Self::Dead => dead_schema(),
            Self::Alerts => alert_schema(),
            Self::Windows => {
                let flags =
                    [Field::new("late", DataType::Int64, false), Field::new("provisional", DataType::Boolean, false)];
                let [late, provisional] = flags;
                let fields =
                    [text("name", false), stamp("window_start", false), stamp("window_end", false), late, provisional];
                Arc::new(ArrowSchema::new(fields.to_vec()))
            }
        }
    }
}

/// How rows of one table are laid out.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    pub(crate) kind: Kind,
    /// Folder below the archive: `data`, or `windows/name=route_5m`.
    pub(crate) folder: String,
    /// Columns of the files.
    pub(crate) arrow: SchemaRef,
    /// Indices of the files' columns among those of the rows handed in.
    pub(crate) columns: Vec<usize>,
    /// Index, among the rows handed in, of the timestamp that partitions and statistics are by.
    pub(crate) time: usize,
    pub(crate) levels: Vec<Level>,
    pub(crate) properties: WriterProperties,
    /// Columns that are stored as bytes.
    pub(crate) hex: Vec<HexColumn>,
    /// Of each of the files' columns.
    pub(crate) codings: Arc<[Coding]>,
    /// Whether a column's texts are JSON, which stands as such in JSON Lines.
    pub(crate) inline: Arc<[bool]>,
    pub(crate) zstd_level: i32,
    /// The files' columns that rows are put in the order of, as far as there is room for that.
    pub(crate) order: Vec<usize>,
    /// Whether rows are handed in in that order.
    pub(crate) in_order: bool,
}

/// A column of files that are written again, as it was in them.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Rewritten {
    pub(crate) field: Arc<Field>,
    pub(crate) bloom: bool,
    pub(crate) dictionary: bool,
    /// Bytes of its texts, packed and before, where they are in no dictionary.
    pub(crate) texts: (i64, i64),
}

impl Rewritten {
    /// Whether its texts have nothing in common but their alphabet: hexadecimal digits come to half of their bytes whatever they say,
    /// those of base 64 to three quarters. A longer search finds matches by chance in them, which cost more than they save.
    fn is_random(&self) -> bool {
        let (packed, before) = self.texts;
        before > 0 && packed * 5 >= before * 2
    }
}

/// Who encodes a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Coding {
    /// Texts, through a dictionary whatever they are.
    Dictionary,
    /// Texts, through a dictionary when the first rows of a row group have few different ones. Rows that have hardly
    /// any text say nothing: then `few_expected` decides.
    BySample { few_expected: bool },
    /// The parquet crate, as the properties say.
    Other,
}

impl Table {
    /// Events: the schema's columns but those that are partitions.
    pub(crate) fn data(schema: &Schema, partition_by: &[String], footer: &[KeyValue]) -> Self {
        let levels: Vec<Level> = partition_by.iter().filter_map(|name| level(name, schema)).collect();
        let is_level = |i: &usize| levels.iter().any(|l| matches!(l, Level::Column { index, .. } if index == i));
        let columns: Vec<usize> = (0..schema.columns.len()).filter(|i| !is_level(i)).collect();
        let mut properties = defaults(footer);
        for index in &columns {
            properties = encode_column(properties, &schema.columns[*index]);
        }
        let hex_column =
            |i: &usize| schema.columns[*i].hex_bytes.map(|bytes| HexColumn { index: *i, bytes: bytes.get() });
        let field = |i: &usize| match hex_column(i) {
            Some(hex) => schema.arrow.field(*i).clone().with_data_type(DataType::FixedSizeBinary(hex.bytes.into())),
            None => schema.arrow.field(*i).clone(),
        };
        let fields: Vec<Field> = columns.iter().map(field).collect();
        let hex = columns.iter().filter_map(hex_column).collect();
        let codings = columns.iter().map(|i| coding(&schema.columns[*i])).collect();
        let inline = columns.iter().map(|i| schema.columns[*i].kind == ColumnType::Json).collect();
        let arrow = Arc::new(ArrowSchema::new(fields));
        Self {
            kind: Kind::Data,
            folder: Kind::Data.as_str().to_owned(),
            order: order::columns(Kind::Data, &arrow, 0),
            in_order: false,
            arrow,
            columns,
            hex,
            time: 0,
            levels,
            properties: properties.build(),
            codings,
            inline,
            zstd_level: ZSTD_LEVEL,
        }
    }

    /// Files that are written again, with rows in order.
    pub(crate) fn rewritten(
        kind: Kind,
        columns: &[Rewritten],
        time: usize,
        zstd_level: i32,
        footer: &[KeyValue],
    ) -> Self {
        let mut properties = with_level(footer, zstd_level);
        for column in columns {
            let path = column_path(column.field.name());
            if column.bloom {
                properties = properties
                    .set_column_bloom_filter_enabled(path.clone(), true)
                    .set_column_bloom_filter_max_ndv(path.clone(), limits::ROW_GROUP_ROWS as u64);
            }
            if column.is_random() {
                properties = properties.set_column_compression(path.clone(), zstd(ZSTD_LEVEL));
            }
            properties = match column.field.data_type() {
                DataType::Utf8 | DataType::Binary => text_column(properties, path),
                DataType::FixedSizeBinary(_) => properties
                    .set_column_statistics_enabled(path.clone(), EnabledStatistics::None)
                    .set_column_dictionary_enabled(path, column.dictionary),
                _ if column.dictionary => properties.set_column_dictionary_enabled(path, true),
                DataType::Timestamp(..) | DataType::Int64 => delta(properties, path),
                _ => properties.set_column_dictionary_enabled(path, false),
            };
        }
        let coding = |column: &Rewritten| match column.field.data_type() {
            DataType::Utf8 => Coding::BySample { few_expected: column.dictionary },
            _ => Coding::Other,
        };
        let fields: Vec<Arc<Field>> = columns.iter().map(|column| Arc::clone(&column.field)).collect();
        let arrow = Arc::new(ArrowSchema::new(fields));
        Self {
            kind,
            folder: kind.as_str().to_owned(),
            order: order::columns(kind, &arrow, time),
            in_order: true,
            arrow,
            columns: (0..columns.len()).collect(),
            time,
            levels: Vec::new(),
            properties: properties.build(),
            hex: Vec::new(),
            codings: columns.iter().map(coding).collect(),
            // Only Parquet is written again.
            inline: Arc::new([]),
            zstd_level,
        }
    }

    /// A table whose Arrow schema says all: timestamps and integers are delta coded, texts go through dictionaries
    /// but those named `plain`.
    pub(crate) fn plain(
        kind: Kind,
        folder: String,
        arrow: SchemaRef,
        time: &str,
        plain: &[&str],
        footer: &[KeyValue],
    ) -> Self {
        let mut properties = defaults(footer);
        for field in arrow.fields() {
            let path = column_path(field.name());
            properties = match field.data_type() {
                DataType::Timestamp(..) | DataType::Int64 => delta(properties, path),
                DataType::Utf8 | DataType::Binary => text_column(properties, path),
                _ => properties.set_column_dictionary_enabled(path, false),
            };
        }
        let coding = |field: &Arc<Field>| match field.data_type() {
            DataType::Utf8 => Coding::BySample { few_expected: !plain.contains(&field.name().as_str()) },
            _ => Coding::Other,
        };
        let codings = arrow.fields().iter().map(coding).collect();
        let is_json = |field: &Arc<Field>| kind == Kind::Alerts && JSON_OF_ALERTS.contains(&field.name().as_str());
        let inline = arrow.fields().iter().map(is_json).collect();
        let time = arrow.index_of(time).expect("the table has its time");
        Self {
            kind,
            folder,
            columns: (0..arrow.fields().len()).collect(),
            hex: Vec::new(),
            time,
            order: order::columns(kind, &arrow, time),
            in_order: false,
            arrow,
            levels: vec![Level::Date],
            properties: properties.build(),
            codings,
            inline,
            zstd_level: ZSTD_LEVEL,
        }
    }
}

fn level(name: &str, schema: &Schema) -> Option<Level> {
    match name {
        "date" => Some(Level::Date),
        "hour" => Some(Level::Hour),
        name => {
            let index = schema.columns.iter().position(|c| c.name == name)?;
            Some(Level::Column { name: name.to_owned(), index })
        }
    }
}

fn column_path(name: &str) -> ColumnPath {
    ColumnPath::new(vec![name.to_owned()])
}

/// What all files have in common.
fn defaults(footer: &[KeyValue]) -> WriterPropertiesBuilder {
    with_level(footer, ZSTD_LEVEL)
}

/// # Panics
/// For a level that `check` refuses.
fn zstd(level: i32) -> Compression {
    Compression::ZSTD(ZstdLevel::try_new(level).expect("the level is within zstd's range"))
}

fn with_level(footer: &[KeyValue], level: i32) -> WriterPropertiesBuilder {
    WriterProperties::builder()
        .set_created_by(concat!("headrig ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_compression(zstd(level))
        .set_max_row_group_row_count(Some(limits::ROW_GROUP_ROWS))
        .set_max_row_group_bytes(Some(limits::ROW_GROUP_BYTES))
        .set_statistics_enabled(EnabledStatistics::Page)
        .set_key_value_metadata(Some(footer.to_vec()))
}

/// Zstandard level, 1 to 22. On `fly-2h` ×12, level 1 took 2.2 s and 26.2 MB, level 2 2.5 s and 26.3 MB, level 3 2.8 s
/// and 27.6 MB: what remains behind dictionaries and deltas gains nothing from a longer search.
pub(super) const ZSTD_LEVEL: i32 = 1;

/// The same of files that are made of small ones, once and at the lowest priority, but for columns that gain nothing by it.
pub(super) const COMPACT_LEVEL: i32 = 9;

fn delta(properties: WriterPropertiesBuilder, path: ColumnPath) -> WriterPropertiesBuilder {
    properties
        .set_column_dictionary_enabled(path.clone(), false)
        .set_column_encoding(path, Encoding::DELTA_BINARY_PACKED)
}

fn encode_column(mut properties: WriterPropertiesBuilder, column: &Column) -> WriterPropertiesBuilder {
    let path = column_path(&column.name);
    if column.bloom {
        properties = properties
            .set_column_bloom_filter_enabled(path.clone(), true)
            .set_column_bloom_filter_max_ndv(path.clone(), limits::ROW_GROUP_ROWS as u64);
    }
    match column.kind {
        ColumnType::Text if column.hex_bytes.is_some() => properties
            .set_column_statistics_enabled(path.clone(), EnabledStatistics::None)
            .set_column_dictionary_enabled(path, column.dictionary),
        ColumnType::Text | ColumnType::Json => text_column(properties, path),
        _ if column.dictionary => properties.set_column_dictionary_enabled(path, true),
        ColumnType::Timestamp | ColumnType::Int => delta(properties, path),
        ColumnType::Float | ColumnType::Bool => properties.set_column_dictionary_enabled(path, false),
    }
}

/// Texts that are in no dictionary: their lengths and then their bytes, for bytes that no length stands between are
/// what zstd packs best and fastest. Without least and greatest values, as they would prune nothing: ids are random
/// and a row group has some from the whole range; that is what bloom filters are for.
fn text_column(properties: WriterPropertiesBuilder, path: ColumnPath) -> WriterPropertiesBuilder {
    properties
        .set_column_statistics_enabled(path.clone(), EnabledStatistics::None)
        .set_column_encoding(path.clone(), Encoding::DELTA_LENGTH_BYTE_ARRAY)
        .set_column_dictionary_enabled(path, false)
}

fn coding(column: &Column) -> Coding {
    let built_in = BUILT_IN.iter().any(|b| b.0 == column.name);
    let free_text = matches!(column.name.as_str(), "message" | "attributes") || column.kind == ColumnType::Json;
    match column.kind {
        ColumnType::Text if column.hex_bytes.is_some() => Coding::Other,
        ColumnType::Text | ColumnType::Json if column.dictionary => Coding::Dictionary,
        ColumnType::Text | ColumnType::Json => {
            Coding::BySample { few_expected: !free_text && (built_in || !column.high_cardinality) }
        }
        _ => Coding::Other,
    }
}

fn text(name: &str, nullable: bool) -> Field {
    Field::new(name, DataType::Utf8, nullable)
}

fn stamp(name: &str, nullable: bool) -> Field {
    Field::new(name, DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), nullable)
}

/// Columns of `dead/`. `raw` is the record as text, with U+FFFD for what is not UTF-8; only then `raw_bytes` has the
/// record as it came.
pub(crate) fn dead_schema() -> SchemaRef {
    Arc::new(ArrowSchema::new(vec![
        stamp("ts", false),
        text("source", false),
        text("partition", false),
        Field::new("position", DataType::Int64, false),
        text("reason", false),
        text("detail", false),
        text("raw", false),
        Field::new("raw_bytes", DataType::Binary, true),
        text("pipeline", false),
    ]))
}

/// Columns of `alerts/` whose texts are JSON.
pub(super) const JSON_OF_ALERTS: [&str; 3] = ["labels", "annotations", "values"];

/// Columns of `alerts/`; maps are JSON texts.
pub(crate) fn alert_schema() -> SchemaRef {
    Arc::new(ArrowSchema::new(vec![
        text("id", false),
        text("pipeline", false),
        text("alertname", true),
        text("status", false),
        text("labels", false),
        text("annotations", false),
        text("values", false),
        stamp("window_start", false),
        stamp("window_end", false),
        stamp("starts_at", false),
        stamp("ends_at", true),
    ]))
}

fn stamps<'a>(times: impl Iterator<Item = Option<EventTime>> + 'a) -> ArrayRef {
    let array: TimestampMicrosecondArray = times.map(|t| t.map(EventTime::micros)).collect();
    Arc::new(array.with_timezone("UTC"))
}

fn texts<T: AsRef<str>>(values: impl Iterator<Item = T>) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(values))
}

/// Dead letters as rows; at most 512 letters, so that their texts fit Arrow's 2 GiB.
pub(crate) fn dead_rows<'n>(
    pipeline: &str,
    letters: &[DeadLetter],
    names: &impl Fn(PartitionId) -> (&'n str, &'n str),
) -> Result<RecordBatch, ArrowError> {
    let mut raw = StringBuilder::new();
    let mut raw_bytes = BinaryBuilder::new();
    for letter in letters {
        match String::from_utf8_lossy(&letter.raw) {
            std::borrow::Cow::Borrowed(text) => {
                raw.append_value(text);
                raw_bytes.append_null();
            }
            std::borrow::Cow::Owned(text) => {
                raw.append_value(text);
                raw_bytes.append_value(&letter.raw);
            }
        }
    }
    let positions = letters.iter().map(|l| i64::try_from(l.position).unwrap_or(i64::MAX));
    RecordBatch::try_new(
        dead_schema(),
        vec![
            stamps(letters.iter().map(|l| Some(l.arrival))),
            texts(letters.iter().map(|l| names(l.partition).0)),
            texts(letters.iter().map(|l| names(l.partition).1)),
            Arc::new(Int64Array::from_iter_values(positions)),
            texts(letters.iter().map(|l| l.reason.as_str())),
            texts(letters.iter().map(|l| &l.detail)),
            Arc::new(raw.finish()),
            Arc::new(raw_bytes.finish()),
            texts(letters.iter().map(|_| pipeline)),
        ],
    )
}

/// Alert events as rows.
pub(crate) fn alert_rows(events: &[AlertEvent]) -> Result<RecordBatch, ArrowError> {
    let alertname: StringArray = events.iter().map(|e| e.labels.get("alertname")).collect();
    RecordBatch::try_new(
        alert_schema(),
        vec![
            texts(events.iter().map(|e| &e.id)),
            texts(events.iter().map(|e| &e.pipeline)),
            Arc::new(alertname),
            texts(events.iter().map(|e| e.status.as_str())),
            texts(events.iter().map(|e| json(&e.labels))),
            texts(events.iter().map(|e| json(&e.annotations))),
            texts(events.iter().map(|e| json(&e.values))),
            stamps(events.iter().map(|e| Some(e.window_start))),
            stamps(events.iter().map(|e| Some(e.window_end))),
            stamps(events.iter().map(|e| Some(e.starts_at))),
            stamps(events.iter().map(|e| e.ends_at)),
        ],
    )
}

fn json<T: serde::Serialize>(map: &BTreeMap<String, T>) -> String {
    serde_json::to_string(map).expect("a map of texts or JSON values is JSON")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::record::dead::DeadReason;
    use arrow::array::{Array, AsArray};

    /// The built-in columns and a few more.
    pub(crate) fn schema() -> Schema {
        let own = [("path", ColumnType::Text), ("status", ColumnType::Int), ("trace", ColumnType::Text)];
        let columns = BUILT_IN.iter().chain(&own).map(|(name, kind)| Column {
            dictionary: *name == "status",
            bloom: *name == "trace",
            high_cardinality: *name == "trace",
            ..Column::new(*name, *kind)
        });
        Schema::new("test", 3, columns.collect())
    }

    #[test]
    fn encodings_follow_the_schema() {
        let table = Table::data(&schema(), &["date".into(), "path".into()], &[]);
        assert!(table.arrow.field_with_name("path").is_err(), "partition columns are not repeated");
        assert!(table.properties.dictionary_enabled(&column_path("status")), "the schema says so");
        for (name, encoding) in [("ts", Encoding::DELTA_BINARY_PACKED), ("trace", Encoding::DELTA_LENGTH_BYTE_ARRAY)] {
            assert_eq!(table.properties.encoding(&column_path(name)), Some(encoding), "{name}");
            assert!(!table.properties.dictionary_enabled(&column_path(name)), "{name}");
        }
        let coding = |name: &str| table.codings[table.arrow.index_of(name).unwrap()];
        for name in ["ts", "status"] {
            assert_eq!(coding(name), Coding::Other, "{name}");
        }
        for (name, few_expected) in [("level", true), ("trace", false), ("attributes", false)] {
            assert_eq!(coding(name), Coding::BySample { few_expected }, "{name}");
        }
        assert!(table.properties.bloom_filter_properties(&column_path("trace")).is_some());
        assert!(table.properties.bloom_filter_properties(&column_path("level")).is_none());
    }

    #[test]
    fn dead_letters_keep_their_bytes() {
        let letter = |raw: &[u8]| DeadLetter {
            partition: PartitionId(0),
            position: 7,
            reason: DeadReason::BrokenEnvelope,
            detail: "cannot read".into(),
            raw: raw.to_vec(),
            arrival: EventTime::from_micros(5),
        };
        let rows = dead_rows("p", &[letter("é".as_bytes()), letter(b"\xff\x00x")], &|_| ("in", "stdin")).unwrap();
        let raw_bytes = rows.column_by_name("raw_bytes").unwrap().as_binary::<i32>();
        assert!(raw_bytes.is_null(0));
        assert_eq!(raw_bytes.value(1), b"\xff\x00x");
        assert_eq!(rows.column_by_name("raw").unwrap().as_string::<i32>().value(1), "\u{fffd}\0x");
        assert_eq!(rows.column_by_name("source").unwrap().as_string::<i32>().value(0), "in");
    }
}
