//! The engine without a daemon around it: `headrig test` plays event-time scripts, `headrig backtest` history.
//!
//! Both drive what a live run drives. A script (`script`, `record`, `expect`, whose words are in `words`) is played by `play` against
//! a `daemon`: the flow and the books of `topology` over records in memory, with clocks that are numbers, and the bytes of a seal
//! for all that outlives a process. No archive, no network, no wall clock: the same script gives the same result. Files come through
//! functions that the caller passes in. docs/testing.md is the language's reference.
//!
//! History (`backtest`) goes through the same windows and rules, with as many thresholds (`sweep`) as are to be tried.

mod backtest;
mod daemon;
mod expect;
mod play;
mod record;
mod script;
mod sweep;
mod view;
mod words;

pub use backtest::{Backtest, BacktestError, Order, Tried};
pub use play::{Files, Played, Unmet, play};
pub use script::Mistake;
pub use sweep::Sweep;
