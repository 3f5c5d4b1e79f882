//! The decoder: raw batches → rows, dead letters and counts.

use super::envelope::{self, Parts};
use super::row::{Content, Context, Flaws, Rows};
use super::speculate::{Speculation, Speculator};
use super::tape::{Parser, write_text};
use super::{Envelope, Format, Plan, logfmt};
use crate::limits;
use crate::record::dead::{DeadLetter, DeadReason};
use crate::record::raw::RawBatch;
use crate::time::EventTime;
use arrow::array::RecordBatch;
use simd_json::Node;
use std::borrow::Cow;

/// What became of a raw batch. Each record is in exactly one of `rows` and `dead`.
#[derive(Debug)]
pub struct Decoded {
    /// Columns as in the plan's schema, in the order of the records.
    pub rows: RecordBatch,
    pub dead: Vec<DeadLetter>,
    pub counts: Counts,
    /// Which way the records went; says nothing about them.
    pub speculation: Speculation,
}

/// Rows of a batch that were kept although something was wrong with them. A row can count under several.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// A value of another type than its column's; kept in `attributes`.
    pub type_clash: u64,
    /// A message that begins like JSON and isn't; kept as text.
    pub cut_json: u64,
    /// A time that cannot be read; kept in `attributes`.
    pub bad_timestamp: u64,
    /// A time too far ahead; kept in `attributes`.
    pub future_timestamp: u64,
    /// Bytes that are not UTF-8, replaced by U+FFFD.
    pub invalid_utf8: u64,
}

impl Counts {
    /// The counts under the names that `headrig_decode_errors_total` has for them.
    pub fn by_reason(&self) -> [(&'static str, u64); 5] {
        [
            ("type_clash", self.type_clash),
            ("cut_json", self.cut_json),
            ("bad_timestamp", self.bad_timestamp),
            ("future_timestamp", self.future_timestamp),
            ("invalid_utf8", self.invalid_utf8),
        ]
    }

    fn add(&mut self, flaws: Flaws) {
        self.type_clash += u64::from(flaws.type_clash);
        self.bad_timestamp += u64::from(flaws.bad_timestamp);
        self.future_timestamp += u64::from(flaws.future_timestamp);
    }
}

type Refused = (DeadReason, String);

/// Decodes raw batches by a plan. One decoder serves one thread; it keeps its buffers between batches, and layouts that
/// it has learned. What it has learned changes how fast it is, never what it returns.
#[derive(Debug)]
pub struct Decoder {
    speculator: Option<Speculator>,
    envelope: Envelope,
    inner: Inner,
    outer: Parser,
    unknown: Vec<usize>,
}

/// Everything behind the envelope.
#[derive(Debug)]
struct Inner {
    format: Format,
    parser: Parser,
    rows: Rows,
    scratch: Vec<u8>,
    counts: Counts,
}

impl Decoder {
    pub fn new(plan: &Plan) -> Self {
        let inner = Inner {
            format: plan.format,
            parser: Parser::new(),
            rows: Rows::new(plan),
            scratch: Vec::new(),
            counts: Counts::default(),
        };
        let speculator = Speculator::new(plan);
        Self { speculator, envelope: plan.envelope, inner, outer: Parser::new(), unknown: Vec::new() }
    }

    /// A decoder that parses every record in full. It is what the other one is held to.
    pub fn strict(plan: &Plan) -> Self {
        Self { speculator: None, ..Self::new(plan) }
    }

    /// Decodes the records of a batch, in order.
    pub fn decode(&mut self, raw: &RawBatch) -> Decoded {
        let mut dead = Vec::new();
        for index in 0..raw.records.len() {
            if self.speculate(raw, index) {
                continue;
            }
            let before = self.inner.counts;
            let done = self.record(raw.record(index), raw.broker_time(index), raw.arrival);
            if let (Ok(()), true, Some(speculator)) = (&done, self.inner.counts == before, &mut self.speculator) {
                speculator.learn(raw.record(index), &self.inner.rows);
            }
            if let Err((reason, detail)) = done {
                let record = raw.record(index);
                dead.push(DeadLetter {
                    partition: raw.partition,
                    position: raw.position(index),
                    reason,
                    detail,
                    raw: record[..record.len().min(limits::RECORD_BYTES)].to_vec(),
                    arrival: raw.arrival,
                });
            }
        }
        let speculation = self.speculator.as_mut().map(|speculator| std::mem::take(&mut speculator.done));
        Decoded {
            rows: self.inner.rows.finish(),
            dead,
            counts: std::mem::take(&mut self.inner.counts),
            speculation: speculation.unwrap_or_default(),
        }
    }

