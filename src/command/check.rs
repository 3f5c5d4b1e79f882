//! `headrig check`: every mistake of every file, with its place and its remedy, also against the archive where that is a local folder;
//! with `--connect` also what cannot be reached.

use super::load::PipelineFile;
use super::report::Format;
use super::{EXIT_CONFIG, report};
use crate::archive::Compared;
use crate::config::render::Severity;
use crate::config::{self, Role};
use crate::place::Problem;
use crate::source::Setting;
use crate::telemetry::metrics::SelfMetrics;
use crate::time::clock::{Clock, SystemClock};
use anyhow::Context;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

/// `headrig check`
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit code: 0 when all files are sound, also with warnings; 78 when one is not.")]
pub(super) struct Args {
    /// Pipeline files.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Also tries sources, receivers and the archive of files that are sound: names, ports, logins, TLS, topics, folders. Reads no record, sends
    /// nothing and leaves nothing behind: an object that is put in the archive's bucket is removed again.
    #[arg(long)]
    connect: bool,
    /// How mistakes are printed: text on stderr, or one JSON array on stdout.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

pub(super) fn run(args: &Args, clock: SystemClock) -> anyhow::Result<ExitCode> {
    let clock: Arc<dyn Clock> = Arc::new(clock);
    let mut found = Vec::new();
    let mut sound = true;
    for path in &args.files {
        let file = PipelineFile::read(path)?;
        match file.plan() {
            Ok(plan) => {
                let Compared { mut refused, mut noted } = compared(&plan, args.connect);
                if args.connect {
                    let unreachable = unreachable_parts(&plan, &clock);
                    // What can't be reached is told once.
                    let is_told =
                        |told: &Problem, problem: &Problem| (told.place, &told.hint) == (problem.place, &problem.hint);
                    refused.retain(|problem| !unreachable.iter().any(|told| is_told(told, problem)));
                    refused.splice(..0, unreachable);
                }
                if refused.is_empty() && args.format == Format::Text {
                    report::line(&format!("{}: {}", file.name(), summary(&plan, args.connect)));
                }
                sound &= refused.is_empty();
                found.push((file.name(), Severity::Error, refused));
                noted.splice(..0, plan.notes);
                found.push((file.name(), Severity::Warning, noted));
            }
            Err(problems) => {
                sound = false;
                found.push((file.name(), Severity::Error, problems));
            }
        }
    }
    found.retain(|(_, _, problems)| !problems.is_empty());
    match args.format {
        Format::Text => {
            for (name, severity, problems) in &found {
                let lines = match severity {
                    Severity::Error => config::render::text(name, problems),
                    Severity::Warning => config::render::warnings(name, problems),
                };
                report::line(lines.trim_end());
            }
        }
        Format::Json => {
            let all = found.iter().map(|(name, severity, problems)| (name.as_str(), *severity, problems.as_slice()));
            let all = config::render::json(all);
            let text = serde_json::to_string_pretty(&all).context("cannot write the result")?;
            writeln!(io::stdout(), "{text}").context("cannot write to standard output")?;
        }
    }
    Ok(if sound { ExitCode::SUCCESS } else { ExitCode::from(EXIT_CONFIG) })
}

/// Everything that the plan names and that cannot be reached.
fn unreachable_parts(plan: &config::Plan, clock: &Arc<dyn Clock>) -> Vec<Problem> {
    let telemetry = SelfMetrics::new();
    // Nothing is written below it by a probe.
    let data_dir = std::env::temp_dir();
    let setting = Setting {
        pipeline: &plan.pipeline,
        data_dir: &data_dir,
        archived: plan.archive.is_some(),
        instance: None,
        telemetry: &telemetry,
    };
    let sources = plan.sources.iter().filter_map(|(name, source)| source.probe(name, Arc::clone(clock), &setting));
    let archive = plan.archive.iter().filter_map(|archive| archive.probe(&plan.pipeline));
    let receivers = plan.notify.iter().filter_map(|(_, receiver)| receiver.probe());
    let shared = match &plan.role {
        Role::Gather(repartition) => repartition.probe(clock.as_ref()),
        Role::Alone | Role::Merge { .. } => None,
    };
    sources.chain(archive).chain(receivers).chain(shared).collect()
}

/// How the columns go with those that the archive has. A bucket is asked only where things may be asked, and whether it can be read is
/// another question.
fn compared(plan: &config::Plan, connect: bool) -> Compared {
    let Some(archive) = plan.archive.as_ref().filter(|archive| connect || archive.is_local()) else {
        return Compared::default();
    };
    let windows: Vec<_> = plan.windows.iter().map(crate::window::Plan::schema).collect();
    archive.compare(&plan.schema, &windows).unwrap_or_else(|error| {
        let mut problem = archive.url.problem(error.to_string());
        problem.hint = error.hint();
        Compared { refused: vec![problem], noted: Vec::new() }
    })
}

fn summary(plan: &config::Plan, reached: bool) -> String {
    let deprecated = plan.schema.columns.iter().filter_map(|column| {
        Some(match &column.deprecated.as_ref()?.instead {
            Some(instead) => format!("{} (use {instead})", column.name),
            None => column.name.clone(),
        })
    });
    let deprecated: Vec<String> = deprecated.collect();
    let deprecated = match deprecated.is_empty() {
        true => String::new(),
        false => format!("; deprecated columns: {}", deprecated.join(", ")),
    };
    format!(
        "sound{}: pipeline {} with {} sources, {} transforms, {} metrics, {} windows, {} alerts{deprecated}",
        if reached { ", and all of it can be reached" } else { "" },
        plan.pipeline,
        plan.sources.len(),
        plan.transforms.len(),
        plan.metrics.len(),
        plan.windows.len(),
        plan.alerts.len() + plan.absences.len()
    )
}
