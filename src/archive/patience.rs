//! Waiting for a place that takes nothing for now: a full disk, a store that cannot be reached or refuses.
//!
//! What failed is done again after growing pauses, for as long as it takes, on the thread that owns the archive. So nothing
//! more is taken from the queue in front of it, everything behind waits in turn, and in the end sources stop reading: memory
//! stays what it was. Each call of a [`Store`] may be repeated after an error that hid its effect (`store.rs`).

use super::ArchiveError;
use super::store::{Placement, Store};
use crate::limits;
use crate::telemetry::metrics::SelfMetrics;
use crate::time::Span;
use prometheus::IntCounterVec;
use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use twox_hash::XxHash64;

/// How long the archive of one pipeline waits, and for what it does so just now.
#[derive(Debug)]
pub struct Patience {
    pipeline: String,
    /// In µs.
    limit: AtomicI64,
    trouble: Mutex<Option<String>>,
    retries: Option<IntCounterVec>,
}

impl Default for Patience {
    /// None: every error ends what it came upon.
    fn default() -> Self {
        Self { pipeline: String::new(), limit: AtomicI64::new(0), trouble: Mutex::default(), retries: None }
    }
}

impl Patience {
    /// Waits up to `limit` for one thing; `None`: for as long as it takes.
    pub fn new(pipeline: &str, limit: Option<Span>, telemetry: &SelfMetrics) -> Self {
        Self {
            pipeline: pipeline.to_owned(),
            limit: AtomicI64::new(limit.map_or(i64::MAX, Span::micros)),
            trouble: Mutex::default(),
            retries: Some(telemetry.archive_retries.clone()),
        }
    }

    /// Waits at most so long, unless it was said how long.
    pub fn limit_to(&self, limit: Span) {
        let _ = self.limit.compare_exchange(i64::MAX, limit.micros(), Ordering::Relaxed, Ordering::Relaxed);
    }

    /// What is waited for, if something is.
    pub fn trouble(&self) -> Option<String> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Option<String>> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does `work` until it succeeds.
    ///
    /// # Errors
    /// Its error, when waiting doesn't help against it or took too long.
    pub(super) fn keep<T>(&self, mut work: impl FnMut() -> Result<T, ArchiveError>) -> Result<T, ArchiveError> {
        let mut attempt = Attempt::default();
        loop {
            match work() {
                Ok(done) => {
                    attempt.succeeded(self);
                    return Ok(done);
                }
                Err(error) => attempt.failed(self, error)?,
            }
        }
    }
}

/// One thing that is tried until it succeeds.
#[derive(Debug, Default)]
struct Attempt {
    tries: u32,
    waited: Span,
    reminded: Span,
}

impl Attempt {
    /// Waits until it may be tried again.
    fn failed(&mut self, patience: &Patience, error: ArchiveError) -> Result<(), ArchiveError> {
        let Some(reason) = error.passing() else { return Err(error) };
        if self.waited.micros() >= patience.limit.load(Ordering::Relaxed) {
            self.succeeded(patience);
            return Err(error);
        }
        if let Some(retries) = &patience.retries {
            retries.with_label_values(&[patience.pipeline.as_str(), reason]).inc();
        }
        *patience.lock() = Some(format!("the archive waits: {error}"));
        if self.tries == 0 || self.waited.micros() - self.reminded.micros() >= limits::ARCHIVE_REMINDER.micros() {
            self.reminded = self.waited;
            let (pipeline, waited, hint) = (&patience.pipeline, self.waited, error.hint());
            tracing::warn!(pipeline, %error, hint, %waited, "the archive takes nothing for now, holding sources back and trying again");
        }
        let pause = pause(self.tries);
        std::thread::sleep(pause.to_std());
        self.tries += 1;
        self.waited = Span::from_micros(self.waited.micros().saturating_add(pause.micros()));
        Ok(())
    }

    fn succeeded(&self, patience: &Patience) {
        if self.tries > 0 {
            *patience.lock() = None;
            tracing::info!(pipeline = patience.pipeline, waited = %self.waited, "the archive is done waiting");
        }
    }
}

/// Before try `tries + 1`: doubling, and spread by a quarter, so that daemons whom one outage has stopped don't all come at once.
fn pause(tries: u32) -> Span {
    let [first, longest] = limits::ARCHIVE_PAUSES.map(Span::micros);
    let pause = first.saturating_mul(1 << tries.min(20)).min(longest);
    let spread = XxHash64::oneshot(u64::from(std::process::id()), &tries.to_le_bytes()) % 512;
    Span::from_micros(pause - pause / 4 + pause / 1024 * spread as i64)
}

/// A store whose calls are repeated.
#[derive(Debug)]
pub(super) struct Patient {
    pub(super) store: Arc<dyn Store>,
    pub(super) patience: Arc<Patience>,
}

impl Store for Patient {
    fn show(&self, key: &str) -> String {
        self.store.show(key)
    }

    fn read(&self, key: &str) -> Result<Option<Vec<u8>>, ArchiveError> {
        self.patience.keep(|| self.store.read(key))
    }

