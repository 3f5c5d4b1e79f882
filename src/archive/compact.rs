//! Which files of an archive are worth writing again as one. Pure.

use super::CompactConfig;
use super::staging::StagedFile;
use crate::time::EventTime;
use std::collections::BTreeMap;

/// A file at most so many times as large as all smaller ones together is written again with them. So a row is rewritten a
/// few times in its life, and not whenever a late one comes. The smallest has none to be measured by.
const GROWTH: u64 = 4;

/// Files below this size in bytes are always worth it.
const TINY_BYTES: u64 = 8_000_000;

/// Files of one folder that shall become one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Job {
    pub(crate) folder: String,
    /// By time.
    pub(crate) files: Vec<StagedFile>,
    /// Zstandard level of that one.
    pub(crate) level: i32,
}

impl Job {
    pub(crate) fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }
}

/// What is to be done with `files`, all that count, at the time `now`.
pub(crate) fn plan<'f>(
    files: impl IntoIterator<Item = &'f StagedFile>,
    config: &CompactConfig,
    now: EventTime,
) -> Vec<Job> {
    let mut folders: BTreeMap<&str, Vec<&StagedFile>> = BTreeMap::new();
    for file in files.into_iter().filter(|file| file.cold.is_none() && file.is_parquet()) {
        folders.entry(file.folder()).or_default().push(file);
    }
    let is_closed = |files: &[&StagedFile]| {
        // What was sealed by a version that didn't note the time is old.
        files.iter().filter_map(|file| file.sealed_us).all(|at| now - EventTime::from_micros(at) >= config.after)
    };
    let closed = folders.into_iter().filter(|(_, files)| is_closed(files));
    closed.flat_map(|(folder, files)| jobs(folder, files, config)).collect()
}

/// The jobs of one closed folder.
fn jobs(folder: &str, files: Vec<&StagedFile>, config: &CompactConfig) -> Vec<Job> {
    // What is half as large as it shall become is as it shall be.
    let mut small: Vec<&StagedFile> = files.into_iter().filter(|file| file.bytes < config.size.0 / 2).collect();
    small.sort_by(|a, b| (a.bytes, &a.path).cmp(&(b.bytes, &b.path)));
    let mut sum = 0u64;
    let worth = small.iter().position(|file| {
        let grows = sum == 0 || file.bytes <= sum.saturating_mul(GROWTH).max(TINY_BYTES);
        sum += file.bytes;
        !grows
    });
    small.truncate(worth.unwrap_or(small.len()));
    if small.len() < config.files.get() {
        return Vec::new();
    }
    small.sort_by(|a, b| (a.min_us, a.max_us, &a.path).cmp(&(b.min_us, b.max_us, &b.path)));
    let mut jobs: Vec<Job> = Vec::new();
    for file in small {
        match jobs.last_mut().filter(|job| job.bytes() + file.bytes <= config.size.0) {
            Some(job) => job.files.push(file.clone()),
            None => {
                jobs.push(Job { folder: folder.to_owned(), files: vec![file.clone()], level: config.level });
            }
        }
    }
    jobs.retain(|job| job.files.len() > 1);
    jobs
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::archive::Kind;
    use crate::time::Span;
    use crate::units::ByteSize;
    use std::num::NonZeroUsize;

    /// A file of so many bytes that was sealed `minutes` ago, one of noon's hour.
    pub(crate) fn file(path: &str, bytes: u64, minutes: i64) -> StagedFile {
        StagedFile {
            staged: format!("_headrig/p/staging/main/000000000001-{}.parquet", path.len()),
            path: path.to_owned(),
            kind: Kind::Data,
            rows: 10,
            bytes,
            min_us: path.len() as i64,
            max_us: 1_000,
            sealed_us: Some((NOW - Span::from_secs(60 * minutes)).micros()),
            digest: None,
            sha256: None,
            cold: None,
            columns: None,
        }
    }

    pub(crate) const NOW: EventTime = EventTime::from_micros(1_778_045_731_000_000);

    fn config(files: usize, size: u64) -> CompactConfig {
        CompactConfig {
            files: NonZeroUsize::new(files).unwrap(),
            size: ByteSize(size),
            after: Span::from_secs(600),
            ..CompactConfig::default()
        }
    }

    fn check(files: &[StagedFile], config: &CompactConfig) -> Vec<(String, Vec<u64>)> {
        let jobs = plan(files, config, NOW);
        jobs.into_iter().map(|job| (job.folder, job.files.iter().map(|file| file.bytes).collect())).collect()
    }

    const MB: u64 = 1_000_000;

    #[test]
    fn small_files_of_closed_folders_become_one() {
        let mut files: Vec<StagedFile> =
            (0..5).map(|number| file(&format!("data/d=1/{}", "x".repeat(number + 1)), MB, 11)).collect();
        assert_eq!(check(&files, &config(5, 256 * MB)), [("data/d=1".to_owned(), vec![MB; 5])]);
        assert_eq!(check(&files, &config(6, 256 * MB)), []);
        files.push(file("data/d=2/y", MB, 100));
        assert_eq!(check(&files, &config(2, 256 * MB)).len(), 1, "one file is one file");
        files.push(file("data/d=1/late", MB, 9));
        assert_eq!(check(&files, &config(2, 256 * MB)), [], "a seal has touched it");
        files.last_mut().unwrap().sealed_us = None;
        assert_eq!(check(&files, &config(2, 256 * MB))[0].1.len(), 6);
        files[0].cold = Some("s3://cold".to_owned());
        assert_eq!(check(&files, &config(2, 256 * MB))[0].1.len(), 5, "what was moved away stays as it is");
    }

    #[test]
    fn files_are_put_together_by_time_up_to_the_size() {
        let files: Vec<StagedFile> =
            (0..10).map(|number| file(&format!("data/d=1/{}", "x".repeat(number + 1)), 3 * MB, 11)).collect();
        let found = check(&files, &config(2, 10 * MB));
        assert_eq!(found.iter().map(|job| job.1.len()).collect::<Vec<_>>(), [3, 3, 3], "the tenth stays alone");
        assert_eq!(check(&files, &config(2, 6 * MB)), [], "each is half as large as it shall be");
    }

    /// A seal a minute of a busy pipeline: none of its files is tiny, and none is large.
    #[test]
    fn files_of_one_size_become_one_whatever_that_is() {
        for bytes in [9 * MB, 60 * MB, 120 * MB] {
            let files: Vec<StagedFile> =
                (0..8).map(|number| file(&format!("data/d=1/{}", "x".repeat(number + 1)), bytes, 11)).collect();
            let found = check(&files, &config(8, 256 * MB));
            assert_eq!(found.iter().map(|job| job.1.len()).sum::<usize>(), 8, "{bytes}");
        }
    }

    #[test]
    fn a_large_file_is_not_written_again_for_a_few_small_ones() {
        let mut files = vec![file("data/d=1/large", 100 * MB, 60)];
        for number in 0..4 {
            files.push(file(&format!("data/d=1/{number}"), MB, 11));
        }
        assert_eq!(check(&files, &config(4, 256 * MB))[0].1, vec![MB; 4]);
        for number in 4..30 {
            files.push(file(&format!("data/d=1/{number}"), MB, 11));
        }
        assert_eq!(check(&files, &config(4, 256 * MB))[0].1.len(), 31);
    }
}
