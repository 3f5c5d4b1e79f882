//! What speculating costs where it cannot win: the CPU time of the strict decoder over that of the speculating one.
//!
//! `cargo bench --bench adversarial` prints a ratio for each kind of input: 1 is as fast as parsing every record, 0.9 the
//! least that is accepted. The two take turns on the same lines, each time with new decoders; the best time of each counts.
//! CPU time is what Linux says of the thread, so that other work on the machine disturbs less.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark that cannot be set up fails, and prints")]

use headrig::config;
use headrig::decode::{Decoder, Plan};
use headrig::limits;
use headrig::record::raw::{PartitionId, Positions, RawBatch};
use headrig::time::EventTime;
use std::fmt::Write;
use std::hint::black_box;

const LINES: u64 = 20_000;
/// Times that each decoder gets all lines.
const TURNS: usize = 31;
/// 2026-05-06T05:00:00Z
const ARRIVAL: EventTime = EventTime::from_micros(1_778_043_600_000_000);

/// A multiplicative generator (Knuth's MMIX), of which the upper bits are used.
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

fn enveloped(message: &str) -> String {
    let message = message.replace('\\', "\\\\").replace('"', "\\\"");
    format!(
        "{{\"event\":{{\"provider\":\"app\"}},\"fly\":{{\"app\":{{\"instance\":\"414c341027c4d1\",\"name\":\"autonomath\"}},\
         \"region\":\"nrt\"}},\"host\":\"414c\",\"log\":{{\"level\":\"info\"}},\"message\":\"{message}\",\
         \"timestamp\":\"2026-05-06T04:53:31.789153741Z\"}}"
    )
}

/// The members of a request's line; `suffix` makes other keys of them.
fn members(chance: &mut Chance, suffix: &str) -> Vec<String> {
    let (id, trace) = (chance.below(1 << 30), chance.below(1 << 30));
    let (status, latency, last) = (200 + chance.below(5), chance.below(90_000) as f64 / 1e3, chance.below(256));
    vec![
        "\"timestamp\": \"2026-05-06T04:53:32.950000+00:00\"".to_owned(),
        "\"level\": \"info\"".to_owned(),
        format!("\"logger{suffix}\": \"api.handlers\""),
        format!("\"request_id{suffix}\": \"{id:016x}\""),
        format!("\"trace_id{suffix}\": \"{trace:032x}\""),
        format!("\"method{suffix}\": \"POST\""),
        format!("\"path{suffix}\": \"/v1/programs/search\""),
        format!("\"status{suffix}\": {status}"),
        format!("\"latency_ms{suffix}\": {latency}"),
        format!("\"tier{suffix}\": \"pro\""),
        format!("\"client_ip{suffix}\": \"203.0.113.{last}\""),
        format!("\"event{suffix}\": \"request_processed\""),
    ]
}

fn object(members: &[String]) -> String {
    enveloped(&format!("{{{}}}", members.join(", ")))
}

fn shuffled(chance: &mut Chance) -> String {
    let mut members = members(chance, "");
    for last in (1..members.len()).rev() {
        members.swap(last, chance.below(last as u64 + 1) as usize);
    }
    object(&members)
}

fn words(chance: &mut Chance) -> String {
    let mut text = String::from("INFO:     connection");
    for _ in 0..chance.below(30) {
        write!(text, " {:x}", chance.below(1 << 24)).unwrap();
    }
    text
}

