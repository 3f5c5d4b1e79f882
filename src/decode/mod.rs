//! Decoding: raw records → Arrow batches by the schema, or dead letters. Pure; the hot path of headrig.
//!
//! A record has two ways to become a row:
//!
//! - **strict**, and what all else is held to: [`Decoder`] copies it into a parser's buffer, simd-json turns the envelope
//!   into a tape (`tape`), `envelope` takes it apart, the message inside goes the same way, `fields` finds the column of
//!   each key and `row` appends the values;
//! - **by layout** (`speculate`): from records that went the strict way `learn` takes the bytes between the values,
//!   `assign` finds out once which value goes where, and `layout` keeps both, in a tree of `edge`s. A later record whose bytes are the same but
//!   for the values is compared with them, and `cut` takes the values out, with `index` telling where texts end. On any
//!   doubt it goes the strict way instead, so nobody can tell by a row which way it went.
//!
//! Nothing is allocated per record but what the columns themselves need; nothing is thrown away: a value that fits no
//! column ends in `attributes`, a record that is no row ends as a dead letter.

mod assign;
mod columns;
mod cut;
mod decoder;
mod edge;
mod envelope;
mod fields;
mod index;
mod layout;
mod learn;
mod logfmt;
mod plan;
mod row;
mod speculate;
mod swar;
mod tape;
mod timestamp;

pub use decoder::{Counts, Decoded, Decoder};
pub use plan::Plan;
pub use speculate::Speculation;
pub use timestamp::{TimeFormat, TimeFormats};

use crate::place::Located;
use crate::time::Span;
use schemars::JsonSchema;
use serde::Deserialize;

/// `decode:` as written.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// What the transport wraps around each record. Default none.
    #[serde(default)]
    pub envelope: Envelope,
    /// What the record itself is. Default auto.
    #[serde(default)]
    pub format: Format,
    /// The name of a built-in schema, or the path of a schema file. Default access.
    #[serde(default = "default_schema")]
    pub schema: Located<String>,
    /// How times are written, tried in order: `rfc3339`, `epoch` (seconds, ms, µs or ns, told apart by size) or a
    /// `strptime` pattern. Default rfc3339, then epoch.
    #[serde(default)]
    pub time_formats: Vec<Located<String>>,
    /// The IANA zone of times written without one. Default UTC.
    pub zone: Option<Located<String>>,
    /// A time further ahead of the envelope's, the broker's or the arrival's is not used. Default 5m.
    pub max_future: Option<Located<Span>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Envelope {
    /// Fly.io's JSON object, with the record as a string in `message`.
    Fly,
    #[default]
    None,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// One JSON object; anything else is a dead letter.
    Json,
    /// `key=value key="another value"`.
    Logfmt,
    /// Any text.
    Text,
    /// JSON where it is JSON, else text.
    #[default]
    Auto,
}

fn default_schema() -> Located<String> {
    Located::nowhere("access".to_owned())
}
