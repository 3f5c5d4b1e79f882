//! The thread that owns the archive, and the schedule of its seals.

use super::memory::{Charge, Memory, Stage};
use crate::archive::{Archive, ArchiveError, Claimed, FlushConfig, Sealing};
use crate::limits;
use crate::record::alert::AlertEvent;
use crate::record::dead::DeadLetter;
use crate::record::receipt::{Checkpoint, Receipt};
use crate::record::sample::WindowRows;
use crate::source::PartitionName;
use crate::time::clock::Monotonic;
use arrow::array::RecordBatch;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::{mpsc, oneshot};

/// What the flow asks of the archive, in order.
#[derive(Debug)]
pub(super) enum Work {
    /// Rows, which count as held until they are encoded.
    Rows(RecordBatch, Charge),
    /// Dead letters of one partition.
    Dead(PartitionName, Vec<DeadLetter>),
    Alerts(Vec<AlertEvent>),
    /// Makes everything before it durable.
    Seal {
        sealing: Sealing,
        windows: Vec<WindowRows>,
        receipt: oneshot::Sender<Receipt>,
    },
    /// Makes partitions of a shared source this daemon's.
    Claim {
        partitions: Vec<(String, String)>,
        /// Told first, and of all that the claim has brought.
        told: oneshot::Sender<Claimed>,
        claimed: oneshot::Sender<Checkpoint>,
    },
}

/// The flow's end of the archive's queue.
#[derive(Debug)]
pub(super) struct Storing {
    work: mpsc::Sender<Work>,
    thread: tokio::task::JoinHandle<Result<(), ArchiveError>>,
    published: Arc<Published>,
    schedule: Schedule,
}

/// What the thread tells the flow.
#[derive(Debug, Default)]
struct Published {
    staged_bytes: AtomicU64,
    /// Seals that are done.
    sealed: AtomicU64,
}

/// When to seal.
#[derive(Debug)]
struct Schedule {
    flush: FlushConfig,
    rows: u64,
    first_unsealed: Option<Monotonic>,
    /// Seals that were asked for.
    asked: u64,
}

impl Schedule {
    fn is_due(&self, published: &Published, now: Monotonic) -> bool {
        // While a seal is under way, the staged bytes are those that it is about to make durable.
        let settled = published.sealed.load(Ordering::Acquire) == self.asked;
        self.rows >= self.flush.rows.get()
            || (settled && published.staged_bytes.load(Ordering::Relaxed) >= self.flush.bytes.0)
            || self.first_unsealed.is_some_and(|first| now.since(first) >= self.flush.every)
    }
}

impl Storing {
    /// Starts the thread.
    pub(super) fn spawn(archive: Archive, flush: FlushConfig, memory: Arc<Memory>) -> Self {
        let (work, queue) = mpsc::channel(limits::ARCHIVE_QUEUE);
        let published = Arc::new(Published::default());
        let told = Arc::clone(&published);
        let thread = tokio::task::spawn_blocking(move || serve(archive, queue, &told, &memory));
        Self { work, thread, published, schedule: Schedule { flush, rows: 0, first_unsealed: None, asked: 0 } }
    }

    /// Hands work on, waiting while the archive is behind. False when the archive has failed; [`Self::end`] says why.
    pub(super) async fn send(&mut self, work: Work, now: Monotonic) -> bool {
        match &work {
            Work::Rows(rows, _) => self.schedule.rows += rows.num_rows() as u64,
            Work::Dead(_, letters) => self.schedule.rows += letters.len() as u64,
            Work::Alerts(_) | Work::Claim { .. } => {}
            Work::Seal { .. } => {
                self.schedule.rows = 0;
                self.schedule.asked += 1;
            }
        }
        self.schedule.first_unsealed = match work {
            Work::Seal { .. } => None,
            Work::Claim { .. } => self.schedule.first_unsealed,
            _ => self.schedule.first_unsealed.or(Some(now)),
        };
        self.work.send(work).await.is_ok()
    }

    /// Notes that something waits for a seal although no row was staged (positions, window results).
    pub(super) fn touch(&mut self, now: Monotonic) {
        self.schedule.first_unsealed.get_or_insert(now);
    }

