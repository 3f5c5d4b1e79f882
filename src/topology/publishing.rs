//! The thread that writes what was gathered to where it is merged.

use super::gathering::Outbox;
use super::run::RunError;
use crate::limits;
use crate::record::partial::Message;
use crate::source::{Publisher, SourceError};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// Seals' messages that wait for the thread.
const QUEUE: usize = 16;

/// A running thread.
#[derive(Debug)]
pub(super) struct Publishing {
    work: mpsc::Sender<(u64, Vec<Message>)>,
    /// The number of the newest messages that brokers have.
    done: watch::Receiver<Option<u64>>,
    /// Ends a wait for brokers.
    cut: CancellationToken,
    thread: Option<tokio::task::JoinHandle<Result<(), SourceError>>>,
}

impl Publishing {
    pub(super) fn spawn(mut publisher: Publisher) -> Self {
        let (work, queue) = mpsc::channel(QUEUE);
        let (told, done) = watch::channel(None);
        let cut = CancellationToken::new();
        let stop = cut.clone();
        let thread = tokio::task::spawn_blocking(move || serve(&mut publisher, queue, &told, &stop));
        Self { work, done, cut, thread: Some(thread) }
    }

    /// Forgets what brokers have taken, and gives the thread what is due, as much as it takes.
    pub(super) fn serve(&mut self, outbox: &mut Outbox) {
        if self.done.has_changed().unwrap_or(true)
            && let Some(number) = *self.done.borrow_and_update()
        {
            outbox.published(number);
        }
        while let Ok(permit) = self.work.try_reserve() {
            let Some(due) = outbox.next_due() else { return };
            permit.send(due);
        }
    }

    /// Why the thread has ended, if it has.
    pub(super) async fn failure(&mut self) -> Option<RunError> {
        let thread = self.thread.take_if(|thread| thread.is_finished())?;
        match thread.await {
            Ok(result) => result.err().map(RunError::Publish),
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        }
    }

    /// Waits until all that is sealed is written, but not for long. What is left is written by the next start.
    pub(super) async fn drain(&mut self, outbox: &mut Outbox) {
        let all = async {
            loop {
                self.serve(outbox);
                if outbox.is_written() || self.done.changed().await.is_err() {
                    return;
                }
            }
        };
        if tokio::time::timeout(limits::PARTIAL_DRAIN.to_std(), all).await.is_err() {
            tracing::warn!(
                "brokers have not taken all parts of windows; the next start writes them, or who takes the partitions over"
            );
        }
        self.cut.cancel();
    }
}

fn serve(
    publisher: &mut Publisher,
    mut queue: mpsc::Receiver<(u64, Vec<Message>)>,
    told: &watch::Sender<Option<u64>>,
    stop: &CancellationToken,
) -> Result<(), SourceError> {
    while let Some((number, messages)) = queue.blocking_recv() {
        if !publisher.publish(&messages, || !stop.is_cancelled())? {
            return Ok(());
        }
        told.send_replace(Some(number));
    }
    Ok(())
}
