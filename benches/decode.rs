//! Decoding alone, on one thread, beside simd-json's tape and headrig's own strict way.
//!
//! ```sh
//! cargo bench --bench decode                                # the generator's lines
//! zstd -d ../shared/data/fly-2h.ndjson.zst -o /tmp/fly.ndjson
//! cargo bench --bench decode -- /tmp/fly.ndjson             # and those of files
//! ```
//!
//! The tape is the yardstick that makes machines comparable: what simd-json needs to parse the envelope and the JSON within it, in place
//! and with reused buffers, without making a row of anything. The three take turns; the best time of each counts. CPU time is what
//! Linux says of the thread, so that other work on the machine disturbs less.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark that cannot be set up fails, and prints")]

use headrig::config;
use headrig::decode::{Decoder, Plan};
use headrig::limits;
use headrig::record::raw::{PartitionId, Positions, RawBatch};
use headrig::source::traffic::Traffic;
use headrig::time::EventTime;
use simd_json::tape::Tape;
use simd_json::{Buffers, INPUT_PADDING, Node, fill_tape_padded};
use std::hint::black_box;

/// As the program has it.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Input that is measured, at most: more than any cache holds.
const BYTES: usize = 60_000_000;
/// Times that each gets all of it.
const TURNS: usize = 21;
/// 2026-01-01T00:00:00Z
const START: EventTime = EventTime::from_micros(1_767_225_600_000_000);
/// 2030-03-17, behind all that a file may hold: a stamp from the future is looked at again, record by record.
const ARRIVAL: EventTime = EventTime::from_micros(1_900_000_000_000_000);

/// Cuts lines into batches as sources do.
fn batches(input: &[u8]) -> Vec<RawBatch> {
    let mut batches = Vec::new();
    let (mut bytes, mut records, mut base) = (Vec::new(), Vec::new(), 0_u64);
    let mut lines = input.split_inclusive(|byte| *byte == b'\n').peekable();
    while let Some(line) = lines.next() {
        let start = bytes.len() as u32;
        bytes.extend_from_slice(line);
        let end = bytes.len() as u32 - u32::from(line.ends_with(b"\n"));
        records.push(start..end);
        if lines.peek().is_none() || bytes.len() >= limits::BATCH_BYTES || records.len() >= limits::BATCH_RECORDS {
            let end = base + bytes.len() as u64;
            batches.push(RawBatch {
                partition: PartitionId(0),
                bytes: std::mem::take(&mut bytes),
                records: std::mem::take(&mut records),
                positions: Positions::Bytes { base },
                end,
                broker_time: None,
                arrival: ARRIVAL,
            });
            base = end;
        }
    }
    batches
}

fn generated() -> Vec<u8> {
    let mut traffic = Traffic::new(1, START, 1_000, true);
    let mut lines = Vec::new();
    while lines.len() < BYTES {
        traffic.next_line(&mut lines);
    }
    lines
}

/// At most [`BYTES`] of a file, to the end of a line.
fn read(path: &str) -> Vec<u8> {
    let mut bytes = std::fs::read(path).unwrap();
    if bytes.len() > BYTES {
        bytes.truncate(BYTES);
        bytes.truncate(bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1));
    }
    bytes
}

/// All columns of the schema, as with an archive.
fn plan() -> Plan {
    let yaml = "pipeline: bench\nsources: { s: { type: stdin } }\n\
                decode: { envelope: fly, format: auto, schema: access }\n";
    let plan =
        config::load("bench.yaml", yaml, &|_| None, &|_| Err(std::io::ErrorKind::NotFound.into())).unwrap().decode;
    Plan { needed: vec![true; plan.needed.len()], ..plan }
}

/// Nanoseconds that this thread was on a CPU.
fn cpu() -> u64 {
    // To wait for a moment makes the kernel bring its account up to date.
    std::thread::yield_now();
    let account = std::fs::read_to_string("/proc/thread-self/schedstat").expect("this benchmark needs Linux");
    account.split(' ').next().unwrap().parse().unwrap()
}

