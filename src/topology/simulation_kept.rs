//! The simulation of an archive that is kept in shape while it is written: small files become large ones and old rows go, by
//! processes that die at any call and by two that believe that it is theirs.

use super::simulation::{
    Death, Dice, SECOND, START, World, clean, for_each_seed, input, rows, seeds, simulate_in, some_faults,
};
use crate::archive::faulty::{Crash, Faults, Faulty};
use crate::archive::{CompactConfig, KeepConfig, Kind, Look, RetainConfig, Upkeep, verify_in};
use crate::place::Located;
use crate::time::{EventTime, Span};
use crate::units::ByteSize;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Changes that were put, over all seeds.
static COMPACTED: AtomicU64 = AtomicU64::new(0);
static EXPIRED: AtomicU64 = AtomicU64::new(0);
static FENCED: AtomicU64 = AtomicU64::new(0);

/// Four days after everything: dead letters are older than they are kept.
const NOW: EventTime = EventTime::from_micros(START + 4 * 86_400 * SECOND);

/// Keeps an archive in shape, and a second one that now and then takes over.
pub(super) struct Keeper {
    upkeep: Upkeep,
    rival: Upkeep,
}

fn compact() -> CompactConfig {
    CompactConfig {
        files: NonZeroUsize::new(2).unwrap(),
        size: ByteSize(1_000_000),
        after: Span::ZERO,
        ..CompactConfig::default()
    }
}

fn retain() -> RetainConfig {
    let keep = KeepConfig { keep: Located::nowhere(Span::from_secs(86_400)), cold: None };
    RetainConfig { dead: Some(keep), ..RetainConfig::default() }
}

impl Keeper {
    pub(super) fn new(world: &World, store: &Arc<Faulty>) -> Self {
        let upkeep = |name: &str, more: i64| {
            let scratch = world.scratch.path().join(name);
            std::fs::create_dir_all(&scratch).unwrap();
            let started = EventTime::from_micros(START + (world.lives as i64 * 2 + more) * SECOND);
            Upkeep::at(Arc::<Faulty>::clone(store), "sim", scratch, 4_000_000, started).unwrap()
        };
        Self { upkeep: upkeep("keeper", 0), rival: upkeep("rival", 1) }
    }

    /// A round, in which somebody else may take over.
    pub(super) fn keep(&mut self, dice: &mut Dice) -> Result<(), Death> {
        if !self.upkeep.take(NOW)? {
            return Ok(());
        }
        for job in self.upkeep.jobs(&compact(), NOW) {
            let taken = dice.roll(8) == 0 && self.rival.take(NOW)?;
            let done = self.upkeep.compact(&job, NOW, &|| true)?;
            assert!(done.is_none() || !taken, "two have done the same");
            COMPACTED.fetch_add(u64::from(done.is_some()), Ordering::Relaxed);
            if done.is_none() {
                FENCED.fetch_add(1, Ordering::Relaxed);
                return Ok(());
            }
        }
        if dice.roll(3) == 0 {
            self.expire()?;
        }
        let grace = Span::from_secs(60 * dice.roll(2) as i64);
        self.upkeep.sweep(grace, NOW)?;
        Ok(())
    }

    fn expire(&mut self) -> Result<(), Death> {
        for due in self.upkeep.due(&retain(), NOW) {
            let done = self.upkeep.expire(&due, NOW)?;
            EXPIRED.fetch_add(done.map_or(0, |done| done.rows), Ordering::Relaxed);
        }
        Ok(())
    }

    /// The last round: nothing is left to be done.
    pub(super) fn keep_all(&mut self, dice: &mut Dice) -> Result<(), Death> {
        while !self.upkeep.take(NOW)? {}
        self.expire()?;
        while !self.upkeep.jobs(&compact(), NOW).is_empty() {
            self.keep(dice)?;
        }
        self.upkeep.sweep(Span::ZERO, NOW)?;
        Ok(())
    }
}

fn kept(seed: u64, faults: impl Fn(u64) -> Faults) -> (World, u64) {
    let mut world = World::new(input(seed));
    world.kept = true;
    world.listed = seed % 2 == 1;
    simulate_in(world, seed, faults)
}

/// Asserts that `world` has the rows of `expected`, but for those that have expired, and files that can't be fewer.
fn assert_kept(context: &str, expected: &World, world: &World) {
    for kind in [Kind::Data, Kind::Windows, Kind::Alerts] {
        assert_eq!(rows(expected, kind), rows(world, kind), "{context}: {}", kind.as_str());
    }
    assert_eq!(rows(world, Kind::Dead), Vec::<String>::new(), "{context}");
    let report =
        verify_in(&Faulty::new(&world.bucket, Faults::default()), Look { deep: true, audit: true }, |_, _| {}).unwrap();
    assert_eq!(report.findings, [], "{context}");
    let expired: u64 = report.pipelines[0].expired.values().sum();
    assert_eq!(expired, rows(expected, Kind::Dead).len() as u64, "{context}");
    let left =
        world.bucket.objects().into_keys().filter(|key| key.contains("/replaced/") || key.contains("/staging/upkeep/"));
    assert_eq!(left.collect::<Vec<_>>(), Vec::<String>::new(), "{context}");
}

#[test]
fn whatever_fails_and_dies_an_archive_that_is_kept_in_shape_has_the_same_rows() {
    for_each_seed(seeds(150), |seed| {
        let (expected, _) = clean(seed);
        let (world, _) = kept(seed, |life| some_faults(seed, life));
        assert_kept(&format!("seed {seed}"), &expected, &world);
        assert_eq!(world.bucket.objects().keys().any(|key| key.contains("/_delta_log/")), world.listed);
    });
    for counter in [&COMPACTED, &EXPIRED, &FENCED] {
        assert!(counter.load(Ordering::Relaxed) > 0, "a simulation in which nothing happens shows nothing");
    }
}

#[test]
fn every_call_of_upkeep_is_survived_before_and_after_its_effect() {
    survive_calls(4, 1);
}

/// Each commit reads and lists more than a seal alone: some of these calls are enough for one run.
#[test]
fn calls_of_commits_to_delta_logs_are_survived_before_and_after_their_effects() {
    survive_calls(5, 13);
}

/// Dies at every call that `step` doesn't pass over, before it has an effect or behind that.
fn survive_calls(seed: u64, step: u64) {
    let (expected, _) = clean(seed);
    let (_, calls) = kept(seed, |_| Faults::default());
    assert!(calls > 200, "{calls}");
    for_each_seed(0..2 * calls / step, |number| {
        let number = number * step;
        let crash = Crash { at: number / 2, effective: number.is_multiple_of(2) };
        let faults =
            |life| if life == 0 { Faults { crash: Some(crash), ..Faults::default() } } else { Faults::default() };
        let (world, _) = kept(seed, faults);
        assert_kept(&format!("{crash:?}"), &expected, &world);
    });
}
