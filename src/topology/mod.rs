//! A resolved plan → bounded tasks: batches flow down, receipts flow up.
//!
//! Building has three phases. `config` validates (pure, all mistakes at once); [`Connected::connect`] does the I/O of
//! opening archive, sources and receivers and spawns nothing; [`Connected::run`] spawns and returns when the input has
//! ended or the pipeline was told to stop.
//!
//! ```text
//!  source tasks ──RawBatch──▶ decoding ──────▶ flow (one thread) ──rows──▶ storing (one thread) ──▶ archive
//!   one each       RAW_QUEUE   (N threads, in   transform metric   ARCHIVE_QUEUE     │
//!                               order)          window alert                         ▼ Receipt
//!                                                 └──AlertEvent──▶ books (outbox) ◀─────────┘
//!                                                                     └──sealed──▶ notifying (one task per receiver)
//! ```
//!
//! `books` remembers what is between two seals; with `flow` it is all state, so `simulation` drives these two and a real archive
//! without tasks, clock or network, and lets them die at every call.
//!
//! Where daemons of a Kafka group share windows, two pipelines run. The flow of the first *gathers*: it closes nothing, and each seal
//! takes out what was gathered (`gathering`, the outbox) for `publishing` to write into a topic. The second reads that topic, and its
//! place of a flow is taken by `merging`: windows, alerts and a clock for each of the topic's partitions (`merged`), kept with the position of the
//! partition. `stages` is either of them; `sharing` is what a running pipeline does besides: where its partitions begin, and what it takes over with them.
//!
//! ```text
//!  gathering ──at each seal──▶ outbox ──sealed──▶ publishing ══topic══▶ merging ──WindowRows, AlertEvent──▶ as above
//! ```
//!
//! Every queue is bounded: a slow archive slows the flow, a slow flow slows the sources, and memory stays flat. What
//! the stages hold together is measured against one budget (`memory`). This
//! folder is the only owner of acknowledgement, checkpoints and shutdown: positions go into a seal with the rows that
//! they cover, and nobody else says that something is stored.
//!
//! Who decides when to seal is `storing`'s schedule: by time, rows or bytes, and at the end. Told to stop, sources end
//! first, what they handed on is worked off and sealed, then the receivers get what waits for them.

mod asking;
mod books;
mod connect;
mod decoding;
mod flow;
mod gathering;
mod idleness;
mod memory;
mod merged;
#[cfg(test)]
mod merged_tests;
mod merging;
mod notifying;
mod producers;
#[cfg(test)]
mod producers_tests;
mod progress;
mod publishing;
mod roster;
mod run;
mod sealing;
mod sharing;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod simulation_kept;
#[cfg(test)]
mod simulation_deaths;
#[cfg(test)]
mod simulation_merged;
#[cfg(test)]
mod simulation_shared;
mod stages;
mod state;
mod storing;
mod telling;
#[cfg(test)]
mod tests;

pub use asking::{NotSealed, Sealer};
pub use books::{Books, OutboxError, Outgoing, Ticket};
pub use connect::{ConnectError, Connected};
pub use decoding::Extent;
pub use flow::{Flow, Outcome};
pub use idleness::{Idleness, Looked};
pub use merging::MergeError;
pub use progress::{Progress, Totals};
pub use run::{End, RunError};
pub use state::{Restored, StateError};

use crate::sink::Silences;
use crate::telemetry::metrics::SelfMetrics;
use crate::time::clock::Clock;
use std::path::PathBuf;
use std::sync::Arc;

/// What a running pipeline needs of its surroundings.
#[derive(Debug, Clone)]
pub struct Surroundings {
    pub clock: Arc<dyn Clock>,
    pub telemetry: SelfMetrics,
    /// What must outlive the process lies below this folder.
    pub data_dir: PathBuf,
    /// What is not to be told.
    pub silences: Arc<Silences>,
}
