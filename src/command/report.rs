//! What is said to people on stderr.

use std::fmt::Display;
use std::io::{self, Write};

/// How a command prints its result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    Text,
    Json,
}

/// An error with its remedy, for `anyhow` to carry up.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(super) struct Hinted {
    message: String,
    hint: Option<String>,
}

impl Hinted {
    pub(super) fn new(error: &dyn Display, hint: Option<String>) -> Self {
        Self { message: error.to_string(), hint }
    }
}

/// Prints an error, what caused it, and its hint where it has one.
pub(super) fn error(error: &anyhow::Error) {
    let causes: Vec<String> = error.chain().skip(1).map(|cause| format!(": {cause}")).collect();
    line(&format!("error: {error}{}", causes.concat()));
    if let Some(hint) = error.chain().find_map(|e| e.downcast_ref::<Hinted>()).and_then(|h| h.hint.as_ref()) {
        line(&format!("  hint: {hint}"));
    }
}

/// One line on stderr. When even that fails there is nobody left to tell.
pub(super) fn line(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}
