//! The threads that encode the columns of a row group side by side.
//!
//! Threads of our own and not a pool from a crate: all that is needed is "do these parts, any order, and wait", the
//! caller is one of those who work, and nothing else in the process shares them. Which thread does which part is left
//! to chance; parts have nothing in common, so what comes out doesn't depend on it.

use super::ArchiveError;
use std::any::Any;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

/// Threads that wait for work. Dropping the crew ends them.
#[derive(Debug)]
pub(super) struct Crew {
    workers: Vec<Worker>,
}

#[derive(Debug)]
struct Worker {
    /// Holds one job, so that handing it on never waits. `None` while the crew ends.
    jobs: Option<SyncSender<Arc<Job>>>,
    thread: Option<JoinHandle<()>>,
}

type Work = Box<dyn Fn(usize) + Send + Sync>;

/// One call of [`Crew::run`].
struct Job {
    work: Work,
    parts: usize,
    /// The next part that nobody does yet.
    next: AtomicUsize,
    progress: Mutex<Progress>,
    done: Condvar,
}

struct Progress {
    /// Parts that are not done.
    left: usize,
    panic: Option<Box<dyn Any + Send>>,
}

impl Crew {
    /// A crew of `threads`, of which the caller of [`run`](Self::run) is one: with 1, no thread is started.
    ///
    /// # Errors
    /// When the system has no thread to give; `archive` is named then.
    pub(super) fn new(threads: NonZeroUsize, archive: &Path) -> Result<Self, ArchiveError> {
        let worker = |_| {
            let (jobs, queue) = sync_channel::<Arc<Job>>(1);
            let serve = move || queue.iter().for_each(|job| job.help());
            let spawned = std::thread::Builder::new().name("headrig-encode".to_owned()).spawn(serve);
            let thread = spawned.map_err(ArchiveError::io("start a thread for", archive))?;
            Ok(Worker { jobs: Some(jobs), thread: Some(thread) })
        };
        Ok(Self { workers: (1..threads.get()).map(worker).collect::<Result<_, ArchiveError>>()? })
    }

    /// Calls `work` once with each number below `parts`, on all threads, low numbers first, and returns when all calls
    /// have returned.
    ///
    /// # Panics
    /// When one of the calls does.
    pub(super) fn run(&self, parts: usize, work: Work) {
        if self.workers.is_empty() {
            return (0..parts).for_each(work);
        }
        let progress = Mutex::new(Progress { left: parts, panic: None });
        let job = Arc::new(Job { work, parts, next: AtomicUsize::new(0), progress, done: Condvar::new() });
        // One part is the caller's, so more helpers than `parts - 1` would find nothing to do.
        for worker in self.workers.iter().take(parts.saturating_sub(1)) {
            // A full queue: that thread hasn't even begun to look at the job before. The others do without it.
            let _ = worker.jobs.as_ref().map(|jobs| jobs.try_send(Arc::clone(&job)));
        }
        job.help();
        job.wait();
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        for worker in &mut self.workers {
            worker.jobs = None;
            // Panics inside of work were caught and handed on; the loop around it has none.
            let _ = worker.thread.take().map(JoinHandle::join);
        }
    }
}

impl Job {
    /// Does parts until none is left to begin.
    fn help(&self) {
        loop {
            let part = self.next.fetch_add(1, Ordering::Relaxed);
            if part >= self.parts {
                return;
            }
            // The caller waits for every part, so a panic must not keep one from being counted.
            let result = catch_unwind(AssertUnwindSafe(|| (self.work)(part)));
            let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
            progress.left -= 1;
            progress.panic = progress.panic.take().or(result.err());
            if progress.left == 0 {
                self.done.notify_all();
            }
        }
    }

    /// Waits until all parts are done.
    fn wait(&self) {
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        while progress.left > 0 {
            progress = self.done.wait(progress).unwrap_or_else(PoisonError::into_inner);
        }
        if let Some(panic) = progress.panic.take() {
            drop(progress);
            resume_unwind(panic);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crew(threads: usize) -> Crew {
        Crew::new(NonZeroUsize::new(threads).unwrap(), Path::new("a")).unwrap()
    }

    #[test]
    fn every_part_is_done_once_whatever_the_number_of_threads() {
        for threads in 1..5 {
            let crew = crew(threads);
            for parts in [0, 1, 2, 3, 100] {
                let counts: Arc<Vec<AtomicUsize>> = Arc::new((0..parts).map(|_| AtomicUsize::new(0)).collect());
                let seen = Arc::clone(&counts);
                crew.run(
                    parts,
                    Box::new(move |part| seen[part].store(seen[part].load(Ordering::Relaxed) + 1, Ordering::Relaxed)),
                );
                assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1), "{threads} {parts}");
            }
        }
    }

    #[test]
    fn a_panic_comes_back_and_the_crew_works_on() {
        for threads in [1, 3] {
            let crew = crew(threads);
            let run = || crew.run(9, Box::new(|part| assert!(part != 4, "part four")));
            let panic = catch_unwind(AssertUnwindSafe(run)).unwrap_err();
            assert_eq!(panic.downcast_ref::<&str>(), Some(&"part four"));
            crew.run(9, Box::new(|_| {}));
        }
    }
}
