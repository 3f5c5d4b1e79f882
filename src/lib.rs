//! headrig: logs in at the top, boards out at the bottom.
//!
//! One daemon tails log streams, decodes them into Arrow batches, derives metrics, aggregates windows in event time,
//! evaluates alerts and writes Parquet. This page is the architecture; the `mod` list below stands in reading order,
//! which is also the order of dependencies (a row imports only from rows below it) and, from `source` on, that of the
//! data.
//!
//! ```text
//!   source ──RawBatch──▶ decode ──EventBatch──▶ transform ──┬──▶ archive ──Receipt──▶ checkpoint
//!                          │                                ├──▶ metric  ──▶ /metrics
//!                          └──DeadLetter──▶ archive         └──▶ window ──WindowRows──▶ archive
//!                                                                  └──▶ alert ──AlertEvent──▶ sink, archive
//! ```
//!
//! - A **stage** (`source` to `archive`) never imports another stage. What stages hand to each other is in `record`;
//!   its files are named in the order of the flow.
//! - **`topology`** owns everything that runs: tasks, queues, acknowledgement, shutdown. Positions travel forward with
//!   the batches, receipts come back; only a receipt says that something is stored.
//! - **`rehearsal`** is that code without a daemon: scripts with clocks that are numbers (`headrig test`), and an archive's history
//!   (`headrig backtest`).
//! - **`query`** is the read side: SQL over an archive's files. It imports `archive` and nothing else of the stages.
//! - From `decode` to `alert` everything is **pure**: no clock, no I/O, no tokio, time is an argument. `topology::Flow`
//!   strings those stages together; a live run, a test and a benchmark call the same code.
//! - Building has three phases: `config` validates (pure, all mistakes at once, each with its place), then everything
//!   is connected (I/O, nothing runs), then it runs.
//!
//! `tests/it/layering.rs` reads the `use` lines and enforces the order. `docs/decisions.md` says why things are as
//! they are.

pub mod command;
pub mod server;
pub mod rehearsal;
pub mod topology;
pub mod config;
pub mod query;
pub mod source;
pub mod decode;
pub mod transform;
pub mod metric;
pub mod window;
pub mod alert;
pub mod sink;
pub mod archive;
pub mod expression;
pub mod record;
pub mod telemetry;
pub mod time;
pub mod place;
pub mod units;
pub mod limits;
