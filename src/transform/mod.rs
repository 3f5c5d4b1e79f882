//! Transforms: pure, synchronous steps over whole batches of events, in the order of the pipeline file.
//!
//! A step is built once, against the schema that the steps before it leave, and then applied to every batch on the
//! pipeline's own thread. It never blocks, reads no clock and keeps nothing between batches. Rows that it takes out
//! are counted by the caller; a value that an expression cannot compute becomes null and is counted.

use crate::place::{Entries, Located};
use schemars::JsonSchema;
use serde::Deserialize;

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

/// `mask: { column: client_ip, with: ip_prefix }`
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MaskConfig {
    /// A text column.
    pub column: Located<String>,
    pub with: MaskMethod,
    /// For `hash`: the key (HMAC-SHA-256), at least 16 bytes; from the environment, as in `${MASK_KEY}`.
    pub key: Option<Located<String>>,
    /// For `regex`: what to replace.
    pub pattern: Option<Located<String>>,
    /// For `regex` and `redact`: what to put there; `$1` is the first group of `pattern`. Default `[redacted]`.
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
