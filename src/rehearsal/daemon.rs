//! A daemon without its surroundings: the flow and the books of a running pipeline, over records in memory, under clocks that
//! are numbers. What it does between two statements of a script is what `topology`'s loop does between two steps.
//!
//! What a daemon seals in an archive is kept here as the same bytes; a restart goes on with them, and a crash has nothing else.

use super::view::View;
use crate::archive::Sealing;
use crate::config::{Plan, Role};
use crate::limits;
use crate::record::alert::{ActiveAlert, AlertEvent};
use crate::record::raw::{PartitionId, Positions, RawBatch};
use crate::record::sample::{WindowRows, WindowSchema};
use crate::source::PartitionName;
use crate::time::clock::Monotonic;
use crate::time::{EventTime, Span};
use crate::topology::{Books, Flow, Idleness, Outgoing};
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

/// The one receiver, by its index.
const RECEIVER: usize = 0;

/// Compiles the pipeline anew.
pub(super) type Planner<'p> = &'p dyn Fn() -> Result<Plan, String>;

/// A source partition: all that was ever written to it. A record's position is its number.
#[derive(Debug)]
struct Written {
    name: PartitionName,
    records: Vec<Vec<u8>>,
    ended: bool,
}

/// The clocks of the machine.
#[derive(Debug, Clone, Copy)]
struct Clocks {
    /// µs since the script's beginning.
    monotonic: i64,
    /// The time of day, as it would be without steps.
    day: EventTime,
    /// By how many µs the time of day was stepped.
    stepped: i64,
}

/// What outlives a process, and the process.
#[derive(Debug)]
pub(super) struct Daemon {
    pub(super) origin: EventTime,
    clocks: Clocks,
    partitions: Vec<Written>,
    /// The newest seal.
    sealed: Sealing,
    windows: Vec<WindowRows>,
    events: Vec<AlertEvent>,
    dead: u64,
    told: BTreeSet<String>,
    repeated: u64,
    abandoned: u64,
    process: Process,
}

/// What dies with a crash.
#[derive(Debug)]
struct Process {
    flow: Flow,
    schemas: Vec<WindowSchema>,
    source: Arc<str>,
    sources: Vec<String>,
    books: Books,
    idleness: Idleness,
    /// Numbers among [`Daemon::partitions`], by `PartitionId`, and up to where each was read.
    open: Vec<(usize, u64)>,
    /// Since the newest seal.
    events: Vec<AlertEvent>,
    dead: u64,
    active: Vec<ActiveAlert>,
    /// An output takes nothing: partitions of which something waits.
    stalled: Option<VecDeque<usize>>,
}

impl Process {
    fn start(mut plan: Plan, sealed: &Sealing, clocks: Clocks) -> Result<(Self, Vec<Outgoing>, u64), String> {
        // Windows that daemons share close as those of one.
        plan.role = Role::Alone;
        let sources: Vec<String> = plan.sources.iter().map(|(name, _)| name.clone()).collect();
        let schemas = plan.windows.iter().map(crate::window::Plan::schema).collect();
        let mut books = Books::new(vec!["receiver".to_owned()], sealed.checkpoint.clone());
        let mut flow = Flow::new(&mut plan);
        let (due, state) = books.restore(&sealed.state).map_err(|error| error.to_string())?;
        let mut abandoned = 0;
        if !state.is_empty() {
            let restored = flow.restore(state).map_err(|error| error.to_string())?;
            abandoned = restored.abandoned.len() as u64;
            restored.abandoned.iter().for_each(|alert| books.abandon(&alert.labels, alert.starts_at));
        }
        let idleness = Idleness::start(clocks.monotonic());
        let source = sources.first().map_or("in", String::as_str).into();
        let (open, events, active) = (Vec::new(), Vec::new(), Vec::new());
        let process =
            Self { flow, schemas, source, sources, books, idleness, open, events, dead: 0, active, stalled: None };
        Ok((process, due, abandoned))
    }

    fn note(&mut self, events: Vec<AlertEvent>) {
        for event in events {
            self.events.push(event.clone());
            self.books.alert(event, vec![RECEIVER]);
        }
    }
}

impl Clocks {
    fn monotonic(self) -> Monotonic {
        Monotonic(Span::from_micros(self.monotonic))
    }

    /// The time of day as it is read.
    fn now(self) -> EventTime {
        self.day + Span::from_micros(self.stepped)
    }
}

impl Daemon {
    /// Starts for the first time.
    ///
    /// # Errors
    /// When the pipeline cannot be compiled.
    pub(super) fn start(planner: Planner<'_>, origin: EventTime) -> Result<Self, String> {
        let clocks = Clocks { monotonic: 0, day: origin, stepped: 0 };
        let sealed = Sealing::default();
        let (process, _, abandoned) = Process::start(planner()?, &sealed, clocks)?;
        Ok(Self {
            origin,
            clocks,
            partitions: Vec::new(),
            sealed,
            windows: Vec::new(),
            events: Vec::new(),
            dead: 0,
            told: BTreeSet::new(),
            repeated: 0,
            abandoned,
            process,
        })
    }

