//! Proof from the archive alone that each position is in it exactly once.
//!
//! What is looked at: the entries of all chains and what was folded of them, the names and lengths of all files, and the
//! footer of each. With `deep` every row is read. Nothing is written, and a daemon may be running: what it has staged and
//! not sealed is a note, not a finding.

use super::catalogue::Catalogue;
use super::chain::{self, Act, Entry, Keys, Stretch};
use super::change;
use super::claim;
use super::fold::Summary;
use super::inspect;
use super::staging::StagedFile;
use super::store::Store;
use super::table::Kind;
use super::upkeep::store_at;
use super::{ArchiveError, audit, delta};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

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
    /// A file was replaced or has expired, and a crash came before it was taken away; the next upkeep does it.
    Replaced,
    /// Something is not what a hash says that it was.
    Tampered,
    /// A Delta log doesn't say what counts.
    Delta,
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
    /// Rows by table, of files that count.
    pub rows: BTreeMap<&'static str, u64>,
    pub files: u64,
    pub bytes: u64,
    /// Rows that have expired, by table.
    pub expired: BTreeMap<&'static str, u64>,
    /// Sealed files that others stand for now, or that have expired.
    pub replaced: u64,
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
pub fn verify(url: &str, look: Look, progress: impl FnMut(u64, u64)) -> Result<Report, ArchiveError> {
    let store = store_at(url)?;
    if store.list("_headrig")?.is_empty() {
        return Err(ArchiveError::None { path: url.into() });
    }
    verify_in(store.as_ref(), look, progress)
}

/// How closely is looked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Look {
    /// At every row.
    pub deep: bool,
    /// At every byte, and at the hashes that entries carry.
    pub audit: bool,
}

/// As [`verify`], of a place that is there already.
pub(crate) fn verify_in(
    store: &dyn Store,
    look: Look,
    mut progress: impl FnMut(u64, u64),
) -> Result<Report, ArchiveError> {
    let mut report = Report::default();
    let mut sealed = BTreeSet::new();
    let mut looked_at = 0;
    let mut cold = BTreeMap::new();
    let homes = store.list("_headrig")?.into_iter().filter(|name| !name.starts_with('.'));
    let mut pipelines = Vec::new();
    for home in homes {
        pipelines.push(Pipeline::read(store, &home, &mut report)?);
    }
    let total = pipelines.iter().map(|pipeline| pipeline.live.len() as u64).sum();
    for pipeline in &mut pipelines {
        pipeline.check_positions(&mut report);
        pipeline.check_accounts(&mut report);
        if look.audit {
            pipeline.audit(store, &mut report)?;
        }
        let mut fresh = None;
        for file in pipeline.live.values() {
            let place = match &file.cold {
                None => store,
                Some(url) => cold_at(&mut cold, url)?,
            };
            pipeline.check_file((store, place), &mut fresh, file, look, &mut report)?;
            sealed.insert(file.path.clone());
            looked_at += 1;
            progress(looked_at, total);
        }
        report.pipelines.push(pipeline.report());
    }
    let replaced: BTreeSet<&str> =
        pipelines.iter().flat_map(|pipeline| pipeline.gone.iter().map(String::as_str)).collect();
    for detail in delta::compare(store)? {
        report.findings.push(Finding { flaw: Flaw::Delta, pipeline: String::new(), detail });
    }
    for kind in Kind::ALL {
        let strays = store.walk(kind.as_str())?.into_iter();
        let strays = strays.filter(|key| !sealed.contains(key) && !delta::is_log(key)).collect();
        for key in settled(store, strays)? {
            let (flaw, why) = if replaced.contains(key.as_str()) {
                (Flaw::Replaced, "doesn't count any more and is still there: run `headrig compact` once")
            } else {
                (Flaw::Orphan, "is in no seal")
            };
            report.findings.push(Finding {
                flaw,
                pipeline: String::new(),
                detail: format!("{} {why}", store.show(&key)),
            });
        }
    }
    report.findings.sort();
    Ok(report)
}

/// Of files that nothing has named, those that are still there and that nothing names by now: a daemon may be at work.
fn settled(store: &dyn Store, mut strays: Vec<String>) -> Result<Vec<String>, ArchiveError> {
    if strays.is_empty() {
        return Ok(strays);
    }
    for home in store.list("_headrig")?.into_iter().filter(|name| !name.starts_with('.')) {
        let catalogue = Catalogue::read(store, &Keys::of_home(&home))?;
        strays.retain(|key| !catalogue.files.contains_key(key));
    }
    let mut left = Vec::new();
    for key in strays {
        if store.size(&key)?.is_some() {
            left.push(key);
        }
    }
    Ok(left)
}

/// The archive that files were moved to.
fn cold_at<'c>(known: &'c mut BTreeMap<String, Arc<dyn Store>>, url: &str) -> Result<&'c dyn Store, ArchiveError> {
    if !known.contains_key(url) {
        known.insert(url.to_owned(), store_at(url)?);
    }
    Ok(known[url].as_ref())
}

/// All that the entries of one pipeline say.
#[derive(Debug, Default)]
struct Pipeline {
    name: String,
    /// Name of its folder.
    home: String,
    chains: u64,
    entries: u64,
    spans: Vec<Stretch>,
    /// Rows of all seals, by table.
    rows: BTreeMap<Kind, u64>,
    /// Files that count: those of the catalogue, and what was sealed since it was read.
    live: BTreeMap<String, StagedFile>,
    /// Paths of sealed files that don't count any more.
    gone: BTreeSet<String>,
    catalogue: Catalogue,
    records: u64,
    filtered: u64,
    /// Seals and changes that don't add up.
    unaccounted: Vec<String>,
}