    fn size(&self, key: &str) -> Result<Option<u64>, ArchiveError> {
        self.patience.keep(|| self.store.size(key))
    }

    fn range(&self, key: &str, start: u64, length: u64) -> Result<Vec<u8>, ArchiveError> {
        self.patience.keep(|| self.store.range(key, start, length))
    }

    fn list(&self, folder: &str) -> Result<Vec<String>, ArchiveError> {
        self.patience.keep(|| self.store.list(folder))
    }

    fn walk(&self, folder: &str) -> Result<Vec<String>, ArchiveError> {
        self.patience.keep(|| self.store.walk(folder))
    }

    fn put_if_absent(&self, key: &str, bytes: &[u8]) -> Result<bool, ArchiveError> {
        self.patience.keep(|| self.store.put_if_absent(key, bytes))
    }

    fn put(&self, key: &str, bytes: &[u8]) -> Result<(), ArchiveError> {
        self.patience.keep(|| self.store.put(key, bytes))
    }

    fn upload(&self, files: &[(PathBuf, String)]) -> Result<(), ArchiveError> {
        self.patience.keep(|| self.store.upload(files))
    }

    fn place(&self, files: &[Placement]) -> Result<(), ArchiveError> {
        self.patience.keep(|| self.store.place(files))
    }

    fn copy(&self, file: &Placement) -> Result<(), ArchiveError> {
        self.patience.keep(|| self.store.copy(file))
    }

    fn remove(&self, key: &str) -> Result<(), ArchiveError> {
        self.patience.keep(|| self.store.remove(key))
    }

    fn remove_all(&self, keys: &[String]) -> Result<(), ArchiveError> {
        self.patience.keep(|| self.store.remove_all(keys))
    }

    fn replace(&self, added: &[Placement], removed: &[Placement]) -> Result<(), ArchiveError> {
        self.patience.keep(|| self.store.replace(added, removed))
    }

    fn swaps(&self) -> bool {
        self.store.swaps()
    }

    fn local(&self, key: &str) -> Option<PathBuf> {
        self.store.local(key)
    }
}

/// A file that waits for room on its disk.
#[derive(Debug)]
pub(super) struct PatientFile {
    pub(super) file: File,
    pub(super) path: PathBuf,
    pub(super) patience: Arc<Patience>,
}

impl Write for PatientFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // A write that fails has written nothing.
        let Self { file, path, patience } = self;
        let written = patience.keep(|| file.write(bytes).map_err(ArchiveError::io("write", path)));
        written.map_err(|error| match error {
            ArchiveError::Io { cause, .. } => cause,
            other => io::Error::other(other),
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn patience(limit: Option<Span>) -> Patience {
        Patience::new("p", limit, &SelfMetrics::new())
    }

    fn full() -> ArchiveError {
        ArchiveError::io("write", Path::new("/disk"))(io::ErrorKind::StorageFull.into())
    }

    #[test]
    fn what_passes_is_waited_for_and_told_meanwhile() {
        let patience = patience(None);
        let mut tries = 0;
        let done = patience.keep(|| {
            tries += 1;
            if tries == 2 {
                assert!(patience.trouble().unwrap().contains("/disk"));
            }
            if tries < 3 { Err(full()) } else { Ok(tries) }
        });
        assert_eq!((done.unwrap(), patience.trouble()), (3, None));
        let retries = patience.retries.as_ref().unwrap();
        assert_eq!(retries.with_label_values(&["p", "full"]).get(), 2);
    }

    #[test]
    fn what_does_not_pass_ends_at_once_and_so_does_everything_without_patience() {
        let mut tries = 0;
        let mut fail = |error: fn() -> ArchiveError, patience: &Patience| {
            tries = 0;
            let failed: Result<(), _> = patience.keep(|| {
                tries += 1;
                Err(error())
            });
            assert!(failed.is_err() && patience.trouble().is_none());
            tries
        };
        let broken = || ArchiveError::Broken { path: PathBuf::new() };
        assert_eq!(fail(broken, &patience(None)), 1);
        assert_eq!(fail(full, &Patience::default()), 1);
        let short = patience(None);
        short.limit_to(Span::from_micros(1));
        assert_eq!(fail(full, &short), 2, "the limit is looked at between tries");
    }

    #[test]
    fn pauses_grow_to_their_longest() {
        let [first, longest] = limits::ARCHIVE_PAUSES.map(Span::micros);
        for tries in [0, 1, 5, 40] {
            let (pause, middle) = (pause(tries).micros(), first.saturating_mul(1 << tries.min(20)).min(longest));
            assert!((middle / 4 * 3..=middle / 4 * 5).contains(&pause), "{tries}: {pause}");
        }
    }

    #[test]
    fn a_file_waits_for_room() {
        // No byte ever fits into this one.
        let file = File::options().write(true).open("/dev/full").unwrap();
        let patience = Arc::new(patience(Some(Span::from_micros(1))));
        let mut file = PatientFile { file, path: PathBuf::from("/dev/full"), patience: Arc::clone(&patience) };
        assert_eq!(file.write(b"x").unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(patience.retries.as_ref().unwrap().with_label_values(&["p", "full"]).get(), 1);
    }
}
