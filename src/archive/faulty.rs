//! A store in memory that fails as object stores do, by a seed: calls that fail before or after they took effect (a reply that is
//! lost), and a process that dies at any call, before or after its effect. For the simulation.

use super::ArchiveError;
use super::store::{Placement, Store};
use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

/// Where a process dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Crash {
    /// Number of the call, from 0.
    pub(crate) at: u64,
    /// Whether the call takes effect first.
    pub(crate) effective: bool,
}

/// What happens to one process' calls.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Faults {
    pub(crate) crash: Option<Crash>,
    /// Of 1,000 calls so many fail, half of them after they took effect.
    pub(crate) failing: u64,
    pub(crate) seed: u64,
}

#[derive(Debug, Default)]
struct World {
    objects: BTreeMap<String, Vec<u8>>,
}

/// The objects, which outlive every process. All clones are one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Bucket(Arc<Mutex<World>>);

impl Bucket {
    fn lock(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap()
    }

    /// All objects, by key.
    pub(crate) fn objects(&self) -> BTreeMap<String, Vec<u8>> {
        self.lock().objects.clone()
    }
}

/// One process' way to the bucket.
#[derive(Debug)]
pub(crate) struct Faulty {
    bucket: Bucket,
    faults: Faults,
    calls: Mutex<u64>,
}

impl Faulty {
    pub(crate) fn new(bucket: &Bucket, faults: Faults) -> Self {
        Self { bucket: bucket.clone(), faults, calls: Mutex::new(0) }
    }

    pub(crate) fn faults(&self) -> Faults {
        self.faults
    }

    /// Calls so far.
    pub(crate) fn calls(&self) -> u64 {
        *self.calls.lock().unwrap()
    }

    /// Whether the process has died.
    pub(crate) fn is_dead(&self) -> bool {
        self.faults.crash.is_some_and(|crash| self.calls() > crash.at)
    }

    fn call<T>(&self, key: &str, effect: impl FnOnce(&mut World) -> T) -> Result<T, ArchiveError> {
        let failed = |kind| Err(ArchiveError::io("reach", key.as_ref())(io::Error::from(kind)));
        let number = {
            let mut calls = self.calls.lock().unwrap();
            *calls += 1;
            *calls - 1
        };
        if let Some(crash) = self.faults.crash.filter(|crash| number >= crash.at) {
            if number == crash.at && crash.effective {
                effect(&mut self.bucket.lock());
            }
            return failed(io::ErrorKind::BrokenPipe);
        }
        let dice = scramble(self.faults.seed ^ scramble(number));
        if dice % 1_000 < self.faults.failing {
            if dice & (1 << 40) != 0 {
                effect(&mut self.bucket.lock());
            }
            return failed(io::ErrorKind::TimedOut);
        }
        Ok(effect(&mut self.bucket.lock()))
    }
}

/// A number that looks like any other (Steele, Lea, Flood: SplitMix, OOPSLA 2014).
pub(crate) fn scramble(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Store for Faulty {
    fn show(&self, key: &str) -> String {
        key.to_owned()
    }

    fn read(&self, key: &str) -> Result<Option<Vec<u8>>, ArchiveError> {
        self.call(key, |world| world.objects.get(key).cloned())
    }

    fn size(&self, key: &str) -> Result<Option<u64>, ArchiveError> {
        self.call(key, |world| world.objects.get(key).map(|object| object.len() as u64))
    }

    fn range(&self, key: &str, start: u64, length: u64) -> Result<Vec<u8>, ArchiveError> {
        let object = self.read(key)?.unwrap_or_default();
        let start = (start as usize).min(object.len());
        Ok(object[start..(start + length as usize).min(object.len())].to_vec())
    }

    fn list(&self, folder: &str) -> Result<Vec<String>, ArchiveError> {
        let prefix = format!("{folder}/");
        self.call(folder, |world| {
            let below = world.objects.keys().filter_map(|key| key.strip_prefix(&prefix));
            let mut names: Vec<String> = below.filter_map(|rest| rest.split('/').next().map(str::to_owned)).collect();
            names.dedup();
            names
        })
    }

    fn walk(&self, folder: &str) -> Result<Vec<String>, ArchiveError> {
        let prefix = format!("{folder}/");
        self.call(folder, |world| world.objects.keys().filter(|key| key.starts_with(&prefix)).cloned().collect())
    }

    fn put_if_absent(&self, key: &str, bytes: &[u8]) -> Result<bool, ArchiveError> {
        self.call(key, |world| {
            let absent = !world.objects.contains_key(key);
            if absent {
                world.objects.insert(key.to_owned(), bytes.to_vec());
            }
            absent
        })
    }

    fn put(&self, key: &str, bytes: &[u8]) -> Result<(), ArchiveError> {
        self.call(key, |world| drop(world.objects.insert(key.to_owned(), bytes.to_vec())))
    }

    fn upload(&self, files: &[(PathBuf, String)]) -> Result<(), ArchiveError> {
        for (local, key) in files {
            let bytes = std::fs::read(local).map_err(ArchiveError::io("read", local))?;
            self.call(key, |world| drop(world.objects.insert(key.clone(), bytes)))?;
        }
        Ok(())
    }

    /// As a bucket does it: each file is copied, and then its staged copy is deleted.
    fn place(&self, files: &[Placement]) -> Result<(), ArchiveError> {
        for file in files {
            if self.size(&file.to)? != Some(file.bytes) {
                self.copy(file)?;
            }
            self.remove(&file.from)?;
        }
        Ok(())
    }

    fn remove(&self, key: &str) -> Result<(), ArchiveError> {
        self.call(key, |world| drop(world.objects.remove(key)))
    }

    fn copy(&self, file: &Placement) -> Result<(), ArchiveError> {
        let copied = self.call(&file.to, |world| {
            let from = world.objects.get(&file.from).cloned();
            from.map(|bytes| world.objects.insert(file.to.clone(), bytes)).is_some()
        })?;
        if copied || self.size(&file.to)? == Some(file.bytes) {
            return Ok(());
        }
        let detail = "is missing, and so is its staged copy".to_owned();
        Err(ArchiveError::Corrupt { path: file.to.clone().into(), detail })
    }
}
