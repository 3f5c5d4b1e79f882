//! `headrig verify`: proves from the archive alone that each position is there exactly once.

use super::report::{self, Format, Hinted};
use crate::archive::{self, Look, Report};
use anyhow::Context;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

/// `headrig verify`
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Looks at claims, seals, the names and lengths of all files and their footers; with --deep, at every row. \
                        Writes nothing, and may run beside the daemon.\n\n\
                        Exit code: 0 when the archive is clean, 1 when something is wrong or it cannot be read."
)]
pub(super) struct Args {
    /// The archive: a folder or file:///… URL, as in `archive.url`.
    archive: String,
    /// Reads all rows.
    #[arg(long)]
    deep: bool,
    /// Reads all bytes and proves the chain of hashes of an archive with `audit: true`; names the first break.
    #[arg(long)]
    audit: bool,
    /// How the result is printed.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// Files between two lines of progress on a terminal.
const STEP: u64 = 64;

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let shows = io::stderr().is_terminal();
    let progress = |done: u64, total: u64| {
        if shows && (done.is_multiple_of(STEP) || done == total) {
            // The next line is written over this one.
            let _ = write!(io::stderr(), "\r{done} of {total} files{}", if done == total { "\n" } else { "" });
        }
    };
    let found = archive::verify(&args.archive, Look { deep: args.deep, audit: args.audit }, progress)
        .map_err(|error| anyhow::Error::new(Hinted::new(&error, error.hint())))?;
    let text = match args.format {
        Format::Text => text(&found),
        Format::Json => serde_json::to_string_pretty(&found).context("cannot write the result")? + "\n",
    };
    io::stdout().write_all(text.as_bytes()).context("cannot write to standard output")?;
    if !found.findings.is_empty() && args.format == Format::Text {
        report::line("  hint: docs/archive.md says what each of these means and what to do");
    }
    Ok(if found.findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn text(report: &Report) -> String {
    let mut lines = Vec::new();
    for pipeline in &report.pipelines {
        let rows: Vec<String> = pipeline.rows.iter().map(|(table, rows)| format!("{rows} in {table}")).collect();
        lines.push(format!(
            "pipeline {}: {} records of {} partitions in {} entries of {} chains; {} filtered out; rows: {}; {} files, {} bytes",
            pipeline.pipeline,
            pipeline.records,
            pipeline.partitions,
            pipeline.entries,
            pipeline.chains,
            pipeline.filtered,
            if rows.is_empty() { "none".to_owned() } else { rows.join(", ") },
            pipeline.files,
            pipeline.bytes,
        ));
        if pipeline.replaced > 0 {
            let expired: Vec<String> =
                pipeline.expired.iter().map(|(table, rows)| format!("{rows} rows of {table}")).collect();
            let expired = if expired.is_empty() { "nothing".to_owned() } else { expired.join(", ") };
            lines.push(format!(
                "pipeline {}: {} sealed files were replaced by others or have expired ({expired})",
                pipeline.pipeline, pipeline.replaced
            ));
        }
    }
    lines.extend(report.notes.iter().map(|note| format!("note: {note}")));
    for finding in &report.findings {
        let flaw = serde_json::to_value(finding.flaw).ok().and_then(|flaw| flaw.as_str().map(str::to_owned));
        let flaw = flaw.unwrap_or_default().replace('_', " ");
        let pipeline =
            if finding.pipeline.is_empty() { String::new() } else { format!("pipeline {}: ", finding.pipeline) };
        lines.push(format!("{flaw}: {pipeline}{}", finding.detail));
    }
    lines.push(match report.findings.len() {
        0 => "clean: every position is there exactly once".to_owned(),
        1 => "1 flaw".to_owned(),
        many => format!("{many} flaws"),
    });
    lines.iter().map(|line| format!("{line}\n")).collect()
}
