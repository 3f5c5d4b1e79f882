//! Windows: events → aggregates per group and window, in event time.
//!
//! Pure: time comes with the batches (`EventBatch::clock`), nothing reads a clock, nothing runs in the background.
//! Results don't depend on how the input was cut into batches: a record is placed, or found late, by the clock's
//! reading at that record, and closed windows come out in the order in which that clock closes them.
//!
//! They don't depend on restarts either: [`Windows::save`] gives all that open windows hold, [`Windows::read`] and
//! [`Windows::resume`] go on with it. A definition that was changed in between begins anew, and its rows are `provisional` as long as they may
//! miss records that were read before.
//!
//! Several daemons may share the work: some *gather* ([`Windows::gather`]) records of their partitions in panes, without closing
//! anything, and hand out what they have gathered ([`Windows::take_gathered`]); others *merge* it ([`Windows::merge`]) and close
//! windows by a clock over all partitions. As each state is a function of the multiset of values, what comes out is what one would have had.

mod axis;
mod column;
mod definition;
mod distinct;
mod edge;
mod engine;
mod function;
mod gathered;
mod groups;
mod ledger;
mod plan;
mod prepare;
mod quantile;
mod render;
mod open;
mod saved;
mod session;
mod session_saved;
#[cfg(test)]
mod session_tests;
mod shape;
mod state;
mod top;
mod watch;
#[cfg(test)]
mod gathered_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod top_tests;
#[cfg(test)]
mod zone_tests;

pub use engine::Windows;
pub use gathered::Gathered;
pub use plan::Plan;
pub use saved::{Restoring, Resumed};
pub use top::Top;

use crate::place::{Entries, Located};
use crate::time::Span;
use schemars::JsonSchema;
use serde::Deserialize;

/// One window definition, as written in `windows:`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub name: Located<String>,
    pub kind: Kind,
    /// Tumbling and sliding windows: the length of the window, half-open `[start, end)`.
    pub size: Option<Located<Span>>,
    /// Sliding windows: the distance between the starts of two neighbours.
    pub every: Option<Located<Span>>,
    /// The IANA zone at whose midnight windows of whole days begin; those of seven days on Mondays. Default: they are aligned to the epoch.
    pub zone: Option<Located<String>>,
    /// Session windows: after so long without a record of its group a session has ended.
    pub gap: Option<Located<Span>>,
    /// Session windows: no session is longer. One that goes on is cut somewhere in the last quarter of it. Default 1d.
    pub max: Option<Located<Span>>,
    /// How far behind the newest event a record may be and still count. Default 30s.
    #[serde(default = "default_lateness")]
    pub lateness: Span,
    /// Only records for which this condition is true.
    #[serde(rename = "where")]
    pub condition: Option<Located<String>>,
    /// Columns; one result row per combination of their values (null is a value of its own).
    #[serde(default)]
    pub group_by: Vec<Located<String>>,
    /// Only the largest groups have rows of their own; all others together are the group `_other_`.
    pub top: Option<Top>,
    /// Result column → aggregate call, as in `errors: count(*) filter (where status >= 500)`.
    pub aggregate: Entries<Located<String>>,
    /// Result column → expression over group columns, aggregates and the derived values before it.
    #[serde(default)]
    pub derive: Entries<Located<String>>,
}

fn default_lateness() -> Span {
    Span::from_secs(30)
}

/// How windows lie in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// One after the other, aligned to the epoch, or to midnight in `zone`.
    Tumbling,
    /// Overlapping: one starts at each multiple of `every`.
    Sliding,
    /// One for each group and each time in which it never pauses for `gap`.
    Session,
}