/// CPU time for all batches, and how many records had a known layout.
fn decode(decoder: &mut Decoder, raw: &[RawBatch]) -> (u64, u64) {
    let (before, mut hits) = (cpu(), 0);
    for batch in raw {
        hits += black_box(decoder.decode(black_box(batch))).speculation.hits;
    }
    (cpu() - before, hits)
}

/// simd-json with what it reuses.
#[derive(Default)]
struct Parser {
    text: Vec<u8>,
    buffers: Buffers,
    tape: Option<Tape<'static>>,
}

impl Parser {
    /// Parses `text`; gives the tape to `then`, and returns how many nodes it has with what `then` says. Nothing where it is no JSON.
    fn parse(&mut self, text: &[u8], then: impl FnOnce(&Tape<'_>) -> usize) -> usize {
        self.text.clear();
        self.text.extend_from_slice(text);
        self.text.resize(text.len() + INPUT_PADDING, 0);
        let mut tape = self.tape.take().unwrap_or_else(Tape::null).reset();
        let parsed = fill_tape_padded(&mut self.text, text.len(), &mut self.buffers, &mut tape).is_ok();
        let nodes = if parsed { tape.0.len() + then(&tape) } else { 0 };
        self.tape = Some(tape.reset());
        nodes
    }
}

/// The envelope's `message`.
fn message<'t>(tape: &Tape<'t>) -> Option<&'t str> {
    let mut pairs = tape.0.iter().zip(tape.0.iter().skip(1));
    pairs.find_map(|pair| match pair {
        (Node::String("message"), Node::String(message)) => Some(*message),
        _ => None,
    })
}

fn tapes(outer: &mut Parser, inner: &mut Parser, raw: &[RawBatch]) -> u64 {
    let (before, mut nodes) = (cpu(), 0);
    for batch in raw {
        for record in 0..batch.records.len() {
            nodes += outer.parse(batch.record(record), |tape| {
                let message = message(tape).filter(|message| message.starts_with('{'));
                message.map_or(0, |message| inner.parse(message.as_bytes(), |_| 0))
            });
        }
    }
    black_box(nodes);
    cpu() - before
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // `cargo bench -- --test` asks whether it runs at all.
    let turns = if arguments.iter().any(|argument| argument == "--test") { 1 } else { TURNS };
    let files = arguments.iter().filter(|argument| !argument.starts_with("--"));
    let inputs = [("generated lines".to_owned(), generated())].into_iter();
    println!(
        "{:32} {:>12} {:>10} {:>12} {:>12} {:>6}",
        "MB/s, one thread", "headrig", "tape", "strict", "times tape", "hits"
    );
    for (name, input) in inputs.chain(files.map(|path| (path.clone(), read(path)))) {
        let (plan, raw) = (plan(), batches(&input));
        let records: usize = raw.iter().map(|batch| batch.records.len()).sum();
        let (mut fast, mut strict) = (Decoder::new(&plan), Decoder::strict(&plan));
        let (mut outer, mut inner) = (Parser::default(), Parser::default());
        let (mut best, mut hits) = ([u64::MAX; 3], 0);
        for _ in 0..turns {
            let (time, known) = decode(&mut fast, &raw);
            hits = known;
            best[0] = best[0].min(time);
            best[1] = best[1].min(tapes(&mut outer, &mut inner, &raw));
            best[2] = best[2].min(decode(&mut strict, &raw).0);
        }
        let [fast, tape, strict] = best.map(|nanos| input.len() as f64 * 1e3 / nanos.max(1) as f64);
        println!(
            "{name:32} {fast:>12.0} {tape:>10.0} {strict:>12.0} {:>12.2} {:>5.1}%",
            fast / tape,
            hits as f64 * 100.0 / records.max(1) as f64
        );
    }
}