    /// Makes partitions known, of which nothing has to come.
    pub(super) fn open(&mut self, name: &str) {
        let number = self.partition(name);
        if self.process.open.iter().all(|(known, _)| *known != number) {
            self.open_number(number);
        }
    }

    fn partition(&mut self, name: &str) -> usize {
        let name = self.name(name);
        let known = self.partitions.iter().position(|p| !p.ended && p.name == name);
        known.unwrap_or_else(|| {
            self.partitions.push(Written { name, records: Vec::new(), ended: false });
            self.partitions.len() - 1
        })
    }

    /// `SOURCE:PARTITION`, or a partition of the first source.
    fn name(&self, text: &str) -> PartitionName {
        let Process { sources, source, .. } = &self.process;
        let (source, partition) = match text.split_once(':').filter(|(name, _)| sources.iter().any(|s| s == name)) {
            Some((source, partition)) => (Arc::from(source), partition),
            None => (Arc::clone(source), text),
        };
        PartitionName { source, partition: partition.to_owned(), identity: String::new() }
    }

    fn open_number(&mut self, number: usize) {
        let Written { name, .. } = &self.partitions[number];
        let position = self.sealed.checkpoint.find(&name.source, &name.partition).map_or(0, |known| known.position);
        let Process { flow, idleness, open, .. } = &mut self.process;
        flow.open(PartitionId(open.len()), name);
        idleness.open();
        open.push((number, position));
    }

    /// Records are written to a partition at the time `at`, and read as soon as may be.
    pub(super) fn load(&mut self, name: &str, records: Vec<Vec<u8>>, at: Option<EventTime>) {
        self.clocks.day = self.clocks.day.max(at.unwrap_or(self.clocks.day));
        self.open(name);
        let number = self.partition(name);
        self.partitions[number].records.extend(records);
        match &mut self.process.stalled {
            Some(waiting) => waiting.push_back(number),
            None => self.read(number),
        }
    }

    /// Everything comes once more at the positions that it had. What was read is passed over, as every source does.
    pub(super) fn replay(&mut self) {
        for at in 0..self.process.open.len() {
            let (number, _) = self.process.open[at];
            self.read(number);
        }
    }

    /// Reads what the process has not read of a partition.
    fn read(&mut self, number: usize) {
        let Some(at) = self.process.open.iter().position(|(known, _)| *known == number) else { return };
        let Written { name, records, ended } = &self.partitions[number];
        let first = self.process.open[at].1;
        let new = &records[usize::try_from(first).unwrap_or(usize::MAX).min(records.len())..];
        if *ended || new.is_empty() {
            return;
        }
        for (block, records) in new.chunks(limits::BATCH_RECORDS).enumerate() {
            let first = first + (block * limits::BATCH_RECORDS) as u64;
            let raw = raw_batch(PartitionId(at), records, first, self.clocks.now());
            let process = &mut self.process;
            let outcome = process.flow.batch(&raw);
            process.idleness.heard(raw.partition);
            process.books.read(name, raw.end, records.len() as u64, outcome.transformed.dropped);
            process.dead += outcome.dead.len() as u64;
            process.open[at].1 = raw.end;
            process.note(outcome.alerts);
        }
    }

    /// The partition has no more.
    ///
    /// # Errors
    /// When it is not there.
    pub(super) fn end(&mut self, name: &str) -> Result<(), String> {
        let wanted = self.name(name);
        let is_it = |(number, _): &(usize, u64)| {
            let partition = &self.partitions[*number];
            partition.name == wanted && !partition.ended
        };
        let at =
            self.process.open.iter().position(is_it).ok_or_else(|| format!("cannot end {name:?}, it is not open"))?;
        self.end_number(at);
        Ok(())
    }

    fn end_number(&mut self, at: usize) {
        self.partitions[self.process.open[at].0].ended = true;
        self.process.idleness.end(PartitionId(at));
        let alerts = self.process.flow.end(PartitionId(at));
        self.process.note(alerts);
    }

    /// All input has ended, as for `run --once`.
    pub(super) fn finish(&mut self) {
        for at in 0..self.process.open.len() {
            if !self.partitions[self.process.open[at].0].ended {
                self.end_number(at);
            }
        }
        while let Some(alerts) = self.process.flow.finish_next() {
            self.process.note(alerts);
        }
        self.seal();
    }

    /// Time passes: the loop looks at each tick, unless an output holds it up.
    pub(super) fn advance(&mut self, span: Span) {
        let end = self.clocks.monotonic + span.micros();
        while self.clocks.monotonic < end {
            let step = limits::TICK.micros().min(end - self.clocks.monotonic);
            self.clocks.monotonic += step;
            self.clocks.day = self.clocks.day + Span::from_micros(step);
            if self.process.stalled.is_none() {
                self.look(true);
            }
        }
    }

