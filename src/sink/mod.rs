//! Receivers of alert events, one file each.
//!
//! Each receiver has a task and a bounded queue of its own, so that a slow one delays nobody else. `deliver` returns
//! when the receiver has taken the events; until then they count as not delivered.

use crate::place::Located;
use schemars::JsonSchema;
use serde::Deserialize;

/// A receiver, as written in `notify:`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(tag = "type")]
pub enum Config {
    /// JSON lines on standard output; a readable line each where that is a terminal.
    Stdout(StdoutConfig),
    /// JSON lines appended to a file.
    File(FileConfig),
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StdoutConfig {}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FileConfig {
    /// The file; made where it doesn't exist, appended to where it does.
    pub path: Located<String>,
}

/// One entry of `route:`. The first whose labels all match decides; no entry means every receiver.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Labels that an alert must have, with exactly these values. Empty: every alert.
    #[serde(default, rename = "match")]
    pub matching: std::collections::BTreeMap<String, String>,
    /// Names of receivers in `notify:`.
    pub to: Vec<Located<String>>,
}
