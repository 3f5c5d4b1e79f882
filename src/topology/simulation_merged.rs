//! The simulation of daemons that share windows: each gathers its partitions and merges some of the topic between them, and the
//! windows and alerts are those of one clean run, whoever dies, sleeps, writes twice or goes on without knowing what it has lost.
//!
//! The tests, and who dies where, are in `simulation_deaths`.

use super::books::{Books, Outgoing};
use super::connect::resume_stages;
use super::flow::Flow;
use super::gathering::{Gathering, Outbox};
use super::merged::{Definitions, input_name};
use super::merging::{Merging, Messages};
use super::sharing::Beginning;
use super::simulation::{Death, Dice, PIPELINE, RECEIVERS, SECOND, START, World, archive_plan, input, load, name};
use super::simulation_deaths::{Calls, Fate};
use super::stages::{Sharing, Stages};
use crate::archive::faulty::{Faulty, scramble};
use crate::archive::{self, Archive, ArchiveError, Place};
use crate::config::{Plan, Role};
use crate::decode::Decoder;
use crate::record::alert::AlertEvent;
use crate::record::raw::{PartitionId, Positions, RawBatch};
use crate::source::PartitionName;
use crate::time::EventTime;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Partitions of the topic.
const PARTITIONS: usize = 3;

/// What gathers, and what merges.
fn plans() -> [Plan; 2] {
    let kafka = r#"in: { type: kafka, brokers: "h:1", topics: [t], group: g }"#;
    let text =
        PIPELINE.replace("in: { type: stdin }", kafka) + &format!("repartition: {{ partitions: {PARTITIONS} }}\n");
    load(&text).into_runs().try_into().unwrap()
}

/// The topic, which outlives all.
pub(super) type Topic = [Vec<Vec<u8>>; PARTITIONS];

fn topic_name(partition: usize) -> PartitionName {
    let (source, partition) = ("repartition".into(), format!("headrig.sim.windows/{partition}"));
    PartitionName { source, partition, identity: String::new() }
}

fn topic_batch(topic: &Topic, partition: usize, id: PartitionId, from: u64, most: u64) -> RawBatch {
    let end = (from + most).min(topic[partition].len() as u64);
    let (mut bytes, mut records) = (Vec::new(), Vec::new());
    for message in &topic[partition][from as usize..end as usize] {
        let start = bytes.len() as u32;
        bytes.extend_from_slice(message);
        records.push(start..bytes.len() as u32);
    }
    let arrival = EventTime::from_micros(START + 86_400 * SECOND);
    let positions = Positions::Sequence { first: from };
    RawBatch { partition: id, bytes, records, positions, end, broker_time: None, arrival }
}

/// One process: all that is lost when it dies.
struct Process {
    archive: Archive,
    stages: Stages,
    books: Books,
    decoder: Option<Decoder>,
    /// What it believes to be its own: number in this run, and next position.
    reads: BTreeMap<usize, (PartitionId, u64)>,
    opened: usize,
    queue: VecDeque<(usize, AlertEvent)>,
    calls: Calls,
}

