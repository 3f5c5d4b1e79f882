//! The tests of daemons that share windows (`simulation_merged`), and which of their processes dies where: at calls of the store, at
//! messages to the topic, at alert events to receivers.

use super::simulation::{Death, Dice, assert_same, clean, for_each_seed, seeds, some_faults};
use super::simulation_merged::Cluster;
use crate::archive::faulty::{Crash, Faults};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// No process begun after this many has faults.
const FAULTY_LIVES: u64 = 40;

/// What befalls processes.
#[derive(Debug, Clone, Copy)]
pub(super) enum Fate {
    /// Each has faults by the seed.
    Dice,
    /// The one of this number dies at one call; otherwise nothing fails.
    Death { life: u64, at: Call },
    /// Nothing fails.
    Spared,
}

/// A call at which a process dies.
#[derive(Debug, Clone, Copy)]
pub(super) enum Call {
    Store(Crash),
    Topic(Crash),
    Receiver(Crash),
}

impl Fate {
    /// The faults of the process of this number.
    pub(super) fn of(self, seed: u64, life: u64) -> (Faults, Calls) {
        let mut calls = Calls::default();
        let mut faults = Faults::default();
        match self {
            Self::Dice if life < FAULTY_LIVES => {
                faults = some_faults(seed ^ life, 0);
                calls.mortal = faults.crash.is_some();
            }
            Self::Death { life: chosen, at } if chosen == life => match at {
                Call::Store(crash) => faults.crash = Some(crash),
                Call::Topic(crash) => calls.topic.crash = Some(crash),
                Call::Receiver(crash) => calls.receivers.crash = Some(crash),
            },
            _ => {}
        }
        (faults, calls)
    }
}

/// Calls of one kind. All clones are one.
#[derive(Debug, Clone, Default)]
struct Counted {
    done: Arc<AtomicU64>,
    crash: Option<Crash>,
}

impl Counted {
    fn call(&self, effect: impl FnOnce()) -> Result<(), Death> {
        let number = self.done.fetch_add(1, Ordering::Relaxed);
        let crash = self.crash.filter(|crash| crash.at == number);
        if crash.is_none_or(|crash| crash.effective) {
            effect();
        }
        crash.map_or(Ok(()), |_| Err(Death::Told))
    }
}

/// What one process does that isn't a call of the store.
#[derive(Debug, Clone, Default)]
pub(super) struct Calls {
    topic: Counted,
    receivers: Counted,
    /// Whether the dice may kill it.
    mortal: bool,
}

impl Calls {
    /// Writes a message to the topic.
    pub(super) fn write(&self, effect: impl FnOnce()) -> Result<(), Death> {
        self.topic.call(effect)
    }

    /// Tells a receiver of an alert event.
    pub(super) fn tell(&self, effect: impl FnOnce()) -> Result<(), Death> {
        self.receivers.call(effect)
    }

    pub(super) fn may_die(&self, dice: &mut Dice, sides: u64) -> Result<(), Death> {
        if self.mortal && dice.roll(sides) == 0 { Err(Death::Told) } else { Ok(()) }
    }
}

fn run(seed: u64, steps: u64, fate: Fate) -> Cluster {
    let mut cluster = Cluster::new(seed, fate);
    (0..steps).for_each(|_| cluster.step());
    cluster.finish();
    cluster
}

#[test]
fn daemons_that_share_windows_have_those_of_one_and_tell_each_alert_once() {
    let (fired, taken, twice) = Default::default();
    let add = |to: &AtomicU64, n: u64| {
        to.fetch_add(n, Ordering::Relaxed);
    };
    for_each_seed(seeds(200), |seed| {
        let (expected, _) = clean(seed);
        let cluster = run(seed, 400, Fate::Dice);
        assert_same(&format!("seed {seed}"), &expected, &cluster.world);
        add(&fired, expected.told[0].len() as u64);
        add(&taken, cluster.taken);
        let messages: usize = cluster.topic.iter().map(Vec::len).sum();
        let different =
            cluster.topic.iter().map(|messages| messages.iter().collect::<BTreeSet<_>>().len()).sum::<usize>();
        add(&twice, (messages - different) as u64);
    });
    assert!(fired.into_inner() > 0, "a simulation without alerts shows nothing of them");
    assert!(taken.into_inner() > 0, "no zombie was ever stopped");
    assert!(twice.into_inner() > 0, "no message was ever written twice");
}

/// Every call of every process until all are started for the last time.
fn every_call(seed: u64, steps: u64) -> Vec<Fate> {
    let mut cluster = Cluster::new(seed, Fate::Spared);
    (0..steps).for_each(|_| cluster.step());
    let mut all = Vec::new();
    for (life, (store, calls)) in (0..).zip(&cluster.lives) {
        let counts =
            [store.calls(), calls.topic.done.load(Ordering::Relaxed), calls.receivers.done.load(Ordering::Relaxed)];
        for (kind, count) in [Call::Store as fn(Crash) -> Call, Call::Topic, Call::Receiver].into_iter().zip(counts) {
            let crashes = (0..count).flat_map(|at| [true, false].map(|effective| Crash { at, effective }));
            all.extend(crashes.map(|crash| Fate::Death { life, at: kind(crash) }));
        }
    }
    all
}

#[test]
fn every_call_of_every_daemon_is_survived_before_and_after_its_effect() {
    // Calls of the store are many, so they are swept in a short run; the others in one that is long enough to have some.
    const SHORT: u64 = 60;
    const LONG: u64 = 300;
    let mut counts = [0; 3];
    // `HEADRIG_SEEDS` says for how many seeds, each of which takes a while.
    for seed in seeds(1) {
        let (expected, _) = clean(seed);
        let short = every_call(seed, SHORT).into_iter().map(|fate| (SHORT, fate));
        let is_store = |fate: &Fate| matches!(fate, Fate::Death { at: Call::Store(_), .. });
        let long = every_call(seed, LONG).into_iter().filter(|fate| !is_store(fate)).map(|fate| (LONG, fate));
        let fates: Vec<(u64, Fate)> = short.chain(long).collect();
        for (_, fate) in &fates {
            let Fate::Death { at, .. } = fate else { unreachable!("each is a death") };
            counts[match at {
                Call::Store(_) => 0,
                Call::Topic(_) => 1,
                Call::Receiver(_) => 2,
            }] += 1;
        }
        for_each_seed(0..fates.len() as u64, |number| {
            let (steps, fate) = fates[number as usize];
            let cluster = run(seed, steps, fate);
            assert_same(&format!("seed {seed}, {steps} steps, {fate:?}"), &expected, &cluster.world);
        });
    }
    assert!(counts[0] > 100 && counts[1] > 20 && counts[2] > 0, "{counts:?}");
}

#[test]
fn one_seed_gives_the_same_bytes_and_messages_again() {
    for seed in 0..5 {
        let (first, second) = (run(seed, 400, Fate::Dice), run(seed, 400, Fate::Dice));
        assert!(first.topic == second.topic, "seed {seed}");
        assert_eq!(first.world.told, second.world.told, "seed {seed}");
        let (first, second) = (first.world.bucket.objects(), second.world.bucket.objects());
        assert_eq!(first.keys().collect::<Vec<_>>(), second.keys().collect::<Vec<_>>(), "seed {seed}");
        for (key, object) in first {
            assert!(object == second[&key], "seed {seed}: {key}");
        }
    }
}
