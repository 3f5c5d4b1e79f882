//! Which files of an archive are old enough to go, and where to. Pure: the time of day is an argument.
//!
//! A file's age is counted from the end of its partition, which the folder's name says: `date=2026-05-06` ends at midnight,
//! with `hour=05` behind it at 06:00. So a partition goes as a whole. What has no date (a row without a usable one) stays.

use super::compact::Job;
use super::staging::StagedFile;
use super::table::Kind;
use super::{ArchiveError, KeepConfig, RetainConfig};
use crate::limits;
use crate::time::{EventTime, Span};
use std::collections::BTreeMap;

const DAY: Span = Span::from_secs(86_400);
const HOUR: Span = Span::from_secs(3_600);

/// What is to happen to files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    /// They are deleted.
    Expire,
    /// They are written again, smaller, in another place.
    Cool,
}

/// Files of one partition of one table that are due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Due {
    pub(crate) kind: Kind,
    pub(crate) fate: Fate,
    /// When their partition ended.
    pub(crate) end: EventTime,
    pub(crate) files: Vec<StagedFile>,
}

impl Due {
    /// The files by folder, each job of at most `size` bytes but for a single file; they are written with zstd's `level`.
    pub(crate) fn jobs(&self, size: u64, level: i32) -> Vec<Job> {
        let mut files = self.files.clone();
        files.sort_by(|a, b| (a.folder(), a.min_us, &a.path).cmp(&(b.folder(), b.min_us, &b.path)));
        let mut jobs: Vec<Job> = Vec::new();
        for file in files {
            let fits = |job: &&mut Job| job.folder == file.folder() && job.bytes() + file.bytes <= size;
            match jobs.last_mut().filter(fits) {
                Some(job) => job.files.push(file),
                None => jobs.push(Job { folder: file.folder().to_owned(), files: vec![file], level }),
            }
        }
        jobs
    }
}

/// What is due of `files`, all that count, at the time `now`; the oldest first.
pub(crate) fn plan<'f>(
    files: impl IntoIterator<Item = &'f StagedFile>,
    config: &RetainConfig,
    now: EventTime,
) -> Vec<Due> {
    let mut due: BTreeMap<(EventTime, Kind, Fate), Vec<StagedFile>> = BTreeMap::new();
    for file in files {
        let Some((end, fate)) = config.of(file.kind).and_then(|keep| fate(file, keep, now)) else { continue };
        due.entry((end, file.kind, fate)).or_default().push(file.clone());
    }
    due.into_iter().map(|((end, kind, fate), files)| Due { kind, fate, end, files }).collect()
}

fn fate(file: &StagedFile, keep: &KeepConfig, now: EventTime) -> Option<(EventTime, Fate)> {
    let end = end(&file.path)?;
    let age = now - end;
    match &keep.cold {
        Some(cold) if age >= cold.keep.value => Some((end, Fate::Expire)),
        // Only Parquet is written again; lines of the time before stay until they expire.
        Some(_) if age >= keep.keep.value && file.cold.is_none() && file.is_parquet() => Some((end, Fate::Cool)),
        None if age >= keep.keep.value => Some((end, Fate::Expire)),
        _ => None,
    }
}

/// When the partition ends that a path names; `None` where it names none.
fn end(path: &str) -> Option<EventTime> {
    let value = |name: &str| path.split('/').find_map(|part| part.strip_prefix(name)?.strip_prefix('='));
    let date: jiff::civil::Date = value("date")?.parse().ok()?;
    let start = date.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp().as_microsecond();
    let start = EventTime::from_micros(start);
    Some(match value("hour") {
        Some(hour) => start + Span::from_micros((hour.parse::<i64>().ok()? + 1) * HOUR.micros()),
        None => start + DAY,
    })
}