impl Process {
    fn start(
        world: &mut World,
        store: &Arc<Faulty>,
        calls: Calls,
        mut plan: Plan,
        chain: String,
    ) -> Result<Self, Death> {
        world.lives += 1;
        let started = EventTime::from_micros(START + world.lives as i64 * SECOND);
        let scratch = world.scratch.path().join(&chain);
        std::fs::create_dir_all(&scratch).unwrap();
        let sources = plan.sources.iter().map(|(name, _)| name.clone()).collect();
        let sharing = archive::Sharing { chain, sources, inherits: matches!(plan.role, Role::Gather(_)) };
        let place = Place::unlocked(Arc::<Faulty>::clone(store), &plan.pipeline, scratch);
        let (archive, opened) = Archive::open_at(place, archive_plan(&plan, Some(sharing)), started)?;
        let mut books = Books::new(RECEIVERS.map(str::to_owned).to_vec(), opened.own);
        let (pipeline, decode) = (plan.pipeline.clone(), plan.decode.clone());
        let (mut stages, decoder) = match plan.role.clone() {
            Role::Gather(repartition) => {
                let (gathering, outbox) = (Gathering::new(repartition.partitions), Outbox::default());
                let flow = Flow::new(&mut plan);
                (Stages::Records(Box::new(flow), Some(Sharing { gathering, outbox })), Some(Decoder::new(&decode)))
            }
            Role::Merge { of, .. } => {
                let inputs = (0..world.input.len()).map(|partition| input_name(&name(partition))).collect();
                let definitions = Definitions { pipeline: of, windows: plan.windows, alerts: plan.alerts, inputs };
                (Stages::Partials(Box::new(Merging::new(definitions))), None)
            }
            Role::Alone => unreachable!("the windows are shared"),
        };
        let due = resume_stages(&pipeline, &mut stages, &mut books, &opened.state, opened.watermark);
        let (reads, opened, queue) = (BTreeMap::new(), 0, VecDeque::new());
        let mut process = Self { archive, stages, books, decoder, reads, opened, queue, calls };
        process.send(due);
        Ok(process)
    }

    fn name(&self, partition: usize) -> PartitionName {
        if self.decoder.is_some() { name(partition) } else { topic_name(partition) }
    }

    fn send(&mut self, due: Vec<Outgoing>) {
        for Outgoing { event, to } in due {
            self.queue.extend(to.into_iter().map(|receiver| (receiver, event.clone())));
        }
    }

    /// As the flow does it: seals, claims, and reads on from where the claim says.
    fn claim(&mut self, partition: usize) -> Result<(), Death> {
        self.seal()?;
        let name = self.name(partition);
        let claimed = self.archive.claim(&[(name.source.to_string(), name.partition.clone())])?;
        for state in &claimed.inherited {
            let (messages, _) = Outbox::split(self.books.flow_of(state).unwrap()).unwrap();
            self.stages.take_over(messages);
        }
        if let Some((id, _)) = self.reads.remove(&partition) {
            self.stages.end(id);
        }
        let id = PartitionId(self.opened);
        self.opened += 1;
        let position = claimed.checkpoint.partitions.first().map(|known| known.position);
        let state = claimed.parts.into_iter().next().map(|part| part.bytes);
        self.stages.open(id, &name);
        self.stages.begin("sim", id, &name, &Beginning { position, state });
        self.reads.insert(partition, (id, position.unwrap_or(0)));
        Ok(())
    }

    /// Gives a partition away: what was read of it is sealed.
    fn let_go(&mut self, partition: usize) -> Result<(), Death> {
        if let Some((id, _)) = self.reads.remove(&partition) {
            self.stages.end(id);
        }
        self.seal()
    }

    fn read(&mut self, world: &World, topic: &Topic, partition: usize, most: u64) -> Result<(), Death> {
        let Some((id, from)) = self.reads.get(&partition).copied() else { return Ok(()) };
        if self.decoder.is_none() {
            return self.merge(topic, partition, id, from, most);
        }
        let raw = RawBatch { partition: id, ..world.batch(partition, from, most) };
        if raw.records.is_empty() {
            self.stages.idle(id);
            return Ok(());
        }
        let (extent, end, records) = (super::Extent::of(&raw), raw.end, raw.records.len() as u64);
        let decoded = self.decoder.as_mut().unwrap().decode(&raw);
        let outcome = self.stages.records(extent, decoded);
        self.reads.insert(partition, (id, end));
        let name = name(partition);
        self.books.read(&name, end, records, outcome.transformed.dropped);
        assert!(outcome.alerts.is_empty(), "who gathers doesn't alert");
        if outcome.rows.num_rows() > 0 {
            self.archive.write_events(&outcome.rows)?;
        }
        if !outcome.dead.is_empty() {
            self.archive.write_dead(&outcome.dead, |_| (&name.source, &name.partition))?;
        }
        Ok(())
    }

