//! When a running pipeline seals, what goes into a seal, and what follows from it.

use super::books::Ticket;
use super::run::{RunError, Runner};
use super::storing::Work;
use crate::archive::Kind;
use crate::limits;
use crate::record::receipt::Receipt;
use tokio::sync::oneshot;

/// A seal that was asked for.
pub(super) struct Asked {
    ticket: Ticket,
    /// Of the messages for others.
    outbox: u64,
    receipt: oneshot::Receiver<Receipt>,
    /// Who waits for it.
    waiting: Vec<oneshot::Sender<()>>,
}

impl Runner {
    pub(super) fn seal_is_due(&mut self) -> bool {
        let now = self.surroundings.clock.monotonic();
        let most = limits::WINDOW_ROWS_WAITING.min((self.memory.budget() / limits::MEMORY_PER_WINDOW_ROW) as usize);
        let full = self.stages.windows_waiting() >= most;
        let told = self.books.wants_seal() || self.stages.wants_seal();
        let wished = self.wishes.any() && now.since(self.last_seal) >= limits::LIVE_SEAL;
        let told = told && now.since(self.last_seal) >= limits::ALERT_SEAL;
        self.storing.as_ref().map_or(full, |storing| full || told || wished || storing.seal_is_due(now))
    }

    /// Asks for a seal of all that was worked off. `waiting` are told when it is done.
    pub(super) async fn seal(&mut self, mut waiting: Vec<oneshot::Sender<()>>) {
        self.last_seal = self.surroundings.clock.monotonic();
        waiting.extend(self.wishes.take());
        if self.storing.is_none() {
            // Without an archive nobody keeps window results.
            drop(self.stages.drain_windows());
            return;
        }
        let mut windows = self.stages.drain_windows();
        if !self.tables.contains(&Kind::Windows) {
            windows.clear();
        }
        let (done, receipt) = oneshot::channel();
        let (state, parts) = match self.stages.save(&self.pipeline) {
            Ok(kept) => kept,
            Err(error) => {
                self.failure.get_or_insert(RunError::State(error));
                return;
            }
        };
        let (ticket, mut sealing) = self.books.sealing(self.stages.now(), &state);
        sealing.parts = parts;
        sealing.at = Some(self.surroundings.clock.now());
        self.seals_asked.push_back(Asked { ticket, outbox: self.stages.ticket(), receipt, waiting });
        self.store(Work::Seal { sealing, windows, receipt: done }).await;
    }

    /// Waits for all seals that were asked for.
    pub(super) async fn await_seals(&mut self) {
        while let Some(asked) = self.seals_asked.pop_front() {
            let Asked { ticket, outbox, receipt, waiting } = asked;
            // None comes when the archive has failed, which is reported when its thread is joined.
            if let Ok(receipt) = receipt.await {
                self.sealed(ticket, outbox, receipt, waiting).await;
            }
        }
    }

    pub(super) async fn take_receipts(&mut self) {
        while let Some(asked) = self.seals_asked.front_mut() {
            let receipt = match asked.receipt.try_recv() {
                Err(oneshot::error::TryRecvError::Empty) => return,
                received => received.ok(),
            };
            let Some(Asked { ticket, outbox, waiting, .. }) = self.seals_asked.pop_front() else { return };
            if let Some(receipt) = receipt {
                self.sealed(ticket, outbox, receipt, waiting).await;
            }
        }
    }

    /// A seal is done: tells whoever waits for it, and sends the alert events and messages that are in it.
    async fn sealed(&mut self, ticket: Ticket, outbox: u64, receipt: Receipt, waiting: Vec<oneshot::Sender<()>>) {
        self.count_sealed(&receipt);
        if let Some(seals) = &self.seals {
            seals.send_replace(receipt.checkpoint);
        }
        for sender in waiting {
            // Who has asked may be gone.
            let _ = sender.send(());
        }
        self.stages.sealed(outbox);
        self.publish();
        let due = self.books.sealed(ticket);
        self.notifying.send(&due).await;
    }
}
