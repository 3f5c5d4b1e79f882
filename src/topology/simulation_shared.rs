//! The simulation of daemons that share the partitions of a source: each record is stored once, whoever dies, sleeps or reads on
//! without knowing that it has lost a partition.

use super::simulation::{Death, Dice, Process, World, clean, for_each_seed, input, name, rows, seeds, some_faults};
use crate::archive::faulty::{Faults, Faulty, scramble};
use crate::archive::{ArchiveError, Kind, Look, Sharing, verify_in};
use crate::record::raw::PartitionId;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Daemons that share the partitions of a group, which gives them to others at any time: to a daemon that asks for them after
/// the old one has sealed, or to one that goes ahead while the old one reads on.
struct Group {
    world: World,
    daemons: Vec<Option<Daemon>>,
    assigned: Vec<usize>,
    dice: Dice,
    seed: u64,
    /// No process begun after this many has faults.
    faulty_lives: u64,
    taken: u64,
}

struct Daemon {
    process: Process,
    /// What it believes to be its own.
    reads: BTreeSet<usize>,
}

impl Group {
    fn new(seed: u64) -> Self {
        let mut dice = Dice(scramble(seed ^ 0x9099));
        let daemons = 2 + dice.roll(2);
        let mut world = World::new(input(seed));
        world.listed = seed % 2 == 1;
        let assigned = world.input.iter().map(|_| dice.roll(daemons) as usize).collect();
        let daemons = (0..daemons).map(|_| None).collect();
        Self { world, daemons, assigned, dice, seed, faulty_lives: 25, taken: 0 }
    }

    fn start(&mut self, number: usize) -> Result<(), Death> {
        let life = self.world.lives;
        let faults = if life < self.faulty_lives { some_faults(self.seed ^ life, 0) } else { Faults::default() };
        let store = Arc::new(Faulty::new(&self.world.bucket, faults));
        let sharing = Sharing { chain: format!("d-{number}"), sources: vec!["in".to_owned()], inherits: false };
        let mut process = Process::start(&mut self.world, &store, Some(sharing))?;
        for partition in 0..self.world.input.len() {
            process.flow.open(PartitionId(partition), &name(partition));
        }
        self.daemons[number] = Some(Daemon { process, reads: BTreeSet::new() });
        for partition in 0..self.assigned.len() {
            if self.assigned[partition] == number {
                self.claim(number, partition)?;
            }
        }
        Ok(())
    }

    /// As the flow does it: seals, claims, and reads on from where the claim says.
    fn claim(&mut self, number: usize, partition: usize) -> Result<(), Death> {
        let Some(daemon) = &mut self.daemons[number] else { return Ok(()) };
        daemon.process.seal()?;
        let wanted = ("in".to_owned(), name(partition).partition);
        let claimed = daemon.process.archive.claim(&[wanted])?.checkpoint;
        daemon.process.positions[partition] = claimed.partitions.first().map_or(0, |known| known.position);
        daemon.reads.insert(partition);
        Ok(())
    }

    fn step(&mut self) {
        let number = self.dice.roll(self.daemons.len() as u64) as usize;
        let done = match (&mut self.daemons[number], self.dice.roll(12)) {
            (None, _) => self.start(number),
            (Some(daemon), 0 | 1) => daemon.process.seal(),
            (Some(_), 2) => self.rebalance(),
            (Some(daemon), _) => {
                let reads: Vec<usize> = daemon.reads.iter().copied().collect();
                let most = 1 + self.dice.roll(12);
                match reads.get(self.dice.roll(8) as usize % reads.len().max(1)) {
                    Some(partition) => daemon.process.read(&self.world, *partition, most),
                    None => Ok(()),
                }
            }
        };
        self.bury(number, done);
    }

    fn bury(&mut self, number: usize, done: Result<(), Death>) {
        if let Err(death) = done {
            self.taken += u64::from(matches!(death, Death::Archive(ArchiveError::Taken { .. })));
            self.daemons[number] = None;
        }
    }

    fn rebalance(&mut self) -> Result<(), Death> {
        let partition = self.dice.roll(self.assigned.len() as u64) as usize;
        let (old, new) = (self.assigned[partition], self.dice.roll(self.daemons.len() as u64) as usize);
        self.assigned[partition] = new;
        // Three in four know that they have lost it.
        if old != new
            && self.dice.roll(4) > 0
            && let Some(daemon) = &mut self.daemons[old]
        {
            let sealed = daemon.process.seal();
            daemon.reads.remove(&partition);
            self.bury(old, sealed);
        }
        let claimed = self.claim(new, partition);
        self.bury(new, claimed);
        Ok(())
    }

    /// Lets all die, and then reads on to the end.
    fn finish(&mut self) {
        self.faulty_lives = 0;
        for number in 0..self.daemons.len() {
            self.daemons[number] = None;
            let context = format!("seed {}, daemon {number}", self.seed);
            self.start(number).unwrap_or_else(|death| panic!("{context}: {death:?}"));
            let Some(Daemon { process, reads }) = &mut self.daemons[number] else { unreachable!("it was started") };
            for partition in &*reads {
                process.read(&self.world, *partition, u64::MAX / 2).unwrap();
            }
            process.seal().unwrap_or_else(|death| panic!("{context}: {death:?}"));
        }
    }
}

#[test]
fn daemons_that_share_partitions_store_each_record_once() {
    let taken = std::sync::atomic::AtomicU64::new(0);
    for_each_seed(seeds(300), |seed| {
        let (expected, _) = clean(seed);
        let mut group = Group::new(seed);
        for _ in 0..150 {
            group.step();
        }
        group.finish();
        for kind in [Kind::Data, Kind::Dead] {
            assert_eq!(rows(&expected, kind), rows(&group.world, kind), "seed {seed}: {}", kind.as_str());
        }
        let report = verify_in(
            &Faulty::new(&group.world.bucket, Faults::default()),
            Look { deep: true, audit: true },
            |_, _| {},
        )
        .unwrap();
        assert_eq!(report.findings, [], "seed {seed}");
        taken.fetch_add(group.taken, std::sync::atomic::Ordering::Relaxed);
    });
    assert!(taken.into_inner() > 0, "no zombie was ever stopped");
}
