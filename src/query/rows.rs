//! Lines of JSON → Arrow rows, with the columns that a query has.
//!
//! Lines are trusted to be what this program wrote: of what isn't JSON some is found out, and said with its line. Keys come in
//! the order of the file's columns, so that each is found where the one before it was. A column that the file is older than is answered from
//! `attributes`, as of Parquet (`adapt.rs`).

use super::json::{Cursor, Step, as_text, find, unescape};
use crate::archive::{FileColumns, FileType, stamp};
use crate::record::schema::{ATTRIBUTES, BUILT_IN};
use arrow::array::{
    ArrayRef, BinaryViewBuilder, BooleanBuilder, Float64Builder, Int64Builder, RecordBatch, RecordBatchOptions,
    StringViewBuilder, TimestampMicrosecondBuilder,
};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::{Result, ScalarValue};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// Bytes of lines that become one batch, at most; of one that is longer by itself, that one.
const BATCH_BYTES: usize = 4 << 20;

/// Takes lines of one file in, and gives batches out.
pub(super) struct Rows {
    schema: SchemaRef,
    /// One a column of `schema`.
    slots: Vec<Slot>,
    /// Keys of the file in their order, and the slot that each goes to.
    keys: Vec<(String, Option<usize>)>,
    /// Where the values of the line at hand are, by key.
    found: Vec<Option<Range<usize>>>,
    /// The key of `attributes`, where a slot takes values out of it.
    attributes: Option<usize>,
    rows: usize,
    bytes: usize,
    most_rows: usize,
}

/// What fills a column.
enum Slot {
    /// The value of this key.
    Key { key: usize, json: bool, values: Values },
    /// What stands in `attributes` under the column's name.
    Attribute { steps: Vec<Step>, values: StringViewBuilder },
    /// The same in all rows of the file.
    Same(ScalarValue),
}

enum Values {
    Stamps(TimestampMicrosecondBuilder),
    Ints(Int64Builder),
    Floats(Float64Builder),
    Bools(BooleanBuilder),
    Texts(StringViewBuilder),
    Bytes(BinaryViewBuilder),
}

impl Rows {
    /// Rows of `schema`, made of lines with `columns`; `folders` are the values of the file's folders, and with `attributes` columns that the file
    /// doesn't have may be in there. A batch has at most `most_rows` rows.
    pub(super) fn new(
        schema: &SchemaRef,
        columns: &FileColumns,
        folders: &BTreeMap<String, ScalarValue>,
        attributes: bool,
        most_rows: usize,
    ) -> Result<Self> {
        let mut keys: Vec<(String, Option<usize>)> =
            columns.columns().iter().map(|column| (column.name.clone(), None)).collect();
        let of = |name: &str| columns.columns().iter().position(|column| column.name == name);
        let all = of(BUILT_IN[ATTRIBUTES].0).filter(|_| attributes);
        let mut slots = Vec::new();
        for (number, field) in schema.fields().iter().enumerate() {
            let own = of(field.name());
            let built_in = || BUILT_IN.iter().any(|(name, _)| name == field.name());
            slots.push(match (folders.get(field.name()), own) {
                (Some(value), _) => Slot::Same(value.clone()),
                (None, Some(key)) => {
                    keys[key].1 = Some(number);
                    let json = columns.columns()[key].kind == FileType::Json;
                    Slot::Key { key, json, values: Values::of(field.data_type())? }
                }
                (None, None) if all.is_some() && !built_in() => {
                    let steps = vec![Step::Key(field.name().clone())];
                    Slot::Attribute { steps, values: StringViewBuilder::new() }
                }
                (None, None) => Slot::Same(ScalarValue::try_from(field.data_type())?),
            });
        }
        let reads = slots.iter().any(|slot| matches!(slot, Slot::Attribute { .. }));
        let found = vec![None; keys.len()];
        let (schema, attributes) = (Arc::clone(schema), all.filter(|_| reads));
        Ok(Self { schema, slots, keys, found, attributes, rows: 0, bytes: 0, most_rows })
    }