    fn merge(&mut self, topic: &Topic, partition: usize, id: PartitionId, from: u64, most: u64) -> Result<(), Death> {
        let raw = topic_batch(topic, partition, id, from, most);
        if raw.records.is_empty() {
            return Ok(());
        }
        let (end, records) = (raw.end, raw.records.len() as u64);
        let outcome = self.stages.partials(Messages::read(raw)).unwrap();
        assert_eq!(outcome.dead, [], "all of it is sound");
        self.reads.insert(partition, (id, end));
        self.books.read(&topic_name(partition), end, records, records);
        self.alert(outcome.alerts)
    }

    fn alert(&mut self, events: Vec<AlertEvent>) -> Result<(), Death> {
        if !events.is_empty() {
            self.archive.write_alerts(&events)?;
        }
        events.into_iter().for_each(|event| self.books.alert(event, vec![0, 1]));
        Ok(())
    }

    fn seal(&mut self) -> Result<(), Death> {
        let windows = self.stages.drain_windows();
        let (state, parts) = self.stages.save("sim").unwrap();
        let (ticket, mut sealing) = self.books.sealing(self.stages.now(), &state);
        sealing.parts = parts;
        let outbox = self.stages.ticket();
        self.archive.write_windows(&windows)?;
        self.archive.seal(&sealing)?;
        self.stages.sealed(outbox);
        let due = self.books.sealed(ticket);
        self.send(due);
        Ok(())
    }

    /// Writes one seal's messages, or dies on the way, or never hears that they have arrived.
    fn publish(&mut self, topic: &mut Topic, dice: &mut Dice) -> Result<(), Death> {
        let Some((number, messages)) = self.stages.outbox_mut().and_then(Outbox::next_due) else { return Ok(()) };
        for message in messages {
            self.calls.may_die(dice, 40)?;
            self.calls.write(|| topic[message.partition as usize].push(message.bytes))?;
        }
        self.calls.may_die(dice, 10)?;
        if let Some(outbox) = self.stages.outbox_mut() {
            outbox.published(number);
        }
        Ok(())
    }

    fn deliver(&mut self, world: &mut World, dice: &mut Dice) -> Result<(), Death> {
        if let Some((receiver, event)) = self.queue.pop_front() {
            self.calls.tell(|| world.told[receiver].push(event.id.clone()))?;
            self.calls.may_die(dice, 40)?;
            self.books.delivered(receiver, &event.id);
        }
        Ok(())
    }
}

/// Daemons of one kind, and who of them reads what.
struct Group {
    plan: fn() -> Plan,
    chain: &'static str,
    daemons: Vec<Option<Process>>,
    assigned: Vec<usize>,
}

pub(super) struct Cluster {
    pub(super) world: World,
    pub(super) topic: Topic,
    /// Those that gather and those that merge.
    groups: [Group; 2],
    dice: Dice,
    seed: u64,
    fate: Fate,
    /// What each process has called, by its number.
    pub(super) lives: Vec<(Arc<Faulty>, Calls)>,
    /// Processes that were stopped because others had claimed what was theirs.
    pub(super) taken: u64,
}

impl Cluster {
    pub(super) fn new(seed: u64, fate: Fate) -> Self {
        let mut dice = Dice(scramble(seed ^ 0x3e46));
        let world = World::new(input(seed));
        let mut group = |plan: fn() -> Plan, chain, partitions: usize| {
            let daemons = 1 + dice.roll(3);
            let assigned = (0..partitions).map(|_| dice.roll(daemons) as usize).collect();
            Group { plan, chain, daemons: (0..daemons).map(|_| None).collect(), assigned }
        };
        let groups = [
            group(
                || {
                    let [gather, _] = plans();
                    gather
                },
                "d",
                world.input.len(),
            ),
            group(
                || {
                    let [_, merge] = plans();
                    merge
                },
                "m",
                PARTITIONS,
            ),
        ];
        Self { world, topic: Topic::default(), groups, dice, seed, fate, lives: Vec::new(), taken: 0 }
    }

