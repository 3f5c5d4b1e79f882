//! The thread that keeps a daemon's archive in shape beside everything else.
//!
//! It has the lowest priority that a thread can have, one core, a bounded part of the memory, and a client of its own; it holds
//! nothing that a seal waits for. What goes wrong is said and tried again at the next round.

use super::compact::Job;
use super::retain::{self, Fate};
use super::upkeep::{Done, Upkeep};
use super::{ArchiveError, CompactConfig, Config, KeepConfig, RetainConfig, StoreConfig};
use crate::limits;
use crate::telemetry::metrics::SelfMetrics;
use crate::time::EventTime;
use crate::time::clock::{Clock, Monotonic};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// What a pipeline's archive needs to be kept in shape.
#[derive(Debug, Clone)]
pub struct Care {
    pub(super) url: String,
    pub(super) store: Option<StoreConfig>,
    pub(super) pipeline: String,
    pub(super) compact: CompactConfig,
    /// Whether somebody has written `compact:`, so that it is wanted even where readers can see it happen.
    pub(super) wanted: bool,
    pub(super) retain: RetainConfig,
    pub(super) audit: bool,
    /// Whether Delta logs that are there are kept.
    pub(super) logs: bool,
    /// Where files are written when the archive is a bucket.
    pub(super) data_dir: PathBuf,
    pub(super) memory_bytes: u64,
}

impl Config {
    /// What the archive of `pipeline` needs to be kept in shape by a daemon that may take `memory_bytes` as a whole.
    pub fn care(&self, pipeline: &str, data_dir: PathBuf, memory_bytes: u64) -> Care {
        Care {
            url: self.url.value.clone(),
            store: self.settings().cloned(),
            pipeline: pipeline.to_owned(),
            compact: self.compact.as_ref().map(|compact| compact.value.clone()).unwrap_or_default(),
            wanted: self.compact.is_some(),
            retain: self.retain.clone().unwrap_or_default(),
            audit: self.audit,
            logs: self.is_delta(),
            data_dir,
            memory_bytes: (memory_bytes / limits::UPKEEP_SHARE).max(limits::LEAST_UPKEEP_BYTES),
        }
    }
}

/// The running thread; told to stop when this is dropped, and not waited for: wherever it is cut off, the next one goes on.
#[derive(Debug)]
pub struct Caretaker {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    stopped: Mutex<bool>,
    told: Condvar,
    held_bytes: AtomicU64,
}

