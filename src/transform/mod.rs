//! Transforms: pure, synchronous steps over whole batches of events, in the order of the pipeline file.
//!
//! A step is built once, against the schema that the steps before it leave, and then applied to every batch on the
//! pipeline's own thread. It never blocks, reads no clock and keeps nothing between batches. What it takes out and
//! what it cannot compute it counts in [`TransformCounts`]: a value that an expression cannot compute becomes null, a
//! row whose filter cannot be computed stays.
//!
//! The columns of [`FIXED`] belong to the engine: no step changes them.

mod attributes;
mod drop;
mod filter;
mod mask;
mod pattern;
mod set;
#[cfg(test)]
mod tests;

use crate::expression::Compiler;
use crate::place::{Entries, Located, Problem};
use crate::record::event::EventBatch;
use crate::record::schema::Schema;
use schemars::JsonSchema;
use serde::Deserialize;

/// Columns that cannot be set or dropped: event time and its origin, and what the schema has no column for.
/// `attributes` may be masked.
pub const FIXED: [&str; 4] = ["ts", "ts_source", "ingest_ts", "attributes"];

/// One step, built. It may be used from any thread.
pub trait Transform: Send + Sync + std::fmt::Debug {
    /// Applies the step to a batch of the schema that it was built against, and adds to `counts`.
    fn apply(&self, batch: EventBatch, counts: &mut TransformCounts) -> EventBatch;

    /// The columns from whose values others are computed or rows are chosen. A step that only changes or removes a column
    /// reads nothing: whether the column is needed is up to those behind it.
    fn reads(&self) -> Vec<&str> {
        Vec::new()
    }
}

/// What a step did that must not stay unsaid.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TransformCounts {
    /// Rows that a filter took out.
    pub dropped: u64,
    /// Values or conditions that an expression could not compute, and JSON that a mask broke.
    pub failed: u64,
}

/// A built step, and the schema that it leaves behind.
pub type Built = (Box<dyn Transform>, Schema);

/// One step, as written: `- filter: status >= 500`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Config {
    /// Keeps the rows for which the condition is true.
    Filter(Located<String>),
    /// Computes columns: each name gets the value of its expression. Expressions see the columns from before the step.
    Set(Entries<Located<String>>),
    /// Removes columns.
    Drop(Vec<Located<String>>),
    /// Makes a column's values unrecognisable.
    Mask(MaskConfig),
}

impl Config {
    /// Builds the step against the schema in front of it.
    ///
    /// # Errors
    /// Every mistake of the step, each at its place.
    pub fn build(&self, schema: &Schema, compiler: &Compiler) -> Result<Built, Vec<Problem>> {
        match self {
            Self::Filter(condition) => filter::build(condition, schema, compiler),
            Self::Set(entries) => set::build(entries, schema, compiler),
            Self::Drop(columns) => drop::build(columns, schema),
            Self::Mask(config) => mask::build(config, schema),
        }
    }
}

/// `mask: { column: client_ip, with: ip_prefix }`
///
/// Values of the column that `attributes` keeps, because they are of another type or stood under a second key, become
/// null there. Texts (`message`) and dead letters are not searched.
///
/// Its `Debug` form leaves the key out.
#[derive(Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MaskConfig {
    /// A text column; `regex` and `redact` also take JSON, as in `attributes`.
    pub column: Located<String>,
    pub with: MaskMethod,
    /// For `hash`: the key (HMAC-SHA-256), at least 16 bytes; from the environment, as in `${MASK_KEY}`.
    pub key: Option<Located<String>>,
    /// For `regex`: what to replace.
    pub pattern: Option<Located<String>>,
    /// For `regex`, `redact` and `ip_prefix` (of what is no address): what to put there; with `regex`, `$1` is the
    /// first group of `pattern`. Default `[redacted]`; null where `redact` meets JSON.
    pub replacement: Option<String>,
}

/// How a mask works.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MaskMethod {
    /// A keyed hash: equal values stay equal, nobody without the key can tell which they are.
    Hash,
    /// The network of an IP address: /24 of IPv4, /48 of IPv6. What is no address is redacted.
    IpPrefix,
    /// Replaces what a pattern matches.
    Regex,
    /// Replaces the whole value.
    Redact,
}