/// Each kind of input by its name: whether it has an envelope, and the line of a number.
type Kind = (&'static str, bool, fn(&mut Chance, u64) -> String);

const KINDS: [Kind; 8] = [
    ("one layout (for comparison)", true, |chance, _| object(&members(chance, ""))),
    ("random key order in every line", true, |chance, _| shuffled(chance)),
    ("every line another layout", true, |chance, number| object(&members(chance, &format!("_{number}")))),
    ("all lines text, in an envelope", true, |chance, _| enveloped(&words(chance))),
    ("all lines text, bare", false, |chance, _| words(chance)),
    ("all lines broken: the envelope is cut", true, |chance, _| {
        let line = object(&members(chance, ""));
        line[..line.len() - 1 - chance.below(60) as usize].to_owned()
    }),
    ("all lines broken: the message is cut", true, |chance, _| {
        let message = members(chance, "").join(", ");
        enveloped(&format!("{{{}", &message[..message.len() - 1 - chance.below(60) as usize]))
    }),
    ("95 % one layout, 5 % noise", true, |chance, number| match number % 20 {
        0 => shuffled(chance),
        _ => object(&members(chance, "")),
    }),
];

fn batches(line: fn(&mut Chance, u64) -> String) -> Vec<RawBatch> {
    let mut chance = Chance(20_261_121);
    let mut batches = Vec::new();
    let mut number = 0;
    while number < LINES {
        let (mut bytes, mut records) = (Vec::new(), Vec::new());
        while number < LINES && bytes.len() < limits::BATCH_BYTES && records.len() < limits::BATCH_RECORDS {
            let start = bytes.len() as u32;
            bytes.extend_from_slice(line(&mut chance, number).as_bytes());
            records.push(start..bytes.len() as u32);
            bytes.push(b'\n');
            number += 1;
        }
        batches.push(RawBatch {
            partition: PartitionId(0),
            end: bytes.len() as u64,
            bytes,
            records,
            positions: Positions::Bytes { base: 0 },
            broker_time: None,
            arrival: ARRIVAL,
        });
    }
    batches
}

fn plan(envelope: bool) -> Plan {
    let envelope = if envelope { "fly" } else { "none" };
    let yaml = format!(
        "pipeline: bench\nsources: {{ s: {{ type: stdin }} }}\n\
         decode: {{ envelope: {envelope}, format: auto, schema: access }}\n"
    );
    let plan =
        config::load("bench.yaml", &yaml, &|_| None, &|_| Err(std::io::ErrorKind::NotFound.into())).unwrap().decode;
    // Without an archive nobody reads most columns; here all are measured.
    Plan { needed: vec![true; plan.needed.len()], ..plan }
}

/// Nanoseconds that this thread was on a CPU.
fn cpu() -> u64 {
    // To wait for a moment makes the kernel bring its account up to date.
    std::thread::yield_now();
    let account = std::fs::read_to_string("/proc/thread-self/schedstat").expect("this benchmark needs Linux");
    account.split(' ').next().unwrap().parse().unwrap()
}

/// CPU time for all batches, and the share of records that had a known layout.
fn measure(mut decoder: Decoder, raw: &[RawBatch]) -> (u64, f64) {
    let (before, mut hits) = (cpu(), 0);
    for batch in raw {
        hits += black_box(decoder.decode(black_box(batch))).speculation.hits;
    }
    (cpu() - before, hits as f64 / LINES as f64)
}

fn main() {
    // `cargo bench -- --test` asks whether it runs at all.
    let turns = if std::env::args().any(|argument| argument == "--test") { 1 } else { TURNS };
    println!("{:40} {:>12} {:>12} {:>7} {:>6}", "input", "strict MB/s", "fast MB/s", "ratio", "hits");
    for (name, envelope, line) in KINDS {
        let (plan, raw) = (plan(envelope), batches(line));
        let bytes: usize = raw.iter().map(|batch| batch.bytes.len()).sum();
        let (mut strict, mut fast, mut hits) = (u64::MAX, u64::MAX, 0.0);
        for _ in 0..turns {
            strict = strict.min(measure(Decoder::strict(&plan), &raw).0);
            let (time, share) = measure(Decoder::new(&plan), &raw);
            (fast, hits) = (fast.min(time), share);
        }
        let speed = |nanos: u64| bytes as f64 * 1e3 / nanos.max(1) as f64;
        let ratio = strict as f64 / fast.max(1) as f64;
        println!("{name:40} {:>12.0} {:>12.0} {ratio:>7.2} {:>5.0}%", speed(strict), speed(fast), hits * 100.0);
    }
}