    /// Takes one line in, without its end.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn push(&mut self, line: &str) -> Result<(), String> {
        self.rows += 1;
        self.bytes += line.len();
        if self.keys.iter().all(|(_, slot)| slot.is_none()) && self.attributes.is_none() {
            // Rows are only counted.
            return Ok(());
        }
        self.find(line)?;
        let value = |key: usize| self.found[key].clone().map(|range| &line[range]).filter(|value| *value != "null");
        for slot in &mut self.slots {
            match slot {
                Slot::Key { key, json, values } => {
                    let name = &self.keys[*key].0;
                    values.put(value(*key), *json).map_err(|expected| format!("its {name} is no {expected}"))?;
                }
                Slot::Attribute { steps, values } => {
                    let found = self.attributes.and_then(value).and_then(|attributes| find(attributes, steps));
                    values.append_option(found.and_then(as_text));
                }
                Slot::Same(_) => {}
            }
        }
        Ok(())
    }

    /// Notes where the values of a line are.
    fn find(&mut self, line: &str) -> Result<(), String> {
        self.found.fill(None);
        let broken = || "it is no JSON object".to_owned();
        let mut cursor = Cursor::new(line);
        let (mut next, mut first) = (0, true);
        if !cursor.takes(b'{') {
            return Err(broken());
        }
        while !cursor.takes(b'}') {
            if !std::mem::take(&mut first) && !cursor.takes(b',') {
                return Err(broken());
            }
            let key = cursor.string().ok_or_else(broken)?;
            cursor.takes(b':').then_some(()).ok_or_else(broken)?;
            let value = cursor.value().filter(|value| !value.is_empty()).ok_or_else(broken)?;
            let end = cursor.at();
            let key: Cow<'_, str> = if key.contains('\\') { unescape(key) } else { Cow::Borrowed(key) };
            let after = self.keys[next..].iter().position(|(name, _)| *name == key);
            let at = after.map(|at| at + next).or_else(|| self.keys.iter().position(|(name, _)| *name == key));
            // Another key would not be one of the file's columns, and is passed over.
            if let Some(at) = at {
                self.found[at] = Some(end - value.len()..end);
                next = at + 1;
            }
        }
        if cursor.peek().is_some() {
            return Err(broken());
        }
        Ok(())
    }

    /// Whether a batch should be taken.
    pub(super) fn is_full(&self) -> bool {
        self.rows >= self.most_rows || self.bytes >= BATCH_BYTES
    }

    /// The rows that were taken in since the last time; `None` when there are none.
    ///
    /// # Errors
    /// When a row lacks a value that each row has.
    pub(super) fn take(&mut self) -> Result<Option<RecordBatch>> {
        let rows = std::mem::take(&mut self.rows);
        self.bytes = 0;
        if rows == 0 {
            return Ok(None);
        }
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(self.slots.len());
        for (slot, field) in self.slots.iter_mut().zip(self.schema.fields()) {
            columns.push(match slot {
                Slot::Key { values, .. } => values.finish(),
                Slot::Attribute { values, .. } => {
                    let safe = CastOptions { safe: true, ..CastOptions::default() };
                    cast_with_options(&values.finish(), field.data_type(), &safe)?
                }
                Slot::Same(value) => value.to_array_of_size(rows)?,
            });
        }
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        Ok(Some(RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)?))
    }
}

impl Values {
    fn of(kind: &DataType) -> Result<Self> {
        Ok(match kind {
            DataType::Timestamp(..) => Self::Stamps(TimestampMicrosecondBuilder::new().with_data_type(kind.clone())),
            DataType::Int64 => Self::Ints(Int64Builder::new()),
            DataType::Float64 => Self::Floats(Float64Builder::new()),
            DataType::Boolean => Self::Bools(BooleanBuilder::new()),
            DataType::Utf8View => Self::Texts(StringViewBuilder::new()),
            DataType::BinaryView => Self::Bytes(BinaryViewBuilder::new()),
            other => return datafusion::common::internal_err!("no table has a column of type {other}"),
        })
    }

