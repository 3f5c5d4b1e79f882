//! Sources: where raw records come from, one file each.
//!
//! A source is connected (I/O, but nothing runs yet), says which partitions it has and then runs as one task until its
//! input ends or it is told to stop. It hands batches to an [`Outlet`], whose queue is bounded: when the pipeline is
//! slow, the source waits there. A source never acknowledges anything by itself; it is told what is stored.

use crate::place::Located;
use schemars::JsonSchema;
use serde::Deserialize;
use std::num::NonZeroU64;

/// A source, as written in `sources:`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(tag = "type")]
pub enum Config {
    /// Lines from standard input.
    Stdin(StdinConfig),
    /// Lines from files.
    File(FileConfig),
    /// The built-in log generator.
    Generate(GenerateConfig),
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StdinConfig {}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FileConfig {
    /// Paths or globs (`*`, `?`, `[…]`, `**`).
    pub paths: Vec<Located<String>>,
    /// Go on at the end of a file and wait for more lines and new files. Default false: a file ends at its end.
    #[serde(default)]
    pub follow: bool,
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GenerateConfig {
    /// Lines a second. Default 1,000.
    #[serde(default = "default_rate")]
    pub rate: NonZeroU64,
    /// The same seed gives the same lines.
    #[serde(default)]
    pub seed: u64,
    /// Whether errors and slow requests rise for a while, again and again.
    #[serde(default)]
    pub incident: bool,
    /// End after so many lines. Default: never.
    pub events: Option<NonZeroU64>,
}

fn default_rate() -> NonZeroU64 {
    NonZeroU64::new(1_000).expect("not zero")
}
