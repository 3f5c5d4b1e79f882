//! `headrig schema`: the JSON Schema of the pipeline file, for editors and scripts.

use crate::config;
use anyhow::Context;
use std::io::{self, Write};
use std::process::ExitCode;

/// `headrig schema`
#[derive(Debug, clap::Args)]
#[command(after_help = "Editors use it for completion: put this line at the top of a pipeline file:\n  \
                        # yaml-language-server: $schema=pipeline.schema.json")]
pub(super) struct Args {}

pub(super) fn run(_: &Args) -> anyhow::Result<ExitCode> {
    let text = serde_json::to_string_pretty(&config::json_schema()).context("cannot write the schema")?;
    writeln!(io::stdout(), "{text}").context("cannot write to standard output")?;
    Ok(ExitCode::SUCCESS)
}