    /// Whether the record had a layout that was seen before, and is a row now.
    #[inline]
    fn speculate(&mut self, raw: &RawBatch, index: usize) -> bool {
        let Some(speculator) = &mut self.speculator else { return false };
        let (start, end) = (raw.records[index].start as usize, raw.records[index].end as usize);
        end - start <= limits::RECORD_BYTES
            && speculator.record(
                &raw.bytes[start..],
                end - start,
                raw.broker_time(index),
                raw.arrival,
                &mut self.inner.rows,
            )
    }

    fn record(&mut self, record: &[u8], broker_time: Option<EventTime>, arrival: EventTime) -> Result<(), Refused> {
        if record.len() > limits::RECORD_BYTES {
            return Err((DeadReason::TooLong, format!("longer than {} bytes", limits::RECORD_BYTES)));
        }
        let Self { envelope, inner, outer, unknown, .. } = self;
        match envelope {
            Envelope::None => inner.message(record, &Context { envelope: None, broker_time, arrival, untyped: false }),
            Envelope::Fly => outer
                .parse(record, |nodes| {
                    let parts = envelope::read(nodes, unknown).map_err(|d| (DeadReason::BrokenEnvelope, d))?;
                    inner.enveloped(nodes, &parts, unknown, broker_time, arrival)
                })
                .unwrap_or_else(|error| {
                    Err((DeadReason::BrokenEnvelope, format!("the envelope is no JSON: {}", describe(record, &error))))
                }),
        }
    }
}

impl Inner {
    fn enveloped(
        &mut self,
        nodes: &[Node<'_>],
        parts: &Parts<'_>,
        unknown: &[usize],
        broker_time: Option<EventTime>,
        arrival: EventTime,
    ) -> Result<(), Refused> {
        let context = Context { envelope: Some((nodes, parts, unknown)), broker_time, arrival, untyped: false };
        match nodes[parts.message_at] {
            Node::String(message) => self.message(message.as_bytes(), &context),
            _ => self.append(Content::Object(nodes, parts.message_at), &context),
        }
    }

    fn message(&mut self, message: &[u8], context: &Context<'_, '_>) -> Result<(), Refused> {
        let looks_like_json = message.trim_ascii_start().first() == Some(&b'{');
        match self.format {
            Format::Json => self.json(message, context).unwrap_or_else(|detail| Err((DeadReason::NotJson, detail))),
            Format::Logfmt => self.logfmt(message, context),
            Format::Auto if looks_like_json => match self.json(message, context) {
                Ok(result) => result,
                Err(_) => {
                    self.counts.cut_json += 1;
                    self.text(message, context)
                }
            },
            Format::Auto | Format::Text => self.text(message, context),
        }
    }

    /// The outer error says why it is no JSON object, the inner result is that of the row.
    fn json(&mut self, message: &[u8], context: &Context<'_, '_>) -> Result<Result<(), Refused>, String> {
        let Self { parser, rows, counts, .. } = self;
        parser
            .parse(message, |nodes| match nodes[0] {
                Node::Object { .. } => {
                    Ok(rows.append(Content::Object(nodes, 0), context).map(|flaws| counts.add(flaws)))
                }
                _ => Err(format!("the record is {}, not an object", super::tape::kind(nodes, 0))),
            })
            .unwrap_or_else(|error| Err(format!("the record is no JSON: {}", describe(message, &error))))
    }

    /// Reads logfmt into an object of texts, so that the same code fills the columns.
    fn logfmt(&mut self, message: &[u8], context: &Context<'_, '_>) -> Result<(), Refused> {
        let text = std::str::from_utf8(message)
            .map_err(|error| (DeadReason::NotLogfmt, format!("the record is not UTF-8: {error}")))?;
        let Self { parser, rows, counts, scratch, .. } = self;
        scratch.clear();
        logfmt::read(text, |key, value| {
            scratch.push(if scratch.is_empty() { b'{' } else { b',' });
            write_text(key, scratch);
            scratch.push(b':');
            match value {
                Some(value) => write_text(value, scratch),
                None => scratch.extend_from_slice(b"true"),
            }
        })
        .map_err(|detail| (DeadReason::NotLogfmt, detail))?;
        scratch.push(b'}');
        let context = Context { untyped: true, ..*context };
        parser
            .parse(scratch, |nodes| rows.append(Content::Object(nodes, 0), &context).map(|flaws| counts.add(flaws)))
            .unwrap_or_else(|error| Err((DeadReason::NotLogfmt, describe(text.as_bytes(), &error))))
    }

    fn text(&mut self, message: &[u8], context: &Context<'_, '_>) -> Result<(), Refused> {
        let text = String::from_utf8_lossy(message);
        self.counts.invalid_utf8 += u64::from(matches!(text, Cow::Owned(_)));
        self.append(Content::Text(&text), context)
    }

    fn append(&mut self, content: Content<'_, '_>, context: &Context<'_, '_>) -> Result<(), Refused> {
        self.rows.append(content, context).map(|flaws| self.counts.add(flaws))
    }
}

/// What is wrong with a text that simd-json refused, in serde_json's clearer words. Only broken records come here.
fn describe(text: &[u8], error: &simd_json::Error) -> String {
    match serde_json::from_slice::<serde::de::IgnoredAny>(text) {
        Err(clearer) => clearer.to_string(),
        Ok(_) => format!("{:?} at byte {}", error.error(), error.index()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{TimeFormat, TimeFormats};
    use super::*;
    use crate::record::raw::{PartitionId, Positions};
    use crate::record::schema::{BUILT_IN, Column, ColumnType, Schema};
    use crate::time::Span;
    use arrow::util::display::array_value_to_string;
    use jiff::tz::TimeZone;
    use proptest::prelude::*;
    use std::sync::Arc;

    fn column(name: &str, kind: ColumnType, from: &[&str]) -> Column {
        Column {
            from: from.iter().map(|path| path.split('.').map(str::to_owned).collect()).collect(),
            required: name == "needed",
            ..Column::new(name, kind)
        }
    }

    fn plan(envelope: Envelope, format: Format, required: bool) -> Plan {
        let mut columns: Vec<Column> = BUILT_IN
            .iter()
            .map(|(name, kind)| match *name {
                "ts" => column(name, *kind, &["timestamp", "ts"]),
                "level" | "event" | "message" | "app" => column(name, *kind, &[name]),
                _ => column(name, *kind, &[]),
            })
            .collect();
        columns.push(column("status", ColumnType::Int, &["status", "status_code"]));
        columns.push(column("latency_ms", ColumnType::Float, &["latency_ms"]));
        columns.push(column("cached", ColumnType::Bool, &["cached"]));
        columns.push(column("model", ColumnType::Text, &["metadata.model"]));
        columns.push(column("tags", ColumnType::Json, &["tags"]));
        if required {
            columns.push(column("needed", ColumnType::Text, &["needed"]));
        }
        let times = TimeFormats::new(vec![TimeFormat::Rfc3339, TimeFormat::Epoch], TimeZone::UTC);
        Plan::new(envelope, format, Arc::new(Schema::new("test", 1, columns)), times)
    }

    /// 2026-05-06T00:00:00Z
    const ARRIVAL: EventTime = EventTime::from_micros(1_778_025_600_000_000);

    fn batch(records: &[&[u8]]) -> RawBatch {
        let (mut bytes, mut ranges) = (Vec::new(), Vec::new());
        for record in records {
            let start = bytes.len() as u32;
            bytes.extend_from_slice(record);
            ranges.push(start..bytes.len() as u32);
            bytes.push(b'\n');
        }
        let end = bytes.len() as u64;
        let positions = Positions::Bytes { base: 0 };
        RawBatch {
            partition: PartitionId(0),
            bytes,
            records: ranges,
            positions,
            end,
            broker_time: None,
            arrival: ARRIVAL,
        }
    }

    /// The row of one record as `column=value` for the columns that are set (less the times of arrival), or the reason
    /// of its death; behind `!` what was wrong.
    fn shown(plan: &Plan, record: &[u8]) -> String {
        let decoded = Decoder::new(plan).decode(&batch(&[record]));
        if let [dead] = &decoded.dead[..] {
            assert_eq!(decoded.rows.num_rows(), 0);
            assert_eq!(dead.raw, record[..record.len().min(limits::RECORD_BYTES)]);
            return format!("dead {}: {}", dead.reason.as_str(), dead.detail);
        }
        let mut parts = Vec::new();
        for (field, array) in decoded.rows.schema().fields().iter().zip(decoded.rows.columns()) {
            if !array.is_null(0) && field.name() != "ingest_ts" {
                parts.push(format!("{}={}", field.name(), array_value_to_string(array, 0).unwrap()));
            }
        }
        parts.extend(decoded.counts.by_reason().iter().filter(|(_, n)| *n > 0).map(|(reason, _)| format!("!{reason}")));
        parts.join(" ")
    }

    fn check(format: Format, record: &str, expected: &str) {
        assert_eq!(shown(&plan(Envelope::None, format, false), record.as_bytes()), expected, "{record}");
    }

    #[test]
    fn values_go_to_their_columns() {
        check(
            Format::Auto,
            r#"{"timestamp":"2026-05-06T00:00:01Z","level":"info","event":"e","status_code":200,"latency_ms":7,"cached":true,"metadata":{"model":"m","n":1},"tags":["a"],"other":{"x":null}}"#,
            r#"ts=2026-05-06T00:00:01Z ts_source=event level=info event=e attributes={"metadata":{"n":1},"other":{"x":null}} status=200 latency_ms=7.0 cached=true model=m tags=["a"]"#,
        );
        check(
            Format::Json,
            r#"{"metadata":{},"status":9007199254740992.0}"#,
            r#"ts=2026-05-06T00:00:00Z ts_source=arrival attributes={"metadata":{},"status":9007199254740992.0} !type_clash"#,
        );
        check(Format::Json, r#"{"metadata":{"model":"m"}}"#, "ts=2026-05-06T00:00:00Z ts_source=arrival model=m");
        check(
            Format::Json,
            r#"{"metadata.model":"m","ts":1778025601}"#,
            "ts=2026-05-06T00:00:01Z ts_source=event model=m",
        );
        check(
            Format::Json,
            r#"{"status":null,"status_code":null}"#,
            "ts=2026-05-06T00:00:00Z ts_source=arrival attributes={\"status_code\":null}",
        );
    }

    #[test]
    fn a_value_of_another_type_stays_in_attributes() {
        check(
            Format::Auto,
            r#"{"status":"teapot","latency_ms":"slow","event":7}"#,
            r#"ts=2026-05-06T00:00:00Z ts_source=arrival attributes={"event":7,"status":"teapot","latency_ms":"slow"} !type_clash"#,
        );
        check(
            Format::Auto,
            r#"{"status":200.0,"metadata":3}"#,
            r#"ts=2026-05-06T00:00:00Z ts_source=arrival attributes={"metadata":3} status=200"#,
        );
        check(
            Format::Auto,
            r#"{"status":200.5}"#,
            r#"ts=2026-05-06T00:00:00Z ts_source=arrival attributes={"status":200.5} !type_clash"#,
        );
        check(
            Format::Auto,
            r#"{"status":18446744073709551615}"#,
            r#"ts=2026-05-06T00:00:00Z ts_source=arrival attributes={"status":18446744073709551615} !type_clash"#,
        );
    }

    #[test]
    fn of_several_keys_the_first_in_the_schema_wins_and_none_is_lost() {
        check(
            Format::Auto,
            r#"{"status_code":1,"status":2}"#,
            r#"ts=2026-05-06T00:00:00Z ts_source=arrival attributes={"status_code":1} status=2"#,
        );
        check(
            Format::Auto,
            r#"{"status":1,"status":2,"status_code":3}"#,
            r#"ts=2026-05-06T00:00:00Z ts_source=arrival attributes={"status":1,"status_code":3} status=2"#,
        );
    }

    #[test]
    fn unusable_times_are_replaced_and_kept() {
        check(
            Format::Auto,
            r#"{"timestamp":"2099-01-01T00:00:00Z"}"#,
            r#"ts=2026-05-06T00:00:00Z ts_source=arrival attributes={"timestamp":"2099-01-01T00:00:00Z"} !future_timestamp"#,
        );
        check(Format::Auto, r#"{"timestamp":"2026-05-06T00:05:00Z"}"#, "ts=2026-05-06T00:05:00Z ts_source=event");
        check(
            Format::Auto,
            r#"{"timestamp":"soon"}"#,
            r#"ts=2026-05-06T00:00:00Z ts_source=arrival attributes={"timestamp":"soon"} !bad_timestamp"#,
        );
        let mut patient = plan(Envelope::None, Format::Auto, false);
        patient.times = patient.times.with_max_future(Span::from_secs(3_600));
        for (time, expected) in [("01:00:00Z", "ts_source=event"), ("01:00:01Z", "!future_timestamp")] {
            let record = format!(r#"{{"timestamp":"2026-05-06T{time}"}}"#);
            let decoded = shown(&patient, record.as_bytes());
            assert!(decoded.ends_with(expected), "{decoded}");
            // Those that come in a layout that is known are measured alike.
            let twice = Decoder::new(&patient).decode(&batch(&[record.as_bytes(); 3]));
            assert_eq!(twice.counts.future_timestamp, if expected == "ts_source=event" { 0 } else { 3 });
        }
        let fly = plan(Envelope::Fly, Format::Auto, false);
        assert_eq!(
            shown(
                &fly,
                br#"{"message":"{\"timestamp\":\"2025-01-01T00:06:00Z\"}","timestamp":"2025-01-01T00:00:00Z"}"#
            ),
            r#"ts=2025-01-01T00:00:00Z ts_source=envelope attributes={"timestamp":"2025-01-01T00:06:00Z"} !future_timestamp"#,
            "the envelope's time is what a stamp is measured by, however long ago"
        );
        assert_eq!(
            shown(&fly, br#"{"message":"x","timestamp":"2027-01-01T00:00:00Z"}"#),
            r#"ts=2026-05-06T00:00:00Z ts_source=arrival message=x attributes={"envelope_timestamp":"2027-01-01T00:00:00Z"} !future_timestamp"#
        );
    }

    #[test]
    fn text_and_cut_json_become_messages() {
        check(Format::Auto, "INFO:  started", "ts=2026-05-06T00:00:00Z ts_source=arrival message=INFO:  started");
        check(
            Format::Auto,
            r#"{"path":"/v"#,
            r#"ts=2026-05-06T00:00:00Z ts_source=arrival message={"path":"/v !cut_json"#,
        );
        check(Format::Text, r#"{"status":1}"#, r#"ts=2026-05-06T00:00:00Z ts_source=arrival message={"status":1}"#);
        check(Format::Json, "INFO", "dead not_json: the record is no JSON: expected value at line 1 column 1");
        check(Format::Json, "[1]", "dead not_json: the record is an array, not an object");
    }

    #[test]
    fn logfmt_values_are_read_by_column() {
        check(
            Format::Logfmt,
            r#"ts=2026-05-06T00:00:01Z level=info event="a b" status=200 latency_ms=1.5 cached=true x=1 debug"#,
            r#"ts=2026-05-06T00:00:01Z ts_source=event level=info event=a b attributes={"x":"1","debug":true} status=200 latency_ms=1.5 cached=true"#,
        );
        check(
            Format::Logfmt,
            "status=teapot",
            r#"ts=2026-05-06T00:00:00Z ts_source=arrival attributes={"status":"teapot"} !type_clash"#,
        );
        check(Format::Logfmt, "only words", "dead not_logfmt: no key=value pair");
    }

    #[test]
    fn the_envelope_gives_what_the_record_lacks() {
        let fly = plan(Envelope::Fly, Format::Auto, false);
        let record = br#"{"event":{"provider":"app"},"fly":{"app":{"instance":"i1","name":"a"},"region":"nrt"},"host":"0ad1","log":{"level":"info"},"new":1,"message":"{\"level\":\"error\",\"app\":\"own\"}","timestamp":"2026-05-06T00:00:00.5Z"}"#;
        assert_eq!(
            shown(&fly, record),
            r#"ts=2026-05-06T00:00:00.500Z ts_source=envelope app=a instance=i1 region=nrt host=0ad1 provider=app level=error attributes={"app":"own","envelope":{"new":1}}"#
        );
        assert_eq!(
            shown(&fly, br#"{"message":{"status":503},"log":{"level":"info"}}"#),
            "ts=2026-05-06T00:00:00Z ts_source=arrival level=info status=503"
        );
        assert_eq!(
            shown(&fly, br#"{"message":"he"#),
            "dead broken_envelope: the envelope is no JSON: EOF while parsing a string at line 1 column 14"
        );
    }

    #[test]
    fn required_columns_and_long_records_die_with_a_reason() {
        let plan = plan(Envelope::None, Format::Auto, true);
        assert_eq!(shown(&plan, br#"{"status":1}"#), "dead missing_required: required column needed is missing");
        assert_eq!(
            shown(&plan, br#"{"needed":1}"#),
            "dead missing_required: required column needed is a number, not text"
        );
        assert!(shown(&plan, br#"{"needed":"x"}"#).ends_with("needed=x"));
        let mut built_in = Plan { schema: Arc::clone(&plan.schema), envelope: Envelope::Fly, ..plan.clone() };
        let mut columns = plan.schema.columns.clone();
        for column in &mut columns {
            column.required = ["app", "level", "message"].contains(&column.name.as_str());
        }
        built_in.schema = Arc::new(Schema::new("test", 1, columns));
        let enveloped = br#"{"fly":{"app":{"name":"a"}},"log":{"level":"info"},"message":"plain text"}"#;
        assert!(shown(&built_in, enveloped).ends_with("app=a level=info message=plain text"));
        assert_eq!(
            shown(&built_in, br#"{"log":{"level":"info"},"message":"plain text"}"#),
            "dead missing_required: required column app is missing"
        );
        let long = vec![b'x'; limits::RECORD_BYTES + 1];
        assert!(shown(&plan, &long).starts_with("dead too_long"));
    }

    proptest! {
        #[test]
        fn every_record_ends_in_exactly_one_place(records in proptest::collection::vec(
            prop_oneof![
                proptest::collection::vec(any::<u8>(), 0..80),
                "\\{\"(status|event|x)\":(1|\"a\"|null|\\{\\}|[0-9]{1,25}|\"\\\\ud8)[}\"]{0,2}".prop_map(String::into_bytes),
            ], 0..20), fly in any::<bool>(), cut in 0usize..20) {
            let plan = plan(if fly { Envelope::Fly } else { Envelope::None }, Format::Auto, false);
            let slices: Vec<&[u8]> = records.iter().map(Vec::as_slice).collect();
            let whole = Decoder::new(&plan).decode(&batch(&slices));
            prop_assert_eq!(whole.rows.num_rows() + whole.dead.len(), records.len());
            // Cutting the batch in two changes nothing.
            let cut = cut.min(slices.len());
            let mut decoder = Decoder::new(&plan);
            let first = decoder.decode(&batch(&slices[..cut]));
            let second = decoder.decode(&batch(&slices[cut..]));
            let rows = arrow::compute::concat_batches(&plan.schema.arrow, [&first.rows, &second.rows]).unwrap();
            prop_assert_eq!(rows, whole.rows);
        }
    }
}