impl Pipeline {
    fn read(store: &dyn Store, home: &str, report: &mut Report) -> Result<Self, ArchiveError> {
        let keys = Keys::of_home(home);
        // Before the chains are read: what comes meanwhile is in them.
        let catalogue = Catalogue::read(store, &keys)?;
        let live = catalogue.files.clone();
        let mut pipeline = Self { name: home.to_owned(), home: home.to_owned(), live, catalogue, ..Self::default() };
        pipeline.read_changes(store, &keys, report)?;
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
            self.add_files(chain, summary.files);
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
        self.add_files(&entry.chain, seal.files);
    }

    fn add_files(&mut self, chain: &str, files: Vec<StagedFile>) {
        let covered = self.catalogue.covers.get(chain).copied().unwrap_or(0);
        for file in files {
            *self.rows.entry(file.kind).or_default() += file.rows;
            if file.seal_number() > covered {
                self.live.insert(file.path.clone(), file);
            } else if !self.live.contains_key(&file.path) {
                self.gone.insert(file.path);
            }
        }
    }

    /// Changes must follow each other without a gap, and none but an expiry may lose rows.
    fn read_changes(&mut self, store: &dyn Store, keys: &Keys, report: &mut Report) -> Result<(), ArchiveError> {
        let mut next = None;
        for number in change::numbers(store, keys)?.into_iter().filter(|number| *number <= self.catalogue.changes) {
            if let Some(next) = next.filter(|next| number > *next) {
                let detail = format!("the log of changes has no entries {next} to {}", number - 1);
                self.find(report, Flaw::MissingEntry, detail);
            }
            next = Some(number + 1);
            let Some(change) = change::read(store, keys, number)? else { continue };
            self.gone
                .extend(change.exchange().into_iter().flat_map(|e| e.removed.iter().map(|file| file.path.clone())));
            if let change::Act::Compact(exchange) | change::Act::Cool(exchange) = &change.act
                && let Some(detail) = exchange.difference()
            {
                self.unaccounted.push(format!("change {number} {detail}"));
            }
        }
        Ok(())
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
        // What was sealed is there or has expired. Where entries are missing that is said already.
        let whole = !report.findings.iter().any(|finding| finding.flaw == Flaw::MissingEntry);
        for kind in Kind::ALL.into_iter().filter(|_| whole) {
            let sealed = self.rows.get(&kind).copied().unwrap_or(0);
            let live: u64 = self.live.values().filter(|file| file.kind == kind).map(|file| file.rows).sum();
            let expired = self.catalogue.expired.get(&kind).copied().unwrap_or(0);
            if sealed != live + expired {
                let kind = kind.as_str();
                let detail =
                    format!("{sealed} rows were sealed in {kind}, {live} are in files and {expired} have expired");
                self.find(report, Flaw::Unaccounted, detail);
            }
        }
    }

    fn check_file(
        &self,
        (home, store): (&dyn Store, &dyn Store),
        fresh: &mut Option<Catalogue>,
        file: &StagedFile,
        look: Look,
        report: &mut Report,
    ) -> Result<(), ArchiveError> {
        let shown = store.show(&file.path);
        let Some(bytes) = store.size(&file.path)? else {
            // Perhaps replaced since the list was read, by a daemon that is at work.
            let fresh = match fresh {
                Some(fresh) => fresh,
                None => fresh.insert(Catalogue::read(home, &Keys::of_home(&self.home))?),
            };
            if self.catalogue.files.contains_key(&file.path) && !fresh.files.contains_key(&file.path) {
                return Ok(());
            }
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
        if look.audit && !audit::is_sealed(store, file)? {
            self.find(report, Flaw::Tampered, format!("{shown}: its bytes are not those that were sealed"));
            return Ok(());
        }
        match inspect::rows(store, file, look.deep) {
            Ok(None) => {}
            Ok(Some(difference)) => self.find(report, Flaw::Differs, format!("{shown}: {difference}")),
            Err(ArchiveError::Encode { cause, .. }) => {
                self.find(report, Flaw::Differs, format!("{shown} cannot be read: {cause}"));
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Proves the chains.
    fn audit(&self, store: &dyn Store, report: &mut Report) -> Result<(), ArchiveError> {
        let proof = audit::prove(store, &Keys::of_home(&self.home))?;
        let contradictions = proof.contradictions(&self.live);
        for detail in proof.breaks.into_iter().chain(contradictions) {
            self.find(report, Flaw::Tampered, detail);
        }
        let hashed = self.live.values().filter(|file| file.sha256.is_some()).count();
        if hashed < self.live.len() || !proof.unproven.is_empty() {
            let bare = self.live.len() - hashed;
            report.notes.push(format!(
                "pipeline {}: {bare} of {} files carry no hash{}",
                self.name,
                self.live.len(),
                proof.unproven.iter().map(|part| format!("; {part}")).collect::<String>()
            ));
        }
        report.notes.extend(proof.ends.into_iter().map(|end| format!("pipeline {}: {end}", self.name)));
        Ok(())
    }

    fn report(&self) -> PipelineReport {
        let partitions: BTreeSet<_> = self.spans.iter().map(|span| (&span.source, &span.partition)).collect();
        let mut rows: BTreeMap<&'static str, u64> = BTreeMap::new();
        for file in self.live.values() {
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
            files: self.live.len() as u64,
            bytes: self.live.values().map(|file| file.bytes).sum(),
            expired: self.catalogue.expired.iter().map(|(kind, rows)| (kind.as_str(), *rows)).collect(),
            replaced: self.gone.len() as u64,
        }
    }
}