    /// Appends a value as it is written; `json` tells that texts keep their quotes.
    ///
    /// # Errors
    /// What was expected.
    fn put(&mut self, value: Option<&str>, json: bool) -> Result<(), &'static str> {
        let inner = || value.and_then(|value| value.strip_prefix('"')?.strip_suffix('"'));
        match self {
            Self::Stamps(values) => {
                values.append_option(value.map(|value| read_stamp(value).ok_or("time")).transpose()?)
            }
            Self::Ints(values) => {
                values.append_option(value.map(|value| value.parse().map_err(|_| "integer")).transpose()?);
            }
            Self::Floats(values) => {
                values.append_option(value.map(|value| value.parse().map_err(|_| "number")).transpose()?);
            }
            Self::Bools(values) => {
                values.append_option(value.map(|value| value.parse().map_err(|_| "truth value")).transpose()?);
            }
            Self::Texts(values) => match inner().filter(|_| !json) {
                Some(inner) => values.append_value(unescape(inner)),
                None => values.append_option(value),
            },
            Self::Bytes(values) => match value {
                Some(_) => values.append_value(inner().and_then(bytes).ok_or("bytes in hexadecimal digits")?),
                None => values.append_null(),
            },
        }
        Ok(())
    }

    fn finish(&mut self) -> ArrayRef {
        match self {
            Self::Stamps(values) => Arc::new(values.finish()),
            Self::Ints(values) => Arc::new(values.finish()),
            Self::Floats(values) => Arc::new(values.finish()),
            Self::Bools(values) => Arc::new(values.finish()),
            Self::Texts(values) => Arc::new(values.finish()),
            Self::Bytes(values) => Arc::new(values.finish()),
        }
    }
}

/// µs since 1970 of a time as it is written: a text, or those µs.
fn read_stamp(value: &str) -> Option<i64> {
    match value.strip_prefix('"').and_then(|value| value.strip_suffix('"')) {
        Some(text) => stamp(&serde_json::Value::String(text.to_owned())),
        None => value.parse().ok(),
    }
}