impl Shared {
    fn is_stopped(&self) -> bool {
        *self.stopped.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Caretaker {
    /// Starts the thread. Its first round is one `every` away.
    ///
    /// # Errors
    /// When the system has no thread to give.
    pub fn spawn(care: Care, clock: Arc<dyn Clock>, telemetry: SelfMetrics) -> Result<Option<Self>, ArchiveError> {
        if !care.compact.enabled && care.retain.is_empty() {
            return Ok(None);
        }
        let shared = Arc::new(Shared::default());
        let root = PathBuf::from(&care.url);
        let mut rounds = Rounds {
            care,
            clock,
            telemetry,
            shared: Arc::clone(&shared),
            upkeep: None,
            seen: None,
            begun: false,
            given_up: BTreeSet::new(),
        };
        let spawned = std::thread::Builder::new().name("headrig-upkeep".to_owned()).spawn(move || rounds.run());
        spawned.map_err(ArchiveError::io("start a thread for", &root))?;
        Ok(Some(Self { shared }))
    }

    /// Bytes that are held for the work under way.
    pub fn held_bytes(&self) -> u64 {
        self.shared.held_bytes.load(Ordering::Relaxed)
    }
}

impl Drop for Caretaker {
    fn drop(&mut self) {
        *self.shared.stopped.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.shared.told.notify_all();
    }
}

struct Rounds {
    care: Care,
    clock: Arc<dyn Clock>,
    telemetry: SelfMetrics,
    shared: Arc<Shared>,
    upkeep: Option<Upkeep>,
    /// The newest change of somebody else, and since when it is that.
    seen: Option<(u64, Monotonic)>,
    /// Whether what a crash has left was looked for.
    begun: bool,
    /// Folders whose files can't be written again, until the next start.
    given_up: BTreeSet<String>,
}

impl Rounds {
    fn run(&mut self) {
        // On Linux the priority is the thread's own. Without it upkeep is in the way a little more.
        let _ = rustix::process::nice(19);
        loop {
            let stopped = self.shared.stopped.lock().unwrap_or_else(PoisonError::into_inner);
            let wait = self.care.compact.every.to_std();
            let waited = self.shared.told.wait_timeout_while(stopped, wait, |stopped| !*stopped);
            if *waited.unwrap_or_else(PoisonError::into_inner).0 {
                return;
            }
            if let Err(error) = self.round() {
                if matches!(error, ArchiveError::Stopped) {
                    return;
                }
                tracing::warn!(pipeline = self.care.pipeline, %error, hint = error.hint(), "the archive's upkeep is put off");
                self.upkeep = None;
            }
            self.shared.held_bytes.store(0, Ordering::Relaxed);
        }
    }

    fn round(&mut self) -> Result<(), ArchiveError> {
        let mut upkeep = match self.upkeep.take() {
            Some(upkeep) => upkeep,
            None => {
                let Care { url, store, pipeline, data_dir, memory_bytes, .. } = &self.care;
                let place = (url.as_str(), store.as_ref());
                let opened = Upkeep::open(place, pipeline, data_dir, *memory_bytes, self.clock.now())?;
                if !self.care.wanted && self.care.compact.enabled && !opened.swaps() {
                    // Readers with a glob would see old and new files for a moment: only who knows that may turn it on.
                    self.care.compact.enabled = false;
                }
                opened.with_audit(self.care.audit).with_logs(self.care.logs)
            }
        };
        let done = self.work(&mut upkeep);
        let logged = upkeep.logged();
        self.telemetry.count_logged(&self.care.pipeline, logged.put, logged.conflicts);
        upkeep.rest();
        self.upkeep = Some(upkeep);
        done
    }

    /// Whether it is this one's turn.
    fn is_free(&mut self, upkeep: &mut Upkeep) -> Result<bool, ArchiveError> {
        let (number, free) = upkeep.look()?;
        let now = self.clock.monotonic();
        let since = match self.seen {
            Some((seen, since)) if seen == number => since,
            _ => now,
        };
        self.seen = Some((number, since));
        Ok(free || now.since(since) >= limits::UPKEEP_LEASE)
    }

    fn work(&mut self, upkeep: &mut Upkeep) -> Result<(), ArchiveError> {
        if !self.is_free(upkeep)? {
            return Ok(());
        }
        let now = self.clock.now();
        upkeep.refresh()?;
        if !self.begun {
            upkeep.finish_newest()?;
            self.begun = true;
        }
        let idle = !self.care.compact.enabled || self.jobs(upkeep, now).is_empty();
        if idle && upkeep.due(&self.care.retain, now).is_empty() {
            return upkeep.sweep(self.care.compact.grace, now).map(drop);
        }
        self.shared.held_bytes.store(self.care.memory_bytes, Ordering::Relaxed);
        if !upkeep.take(now)? {
            return Ok(());
        }
        let shared = Arc::clone(&self.shared);
        let goes_on = move || !shared.is_stopped();
        // Rows that are let go need not be put in order first. A clock that isn't believed stops this alone.
        if let Err(error) = self.retain(upkeep, now, &goes_on) {
            if !matches!(error, ArchiveError::Clock { .. }) {
                return Err(error);
            }
            tracing::warn!(pipeline = self.care.pipeline, %error, hint = error.hint(), "nothing expires");
        }
        if self.care.compact.enabled {
            self.compact(upkeep, now, &goes_on)?;
        }
        upkeep.sweep(self.care.compact.grace, now).map(drop)
    }

    /// What is to be compacted, but for what couldn't be.
    fn jobs(&self, upkeep: &Upkeep, now: EventTime) -> Vec<Job> {
        let jobs = upkeep.jobs(&self.care.compact, now).into_iter();
        jobs.filter(|job| !self.given_up.contains(&job.folder)).collect()
    }

    fn compact(&mut self, upkeep: &mut Upkeep, now: EventTime, goes_on: &dyn Fn() -> bool) -> Result<(), ArchiveError> {
        for job in self.jobs(upkeep, now) {
            match upkeep.compact(&job, now, goes_on) {
                Ok(Some(done)) => self.tell("compact", &job.folder, done),
                Ok(None) => return Ok(()),
                Err(error @ ArchiveError::Stopped) => return Err(error),
                Err(error) => {
                    tracing::warn!(folder = job.folder, %error, hint = error.hint(), "cannot make one file of small ones, they stay");
                    if !error.is_retryable() {
                        self.given_up.insert(job.folder);
                    }
                    // Where the change was put before it failed, it is finished here.
                    if !upkeep.take(now)? {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    fn retain(&self, upkeep: &mut Upkeep, now: EventTime, goes_on: &dyn Fn() -> bool) -> Result<(), ArchiveError> {
        let all = upkeep.due(&self.care.retain, now);
        if !all.is_empty() {
            retain::believe(upkeep.files(), now)?;
        }
        for due in all {
            let cold = self.care.retain.of(due.kind).and_then(|keep: &KeepConfig| keep.cold.as_ref());
            let folder = due.files.first().map_or("", |file| file.folder()).to_owned();
            match (due.fate, cold) {
                (Fate::Cool, Some(cold)) => {
                    for job in due.jobs(self.care.compact.size.0, cold.level.value) {
                        let Some(done) = upkeep.cool(&job, cold, now, goes_on)? else { return Ok(()) };
                        self.tell("cool", &job.folder, done);
                    }
                }
                _ => {
                    let Some(done) = upkeep.expire(&due, now)? else { return Ok(()) };
                    self.tell("expire", &folder, done);
                }
            }
        }
        Ok(())
    }

    fn tell(&self, act: &str, folder: &str, done: Done) {
        let pipeline = self.care.pipeline.as_str();
        self.telemetry.upkeep_files.with_label_values(&[pipeline, act]).inc_by(done.files_before);
        tracing::info!(
            pipeline,
            act,
            folder,
            files = done.files_before,
            into = done.files_after,
            rows = done.rows,
            bytes = done.bytes_before,
            into_bytes = done.bytes_after,
            "archive kept in shape"
        );
    }
}
