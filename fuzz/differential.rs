//! Holds the speculating decoder to the strict one: plans, batches, and the comparison of all that a decoder returns.
//!
//! Only headrig's public interface is used, so that the tests (`tests/it/speculation.rs`), the long run
//! (`fuzz/long.rs`) and the fuzz target (`fuzz/fuzz_targets/decode.rs`) share this file by `#[path]`.

use arrow::array::RecordBatch;
use headrig::config;
use headrig::decode::{Counts, Decoded, Decoder, Plan, Speculation};
use headrig::record::raw::{PartitionId, Positions, RawBatch};
use headrig::time::EventTime;

/// 2026-05-06T04:55:00Z, shortly after the times that lines have.
const ARRIVAL: i64 = 1_778_043_300_000_000;

/// A schema with every type of column, aliases and dotted paths that share their beginnings.
const MADE_UP: &str = "
schema: made
version: 1
columns:
  - { name: ts, type: timestamp, from: [timestamp, ts, http.time] }
  - { name: app, type: text, from: [app, service] }
  - { name: host, type: text, from: [host, a.host] }
  - { name: level, type: text, from: [level, severity] }
  - { name: message, type: text, from: [message, msg, http.message] }
  - { name: status, type: int, from: [status, status_code, http.status] }
  - { name: ratio, type: float, from: [latency_ms, http.ratio, a.b.c] }
  - { name: cached, type: bool, from: [cached, a.cached] }
  - { name: tags, type: json, from: [tags, http.tags, a.b] }
  - { name: seen, type: timestamp, from: [seen, a.seen] }
  - { name: note, type: text, from: [note, a.b.d, path] }
  - { name: whole, type: json, from: [http.body, body, request_id] }
  - { name: count, type: int, from: [count, a.b.n] }
";

/// Envelope, format, schema, and what else stands in `decode:`.
const PLANS: [(&str, &str, &str, &str); 13] = [
    ("fly", "auto", "access", ""),
    ("none", "auto", "access", ""),
    ("fly", "auto", "made", ""),
    ("none", "json", "made", ""),
    ("fly", "json", "access", ""),
    ("fly", "text", "made", ""),
    ("none", "auto", "minimal", ""),
    ("fly", "logfmt", "made", ""),
    ("fly", "auto", "required status", ""),
    ("none", "auto", "required tags", ""),
    ("none", "json", "required seen", ", time_formats: [epoch, rfc3339, '%d/%b/%Y:%H:%M:%S'], zone: Asia/Tokyo"),
    ("fly", "auto", "required app", ", time_formats: ['%Y-%m-%d %H:%M:%S', rfc3339], zone: Europe/Berlin"),
    ("fly", "auto", "required message", ""),
];

/// Every plan, and each of them once more with columns that nobody reads.
pub fn plans() -> Vec<Plan> {
    let mut plans: Vec<Plan> = PLANS.iter().map(plan).collect();
    for number in 0..PLANS.len() {
        let mut plan = plans[number].clone();
        // Columns before `app` are never null.
        for (column, needed) in plan.needed.iter_mut().enumerate().skip(3) {
            *needed = (column + number) % 3 != 0;
        }
        plans.push(plan);
    }
    plans
}

fn plan(&(envelope, format, schema, rest): &(&str, &str, &str, &str)) -> Plan {
    let (name, text) = match schema.strip_prefix("required ") {
        Some(column) => {
            let name = format!("name: {column},");
            assert!(MADE_UP.contains(&name), "there is a column {column}");
            ("made.yaml", MADE_UP.replace(&name, &format!("{name} required: true,")))
        }
        None if schema == "made" => ("made.yaml", MADE_UP.to_owned()),
        None => (schema, String::new()),
    };
    let yaml = format!(
        "pipeline: fuzz\nsources: {{ s: {{ type: stdin }} }}\n\
         decode: {{ envelope: {envelope}, format: {format}, schema: {name}{rest} }}\n"
    );
    let plan = config::load("fuzz.yaml", &yaml, &|_| None, &|_| Ok(text.clone())).expect("the plan is right").decode;
    // Without an archive nobody reads most columns; here all are compared.
    Plan { needed: vec![true; plan.needed.len()], ..plan }
}

/// What stands between the records of a batch, and what was known of its time.
#[derive(Debug, Clone, Copy)]
pub struct Around {
    /// Line ends of files; nothing at all, as sources without lines have it; hostile bytes.
    pub between: &'static [u8],
    pub broker: Option<i64>,
}

