//! Seals that somebody outside asks for, who wants to read all rows that were worked off.

use crate::limits;
use std::fmt;
use tokio::sync::{mpsc, oneshot};

/// Asks a running pipeline to seal.
#[derive(Clone)]
pub struct Sealer {
    asked: mpsc::Sender<oneshot::Sender<()>>,
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sealer")
    }
}

/// The pipeline has failed before it could seal.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot seal, the pipeline has ended")]
pub struct NotSealed;

impl Sealer {
    /// Returns when all that the pipeline had worked off when it was asked is sealed: rows, dead letters, results of windows that had
    /// closed, alerts. Of a pipeline that has ended it is. Takes as long as the archive lets it wait; of several that ask meanwhile all are told
    /// of one seal.
    ///
    /// # Errors
    /// When the pipeline ends meanwhile without having sealed.
    pub async fn seal(&self) -> Result<(), NotSealed> {
        let (done, sealed) = oneshot::channel();
        if self.asked.send(done).await.is_err() {
            return Ok(());
        }
        sealed.await.map_err(|_| NotSealed)
    }
}

/// The pipeline's end.
#[derive(Debug)]
pub(super) struct Wishes {
    asked: mpsc::Receiver<oneshot::Sender<()>>,
    waiting: Vec<oneshot::Sender<()>>,
}

impl Wishes {
    pub(super) fn new() -> (Sealer, Self) {
        let (sender, asked) = mpsc::channel(limits::LIVE_WAITING);
        (Sealer { asked: sender }, Self { asked, waiting: Vec::new() })
    }

    /// Whether somebody waits.
    pub(super) fn any(&mut self) -> bool {
        while let Ok(done) = self.asked.try_recv() {
            self.waiting.push(done);
        }
        self.waiting.retain(|done| !done.is_closed());
        !self.waiting.is_empty()
    }

    /// Who waits and has to be told of the seal that is asked for now.
    pub(super) fn take(&mut self) -> Vec<oneshot::Sender<()>> {
        self.any();
        std::mem::take(&mut self.waiting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_asks_is_told_of_the_next_seal_or_that_there_is_none() {
        let (sealer, mut wishes) = Wishes::new();
        assert!(!wishes.any());
        let asking = tokio::spawn({
            let sealer = sealer.clone();
            async move { sealer.seal().await }
        });
        while !wishes.any() {
            tokio::task::yield_now().await;
        }
        let waiting = wishes.take();
        assert_eq!(waiting.len(), 1);
        assert!(!wishes.any(), "it is told once");
        waiting.into_iter().for_each(|done| done.send(()).unwrap());
        assert_eq!(asking.await.unwrap(), Ok(()));
        // Who has gone away is not sealed for.
        let gone = tokio::spawn({
            let sealer = sealer.clone();
            async move { sealer.seal().await }
        });
        while !wishes.any() {
            tokio::task::yield_now().await;
        }
        gone.abort();
        assert!(gone.await.unwrap_err().is_cancelled());
        assert!(!wishes.any());
        let failed = tokio::spawn({
            let sealer = sealer.clone();
            async move { sealer.seal().await }
        });
        while !wishes.any() {
            tokio::task::yield_now().await;
        }
        drop(wishes);
        assert_eq!(failed.await.unwrap(), Err(NotSealed));
        assert_eq!(sealer.seal().await, Ok(()), "what has ended is sealed");
    }
}
