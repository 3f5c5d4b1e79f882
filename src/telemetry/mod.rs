//! Self-observation: log set-up and the `headrig_…` self-metrics.

pub mod logging;
pub mod metrics;
