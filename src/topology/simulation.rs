//! A seeded simulation: the code of a running pipeline (flow, books, archive) over input in memory and a store that fails, in
//! processes that die at any call. Whatever happens, the archive and the alerts are those of a run without faults.
//!
//! A seed gives the input, how it is cut into batches, when is sealed, what fails and where processes die. One seed run
//! twice gives the same bytes in every object. `HEADRIG_SEEDS=FROM..TO cargo test --lib simulation` runs others.

use super::books::{Books, Outgoing};
use super::connect::resume;
use super::flow::Flow;
use super::simulation_kept::Keeper;
use crate::archive::faulty::{Bucket, Crash, Faults, Faulty, scramble};
use crate::archive::{Archive, ArchiveError, ArchivePlan, Kind, Look, Place, Sharing, TableFormat, verify_in};
use crate::config;
use crate::place::Located;
use crate::record::alert::AlertEvent;
use crate::record::raw::{PartitionId, Positions, RawBatch};
use crate::source::PartitionName;
use crate::time::EventTime;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use bytes::Bytes;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

pub(super) const PIPELINE: &str = r#"
pipeline: sim
sources: { in: { type: stdin } }
decode: { envelope: none, format: json, schema: access }
transform:
  - filter: path <> '/health'
windows:
  - { name: route_1m, kind: tumbling, size: 1m, lateness: 30s, group_by: [path],
      aggregate: { requests: count(*), errors: "count(*) filter (where status >= 500)", p95_ms: "quantile(latency_ms, 0.95)" },
      derive: { error_rate: errors / requests } }
  - { name: all_5m, kind: sliding, size: 5m, every: 1m, lateness: 30s, aggregate: { requests: count(*), paths: count_distinct(path) } }
alerts:
  - { alert: Errors, on: route_1m, when: error_rate > 0.3, for: 1m, annotations: { summary: "{{ $labels.path }}: {{ $values.error_rate }}" } }
  - { alert: Busy, on: all_5m, when: requests > 40 }
archive: { url: "/nowhere" }
"#;

/// 2026-05-06T00:00:00Z.
pub(super) const START: i64 = 1_778_025_600_000_000;
pub(super) const SECOND: i64 = 1_000_000;
pub(super) const RECEIVERS: [&str; 2] = ["ops", "page"];

/// Numbers by a seed.
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(1);
        scramble(self.0) % sides
    }
}

/// The lines of each partition. Stamps are up to 20 s out of order, so that nothing is late however partitions are read.
pub(super) fn input(seed: u64) -> Vec<Vec<String>> {
    let mut dice = Dice(scramble(seed));
    let partitions = 1 + dice.roll(3);
    let line = |dice: &mut Dice, partition: u64, number: u64| {
        if dice.roll(40) == 0 {
            return format!("no JSON {partition}/{number}");
        }
        let at = EventTime::from_micros(START + number as i64 * 7 * SECOND - dice.roll(20) as i64 * SECOND);
        let path = ["/a", "/b", "/c", "/health"][dice.roll(4) as usize];
        let status = if dice.roll(10) < (number / 8) % 10 { 503 } else { 200 };
        let latency = dice.roll(100_000) as f64 / 64.0;
        format!(
            r#"{{"timestamp":"{at}","event":"request","path":"{path}","status":{status},"latency_ms":{latency},"request_id":"{partition}/{number}"}}"#
        )
    };
    let lines = |dice: &mut Dice, partition| {
        let count = 20 + dice.roll(100);
        (0..count).map(|number| line(dice, partition, number)).collect()
    };
    (0..partitions).map(|partition| lines(&mut dice, partition)).collect()
}

pub(super) fn name(partition: usize) -> PartitionName {
    PartitionName { source: "in".into(), partition: format!("t/{partition}"), identity: "c".to_owned() }
}

/// What outlives the processes.
pub(super) struct World {
    pub(super) bucket: Bucket,
    pub(super) input: Vec<Vec<String>>,
    /// Ids that each receiver was told, in order.
    pub(super) told: [Vec<String>; 2],
    /// Processes so far; time goes on with them.
    pub(super) lives: u64,
    pub(super) scratch: tempfile::TempDir,
    /// Whether processes keep the archive in shape.
    pub(super) kept: bool,
    /// Whether it has Delta logs, which `verify` compares with what counts.
    pub(super) listed: bool,
}

impl World {
    pub(super) fn new(input: Vec<Vec<String>>) -> Self {
        // In memory where there is such a folder: what is scratch need not be durable.
        let memory = Path::new("/dev/shm");
        let scratch = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        Self {
            bucket: Bucket::default(),
            input,
            told: Default::default(),
            lives: 0,
            scratch: scratch.unwrap(),
            kept: false,
            listed: false,
        }
    }