    pub(super) fn seal_is_due(&self, now: Monotonic) -> bool {
        self.schedule.is_due(&self.published, now)
    }

    /// Whether the archive's thread has stopped, which it does early only when it has failed.
    pub(super) fn has_failed(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits until all work is done.
    pub(super) async fn end(self) -> Result<(), ArchiveError> {
        drop(self.work);
        match self.thread.await {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        }
    }
}

fn serve(
    mut archive: Archive,
    mut queue: mpsc::Receiver<Work>,
    told: &Published,
    memory: &Memory,
) -> Result<(), ArchiveError> {
    while let Some(work) = queue.blocking_recv() {
        let seals = u64::from(matches!(work, Work::Seal { .. }));
        match work {
            Work::Rows(rows, charge) => {
                archive.write_events(&rows)?;
                drop((rows, charge));
            }
            Work::Dead(name, letters) => archive.write_dead(&letters, |_| (&name.source, &name.partition))?,
            Work::Alerts(events) => archive.write_alerts(&events)?,
            Work::Claim { partitions, told, claimed } => {
                let all = archive.claim(&partitions)?;
                let checkpoint = all.checkpoint.clone();
                // Who has asked may be gone, or not want to know.
                let _ = told.send(all);
                let _ = claimed.send(checkpoint);
            }
            Work::Seal { sealing, windows, receipt } => {
                archive.write_windows(&windows)?;
                let sealed = archive.seal(&sealing)?;
                // The flow may be gone already when this is the last seal.
                let _ = receipt.send(sealed);
            }
        }
        relieve(&mut archive, memory)?;
        told.staged_bytes.store(archive.staged_bytes(), Ordering::Relaxed);
        // Behind the bytes: who sees the seal done sees what it has left.
        told.sealed.fetch_add(seals, Ordering::Release);
    }
    Ok(())
}

/// Closes row groups early where the archive holds more than its share, down to three quarters of it.
fn relieve(archive: &mut Archive, memory: &Memory) -> Result<(), ArchiveError> {
    let share = memory.archive_share();
    let mut held = archive.memory_bytes();
    if held > share {
        let flushes = archive.relieve(share / 4 * 3)?;
        memory.count_early_flushes(flushes);
        held = archive.memory_bytes();
        tracing::debug!(share_bytes = share, held_bytes = held, flushes, "row groups closed early, memory is short");
    }
    memory.set(Stage::Archive, held);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Span;
    use crate::units::ByteSize;
    use std::num::NonZeroU64;

    const NOW: Monotonic = Monotonic(Span::ZERO);

    fn schedule() -> Schedule {
        let flush =
            FlushConfig { every: Span::from_secs(60), rows: NonZeroU64::new(10).unwrap(), bytes: ByteSize(1_000) };
        Schedule { flush, rows: 0, first_unsealed: None, asked: 0 }
    }

    #[test]
    fn rows_bytes_and_time_each_make_a_seal_due() {
        let published = Published::default();
        let mut schedule = schedule();
        assert!(!schedule.is_due(&published, NOW));
        schedule.rows = 10;
        assert!(schedule.is_due(&published, NOW));
        schedule.rows = 0;
        schedule.first_unsealed = Some(NOW);
        assert!(!schedule.is_due(&published, Monotonic(Span::from_secs(59))));
        assert!(schedule.is_due(&published, Monotonic(Span::from_secs(60))));
        published.staged_bytes.store(1_000, Ordering::Relaxed);
        assert!(schedule.is_due(&published, NOW));
    }

    #[test]
    fn bytes_that_a_seal_is_taking_away_ask_for_no_second_one() {
        let published = Published::default();
        let mut schedule = schedule();
        published.staged_bytes.store(5_000, Ordering::Relaxed);
        schedule.asked = 1;
        assert!(!schedule.is_due(&published, NOW), "it is under way");
        published.sealed.store(1, Ordering::Release);
        assert!(schedule.is_due(&published, NOW), "done, and still as much is staged");
    }
}
