//! Metrics derived from events: counters, gauges and histograms by labels, with caps on their series.
//!
//! [`Config`]s are built once against the schema, to a [`Plan`] each. The pipeline's thread observes whole batches
//! into [`Metrics`]; a scrape takes a snapshot of its families, which [`exposition`] writes out. Nothing here does I/O
//! or reads a clock, and what comes out does not depend on how the input was cut into batches.
//!
//! A series past its metric's cap, or past the pipeline's, goes to one whose labels are all `_other_`, and is counted.
//! A value that cannot be computed, or that its kind of metric cannot take, is left out and counted.

mod check;
mod counter;
pub mod exposition;
mod gauge;
mod histogram;
mod observe;
mod plan;
mod series;
#[cfg(test)]
mod tests;

pub use check::{check_names, clash};
pub use observe::Metrics;
pub use plan::Plan;

use crate::expression::Compiler;
use crate::place::{Located, Problem};
use crate::record::schema::Schema;
use schemars::JsonSchema;
use serde::Deserialize;
use std::num::NonZeroUsize;

/// One metric, as written in `metrics:`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// A Prometheus metric name; a counter's ends in `_total`.
    pub name: Located<String>,
    #[serde(rename = "type")]
    pub kind: Kind,
    pub help: String,
    /// Columns whose values tell the series apart.
    #[serde(default)]
    pub labels: Vec<Located<String>>,
    /// What is counted, set or observed. A counter without it counts records.
    pub value: Option<Located<String>>,
    /// Only records for which this condition is true.
    #[serde(rename = "where")]
    pub condition: Option<Located<String>>,
    /// Upper bounds of a histogram's buckets, ascending, without +Inf. Default: Prometheus' own, 0.005 … 10.
    pub buckets: Option<Located<Vec<f64>>>,
    /// Most series of this metric; more go to `_other_`. Default 2,000.
    pub max_series: Option<NonZeroUsize>,
}

/// The type of a metric, as Prometheus has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

impl Config {
    /// Builds the metric against the schema of the rows that it will observe. Names that clash between metrics are
    /// for [`check_names`] to find.
    ///
    /// # Errors
    /// Every mistake of the metric, each at its place.
    pub fn build(&self, schema: &Schema, compiler: &Compiler) -> Result<Plan, Vec<Problem>> {
        plan::build(self, schema, compiler)
    }
}
