//! `headrig retain`: lets old rows go, or says which would.

use super::EXIT_CONFIG;
use super::load::{self, PipelineFile};
use super::report::{self, Hinted};
use super::upkeep::{Shown, show};
use crate::archive::{self, Care, KeepConfig, Kind, RetainConfig, Round};
use crate::limits;
use crate::place::Located;
use crate::time::clock::Clock;
use crate::time::{EventTime, Span};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// `headrig retain`
#[derive(Debug, clap::Args)]
#[command(
    after_help = "A daemon does this by itself (`archive.retain`). A partition goes when its end is as old as is said; of an \
                        archive without its pipeline file, `--keep data=90d --keep windows=365d` says it.\n\n\
                        Exit code: 0 done, 78 bad configuration, 1 when the archive cannot be read or written, or the clock not be believed."
)]
pub(super) struct Args {
    /// A pipeline file (.yaml), or an archive.
    target: String,
    /// Says what would go, and does nothing.
    #[arg(long)]
    dry_run: bool,
    /// How long a table's rows are kept, as in data=90d; for an archive.
    #[arg(long, value_name = "TABLE=DURATION", value_parser = keep)]
    keep: Vec<(Kind, Span)>,
    /// Only this pipeline of an archive. Default: all.
    #[arg(long)]
    pipeline: Option<String>,
    /// Takes this time for now, as in 2026-11-21T00:00:00Z.
    #[arg(long, value_parser = time)]
    now: Option<EventTime>,
    /// Goes by the clock though the archive has nothing of its last week.
    #[arg(long)]
    trust_clock: bool,
    /// Where files are written when the archive is in a bucket.
    #[arg(long, value_name = "DIR", env = "HEADRIG_DATA_DIR", default_value = "./headrig-data")]
    data_dir: PathBuf,
}

fn keep(text: &str) -> Result<(Kind, Span), String> {
    let bad = || format!("cannot read {text:?}, expected a table and how long, as in data=90d");
    let (table, keep) = text.split_once('=').ok_or_else(bad)?;
    let kind = Kind::ALL.into_iter().find(|kind| kind.as_str() == table).ok_or_else(bad)?;
    Ok((kind, keep.parse().map_err(|_| bad())?))
}

fn time(text: &str) -> Result<EventTime, String> {
    let stamp: jiff::Timestamp = text.parse().map_err(|error| format!("cannot read {text:?} as a time: {error}"))?;
    Ok(EventTime::from_micros(stamp.as_microsecond()))
}

pub(super) fn run(args: &Args, clock: &dyn Clock) -> anyhow::Result<ExitCode> {
    let failed = |error: archive::ArchiveError| anyhow::Error::new(Hinted::new(&error, error.hint()));
    let Some(cares) = cares(args)? else { return Ok(ExitCode::from(EXIT_CONFIG)) };
    let round = Round {
        dry_run: args.dry_run,
        now: args.now.unwrap_or_else(|| clock.now()),
        trust_clock: args.trust_clock,
        scratch: args.data_dir.clone(),
        memory_bytes: limits::MEMORY_BYTES / 2,
    };
    let mut shown = Shown::default();
    for care in &cares {
        archive::retain(care, &round, &mut |step| show(&mut shown, &step)).map_err(failed)?;
    }
    shown.sum(args.dry_run)?;
    Ok(ExitCode::SUCCESS)
}

/// What is kept, by pipeline; `None` when the mistakes of a file have been printed.
fn cares(args: &Args) -> anyhow::Result<Option<Vec<Care>>> {
    let path = Path::new(&args.target);
    if path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml") {
        let Some(plans) = load::plans(&[PipelineFile::read(path)?]) else { return Ok(None) };
        let plan = &plans[0];
        let Some(config) = plan.archive.as_ref().filter(|archive| archive.retain.is_some()) else {
            report::line("  nothing to do: the pipeline has no `archive.retain`");
            return Ok(Some(Vec::new()));
        };
        return Ok(Some(vec![config.care(&plan.pipeline, args.data_dir.clone(), plan.limits.memory_bytes)]));
    }
    if args.keep.is_empty() {
        let hint = "name the pipeline file, or say it: `headrig retain ARCHIVE --keep data=90d`";
        anyhow::bail!(Hinted::new(&"cannot know how long to keep what is in the archive", Some(hint.to_owned())));
    }
    let mut retain = RetainConfig::default();
    for (kind, keep) in &args.keep {
        let keep = Some(KeepConfig { keep: Located::nowhere(*keep), cold: None });
        match kind {
            Kind::Data => retain.data = keep,
            Kind::Dead => retain.dead = keep,
            Kind::Windows => retain.windows = keep,
            Kind::Alerts => retain.alerts = keep,
        }
    }
    let failed = |error: archive::ArchiveError| anyhow::Error::new(Hinted::new(&error, error.hint()));
    let names = archive::pipelines(&args.target).map_err(failed)?.into_iter();
    let names = names.filter(|name| args.pipeline.as_ref().is_none_or(|wanted| wanted == name));
    Ok(Some(
        names.map(|name| Care::of_archive(&args.target, &name, retain.clone(), limits::MEMORY_BYTES / 2)).collect(),
    ))
}
