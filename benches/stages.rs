//! Decode, windows and archive writing on the generator's lines, in MB of input and lines a second; saving and restoring the
//! state of 100,000 groups.
//!
//! `cargo bench --bench stages` measures; `docs/performance.md` keeps the figures. The machine is shared: compare figures
//! of one run with each other, not with those of another day.

#![expect(clippy::unwrap_used, reason = "a benchmark that cannot be set up fails")]

use arrow::array::Int64Array;
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use headrig::archive::{Archive, ArchivePlan, Sealing};
use headrig::config::{self, Plan};
use headrig::decode::Decoder;
use headrig::limits;
use headrig::record::event::{EventBatch, stamps};
use headrig::record::raw::{PartitionId, Positions, RawBatch};
use headrig::record::receipt::{Checkpoint, PartitionPosition};
use headrig::source::PartitionName;
use headrig::source::traffic::Traffic;
use headrig::time::EventTime;
use headrig::time::watermark::StreamClock;
use headrig::topology::Flow;
use headrig::window::Windows;
use std::hint::black_box;
use std::num::NonZeroUsize;

/// Lines in a measured piece: enough for several batches, little enough for a criterion run.
const LINES: usize = 50_000;
/// 2026-01-01T00:00:00Z
const START: EventTime = EventTime::from_micros(1_767_225_600_000_000);

const PIPELINE: &str = r#"
pipeline: bench
sources: { s: { type: stdin } }
decode: { envelope: fly, format: auto, schema: access }
windows:
  - name: path_1m
    kind: tumbling
    size: 1m
    lateness: 30s
    where: status is not null
    group_by: [path]
    aggregate:
      requests: count(*)
      errors: count(*) filter (where status >= 500)
      p95_ms: quantile(latency_ms, 0.95)
    derive: { error_rate: errors / requests }
  - name: path_5m
    kind: sliding
    size: 5m
    every: 30s
    lateness: 30s
    where: status is not null
    group_by: [path]
    aggregate:
      requests: count(*)
      p95_ms: quantile(latency_ms, 0.95)
metrics:
  - { name: http_requests_total, type: counter, help: Requests, where: status is not null, labels: [method, path, status] }
  - { name: http_request_duration_seconds, type: histogram, help: Latency, value: latency_ms / 1000, labels: [method, path] }
alerts:
  - { alert: HighErrorRate, on: path_5m, when: requests > 100000000 }
"#;

fn name() -> PartitionName {
    PartitionName { source: "s".into(), partition: "stdin".to_owned(), identity: String::new() }
}

fn plan() -> Plan {
    let mut plan = load(PIPELINE);
    // Without an archive nobody reads most columns; here all are measured.
    plan.decode.needed.fill(true);
    plan
}

fn load(yaml: &str) -> Plan {
    config::load("bench.yaml", yaml, &|_| None, &|_| Err(std::io::ErrorKind::NotFound.into())).unwrap()
}

/// The generator's lines, cut as the sources cut them.
fn raw_batches() -> Vec<RawBatch> {
    let mut traffic = Traffic::new(1, START, 1_000, true);
    let mut batches = Vec::new();
    let mut position = 0;
    let mut lines = 0;
    while lines < LINES {
        let (mut bytes, mut records) = (Vec::new(), Vec::new());
        while bytes.len() < limits::BATCH_BYTES && records.len() < limits::BATCH_RECORDS && lines < LINES {
            let start = bytes.len() as u32;
            traffic.next_line(&mut bytes);
            records.push(start..bytes.len() as u32 - 1);
            lines += 1;
        }
        let end = position + bytes.len() as u64;
        let positions = Positions::Bytes { base: position };
        let arrival = START + limits::MAX_FUTURE;
        batches.push(RawBatch {
            partition: PartitionId(0),
            bytes,
            records,
            positions,
            end,
            broker_time: None,
            arrival,
        });
        position = end;
    }
    batches
}

fn events(plan: &Plan, raw: &[RawBatch]) -> Vec<EventBatch> {
    let (mut decoder, mut clock) = (Decoder::new(&plan.decode), StreamClock::default());
    clock.register();
    let decode = |raw: &RawBatch| {
        let rows = decoder.decode(raw).rows;
        let mut readings = Vec::new();
        let times = stamps(&rows).values().iter().map(|micros| EventTime::from_micros(*micros));
        clock.observe(0, times, |reading| readings.push(reading.map(EventTime::micros)));
        let (clock, clock_after) = (Int64Array::from(readings), clock.now());
        EventBatch { partition: raw.partition, rows, clock, clock_after, end: raw.end }
    };
    raw.iter().map(decode).collect()
}