    fn start(&mut self, of: usize, number: usize) -> Result<(), Death> {
        let (faults, calls) = self.fate.of(self.seed, self.world.lives);
        let store = Arc::new(Faulty::new(&self.world.bucket, faults));
        self.lives.push((Arc::clone(&store), calls.clone()));
        let group = &mut self.groups[of];
        let chain = format!("{}-{number}", group.chain);
        let process = Process::start(&mut self.world, &store, calls, (group.plan)(), chain)?;
        group.daemons[number] = Some(process);
        for partition in 0..self.groups[of].assigned.len() {
            if self.groups[of].assigned[partition] == number {
                self.claim(of, number, partition)?;
            }
        }
        Ok(())
    }

    fn claim(&mut self, of: usize, number: usize, partition: usize) -> Result<(), Death> {
        self.groups[of].daemons[number].as_mut().map_or(Ok(()), |process| process.claim(partition))
    }

    pub(super) fn step(&mut self) {
        let of = self.dice.roll(2) as usize;
        let number = self.dice.roll(self.groups[of].daemons.len() as u64) as usize;
        let Self { groups, dice, world, topic, .. } = self;
        let done = match (&mut groups[of].daemons[number], dice.roll(16)) {
            (None, _) => self.start(of, number),
            (Some(process), 0 | 1) => process.seal(),
            (Some(process), 2 | 3) => process.publish(topic, dice),
            (Some(process), 4) => process.deliver(world, dice),
            (Some(_), 5) => self.rebalance(of),
            // Killed, between any two calls.
            (Some(_), 6) if dice.roll(6) == 0 => Err(Death::Told),
            (Some(process), _) => {
                let reads: Vec<usize> = process.reads.keys().copied().collect();
                let most = 1 + dice.roll(12);
                match reads.get(dice.roll(8) as usize % reads.len().max(1)) {
                    Some(partition) => process.read(world, topic, *partition, most),
                    None => Ok(()),
                }
            }
        };
        self.bury(of, number, done);
    }

    fn bury(&mut self, of: usize, number: usize, done: Result<(), Death>) {
        if let Err(death) = done {
            self.taken += u64::from(matches!(death, Death::Archive(ArchiveError::Taken { .. })));
            self.groups[of].daemons[number] = None;
        }
    }

    fn rebalance(&mut self, of: usize) -> Result<(), Death> {
        let group = &mut self.groups[of];
        let partition = self.dice.roll(group.assigned.len() as u64) as usize;
        let (old, new) = (group.assigned[partition], self.dice.roll(group.daemons.len() as u64) as usize);
        group.assigned[partition] = new;
        // Three in four know that they have lost it.
        if old != new
            && self.dice.roll(4) > 0
            && let Some(process) = &mut group.daemons[old]
        {
            let sealed = process.let_go(partition);
            self.bury(of, old, sealed);
        }
        let claimed = self.claim(of, new, partition);
        self.bury(of, new, claimed);
        Ok(())
    }

    /// Lets all die, and then reads on to the end.
    pub(super) fn finish(&mut self) {
        self.fate = Fate::Spared;
        for of in 0..2 {
            self.groups[of].daemons.iter_mut().for_each(|daemon| *daemon = None);
            for number in 0..self.groups[of].daemons.len() {
                let done = self.start(of, number).and_then(|()| self.run_out(of, number));
                done.unwrap_or_else(|death| panic!("seed {}, daemon {number} of {of}: {death:?}", self.seed));
            }
        }
    }

    fn run_out(&mut self, of: usize, number: usize) -> Result<(), Death> {
        let Self { groups, dice, world, topic, .. } = self;
        let Some(process) = &mut groups[of].daemons[number] else { unreachable!("it was started") };
        for partition in process.reads.keys().copied().collect::<Vec<_>>() {
            process.read(world, topic, partition, u64::MAX / 2)?;
        }
        while let Some(alerts) = process.stages.finish_next() {
            process.alert(alerts)?;
        }
        process.seal()?;
        while process.stages.outbox().is_some_and(|outbox| !outbox.is_written()) {
            process.publish(topic, dice)?;
        }
        while !process.queue.is_empty() {
            process.deliver(world, dice)?;
        }
        process.seal()
    }
}