impl Around {
    const BETWEEN: [&'static [u8]; 6] = [b"\n", b"", b"\r\n", b"}", b"\"", b"\xc3\xa9"];

    /// One of the ways that there are.
    pub fn number(number: u64) -> Self {
        let broker = [None, None, None, Some(ARRIVAL - 5_000_000), Some(ARRIVAL + 3_600_000_000)];
        let ways = Self::BETWEEN.len() as u64;
        Self { between: Self::BETWEEN[(number % ways) as usize], broker: broker[(number / ways % 5) as usize] }
    }
}

/// The records as a source hands them over.
pub fn batch(records: &[Vec<u8>], around: Around) -> RawBatch {
    let (mut bytes, mut ranges) = (Vec::new(), Vec::new());
    for record in records {
        let start = bytes.len() as u32;
        bytes.extend_from_slice(record);
        ranges.push(start..bytes.len() as u32);
        bytes.extend_from_slice(around.between);
    }
    RawBatch {
        partition: PartitionId(3),
        end: bytes.len() as u64,
        bytes,
        records: ranges,
        positions: Positions::Bytes { base: 0 },
        broker_time: around.broker.map(EventTime::from_micros),
        arrival: EventTime::from_micros(ARRIVAL),
    }
}

/// A speculating and a strict decoder that get the same batches.
#[derive(Debug)]
pub struct Pair {
    speculating: Decoder,
    strict: Decoder,
}

impl Pair {
    pub fn new(plan: &Plan) -> Self {
        Self { speculating: Decoder::new(plan), strict: Decoder::strict(plan) }
    }

    /// # Errors
    /// How the two differ.
    pub fn decode(&mut self, records: &[Vec<u8>], around: Around) -> Result<Speculation, String> {
        let raw = batch(records, around);
        let (fast, strict) = (self.speculating.decode(&raw), self.strict.decode(&raw));
        match difference(&fast, &strict) {
            None => Ok(fast.speculation),
            Some(difference) => Err(difference),
        }
    }
}

/// Whether the strict decoder makes a row of the record and has nothing to complain of.
pub fn is_flawless(plan: &Plan, record: &[u8]) -> bool {
    let done = Decoder::strict(plan).decode(&batch(&[record.to_vec()], Around::number(0)));
    done.dead.is_empty() && done.counts == Counts::default()
}

/// How what two decoders returned differs; which way the records went is no difference.
pub fn difference(fast: &Decoded, strict: &Decoded) -> Option<String> {
    if fast.counts != strict.counts {
        return Some(format!("counts: {:?}, strictly {:?}", fast.counts, strict.counts));
    }
    if fast.dead != strict.dead {
        return Some(format!("dead letters: {:?}, strictly {:?}", fast.dead, strict.dead));
    }
    if fast.rows.num_rows() != strict.rows.num_rows() || fast.rows.schema() != strict.rows.schema() {
        return Some(format!("{} rows, strictly {}", fast.rows.num_rows(), strict.rows.num_rows()));
    }
    (fast.rows != strict.rows).then(|| first_cell(&fast.rows, &strict.rows))
}

/// Arrow's equality compares values bit by bit (0.0 is not -0.0), and takes a null for a null whatever lies under it.
fn first_cell(fast: &RecordBatch, strict: &RecordBatch) -> String {
    for row in 0..fast.num_rows() {
        for (column, (one, other)) in fast.columns().iter().zip(strict.columns()).enumerate() {
            let (one, other) = (one.slice(row, 1), other.slice(row, 1));
            if one.as_ref() != other.as_ref() {
                let name = fast.schema().field(column).name().clone();
                return format!("row {row}, column {name}: {one:?}, strictly {other:?}");
            }
        }
    }
    "rows, but no cell of them".to_owned()
}

/// Decodes the records twice as one batch each, so that what was learned the first time is used the second.
///
/// # Errors
/// How the decoders differ.
pub fn twice(plan: &Plan, records: &[Vec<u8>], around: Around) -> Result<Speculation, String> {
    let mut pair = Pair::new(plan);
    pair.decode(records, around).map_err(|difference| format!("at first: {difference}"))?;
    pair.decode(records, around).map_err(|difference| format!("once learned: {difference}"))
}

/// Fewer and shorter records that still make the decoders differ, for people to look at.
pub fn shrink(plan: &Plan, around: Around, mut records: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    let fails = |records: &[Vec<u8>]| twice(plan, records, around).is_err();
    if !fails(&records) {
        return records;
    }
    let mut piece = records.len();
    while piece > 0 {
        let mut at = 0;
        while at < records.len() {
            let mut fewer = records.clone();
            fewer.drain(at..(at + piece).min(records.len()));
            if fails(&fewer) { records = fewer } else { at += piece }
        }
        piece /= 2;
    }
    for number in 0..records.len() {
        let mut piece = records[number].len() / 2;
        while piece > 0 {
            let mut at = 0;
            while at < records[number].len() {
                let mut shorter = records.clone();
                let end = (at + piece).min(shorter[number].len());
                shorter[number].drain(at..end);
                if fails(&shorter) { records = shorter } else { at += piece }
            }
            piece /= 2;
        }
    }
    records
}

/// An input of the fuzz target taken apart: the first byte is the plan's number, counted from `A`, the second that of
/// what is around the records, from `a`; each line after it is a record.
pub fn read_input(input: &[u8]) -> Option<(usize, Around, Vec<Vec<u8>>)> {
    let [plan, around, records @ ..] = input else { return None };
    let plan = usize::from(plan.wrapping_sub(b'A')) % (2 * PLANS.len());
    let records = records.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
    Some((plan, Around::number(u64::from(around.wrapping_sub(b'a'))), records))
}
