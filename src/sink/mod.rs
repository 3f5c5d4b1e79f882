//! Receivers of alert events, one file each.
//!
//! Each receiver has a task and a bounded queue of its own, so that a slow one delays nobody else. `deliver` returns
//! when the receiver has taken the events; until then they count as not delivered. Nothing is delivered when a sink is
//! dropped, and an error leaves open how many of the events have arrived: they are all delivered again, and their ids
//! tell receivers so.

mod error;
mod file;
mod readable;
mod route;
mod stdout;

pub use error::SinkError;
pub use route::route;

use crate::place::{Located, Problem};
use crate::record::alert::AlertEvent;
use futures::future::BoxFuture;
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

/// A receiver, connected. Owned by one task.
pub trait Sink: Send + std::fmt::Debug {
    /// Hands over `events`, in order; when it returns, the receiver has them.
    fn deliver<'a>(&'a mut self, events: &'a [AlertEvent]) -> BoxFuture<'a, Result<(), SinkError>>;
}

impl Config {
    /// All mistakes in this configuration; looks at nothing else.
    pub fn check(&self) -> Vec<Problem> {
        match self {
            Self::Stdout(_) => Vec::new(),
            Self::File(config) => config.check(),
        }
    }

    /// Tries to reach the receiver, sends nothing and leaves nothing behind. The problem is placed at the setting that says
    /// where it is.
    pub fn probe(&self) -> Option<Problem> {
        match self {
            Self::Stdout(_) => None,
            Self::File(config) => config.probe(),
        }
    }

    /// Opens what the receiver needs. Starts nothing.
    ///
    /// # Errors
    /// When a file cannot be opened or written.
    pub fn connect(&self) -> Result<Box<dyn Sink>, SinkError> {
        match self {
            Self::Stdout(_) => Ok(Box::new(stdout::Stdout::connect())),
            Self::File(config) => Ok(Box::new(file::File::connect(config)?)),
        }
    }
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