/// Whether the clock can be believed: nothing is deleted by one that is far ahead of what the archive knows, its newest seal and
/// its newest row. A clock that is years ahead makes new seals that are years ahead, too; but not the records' own times.
pub(crate) fn believe<'f>(files: impl IntoIterator<Item = &'f StagedFile>, now: EventTime) -> Result<(), ArchiveError> {
    let (mut sealed, mut row) = (None, None);
    for file in files {
        sealed = sealed.max(file.sealed_us);
        row = row.max(Some(file.max_us));
    }
    for (what, newest) in [("seal", sealed), ("row", row)] {
        let newest = newest.map(EventTime::from_micros);
        if let Some(newest) = newest.filter(|newest| now - *newest > limits::RETAIN_AHEAD) {
            return Err(ArchiveError::Clock { now, newest, what });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::compact::tests::{NOW, file};
    use super::*;
    use crate::archive::ColdConfig;
    use crate::place::Located;

    fn days(days: i64) -> Located<Span> {
        Located::nowhere(Span::from_secs(days * 86_400))
    }

    fn check(files: &[StagedFile], keep: i64, cold: Option<i64>, now: EventTime) -> Vec<(String, Fate)> {
        let cold = cold.map(|keep| ColdConfig {
            url: Located::nowhere("s3://cold".to_owned()),
            keep: days(keep),
            level: ColdConfig::default_level(),
        });
        let keep = KeepConfig { keep: days(keep), cold };
        let config = RetainConfig { data: Some(keep), ..RetainConfig::default() };
        let due = plan(files, &config, now);
        due.into_iter().flat_map(|due| due.files.into_iter().map(move |file| (file.path, due.fate))).collect()
    }

    /// NOW is in the morning of 2026-05-06.
    #[test]
    fn a_partition_goes_when_its_end_is_old_enough() {
        let paths = [
            "data/date=2026-05-04/a",
            "data/date=2026-05-05/hour=04/a",
            "data/date=2026-05-05/hour=05/a",
            "data/date=__HIVE_DEFAULT_PARTITION__/a",
            "data/app=x/date=2026-05-03/a",
            "dead/date=2026-01-01/a",
        ];
        let mut files: Vec<StagedFile> = paths.iter().map(|path| file(path, 1, 0)).collect();
        files[5].kind = Kind::Dead;
        let expired =
            |indices: &[usize]| indices.iter().map(|i| (paths[*i].to_owned(), Fate::Expire)).collect::<Vec<_>>();
        assert_eq!(check(&files, 1, None, NOW), expired(&[4, 0, 1]), "the dead letters are kept for ever");
        assert_eq!(check(&files, 2, None, NOW), expired(&[4]));
        assert_eq!(check(&files, 3, None, NOW), []);
        assert_eq!(
            check(&files, 1, Some(2), NOW)[..2],
            [(paths[4].to_owned(), Fate::Expire), (paths[0].to_owned(), Fate::Cool)]
        );
        files[0].cold = Some("s3://cold".to_owned());
        assert!(!check(&files, 1, Some(2), NOW).iter().any(|due| due.0 == paths[0]), "it is there already");
        assert!(check(&files, 1, Some(2), NOW + DAY).contains(&(paths[0].to_owned(), Fate::Expire)));
    }

    #[test]
    fn a_clock_that_is_years_ahead_is_not_believed() {
        let mut newest = file("data/date=2026-05-06/a", 1, 0);
        newest.max_us = NOW.micros();
        let later = |days: i64| NOW + Span::from_secs(days * 86_400);
        assert!(believe([&newest], later(7)).is_ok());
        assert!(matches!(believe([&newest], later(8)), Err(ArchiveError::Clock { what: "seal", .. })));
        // It has sealed by then; the rows still say what time it is.
        newest.sealed_us = Some(later(3_650).micros());
        assert!(matches!(believe([&newest], later(3_650)), Err(ArchiveError::Clock { what: "row", .. })));
        newest.sealed_us = None;
        assert!(believe([&newest], later(1)).is_ok());
        assert!(believe([], later(9_999)).is_ok(), "there is nothing to lose");
    }

    #[test]
    fn jobs_are_of_one_folder_and_of_a_size() {
        let files = ["data/a/1", "data/a/2", "data/b/1", "data/a/3"].map(|path| file(path, 10, 0)).to_vec();
        let due = Due { kind: Kind::Data, fate: Fate::Cool, end: NOW, files };
        let jobs: Vec<_> = due.jobs(20, 1).into_iter().map(|job| (job.folder, job.files.len())).collect();
        assert_eq!(jobs, [("data/a".to_owned(), 2), ("data/a".to_owned(), 1), ("data/b".to_owned(), 1)]);
    }
}
