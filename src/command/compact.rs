//! `headrig compact`: makes large files of an archive's small ones.

use super::report::{self, Hinted};
use super::upkeep::{Shown, show};
use crate::archive::{self, CompactConfig, Round};
use crate::limits;
use crate::time::Span;
use crate::time::clock::Clock;
use crate::units::ByteSize;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;

/// `headrig compact`
#[derive(Debug, clap::Args)]
#[command(
    after_help = "A daemon does this by itself (`archive.compact`). May run beside one: of two that write the same file, one throws \
                        its work away.\n\nExit code: 0 done, 1 when the archive cannot be read or written."
)]
pub(super) struct Args {
    /// The archive: a folder, or a URL as in `archive.url`.
    archive: String,
    /// Says what would be done, and does nothing.
    #[arg(long)]
    dry_run: bool,
    /// Only this pipeline's files. Default: those of all.
    #[arg(long)]
    pipeline: Option<String>,
    /// Small files of one folder that make it worth it.
    #[arg(long, default_value = "2")]
    files: NonZeroUsize,
    /// Bytes of the files that they become.
    #[arg(long, default_value = "256MB")]
    size: ByteSize,
    /// How long no seal must have touched the folder.
    #[arg(long, default_value_t = CompactConfig::default().after)]
    after: Span,
    /// How long replaced files are kept.
    #[arg(long, default_value_t = CompactConfig::default().grace)]
    grace: Span,
    /// Zstandard level of the files that they become.
    #[arg(long, default_value_t = CompactConfig::default().level, value_parser = clap::value_parser!(i32).range(1..=22))]
    level: i32,
    /// Bytes of memory that sorting may take.
    #[arg(long, default_value = "64MB")]
    memory: ByteSize,
    /// Where files are written when the archive is in a bucket.
    #[arg(long, value_name = "DIR", env = "HEADRIG_DATA_DIR", default_value = "./headrig-data")]
    data_dir: PathBuf,
}

pub(super) fn run(args: &Args, clock: &dyn Clock) -> anyhow::Result<ExitCode> {
    let failed = |error: archive::ArchiveError| anyhow::Error::new(Hinted::new(&error, error.hint()));
    let round = Round {
        dry_run: args.dry_run,
        now: clock.now(),
        trust_clock: false,
        scratch: args.data_dir.clone(),
        memory_bytes: args.memory.0.max(limits::LEAST_UPKEEP_BYTES),
    };
    let (files, size, after, grace, level) = (args.files, args.size, args.after, args.grace, args.level);
    let config = CompactConfig { files, size, after, grace, level, ..CompactConfig::default() };
    let all = archive::pipelines(&args.archive).map_err(failed)?;
    if let Some(missing) = args.pipeline.as_ref().filter(|wanted| !all.contains(wanted)) {
        anyhow::bail!(Hinted::new(
            &format!("cannot find pipeline {missing} in {}", args.archive),
            Some(format!("there are: {}", all.join(", ")))
        ));
    }
    let mut shown = Shown::default();
    for pipeline in all.iter().filter(|name| args.pipeline.as_ref().is_none_or(|wanted| wanted == *name)) {
        archive::compact(&args.archive, pipeline, &config, &round, &mut |step| show(&mut shown, &step))
            .map_err(failed)?;
    }
    shown.sum(args.dry_run)?;
    if shown.is_empty() {
        report::line("  nothing to do: no folder has small files that no seal has touched lately");
    }
    Ok(ExitCode::SUCCESS)
}
