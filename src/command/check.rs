//! `headrig check`: every mistake of every file, with its place and its remedy.

use super::load::PipelineFile;
use super::{EXIT_CONFIG, report};
use crate::config;
use anyhow::Context;
use clap::ValueEnum;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

/// `headrig check`
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit code: 0 when all files are sound, 78 when one is not.")]
pub(super) struct Args {
    /// Pipeline files.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// How mistakes are printed: text on stderr, or one JSON array on stdout.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let mut found = Vec::new();
    for path in &args.files {
        let file = PipelineFile::read(path)?;
        match file.plan() {
            Ok(plan) if args.format == Format::Text => report::line(&format!("{}: {}", file.name(), summary(&plan))),
            Ok(_) => {}
            Err(problems) => found.push((file.name(), problems)),
        }
    }
    match args.format {
        Format::Text => {
            for (name, problems) in &found {
                report::line(config::render::text(name, problems).trim_end());
            }
        }
        Format::Json => {
            let all = config::render::json(found.iter().map(|(name, problems)| (name.as_str(), problems.as_slice())));
            let text = serde_json::to_string_pretty(&all).context("cannot write the result")?;
            writeln!(io::stdout(), "{text}").context("cannot write to standard output")?;
        }
    }
    Ok(if found.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(EXIT_CONFIG) })
}

fn summary(plan: &config::Plan) -> String {
    format!(
        "sound: pipeline {} with {} sources, {} transforms, {} metrics, {} windows, {} alerts",
        plan.pipeline,
        plan.sources.len(),
        plan.transforms.len(),
        plan.metrics.len(),
        plan.windows.len(),
        plan.alerts.len()
    )
}