    /// Records of a partition from `from` on, as a source hands them on.
    pub(super) fn batch(&self, partition: usize, from: u64, most: u64) -> RawBatch {
        let lines = &self.input[partition];
        let end = (from + most).min(lines.len() as u64);
        let (mut bytes, mut records) = (Vec::new(), Vec::new());
        for line in &lines[from as usize..end as usize] {
            let start = bytes.len() as u32;
            bytes.extend_from_slice(line.as_bytes());
            records.push(start..bytes.len() as u32);
            bytes.push(b'\n');
        }
        RawBatch {
            partition: PartitionId(partition),
            bytes,
            records,
            positions: Positions::Sequence { first: from },
            end,
            broker_time: None,
            arrival: EventTime::from_micros(START + 86_400 * SECOND),
        }
    }
}

/// Why a process ended before its input.
#[derive(Debug)]
pub(super) enum Death {
    Archive(ArchiveError),
    /// Between telling a receiver and noting it.
    Told,
}

impl From<ArchiveError> for Death {
    fn from(error: ArchiveError) -> Self {
        Self::Archive(error)
    }
}

/// One process: all that is lost when it dies.
pub(super) struct Process {
    pub(super) archive: Archive,
    pub(super) flow: Flow,
    books: Books,
    pub(super) positions: Vec<u64>,
    ended: BTreeSet<usize>,
    queue: VecDeque<(usize, AlertEvent)>,
    /// Whether it may die between telling a receiver and noting it.
    mortal: bool,
    keeper: Option<Keeper>,
}

fn config_plan() -> config::Plan {
    load(PIPELINE)
}

pub(super) fn load(text: &str) -> config::Plan {
    config::load("sim.yaml", text, &|_| None, &|_| Err(std::io::ErrorKind::NotFound.into())).unwrap()
}

pub(super) fn archive_plan(plan: &config::Plan, sharing: Option<Sharing>) -> ArchivePlan {
    ArchivePlan {
        config: plan.archive.clone().unwrap(),
        pipeline: plan.pipeline.clone(),
        schema: Arc::clone(&plan.schema),
        windows: plan.windows.iter().map(crate::window::Plan::schema).collect(),
        threads: NonZeroUsize::MIN,
        data_dir: std::path::PathBuf::new(),
        sharing,
        patience: Arc::default(),
    }
}

impl Process {
    pub(super) fn start(world: &mut World, store: &Arc<Faulty>, sharing: Option<Sharing>) -> Result<Self, Death> {
        world.lives += 1;
        let started = EventTime::from_micros(START + world.lives as i64 * SECOND);
        let mut plan = config_plan();
        if let Some(archive) = &mut plan.archive {
            archive.audit = world.kept;
            if world.listed {
                archive.table = Some(Located::nowhere(TableFormat::Delta));
            }
        }
        let scratch = world.scratch.path().join(sharing.as_ref().map_or("main", |sharing| sharing.chain.as_str()));
        std::fs::create_dir_all(&scratch).unwrap();
        let place = Place::unlocked(Arc::<Faulty>::clone(store), &plan.pipeline, scratch);
        let (archive, opened) = Archive::open_at(place, archive_plan(&plan, sharing), started)?;
        let position = |number| opened.own.find("in", &name(number).partition).map_or(0, |known| known.position);
        let positions: Vec<u64> = (0..world.input.len()).map(position).collect();
        let mut books = Books::new(RECEIVERS.map(str::to_owned).to_vec(), opened.own);
        let mut flow = Flow::new(&mut plan);
        let due = resume(&plan.pipeline, &mut flow, &mut books, &opened.state, opened.watermark);
        let mut process = {
            let (ended, queue) = (BTreeSet::new(), VecDeque::new());
            let keeper = world.kept.then(|| Keeper::new(world, store));
            Self { keeper, archive, flow, books, positions, ended, queue, mortal: store.faults().crash.is_some() }
        };
        process.send(due);
        Ok(process)
    }

    fn send(&mut self, due: Vec<Outgoing>) {
        for Outgoing { event, to } in due {
            self.queue.extend(to.into_iter().map(|receiver| (receiver, event.clone())));
        }
    }

