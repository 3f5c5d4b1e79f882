//! Proof from the archive alone that each position is in it exactly once.
//!
//! What is looked at: the entries of all chains and what was folded of them, the names and lengths of all files, and the
//! footer of each. With `deep` every row is read. Nothing is written, and a daemon may be running: what it has staged and
//! not sealed is a note, not a finding.

use super::bucket::Bucket;
use super::chain::{self, Act, Entry, Keys, Stretch};
use super::check::Location;
use super::claim;
use super::fold::Summary;
use super::folder::Folder;
use super::inspect;
use super::staging::StagedFile;
use super::store::Store;
use super::table::Kind;
use super::{ArchiveError, check};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// What is wrong with an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Flaw {
    /// Positions between two seals that no seal has.
    Gap,
    /// Positions that two seals have.
    Overlap,
    /// An entry of a chain is gone, or cannot be read.
    MissingEntry,
    /// A sealed file is gone.
    MissingFile,
    /// A file was sealed and a crash came before it was placed; the next start places it.
    Unplaced,
    /// A file is not what was sealed.
    Differs,
    /// A file where readers look that no seal names.
    Orphan,
    /// Records of a seal that are neither rows nor dead letters nor filtered out, or more of these than records.
    Unaccounted,
}

/// One thing that was found.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Finding {
    pub flaw: Flaw,
    pub pipeline: String,
    /// What, where, and how much.
    pub detail: String,
}

/// What one pipeline has in the archive.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct PipelineReport {
    pub pipeline: String,
    pub chains: u64,
    pub entries: u64,
    pub partitions: u64,
    /// Records of all seals.
    pub records: u64,
    pub filtered: u64,
    /// Rows by table.
    pub rows: BTreeMap<&'static str, u64>,
    pub files: u64,
    pub bytes: u64,
}

/// What was found in an archive.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    pub pipelines: Vec<PipelineReport>,
    pub findings: Vec<Finding>,
    /// What is no flaw but worth knowing: claims of which nothing is sealed yet, what is staged.
    pub notes: Vec<String>,
}

/// Verifies the archive at `url`. `progress` is told of files looked at and of files there are.
///
/// # Errors
/// When the archive is none, or cannot be read.
pub fn verify(url: &str, deep: bool, progress: impl FnMut(u64, u64)) -> Result<Report, ArchiveError> {
    let store: Box<dyn Store> = match check::location_of(url)? {
        Location::Folder(root) => Box::new(Folder::new(root)),
        Location::Bucket(url) => Box::new(Bucket::connect(&url)?),
    };
    if store.list("_headrig")?.is_empty() {
        return Err(ArchiveError::None { path: url.into() });
    }
    verify_in(store.as_ref(), deep, progress)
}

/// As [`verify`], of a place that is there already.
pub(crate) fn verify_in(
    store: &dyn Store,
    deep: bool,
    mut progress: impl FnMut(u64, u64),
) -> Result<Report, ArchiveError> {
    let mut report = Report::default();
    let mut sealed = BTreeSet::new();
    let mut looked_at = 0;
    let homes = store.list("_headrig")?.into_iter().filter(|name| !name.starts_with('.'));
    let mut pipelines = Vec::new();
    for home in homes {
        pipelines.push(Pipeline::read(store, &home, &mut report)?);
    }
    let total = pipelines.iter().map(|pipeline| pipeline.files.len() as u64).sum();
    for pipeline in &pipelines {
        pipeline.check_positions(&mut report);
        pipeline.check_accounts(&mut report);
        for file in &pipeline.files {
            pipeline.check_file(store, file, deep, &mut report)?;
            sealed.insert(file.path.as_str());
            looked_at += 1;
            progress(looked_at, total);
        }
        report.pipelines.push(pipeline.report());
    }
    for kind in Kind::ALL {
        for key in store.walk(kind.as_str())? {
            if !sealed.contains(key.as_str()) {
                let detail = format!("{} is in no seal", store.show(&key));
                report.findings.push(Finding { flaw: Flaw::Orphan, pipeline: String::new(), detail });
            }
        }
    }
    report.findings.sort();
    Ok(report)
}

