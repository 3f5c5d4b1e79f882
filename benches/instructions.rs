//! Instructions that decoding takes a line, against a committed baseline: a slow-down shows on any machine, however noisy.
//!
//! ```sh
//! benches/instructions.sh              # compare; a decoder that takes over 3 % more fails
//! UPDATE=1 benches/instructions.sh     # record anew, after a change that is worth it: commit the baseline with the change
//! ```
//!
//! The program runs itself under valgrind's callgrind, once an input. There it decodes the input once to warm up (layouts are
//! learned, buffers grow) and then a number of times more inside [`measured`], where alone instructions are counted.
//! Hash seeds differ from process to process and move the count by far less than the limit. The counts depend on the vectors
//! that the processor has, as valgrind shows them, so there is a baseline for each; and on the compiler and the C library:
//! `benches/instructions.baseline` says with which it was recorded.

#![expect(clippy::unwrap_used, reason = "a measurement that cannot be set up fails")]
#![expect(clippy::print_stdout, reason = "a benchmark tells what it found")]

use headrig::config;
use headrig::decode::Decoder;
use headrig::limits;
use headrig::record::raw::{PartitionId, Positions, RawBatch};
use headrig::source::traffic::Traffic;
use headrig::time::EventTime;
use std::collections::BTreeMap;
use std::fs;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// More than this part above the baseline fails.
const TOLERANCE: f64 = 0.03;
/// Lines of each input that are made or read: more than a batch.
const LINES: usize = 10_000;
/// 2026-01-01T00:00:00Z
const START: EventTime = EventTime::from_micros(1_767_225_600_000_000);
/// 2026-06-01T00:00:00Z, after all times of both inputs: with a time too far ahead every record would go the strict way.
const ARRIVAL: EventTime = EventTime::from_micros(1_780_272_000_000_000);
/// Set where the program runs inside valgrind: the input to decode.
const INPUT: &str = "HEADRIG_INSTRUCTIONS_OF";
const INPUTS: [&str; 2] = ["generated", "excerpt"];

const PIPELINE: &str = "
pipeline: instructions
sources: { s: { type: stdin } }
decode: { envelope: fly, format: auto, schema: access }
metrics: [{ name: rows_total, type: counter, help: Rows }]
";

fn main() -> ExitCode {
    match std::env::var(INPUT) {
        Ok(input) => inside(&input),
        Err(_) => compare(),
    }
}

/// Inside valgrind: warms up, decodes, and tells the machine and the number of lines.
fn inside(input: &str) -> ExitCode {
    let raw = batches(&lines(input));
    let plan = config::load("instructions.yaml", PIPELINE, &|_| None, &|_| Err(std::io::ErrorKind::NotFound.into()));
    let mut plan = plan.unwrap().decode;
    // Without an archive nobody reads most columns; here all are counted.
    plan.needed.fill(true);
    let mut decoder = Decoder::new(&plan);
    let warm: usize = raw.iter().map(|batch| decoder.decode(batch).rows.num_rows()).sum();
    let rows = measured(&mut decoder, &raw);
    assert_eq!(rows, warm, "a second pass gives the same");
    println!("{} {}", machine(), raw.iter().map(|batch| batch.records.len()).sum::<usize>());
    ExitCode::SUCCESS
}

/// What is counted: callgrind is told this name.
#[inline(never)]
fn measured(decoder: &mut Decoder, raw: &[RawBatch]) -> usize {
    raw.iter().map(|batch| black_box(decoder.decode(black_box(batch))).rows.num_rows()).sum()
}

/// Which baseline is to be compared with.
fn machine() -> String {
    #[cfg(target_arch = "x86_64")]
    let vectors = if is_x86_feature_detected!("avx2") { "-avx2" } else { "-sse" };
    #[cfg(not(target_arch = "x86_64"))]
    let vectors = "";
    format!("{}{vectors}", std::env::consts::ARCH)
}

fn lines(input: &str) -> Vec<Vec<u8>> {
    if input == "generated" {
        let mut traffic = Traffic::new(1, START, 1_000, true);
        let line = |_| {
            let mut line = Vec::new();
            traffic.next_line(&mut line);
            line
        };
        return (0..LINES).map(line).collect();
    }
    let text = fs::read(here().join("instructions.ndjson")).unwrap();
    let lines: Vec<Vec<u8>> = text.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
    lines.iter().cycle().take(LINES).cloned().collect()
}