    fn look(&mut self, quiet: bool) {
        let (now, process) = (self.clocks.monotonic(), &mut self.process);
        let looked = process.idleness.look(now, quiet);
        for partition in looked.idle {
            let alerts = process.flow.idle(partition);
            process.note(alerts);
        }
        if process.idleness.gives_up(now) && !process.flow.awaited().is_empty() {
            let alerts = process.flow.give_up();
            process.note(alerts);
        }
        let alerts = process.flow.tick(self.clocks.now(), looked.quiet);
        process.note(alerts);
    }

    /// Somebody sets the time of day.
    pub(super) fn step_clock(&mut self, micros: i64) {
        self.clocks.stepped += micros;
    }

    /// An output takes nothing from now on.
    pub(super) fn stall(&mut self) {
        self.process.stalled.get_or_insert_default();
    }

    /// It takes everything again. The loop works off what waits, and looks as soon as it may.
    pub(super) fn resume(&mut self) {
        let mut waiting = self.process.stalled.take().unwrap_or_default();
        while let Some(number) = waiting.pop_front() {
            self.read(number);
            self.look(waiting.is_empty());
        }
        self.look(true);
    }

    /// Makes all durable; then the receiver is told what has fired.
    ///
    /// # Panics
    /// When the state is too large to be kept.
    pub(super) fn seal(&mut self) {
        let process = &mut self.process;
        self.windows.extend(process.flow.drain_windows());
        let state = process.flow.save().expect("a script's windows fit into a state");
        let (ticket, sealing) = process.books.sealing(process.flow.now(), &state);
        self.sealed = sealing;
        self.events.append(&mut process.events);
        self.dead += std::mem::take(&mut process.dead);
        let due = process.books.sealed(ticket);
        self.tell(due);
    }

    fn tell(&mut self, due: Vec<Outgoing>) {
        for Outgoing { event, .. } in due {
            self.repeated += u64::from(!self.told.insert(event.id.clone()));
            self.process.books.delivered(RECEIVER, &event.id);
        }
    }

    /// Ends in good order, and starts again.
    ///
    /// # Errors
    /// When the pipeline cannot be compiled, or goes on with the state of the one before.
    pub(super) fn restart(&mut self, planner: Planner<'_>, without: &[String]) -> Result<(), String> {
        if self.process.stalled.is_some() {
            self.resume();
        }
        self.seal();
        // What was delivered is noted in one more.
        self.seal();
        self.start_again(planner, without)
    }

    /// Dies, and starts again with what was sealed; what was read since is read once more.
    ///
    /// # Errors
    /// As [`Self::restart`].
    pub(super) fn crash(&mut self, planner: Planner<'_>, without: &[String]) -> Result<(), String> {
        self.start_again(planner, without)?;
        self.replay();
        Ok(())
    }

    fn start_again(&mut self, planner: Planner<'_>, without: &[String]) -> Result<(), String> {
        let (process, due, abandoned) = Process::start(planner()?, &self.sealed, self.clocks)?;
        self.process = process;
        self.abandoned += abandoned;
        self.tell(due);
        let gone: Vec<PartitionName> = without.iter().map(|name| self.name(name)).collect();
        for number in 0..self.partitions.len() {
            let Written { name, ended, .. } = &self.partitions[number];
            if !ended && !gone.contains(name) {
                self.open_number(number);
            }
        }
        Ok(())
    }

    /// Looks at everything, without touching it: windows that are closed and not sealed are drained from a copy, which is made of
    /// the saved state.
    ///
    /// # Errors
    /// When the copy cannot be made.
    pub(super) fn view(&mut self, planner: Planner<'_>) -> Result<View, String> {
        let process = &mut self.process;
        let mut windows = self.windows.clone();
        if process.flow.windows_waiting() > 0 {
            let state = process.flow.save().map_err(|error| error.to_string())?;
            let mut plan = planner()?;
            plan.role = Role::Alone;
            let mut copy = Flow::new(&mut plan);
            copy.restore(&state).map_err(|error| error.to_string())?;
            windows.extend(copy.drain_windows());
        }
        if let Some(active) = process.flow.changed_active() {
            process.active = active;
        }
        Ok(View {
            origin: self.origin,
            schemas: process.schemas.clone(),
            windows,
            events: self.events.iter().chain(&process.events).cloned().collect(),
            active: process.active.clone(),
            late: process.flow.late_totals(),
            now: process.flow.now(),
            dead: self.dead + process.dead,
            told: self.told.len() as u64,
            repeated: self.repeated,
            abandoned: self.abandoned,
        })
    }
}

fn raw_batch(partition: PartitionId, records: &[Vec<u8>], first: u64, arrival: EventTime) -> RawBatch {
    let (mut bytes, mut ranges) = (Vec::new(), Vec::new());
    for record in records {
        let start = bytes.len() as u32;
        bytes.extend_from_slice(record);
        ranges.push(start..bytes.len() as u32);
        bytes.push(b'\n');
    }
    let end = first + records.len() as u64;
    let positions = Positions::Sequence { first };
    RawBatch { partition, bytes, records: ranges, positions, end, broker_time: None, arrival }
}
