//! Metrics derived from events: counters, gauges and histograms by labels, with caps on their series.
//!
//! [`Config`]s are built once against the schema. The pipeline's thread observes whole batches; a scrape takes a
//! snapshot. Nothing here does I/O or reads a clock.

use crate::place::Located;
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