/// The lines, cut as the sources cut them.
fn batches(lines: &[Vec<u8>]) -> Vec<RawBatch> {
    let (mut batches, mut base, mut rest) = (Vec::new(), 0, lines);
    while !rest.is_empty() {
        let (mut bytes, mut records) = (Vec::new(), Vec::new());
        while bytes.len() < limits::BATCH_BYTES && records.len() < limits::BATCH_RECORDS {
            let Some((line, behind)) = rest.split_first() else { break };
            let start = bytes.len() as u32;
            bytes.extend_from_slice(line);
            records.push(start..bytes.len() as u32 - 1);
            rest = behind;
        }
        let (end, arrival) = (base + bytes.len() as u64, ARRIVAL);
        let positions = Positions::Bytes { base };
        batches.push(RawBatch {
            partition: PartitionId(0),
            bytes,
            records,
            positions,
            end,
            broker_time: None,
            arrival,
        });
        base = end;
    }
    batches
}

fn here() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("benches")
}

/// Counts, compares with the baseline or records it.
fn compare() -> ExitCode {
    let path = here().join("instructions.baseline");
    let recorded = fs::read_to_string(&path).unwrap_or_default();
    let mut baseline: BTreeMap<String, f64> = recorded.lines().filter_map(entry).collect();
    let update = std::env::var("UPDATE").is_ok_and(|value| value == "1");
    let mut failed = false;
    for input in INPUTS {
        let (machine, found) = count(input);
        let key = format!("{machine} {input}");
        if update {
            println!("{key}: {found:.1} instructions a line, recorded");
            baseline.insert(key, found);
            continue;
        }
        let Some(expected) = baseline.get(&key) else {
            println!("{key}: {found:.1} instructions a line; NOT COMPARED: there is no baseline for {machine}");
            // Where it must be there, it was damaged. Others have to be recorded by somebody who has such a machine.
            failed |= machine == "x86_64-avx2";
            continue;
        };
        let change = found / expected - 1.0;
        println!("{key}: {found:.1} instructions a line, {:+.2} % of {expected:.1}", 100.0 * change);
        failed |= change > TOLERANCE;
    }
    if update {
        fs::write(&path, render(&baseline)).unwrap();
    }
    if failed {
        println!("FAILED: decoding takes over {} % more instructions, or its baseline is missing", 100.0 * TOLERANCE);
        println!(
            "recorded with: {}",
            recorded.lines().find_map(|line| line.strip_prefix("# with ")).unwrap_or("nothing")
        );
        println!("this is:       {}", tools());
        println!("if that is meant: UPDATE=1 benches/instructions.sh, and commit benches/instructions.baseline");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// Machine and instructions a line, as callgrind counts them.
fn count(input: &str) -> (String, f64) {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--toggle-collect=*instructions*measured*"])
        .arg(std::env::current_exe().unwrap())
        .env(INPUT, input)
        .output()
        .expect("valgrind is installed");
    let (said, counted) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{counted}");
    let (machine, lines) = said.trim().split_once(' ').unwrap();
    let total = counted.lines().find_map(|line| line.split_once("Collected : ")).unwrap().1;
    let (total, lines): (f64, f64) = (total.trim().parse().unwrap(), lines.parse().unwrap());
    // Thousands are what a line takes: with fewer the function was not found.
    assert!(total > 100.0 * lines, "cannot count instructions: {total} for {lines} lines");
    (machine.to_owned(), total / lines)
}

/// `x86_64-avx2 generated 1234.5`; comments have no number there.
fn entry(line: &str) -> Option<(String, f64)> {
    let (key, number) = line.rsplit_once(' ')?;
    Some((key.to_owned(), number.parse().ok().filter(|_| !line.starts_with('#'))?))
}

fn render(baseline: &BTreeMap<String, f64>) -> String {
    let entries: String = baseline.iter().map(|(key, found)| format!("{key} {found:.1}\n")).collect();
    format!(
        "# Instructions that decoding takes a line; written by `UPDATE=1 benches/instructions.sh`.\n# with {}\n{entries}",
        tools()
    )
}

/// What the counts depend on besides headrig.
fn tools() -> String {
    let first = |program: &str| {
        let output = Command::new(program).arg("--version").output();
        let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
        text.lines().next().unwrap_or("(unknown)").to_owned()
    };
    [first("rustc"), first("valgrind"), first("ldd")].join(", ")
}
