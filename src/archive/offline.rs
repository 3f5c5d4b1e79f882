//! Upkeep at a word of command: one round over an archive, or only what it would be.

use super::caretaker::Care;
use super::compact::Job;
use super::retain::{self, Fate};
use super::staging::StagedFile;
use super::upkeep::{Done, Upkeep, store_at, store_with};
use super::{ArchiveError, CompactConfig, Kind, RetainConfig, StoreConfig};
use crate::time::EventTime;
use std::path::PathBuf;

/// How a round is done.
#[derive(Debug, Clone)]
pub struct Round {
    /// Only says what would be done.
    pub dry_run: bool,
    pub now: EventTime,
    /// Retention goes by `now` though the archive knows of nothing near it.
    pub trust_clock: bool,
    /// Where files are written when the archive is a bucket.
    pub scratch: PathBuf,
    pub memory_bytes: u64,
}

/// One thing that was done, or would be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    pub pipeline: String,
    /// `compact`, `expire` or `cool`.
    pub act: &'static str,
    pub table: Kind,
    pub folder: String,
    pub files: u64,
    pub rows: u64,
    pub bytes: u64,
    /// Times of the first and the last row.
    pub oldest: EventTime,
    pub newest: EventTime,
    /// `None` where it was not done.
    pub done: Option<Done>,
}

fn step(pipeline: &str, act: &'static str, files: &[StagedFile]) -> Step {
    let least = files.iter().map(|file| file.min_us).min().unwrap_or(0);
    let largest = files.iter().map(|file| file.max_us).max().unwrap_or(0);
    Step {
        pipeline: pipeline.to_owned(),
        act,
        table: files.first().map_or(Kind::Data, |file| file.kind),
        folder: files.first().map_or("", |file| file.folder()).to_owned(),
        files: files.len() as u64,
        rows: files.iter().map(|file| file.rows).sum(),
        bytes: files.iter().map(|file| file.bytes).sum(),
        oldest: EventTime::from_micros(least),
        newest: EventTime::from_micros(largest),
        done: None,
    }
}

/// The pipelines that have something in the archive at `url`.
///
/// # Errors
/// When there is no archive, or it cannot be listed.
pub fn pipelines(url: &str) -> Result<Vec<String>, ArchiveError> {
    let names: Vec<String> =
        store_at(url)?.list("_headrig")?.into_iter().filter(|name| !name.starts_with('.')).collect();
    if names.is_empty() { Err(ArchiveError::None { path: url.into() }) } else { Ok(names) }
}

/// Makes large files of the small ones of one pipeline, or finds out which; tells `report` of each.
///
/// # Errors
/// When the archive cannot be read or written, or another headrig is at it. What was done by then is done; what stands in the way
/// of one folder doesn't stand in that of others, and the first such error comes last.
pub fn compact(
    url: &str,
    pipeline: &str,
    config: &CompactConfig,
    round: &Round,
    report: &mut dyn FnMut(Step),
) -> Result<(), ArchiveError> {
    let mut upkeep = open((url, None), pipeline, round)?;
    begin(&mut upkeep, pipeline, round)?;
    let mut failed = None;
    for job in upkeep.jobs(config, round.now) {
        let mut step = step(pipeline, "compact", &job.files);
        if !round.dry_run {
            match upkeep.compact(&job, round.now, &|| true) {
                Ok(done) => step.done = Some(done.ok_or_else(|| busy(pipeline))?),
                Err(error) => {
                    failed.get_or_insert(error);
                    // Where the change was put before it failed, it is finished here.
                    begin(&mut upkeep, pipeline, round)?;
                    continue;
                }
            }
        }
        report(step);
    }
    if !round.dry_run {
        upkeep.sweep(config.grace, round.now)?;
    }
    failed.map_or(Ok(()), Err)
}

/// Lets go what is old, or finds out what that is; tells `report` of each partition.
///
/// # Errors
/// As [`compact`], and when the clock cannot be believed.
pub fn retain(care: &Care, round: &Round, report: &mut dyn FnMut(Step)) -> Result<(), ArchiveError> {
    let mut upkeep =
        open((&care.url, care.store.as_ref()), &care.pipeline, round)?.with_audit(care.audit).with_logs(care.logs);
    begin(&mut upkeep, &care.pipeline, round)?;
    if !round.trust_clock {
        retain::believe(upkeep.files(), round.now)?;
    }
    for due in upkeep.due(&care.retain, round.now) {
        let cold = care.retain.of(due.kind).and_then(|keep| keep.cold.as_ref());
        let jobs: Vec<(Job, Option<&super::ColdConfig>)> = match (due.fate, cold) {
            (Fate::Cool, Some(cold)) => {
                due.jobs(care.compact.size.0, cold.level.value).into_iter().map(|job| (job, Some(cold))).collect()
            }
            _ => vec![(Job { folder: String::new(), files: due.files.clone(), level: 1 }, None)],
        };
        for (job, cold) in jobs {
            let mut step = step(&care.pipeline, if cold.is_some() { "cool" } else { "expire" }, &job.files);
            if !round.dry_run {
                let done = match cold {
                    Some(cold) => upkeep.cool(&job, cold, round.now, &|| true)?,
                    None => upkeep.expire(&due, round.now)?,
                };
                step.done = Some(done.ok_or_else(|| busy(&care.pipeline))?);
            }
            report(step);
        }
    }
    if !round.dry_run {
        upkeep.sweep(care.compact.grace, round.now)?;
    }
    Ok(())
}

impl Care {
    /// As [`super::Config::care`] of a pipeline file, for an archive alone.
    pub fn of_archive(url: &str, pipeline: &str, retain: RetainConfig, memory_bytes: u64) -> Self {
        Self {
            url: url.to_owned(),
            store: None,
            pipeline: pipeline.to_owned(),
            compact: CompactConfig::default(),
            wanted: true,
            retain,
            audit: false,
            logs: true,
            data_dir: PathBuf::new(),
            memory_bytes,
        }
    }
}

fn open(place: (&str, Option<&StoreConfig>), pipeline: &str, round: &Round) -> Result<Upkeep, ArchiveError> {
    // First: nothing is made where no archive is.
    if store_with(place.0, place.1)?.list(&format!("_headrig/{pipeline}"))?.is_empty() {
        return Err(ArchiveError::None { path: place.0.into() });
    }
    Upkeep::open(place, pipeline, &round.scratch, round.memory_bytes, round.now)
}

fn begin(upkeep: &mut Upkeep, pipeline: &str, round: &Round) -> Result<(), ArchiveError> {
    if round.dry_run {
        upkeep.refresh()
    } else if upkeep.take(round.now)? {
        Ok(())
    } else {
        Err(busy(pipeline))
    }
}

fn busy(pipeline: &str) -> ArchiveError {
    ArchiveError::Busy { pipeline: pipeline.to_owned() }
}