fn stages(criterion: &mut Criterion) {
    let raw = raw_batches();
    let events = events(&plan(), &raw);
    let bytes: u64 = raw.iter().map(|batch| batch.bytes.len() as u64).sum();
    // Each measurement twice: per byte of input, and per line.
    for (unit, throughput) in [("bytes", Throughput::Bytes(bytes)), ("lines", Throughput::Elements(LINES as u64))] {
        let mut group = criterion.benchmark_group("stages");
        group.throughput(throughput).sample_size(20);
        group.bench_function(BenchmarkId::new("decode", unit), |bencher| {
            let plan = plan();
            let mut decoder = Decoder::new(&plan.decode);
            bencher.iter(|| raw.iter().map(|batch| decoder.decode(black_box(batch)).rows.num_rows()).sum::<usize>());
        });
        group.bench_function(BenchmarkId::new("windows", unit), |bencher| {
            bencher.iter_batched(
                || Windows::new(plan().windows),
                |mut windows| {
                    let closed: usize = events.iter().map(|batch| windows.push(black_box(batch)).len()).sum();
                    closed + windows.finish().len()
                },
                BatchSize::PerIteration,
            );
        });
        for (name, threads) in [("archive", NonZeroUsize::MIN), ("archive on all cores", ArchivePlan::all_cores())] {
            group.bench_function(BenchmarkId::new(name, unit), |bencher| {
                bencher.iter_batched(
                    || tempfile::tempdir().unwrap(),
                    |folder| {
                        archive_all(folder.path(), &events, threads);
                        folder
                    },
                    BatchSize::PerIteration,
                );
            });
        }
        group.bench_function(BenchmarkId::new("flow", unit), |bencher| {
            bencher.iter_batched(
                || {
                    let mut flow = Flow::new(&mut plan());
                    flow.open(PartitionId(0), &name());
                    flow
                },
                |mut flow| raw.iter().map(|batch| flow.batch(black_box(batch)).rows.num_rows()).sum::<usize>(),
                BatchSize::PerIteration,
            );
        });
        group.finish();
    }
}

/// From Arrow batches to a sealed archive.
fn archive_all(folder: &std::path::Path, events: &[EventBatch], threads: NonZeroUsize) {
    let yaml = format!("{PIPELINE}archive: {{ url: \"{}\" }}\n", folder.display());
    let plan = load(&yaml);
    let archive_plan = ArchivePlan {
        config: plan.archive.unwrap(),
        pipeline: plan.pipeline,
        schema: plan.schema,
        windows: plan.windows.iter().map(headrig::window::Plan::schema).collect(),
        threads,
        data_dir: folder.to_owned(),
        sharing: None,
        patience: std::sync::Arc::default(),
    };
    let (mut archive, _) = Archive::open(archive_plan, START).unwrap();
    let mut checkpoint = Checkpoint::default();
    for batch in events {
        archive.write_events(&batch.rows).unwrap();
        let (source, partition, identity) = ("s".to_owned(), "stdin".to_owned(), String::new());
        checkpoint.set(PartitionPosition { source, partition, identity, position: batch.end });
    }
    let receipt = archive.seal(&Sealing { checkpoint, ..Sealing::default() }).unwrap();
    assert_eq!(receipt.rows, events.iter().map(|batch| batch.rows.num_rows() as u64).sum::<u64>());
}

/// Groups of the state that is saved: as many as a window definition may have.
const GROUPS: usize = limits::GROUPS_PER_WINDOW;

const STATE: &str = r#"
pipeline: state
sources: { s: { type: stdin } }
decode: { envelope: none, format: json, schema: access }
windows:
  - { name: w, kind: tumbling, size: 1h, group_by: [path], aggregate: AGGREGATE }
alerts:
  - { alert: Slow, on: w, when: n > 0, labels: { severity: P1 } }
"#;

/// A flow whose one window holds `records` records of each of [`GROUPS`] groups.
fn grouped(yaml: &str, records: usize) -> Flow {
    let mut flow = Flow::new(&mut load(yaml));
    flow.open(PartitionId(0), &name());
    for record in 0..records {
        for first in (0..GROUPS).step_by(limits::BATCH_RECORDS) {
            let (mut bytes, mut ranges) = (Vec::new(), Vec::new());
            for group in first..GROUPS.min(first + limits::BATCH_RECORDS) {
                // Spread as hashes are, so that the compressor finds what it finds in life.
                let mixed = (group * 31 + record).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                let (path, latency) = (mixed % 1_000, (mixed >> 20) % 1_000_000);
                let start = bytes.len() as u32;
                let line = format!(
                    r#"{{"timestamp":"2026-01-01T00:30:00Z","path":"/v1/customers/{group}","status":{},"latency_ms":{}}}"#,
                    200 + path % 2 * 300,
                    latency as f64 / 1e3
                );
                bytes.extend_from_slice(line.as_bytes());
                ranges.push(start..bytes.len() as u32);
            }
            let (positions, arrival) = (Positions::Sequence { first: 0 }, START + limits::WINDOW_SPAN);
            let partition = PartitionId(0);
            flow.batch(&RawBatch { partition, bytes, records: ranges, positions, end: 0, broker_time: None, arrival });
        }
    }
    flow
}

fn state(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("state of 100,000 groups");
    group.sample_size(10);
    for (what, records, aggregate) in [
        ("count", 3, "{ n: count(*) }"),
        ("count and avg", 3, "{ n: count(*), errors: count(*) filter (where status >= 500), mean: avg(latency_ms) }"),
        ("count and p95 of 8 values", 8, "{ n: count(*), p95: p95(latency_ms) }"),
        ("count and p95 of 200 values", 200, "{ n: count(*), p95: p95(latency_ms) }"),
    ] {
        let yaml = STATE.replace("AGGREGATE", aggregate);
        let flow = grouped(&yaml, records);
        let bytes = flow.save().unwrap();
        let unit = format!("{what}, {} bytes a group", bytes.len() / GROUPS);
        group.bench_function(BenchmarkId::new("save", &unit), |bencher| {
            bencher.iter(|| black_box(&flow).save().unwrap().len());
        });
        group.bench_function(BenchmarkId::new("restore", &unit), |bencher| {
            let fresh = || Flow::new(&mut load(&yaml));
            bencher.iter_batched(
                fresh,
                |mut flow| flow.restore(&bytes).map(|_| flow).unwrap(),
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, stages, state);
criterion_main!(benches);