/// All that the entries of one pipeline say.
#[derive(Debug, Default)]
struct Pipeline {
    name: String,
    chains: u64,
    entries: u64,
    spans: Vec<Stretch>,
    files: Vec<StagedFile>,
    records: u64,
    filtered: u64,
    /// Seals that don't add up.
    unaccounted: Vec<String>,
}

impl Pipeline {
    fn read(store: &dyn Store, home: &str, report: &mut Report) -> Result<Self, ArchiveError> {
        let keys = Keys::of_home(home);
        let mut pipeline = Self { name: home.to_owned(), ..Self::default() };
        let chains: BTreeSet<String> =
            store.list(&keys.chains())?.into_iter().chain(store.list(&keys.all_summaries())?).collect();
        for chain in &chains {
            pipeline.chains += 1;
            pipeline.read_chain(store, &keys, chain, report)?;
            let staged = store.list(&keys.staging(chain))?.len();
            if staged > 0 {
                let what = "files staged and in no seal, or not placed yet: a daemon is at work, or the next one's first seal clears them away";
                report.notes.push(format!("pipeline {}, chain {chain}: {staged} {what}", pipeline.name));
            }
        }
        let heads = chain::heads(store, &keys)?;
        pipeline.note_claims(&heads, report);
        Ok(pipeline)
    }