fn bytes(digits: &str) -> Option<Vec<u8>> {
    let pair = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok().filter(|_| pair.len() == 2);
    digits.as_bytes().chunks(2).map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::datatypes::{Field, Schema, TimeUnit};
    use arrow::util::pretty::pretty_format_batches;

    fn schema(fields: &[(&str, DataType)]) -> SchemaRef {
        Arc::new(Schema::new(
            fields.iter().map(|(name, kind)| Field::new(*name, kind.clone(), true)).collect::<Vec<_>>(),
        ))
    }

    fn columns(json: &str) -> FileColumns {
        serde_json::from_str(json).unwrap()
    }

    /// The rows of these lines as a table.
    fn check(fields: &[(&str, DataType)], file: &str, lines: &[&str]) -> Result<Vec<String>, String> {
        let folders = BTreeMap::from([("date".to_owned(), ScalarValue::Utf8View(Some("d".to_owned())))]);
        let mut rows = Rows::new(&schema(fields), &columns(file), &folders, true, 100).unwrap();
        for line in lines {
            rows.push(line)?;
        }
        let shown =
            pretty_format_batches(&[rows.take().map_err(|error| error.to_string())?.unwrap()]).unwrap().to_string();
        let cells = |line: &str| line.split('|').map(str::trim).collect::<Vec<_>>().join("|");
        Ok(shown.lines().filter(|line| !line.starts_with('+')).skip(1).map(cells).collect())
    }

    const FILE: &str = r#"{"columns":[{"name":"ts","type":"timestamp"},{"name":"n","type":"int"},{"name":"t","type":"text"},
        {"name":"j","type":"json"},{"name":"raw","type":"bytes"},{"name":"attributes","type":"json"}]}"#;

    fn stamps() -> DataType {
        DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
    }

    #[test]
    fn values_are_read_as_they_were_written() {
        let fields = [
            ("n", DataType::Float64),
            ("ts", stamps()),
            ("t", DataType::Utf8View),
            ("j", DataType::Utf8View),
            ("raw", DataType::BinaryView),
            ("date", DataType::Utf8View),
        ];
        let lines = [
            r#"{"ts":"2026-05-06T05:35:31.000001Z","n":1,"t":"a\n\"é\u0001","j":{"a": [1, "}"]},"raw":"ff00","x":{"y":1}}"#,
            r#"{"j":"text","t":"","n":-7}"#,
            r#"{"ts":5,"j":null,"other":[1]}"#,
            "{}",
        ];
        assert_eq!(
            check(&fields, FILE, &lines).unwrap(),
            [
                "|1.0|2026-05-06T05:35:31.000001Z|a|{\"a\": [1, \"}\"]}|ff00|d|",
                // The rest of the text, on a line of its own.
                "|||\"é\u{1}||||",
                "|-7.0|||\"text\"||d|",
                "||1970-01-01T00:00:00.000005Z||||d|",
                "||||||d|",
            ]
        );
        // Types that no longer go together are texts.
        assert_eq!(check(&[("n", DataType::Utf8View)], FILE, &[r#"{"n":12}"#]).unwrap(), ["|12|"]);
    }

    #[test]
    fn what_a_file_is_older_than_comes_from_its_attributes() {
        let fields = [("customer", DataType::Utf8View), ("total", DataType::Int64), ("level", DataType::Utf8View)];
        let lines = [
            r#"{"attributes":{"customer":"c\u00e9","total":"12","level":"no"}}"#,
            r#"{"attributes":{"customer":{"id":7},"total":"x"}}"#,
            r#"{"n":1}"#,
        ];
        assert_eq!(check(&fields, FILE, &lines).unwrap(), ["|cé|12||", "|{\"id\":7}|||", "||||"]);
    }

    #[test]
    fn broken_lines_are_found() {
        let fields = [("ts", stamps()), ("n", DataType::Int64), ("raw", DataType::BinaryView)];
        for (line, expected) in [
            ("", "it is no JSON object"),
            ("[1]", "it is no JSON object"),
            (r#"{"n":1"#, "it is no JSON object"),
            (r#"{"n":}"#, "it is no JSON object"),
            (r#"{"n":1} {"n":1}"#, "it is no JSON object"),
            (r#"{"n":1 "t":"x"}"#, "it is no JSON object"),
            (r#"{"n":1.5}"#, "its n is no integer"),
            (r#"{"ts":"yesterday"}"#, "its ts is no time"),
            (r#"{"raw":"fg"}"#, "its raw is no bytes in hexadecimal digits"),
        ] {
            assert_eq!(check(&fields, FILE, &[line]), Err(expected.to_owned()), "{line}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_value_reads_back_and_no_line_panics(text in "\\PC*|[\u{0}-\u{1f}{}\\[\\]\":,\\\\0-9 ]*", n in proptest::num::i64::ANY, cut in 0..80_usize) {
            use arrow::array::AsArray;
            let fields = [("t", DataType::Utf8View), ("n", DataType::Int64), ("j", DataType::Utf8View)];
            let mut rows = Rows::new(&schema(&fields), &columns(FILE), &BTreeMap::new(), true, 100).unwrap();
            let json = serde_json::json!({ "key": [&text], "n": { "n": n } }).to_string();
            let line = format!("{{\"n\":{n},\"t\":{},\"j\":{json}}}", serde_json::Value::from(text.as_str()));
            rows.push(&line).unwrap();
            let batch = rows.take().unwrap().unwrap();
            proptest::prop_assert_eq!(batch.column(0).as_string_view().value(0), text.as_str());
            proptest::prop_assert_eq!(batch.column(1).as_primitive::<arrow::datatypes::Int64Type>().value(0), n);
            proptest::prop_assert_eq!(batch.column(2).as_string_view().value(0), json.as_str());
            // A line that was cut off is broken, wherever that was.
            let cut = (0..=cut.min(line.len() - 1)).rev().find(|at| line.is_char_boundary(*at)).unwrap();
            proptest::prop_assert!(rows.push(&line[..cut]).is_err());
        }
    }

    #[test]
    fn rows_can_be_counted_alone() {
        let mut rows = Rows::new(&schema(&[]), &columns(FILE), &BTreeMap::new(), true, 2).unwrap();
        rows.push("{\"n\":1}").unwrap();
        assert!(!rows.is_full());
        rows.push("{\"n\":2}").unwrap();
        assert!(rows.is_full());
        assert_eq!(rows.take().unwrap().unwrap().num_rows(), 2);
        assert!(rows.take().unwrap().is_none());
    }
}