    pub(super) fn read(&mut self, world: &World, partition: usize, most: u64) -> Result<(), Death> {
        let raw = world.batch(partition, self.positions[partition], most);
        if raw.records.is_empty() {
            if self.ended.insert(partition) {
                let alerts = self.flow.end(PartitionId(partition));
                self.alert(alerts)?;
            }
            return Ok(());
        }
        let outcome = self.flow.batch(&raw);
        self.positions[partition] = raw.end;
        self.books.read(&name(partition), raw.end, raw.records.len() as u64, outcome.transformed.dropped);
        if outcome.rows.num_rows() > 0 {
            self.archive.write_events(&outcome.rows)?;
        }
        if !outcome.dead.is_empty() {
            let name = name(partition);
            self.archive.write_dead(&outcome.dead, |_| (&name.source, &name.partition))?;
        }
        self.alert(outcome.alerts)
    }

    fn alert(&mut self, events: Vec<AlertEvent>) -> Result<(), Death> {
        if events.is_empty() {
            return Ok(());
        }
        self.archive.write_alerts(&events)?;
        for event in events {
            self.books.alert(event, vec![0, 1]);
        }
        Ok(())
    }

    pub(super) fn seal(&mut self) -> Result<(), Death> {
        let windows = self.flow.drain_windows();
        let state = self.flow.save().unwrap();
        let (ticket, sealing) = self.books.sealing(self.flow.now(), &state);
        self.archive.write_windows(&windows)?;
        self.archive.seal(&sealing)?;
        let due = self.books.sealed(ticket);
        self.send(due);
        Ok(())
    }

    fn deliver(&mut self, world: &mut World, dice: &mut Dice) -> Result<(), Death> {
        if let Some((receiver, event)) = self.queue.pop_front() {
            world.told[receiver].push(event.id.clone());
            if self.mortal && dice.roll(40) == 0 {
                return Err(Death::Told);
            }
            self.books.delivered(receiver, &event.id);
        }
        Ok(())
    }

    /// Reads all, in an order by the dice, and ends as a run with `--once` does.
    fn run(&mut self, world: &mut World, dice: &mut Dice) -> Result<(), Death> {
        let partitions = world.input.len();
        while self.ended.len() < partitions {
            if let Some(keeper) = self.keeper.as_mut().filter(|_| dice.roll(16) == 0) {
                keeper.keep(dice)?;
            }
            match dice.roll(10) {
                0 => self.seal()?,
                1 | 2 => self.deliver(world, dice)?,
                _ => {
                    let (partition, most) = (dice.roll(partitions as u64) as usize, 1 + dice.roll(12));
                    self.read(world, partition, most)?;
                }
            }
        }
        while let Some(alerts) = self.flow.finish_next() {
            self.alert(alerts)?;
        }
        self.seal()?;
        while !self.queue.is_empty() {
            self.deliver(world, dice)?;
        }
        self.seal()?;
        self.keeper.as_mut().map_or(Ok(()), |keeper| keeper.keep_all(dice))
    }
}

/// Runs processes with faults until one gets to the end; the last ones have none.
fn simulate(seed: u64, faults: impl Fn(u64) -> Faults) -> (World, u64) {
    simulate_in(World::new(input(seed)), seed, faults)
}

/// As [`simulate`], in a world that is there already.
pub(super) fn simulate_in(mut world: World, seed: u64, faults: impl Fn(u64) -> Faults) -> (World, u64) {
    let mut calls = 0;
    for life in 0.. {
        let faults = faults(life);
        let store = Arc::new(Faulty::new(&world.bucket, faults));
        let mut dice = Dice(scramble(seed ^ (life << 32) ^ 0xd1ce));
        // Whether it died on the way is what comes next.
        let run = Process::start(&mut world, &store, None).and_then(|mut process| {
            for partition in 0..world.input.len() {
                process.flow.open(PartitionId(partition), &name(partition));
            }
            process.run(&mut world, &mut dice)
        });
        calls += store.calls();
        match run {
            Ok(()) if !store.is_dead() => return (world, calls),
            Err(Death::Archive(error)) if faults.crash.is_none() && faults.failing == 0 => {
                panic!("seed {seed}: {error}")
            }
            _ => {}
        }
    }
    unreachable!("lives have no end")
}

/// All rows of a table, in an order of their own.
pub(super) fn rows(world: &World, kind: Kind) -> Vec<String> {
    let mut all = Vec::new();
    for (key, object) in world.bucket.objects() {
        if !key.starts_with(&format!("{}/", kind.as_str())) || !key.ends_with(".parquet") {
            continue;
        }
        let folder = key.rsplit_once('/').unwrap().0;
        let reader = ParquetRecordBatchReaderBuilder::try_new(Bytes::from(object)).unwrap().build().unwrap();
        for batch in reader.map(Result::unwrap) {
            let options = FormatOptions::new().with_null("-");
            let columns: Vec<_> =
                batch.columns().iter().map(|column| ArrayFormatter::try_new(column, &options).unwrap()).collect();
            for row in 0..batch.num_rows() {
                let values: Vec<String> = columns.iter().map(|column| column.value(row).to_string()).collect();
                all.push(format!("{folder} {}", values.join(" ")));
            }
        }
    }
    all.sort();
    all
}

