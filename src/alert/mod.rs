//! Alert rules over window results: inactive → pending → firing → resolved, in event time.
//!
//! Pure: `Alerts::evaluate` takes the rows of one closed window and returns the changes of state. An event's
//! id and bytes depend on the input alone. A condition that is null ("no data") changes nothing.
//!
//! A rule with `absent_for` looks at what doesn't come ([`Absences`]); it runs on a clock of its own, which is an argument, too.
//!
//! What is pending or firing outlives a restart ([`Alerts::save`], [`Alerts::read`], [`Alerts::resume`]) as long as its rule stays
//! what it was; annotations may change.

mod absence;
#[cfg(test)]
mod absence_tests;
mod active;
mod engine;
mod humanize;
mod levels;
mod plan;
mod row;
mod saved;
mod templates;
mod threshold;
#[cfg(test)]
mod tests;

pub use absence::{Absence, Absences, RestoringAbsences};
pub use engine::Alerts;
pub use levels::Level;
pub use plan::Plan;
pub use saved::{Abandoned, Restoring, Resumed};
pub use threshold::ThresholdError;

use crate::place::{Entries, Located};
use crate::time::Span;
use schemars::JsonSchema;
use serde::Deserialize;

/// One rule, as written in `alerts:`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The alert's name, which becomes the label `alertname`.
    pub alert: Located<String>,
    /// The window whose rows the rule looks at; with `absent_for`, the window whose groups or the source whose records are missed.
    pub on: Located<String>,
    /// The condition, over the window's columns.
    pub when: Option<Located<String>>,
    /// In place of a condition: several, the worst first. The alert is told by the worst that holds.
    pub levels: Option<Located<Vec<Level>>>,
    /// In place of a condition: fires when nothing has come for so long, of the source or of a group of the window's records.
    pub absent_for: Option<Located<Span>>,
    /// With `absent_for`: the values of the window's group column that must be there. Default: those that were seen.
    pub expected: Option<Located<Vec<String>>>,
    /// With `absent_for`: a group that was seen and has been absent for so long is no longer missed. Default 1d.
    pub forget_after: Option<Located<Span>>,
    /// How long, in event time, the condition must hold before the alert fires.
    #[serde(default, rename = "for")]
    pub hold: Span,
    /// How long, in event time, the alert goes on firing after the condition was last true.
    #[serde(default)]
    pub keep_firing_for: Span,
    /// Labels added to those of the group; may be templates.
    #[serde(default)]
    pub labels: Entries<Located<String>>,
    /// Texts for people: templates with `$labels` and `$values`.
    #[serde(default)]
    pub annotations: Entries<Located<String>>,
}