    /// Summaries first, then entries, which must follow each other without a gap.
    fn read_chain(
        &mut self,
        store: &dyn Store,
        keys: &Keys,
        chain: &str,
        report: &mut Report,
    ) -> Result<(), ArchiveError> {
        let mut next = 1;
        for name in store.list(&keys.summaries(chain))? {
            let key = format!("{}/{name}", keys.summaries(chain));
            let text = store.read(&key)?.unwrap_or_default();
            let Ok(summary) = serde_json::from_slice::<Summary>(&text) else {
                self.find(report, Flaw::MissingEntry, format!("{} cannot be read", store.show(&key)));
                continue;
            };
            self.follow(report, chain, next, summary.from);
            next = summary.through + 1;
            self.entries += summary.through + 1 - summary.from;
            self.spans.extend(summary.spans);
            self.files.extend(summary.files);
            self.records += summary.records;
            self.filtered += summary.filtered;
        }
        let folded = next;
        for number in chain::numbers(store, keys, chain)?.into_iter().filter(|number| *number >= folded) {
            self.follow(report, chain, next, number);
            next = number + 1;
            match chain::entry(store, keys, chain, number) {
                Ok(Some(entry)) => self.add(entry),
                // Folded away between the listing and now, by a daemon that runs.
                Ok(None) => {}
                Err(error @ ArchiveError::Corrupt { .. }) => self.find(report, Flaw::MissingEntry, error.to_string()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn follow(&self, report: &mut Report, chain: &str, next: u64, number: u64) {
        if number > next {
            let detail = format!("chain {chain} has no entries {next} to {}", number - 1);
            self.find(report, Flaw::MissingEntry, detail);
        }
    }

    fn add(&mut self, entry: Entry) {
        self.entries += 1;
        self.name.clone_from(&entry.pipeline);
        let Act::Seal(seal) = entry.act else { return };
        let rows = |kind| seal.files.iter().filter(|file| file.kind == kind).map(|file| file.rows).sum::<u64>();
        let accounted = rows(Kind::Data) + rows(Kind::Dead) + seal.filtered;
        if seal.kept.contains(&Kind::Data) && seal.kept.contains(&Kind::Dead) && accounted != seal.records {
            self.unaccounted.push(format!(
                "seal {} of chain {} has {} records, of which {accounted} are rows, dead letters or filtered out",
                entry.number, entry.chain, seal.records
            ));
        }
        self.records += seal.records;
        self.filtered += seal.filtered;
        self.spans.extend(seal.spans);
        self.files.extend(seal.files);
    }

    fn find(&self, report: &mut Report, flaw: Flaw, detail: String) {
        report.findings.push(Finding { flaw, pipeline: self.name.clone(), detail });
    }

    fn note_claims(&self, heads: &[Entry], report: &mut Report) {
        for ((source, partition), holder) in claim::holders(heads) {
            let head = heads.iter().find(|head| head.chain == holder.chain);
            let sealed = head.is_some_and(|head| {
                head.holds.iter().any(|held| held.at.source == source && held.at.partition == partition)
            });
            if !sealed {
                let chain = &holder.chain;
                report.notes.push(format!(
                    "pipeline {}: {partition} of {source} is claimed by chain {chain}, which has sealed nothing of it yet",
                    self.name
                ));
            }
        }
    }

    /// Each partition's positions, from the first on, in one piece.
    fn check_positions(&self, report: &mut Report) {
        // What an identity was before: the first one stands for all that followed.
        let renamed: BTreeMap<(&str, &str, &str), &str> = self
            .spans
            .iter()
            .filter_map(|span| Some(((&*span.source, &*span.partition, &*span.identity), span.was.as_deref()?)))
            .collect();
        let mut partitions: BTreeMap<(&str, &str, &str), Vec<&Stretch>> = BTreeMap::new();
        for span in &self.spans {
            let mut key = (&*span.source, &*span.partition, &*span.identity);
            // No chain is longer than there are names, whatever the entries say.
            for _ in 0..renamed.len() {
                let Some(was) = renamed.get(&key) else { break };
                key.2 = was;
            }
            partitions.entry(key).or_default().push(span);
        }
        for ((source, partition, _), mut spans) in partitions {
            // One that begins at the beginning comes before all others.
            spans.sort_by_key(|span| (span.start, span.end));
            for pair in spans.windows(2) {
                let (end, start) = (pair[0].end, pair[1].start.unwrap_or(0));
                let flaw = match start.cmp(&end) {
                    std::cmp::Ordering::Equal => continue,
                    std::cmp::Ordering::Greater => Flaw::Gap,
                    std::cmp::Ordering::Less => Flaw::Overlap,
                };
                let (from, to) = (start.min(end), start.max(end).min(pair[1].end.max(end)));
                self.find(report, flaw, format!("{partition} of source {source}: positions {from} to {to}"));
            }
        }
    }

    fn check_accounts(&self, report: &mut Report) {
        for detail in &self.unaccounted {
            self.find(report, Flaw::Unaccounted, detail.clone());
        }
    }

    fn check_file(
        &self,
        store: &dyn Store,
        file: &StagedFile,
        deep: bool,
        report: &mut Report,
    ) -> Result<(), ArchiveError> {
        let shown = store.show(&file.path);
        let Some(bytes) = store.size(&file.path)? else {
            let (flaw, detail) = match store.size(&file.staged)? {
                Some(_) => (Flaw::Unplaced, format!("{shown} is sealed and still staged: start headrig once")),
                None => (Flaw::MissingFile, format!("{shown} with {} rows", file.rows)),
            };
            self.find(report, flaw, detail);
            return Ok(());
        };
        if bytes != file.bytes {
            self.find(report, Flaw::Differs, format!("{shown} has {bytes} bytes, {} were sealed", file.bytes));
            return Ok(());
        }
        match inspect::rows(store, file, deep) {
            Ok(None) => {}
            Ok(Some(difference)) => self.find(report, Flaw::Differs, format!("{shown}: {difference}")),
            Err(ArchiveError::Encode { cause, .. }) => {
                self.find(report, Flaw::Differs, format!("{shown} cannot be read: {cause}"));
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn report(&self) -> PipelineReport {
        let partitions: BTreeSet<_> = self.spans.iter().map(|span| (&span.source, &span.partition)).collect();
        let mut rows: BTreeMap<&'static str, u64> = BTreeMap::new();
        for file in &self.files {
            *rows.entry(file.kind.as_str()).or_default() += file.rows;
        }
        PipelineReport {
            pipeline: self.name.clone(),
            chains: self.chains,
            entries: self.entries,
            partitions: partitions.len() as u64,
            records: self.records,
            filtered: self.filtered,
            rows,
            files: self.files.len() as u64,
            bytes: self.files.iter().map(|file| file.bytes).sum(),
        }
    }
}