pub(super) fn clean(seed: u64) -> (World, u64) {
    simulate(seed, |_| Faults::default())
}

/// Asserts that `world` has what `expected` has, once.
pub(super) fn assert_same(context: &str, expected: &World, world: &World) {
    for kind in Kind::ALL {
        assert_eq!(rows(expected, kind), rows(world, kind), "{context}: {}", kind.as_str());
    }
    for (expected, told) in expected.told.iter().zip(&world.told) {
        let mut seen = BTreeSet::new();
        let first: Vec<&String> = told.iter().filter(|id| seen.insert(*id)).collect();
        assert_eq!(first.len(), expected.len(), "{context}: alert events told");
        assert_eq!(seen, expected.iter().collect(), "{context}: alert events told");
        // Told again only what a process had no chance to note.
        assert!(told.len() - first.len() <= world.lives as usize * expected.len().min(12), "{context}: told again");
    }
    let report =
        verify_in(&Faulty::new(&world.bucket, Faults::default()), Look { deep: true, audit: true }, |_, _| {}).unwrap();
    assert_eq!(report.findings, [], "{context}");
}

/// Seeds to run: a range in `HEADRIG_SEEDS`, or as many as are said here.
pub(super) fn seeds(usual: u64) -> std::ops::Range<u64> {
    let range = std::env::var("HEADRIG_SEEDS").ok();
    let range =
        range.map(|range| range.split_once("..").map(|(from, to)| from.parse().unwrap()..to.parse().unwrap()).unwrap());
    range.unwrap_or(0..usual)
}

/// On all cores: seeds have nothing to do with each other.
pub(super) fn for_each_seed(range: std::ops::Range<u64>, check: impl Fn(u64) + Sync) {
    let next = std::sync::atomic::AtomicU64::new(range.start);
    std::thread::scope(|scope| {
        for _ in 0..ArchivePlan::all_cores().get() {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    if seed >= range.end {
                        return;
                    }
                    check(seed);
                }
            });
        }
    });
}

pub(super) fn some_faults(seed: u64, life: u64) -> Faults {
    let mut dice = Dice(scramble(seed.wrapping_mul(31) ^ life));
    if life > 2 + seed % 5 {
        return Faults::default();
    }
    let crash = Crash { at: dice.roll(60), effective: dice.roll(2) == 0 };
    let crash = (dice.roll(5) > 0).then_some(crash);
    Faults { crash, failing: [0, 0, 20, 60][dice.roll(4) as usize], seed: dice.roll(u64::MAX) }
}

#[test]
fn whatever_fails_and_dies_the_archive_and_the_alerts_are_those_of_a_clean_run() {
    let fired = std::sync::atomic::AtomicU64::new(0);
    for_each_seed(seeds(2_000), |seed| {
        let (expected, _) = clean(seed);
        let (world, _) = simulate(seed, |life| some_faults(seed, life));
        assert_same(&format!("seed {seed}"), &expected, &world);
        fired.fetch_add(expected.told[0].len() as u64, std::sync::atomic::Ordering::Relaxed);
    });
    assert!(fired.into_inner() > 0, "a simulation without alerts shows nothing of them");
}

#[test]
fn every_call_is_survived_before_and_after_its_effect() {
    for seed in [1, 2, 3] {
        let (expected, calls) = clean(seed);
        assert!(calls > 30, "{calls}");
        for_each_seed(0..2 * calls, |number| {
            let crash = Crash { at: number / 2, effective: number % 2 == 0 };
            let faults =
                |life| if life == 0 { Faults { crash: Some(crash), ..Faults::default() } } else { Faults::default() };
            let (world, _) = simulate(seed, faults);
            assert_same(&format!("seed {seed}, {crash:?}"), &expected, &world);
        });
    }
}

#[test]
fn one_seed_gives_the_same_bytes_again() {
    for seed in 0..20 {
        let run = || simulate(seed, |life| some_faults(seed, life)).0;
        let (first, second) = (run(), run());
        assert_eq!(first.told, second.told);
        let (first, second): (BTreeMap<_, _>, BTreeMap<_, _>) = (first.bucket.objects(), second.bucket.objects());
        assert_eq!(first.keys().collect::<Vec<_>>(), second.keys().collect::<Vec<_>>());
        for (key, object) in first {
            assert!(object == second[&key], "seed {seed}: {key}");
        }
    }
}
