//! Upkeep: whoever keeps an archive in shape, one change at a time.
//!
//! [`Upkeep::take`] makes it this one's (a claim in the log of changes), finishes what a crash has left and looks at what is
//! there. Then each change is: new files are written beside, the change is put, files are moved. Of two that do this at
//! once the slower one throws its work away. Nothing here is ever waited for by a seal.

use super::audit;
use super::bucket::Bucket;
use super::catalogue::{Catalogue, is_replaced_before};
use super::chain::{self, Keys};
use super::change::{self, Act, Change, Exchange, FORMAT};
use super::check::{Location, location_of};
use super::compact::{self, Job};
use super::crew::Crew;
use super::delta::Ledger;
use super::disk;
use super::folder::Folder;
use super::partition::{escape, file_name};
use super::retain::{self, Due};
use super::rewrite::{Rewriting, Written};
use super::staging::StagedFile;
use super::store::Store;
use super::writer::try_lock;
use super::{ArchiveError, ColdConfig, CompactConfig, RetainConfig, StoreConfig};
use crate::record::receipt::LogCommits;
use crate::time::{EventTime, Span};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What one change did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Done {
    pub files_before: u64,
    pub files_after: u64,
    pub rows: u64,
    pub bytes_before: u64,
    pub bytes_after: u64,
}

/// One pipeline's archive, for whoever keeps it in shape.
#[derive(Debug)]
pub(crate) struct Upkeep {
    pub(super) store: Arc<dyn Store>,
    pub(super) keys: Keys,
    pub(super) pipeline: String,
    pub(super) writer: String,
    pub(super) audit: bool,
    /// Local folder of files that are being written.
    pub(super) scratch: PathBuf,
    crew: Crew,
    pub(super) memory_bytes: u64,
    pub(super) catalogue: Catalogue,
    /// The newest change, when it is this one's.
    head: Option<Change>,
    /// Keeps others at the same place out.
    lock: Option<File>,
    /// The Delta logs beside the files, as far as there are any; `None`: they are nobody's concern.
    pub(super) ledger: Option<Ledger>,
    /// Archives that files were moved to, by URL.
    pub(super) cold: BTreeMap<String, Arc<dyn Store>>,
    /// Those of them that were cleared of what was staged and never counted.
    cleared: BTreeSet<String>,
}

impl Upkeep {
    /// For the archive at `url`, with the settings of its bucket. Files are written below `data_dir` when it is one.
    ///
    /// # Errors
    /// When there is none, or folders can't be made.
    pub(crate) fn open(
        (url, settings): (&str, Option<&StoreConfig>),
        pipeline: &str,
        data_dir: &Path,
        memory_bytes: u64,
        started: EventTime,
    ) -> Result<Self, ArchiveError> {
        let keys = Keys::new(pipeline);
        let (store, scratch): (Arc<dyn Store>, PathBuf) = match location_of(url)? {
            Location::Folder(root) => (Arc::new(Folder::new(root.clone())), root.join(keys.staging(HOME))),
            Location::Bucket(url) => {
                let folder = data_dir.join("archive").join(file_name(pipeline)).join(HOME);
                (Arc::new(Bucket::connect_with(&url, settings)?), folder)
            }
        };
        disk::make_folder(&scratch)?;
        Self::at(store, pipeline, scratch, memory_bytes, started)
    }

    /// As [`Self::open`], of a place that is there already.
    pub(crate) fn at(
        store: Arc<dyn Store>,
        pipeline: &str,
        scratch: PathBuf,
        memory_bytes: u64,
        started: EventTime,
    ) -> Result<Self, ArchiveError> {
        let crew = Crew::new(NonZeroUsize::MIN, &scratch)?;
        Ok(Self {
            store,
            keys: Keys::new(pipeline),
            pipeline: pipeline.to_owned(),
            writer: format!("{}-{started}", std::process::id()),
            audit: false,
            scratch,
            crew,
            memory_bytes,
            catalogue: Catalogue::default(),
            head: None,
            lock: None,
            ledger: Some(Ledger::new(&Keys::new(pipeline), BTreeMap::new())),
            cold: BTreeMap::new(),
            cleared: BTreeSet::new(),
        })
    }

    #[must_use]
    pub(crate) fn with_audit(mut self, audit: bool) -> Self {
        self.audit = audit;
        self
    }

    /// Whether the Delta logs that are there are kept.
    #[must_use]
    pub(crate) fn with_logs(mut self, kept: bool) -> Self {
        self.ledger = self.ledger.filter(|_| kept);
        self
    }

    /// Commits to Delta logs since this was asked last.
    pub(crate) fn logged(&mut self) -> LogCommits {
        self.ledger.as_mut().map(Ledger::take_commits).unwrap_or_default()
    }

    /// Takes in what was sealed and changed since.
    ///
    /// # Errors
    /// When the archive cannot be read.
    pub(crate) fn refresh(&mut self) -> Result<(), ArchiveError> {
        self.catalogue.refresh(self.store.as_ref(), &self.keys)
    }

    /// The files that count, as far as was looked.
    pub(crate) fn files(&self) -> impl Iterator<Item = &StagedFile> {
        self.catalogue.files.values()
    }

    /// Lets others have the upkeep.
    pub(crate) fn rest(&mut self) {
        self.lock = None;
    }

    /// Finishes what a crash has left, whoever's it was.
    ///
    /// # Errors
    /// When files cannot be moved.
    pub(crate) fn finish_newest(&mut self) -> Result<(), ArchiveError> {
        change::newest(self.store.as_ref(), &self.keys)?.map_or(Ok(()), |change| self.finish(&change))
    }

    /// Whether files are replaced in one step.
    pub(crate) fn swaps(&self) -> bool {
        self.store.swaps()
    }

    /// The archive that files were moved to.
    pub(super) fn cold_at(&mut self, url: &str) -> Result<Arc<dyn Store>, ArchiveError> {
        cold_at(&mut self.cold, url)
    }

    /// The number of the newest change, and whether nobody else can be at work: it is this one's, or that of a process before
    /// this one at the same place.
    ///
    /// # Errors
    /// As [`Self::take`].
    pub(crate) fn look(&mut self) -> Result<(u64, bool), ArchiveError> {
        let newest = change::newest(self.store.as_ref(), &self.keys)?;
        let number = newest.as_ref().map_or(0, |change| change.number);
        if !self.lock_alone()? {
            return Ok((number, false));
        }
        // In a folder the lock tells all. Beside a bucket it tells of those over the same data folder, whose name is the same.
        let local = self.store.local(&self.keys.lock(HOME)).is_some();
        let name = |writer: &str| writer.split('+').next().map(str::to_owned);
        let ours = newest.is_none_or(|change| name(&change.writer) == name(&self.writer));
        Ok((number, local || ours))
    }

    /// Holds the lock of a local folder, or of the one that files are written in; false where another process holds it. The lock
    /// holds a name, by which this and those before it know each other.
    fn lock_alone(&mut self) -> Result<bool, ArchiveError> {
        if self.lock.is_some() {
            return Ok(true);
        }
        let here = || self.scratch.with_extension("lock");
        let path = self.store.local(&self.keys.lock(HOME)).unwrap_or_else(here);
        disk::make_folder(path.parent().unwrap_or(&path))?;
        let Some(lock) = try_lock(&path)? else { return Ok(false) };
        let known = std::fs::read_to_string(&path).map_err(ArchiveError::io("read", &path))?;
        if known.is_empty() {
            disk::write_synced(&path, self.writer.as_bytes())?;
        } else if known != self.writer && !self.writer.contains('+') {
            self.writer = format!("{known}+{}", self.writer);
        }
        self.lock = Some(lock);
        Ok(true)
    }

    /// Makes the upkeep this one's, finishes what was begun and looks at what there is. False when another one was faster, or
    /// holds the lock.
    ///
    /// # Errors
    /// When the archive cannot be read or written.
    pub(crate) fn take(&mut self, now: EventTime) -> Result<bool, ArchiveError> {
        if !self.lock_alone()? {
            return Ok(false);
        }
        let newest = change::newest(self.store.as_ref(), &self.keys)?;
        if let Some(change) = &newest {
            self.finish(change)?;
        }
        let mine = newest.as_ref().is_some_and(|change| change.writer == self.writer);
        self.head = newest;
        self.audit |= self.head.as_ref().is_some_and(|head| head.before.is_some());
        if !mine {
            // Whoever comes without the pipeline file sees it by the seals.
            let heads = chain::heads(self.store.as_ref(), &self.keys)?;
            self.audit |= heads.iter().any(|head| head.before.is_some());
            let claim = self.next(Act::Claim {}, now)?;
            if !change::append(self.store.as_ref(), &self.keys, &claim)? {
                self.head = None;
                return Ok(false);
            }
            self.head = Some(claim);
            self.clear()?;
            if let Some(ledger) = &mut self.ledger {
                ledger.make_up(self.store.as_ref(), &self.keys, now.micros().div_euclid(1_000))?;
            }
        }
        self.catalogue.refresh(self.store.as_ref(), &self.keys)?;
        Ok(true)
    }

    /// Removes what those before have staged: none of them can put a change any more.
    fn clear(&self) -> Result<(), ArchiveError> {
        let staged: Vec<String> = self.store.walk(&self.keys.staging(HOME))?;
        staged.iter().try_for_each(|key| self.store.remove(key))?;
        super::staging::clear(&self.scratch)
    }

    fn finish(&mut self, change: &Change) -> Result<(), ArchiveError> {
        let Self { store, keys, cold, ledger, .. } = self;
        change::finish_with(store.as_ref(), keys, change, ledger.as_mut(), &mut |url| cold_at(cold, url))
    }

    /// The change that would come next.
    fn next(&self, act: Act, now: EventTime) -> Result<Change, ArchiveError> {
        Ok(Change {
            format: FORMAT,
            pipeline: self.pipeline.clone(),
            number: self.head.as_ref().map_or(1, |head| head.number + 1),
            writer: self.writer.clone(),
            at_us: now.micros(),
            before: audit::link(self.audit, self.head.as_ref().map(|head| audit::sha256(&change::text(head)))),
            act,
            sha256: None,
        })
    }

    /// What compaction would do.
    pub(crate) fn jobs(&self, config: &CompactConfig, now: EventTime) -> Vec<Job> {
        compact::plan(self.catalogue.files.values(), config, now)
    }

    /// What retention would do.
    pub(crate) fn due(&self, config: &RetainConfig, now: EventTime) -> Vec<Due> {
        retain::plan(self.files(), config, now)
    }

    /// Writes a job's files as one. `None` when another one has taken the upkeep over: then nothing has changed.
    ///
    /// # Errors
    /// When a file cannot be read or written, or holds other rows than it should. Up to the change nothing is lost by it; behind
    /// it [`Self::take`] finishes what is left.
    pub(crate) fn compact(
        &mut self,
        job: &Job,
        now: EventTime,
        goes_on: &dyn Fn() -> bool,
    ) -> Result<Option<Done>, ArchiveError> {
        let (local, mut added) = self.stage(job, "c", 0);
        let notes = [("headrig.writer", self.writer.clone()), ("headrig.compacted", job.files.len().to_string())];
        let result = self.rewrite(job, &local, &notes, goes_on).and_then(|(written, removed)| {
            describe(&mut added, &written, &job.files);
            self.seal(&mut added, &local)?;
            self.store.upload(&[(local.clone(), added.staged.clone())])?;
            self.put(Act::Compact(Exchange { removed, added: vec![added] }), now)
        });
        self.discard(&local);
        result
    }

    /// Writes a job's files as one in another archive. `None` as of [`Self::compact`].
    ///
    /// # Errors
    /// As [`Self::compact`].
    pub(crate) fn cool(
        &mut self,
        job: &Job,
        cold: &ColdConfig,
        now: EventTime,
        goes_on: &dyn Fn() -> bool,
    ) -> Result<Option<Done>, ArchiveError> {
        let url = cold.url.value.as_str();
        let place = self.cold_at(url)?;
        if self.cleared.insert(url.to_owned()) {
            let staged = place.walk(&self.keys.staging(HOME))?;
            place.remove_all(&staged)?;
        }
        let (mut local, mut added) = self.stage(job, "k", 0);
        if let Some(there) = place.local(&added.staged) {
            // It may be another disk, and a file isn't renamed from one to another.
            disk::make_folder(there.parent().unwrap_or(&there))?;
            local = there;
        }
        let notes = [("headrig.writer", self.writer.clone()), ("headrig.compacted", job.files.len().to_string())];
        let result = self.rewrite(job, &local, &notes, goes_on).and_then(|(written, removed)| {
            describe(&mut added, &written, &job.files);
            added.cold = Some(url.to_owned());
            self.seal(&mut added, &local)?;
            place.upload(&[(local.clone(), added.staged.clone())])?;
            self.put(Act::Cool(Exchange { removed, added: vec![added] }), now)
        });
        self.discard(&local);
        result
    }

    /// Lets files go for good. `None` as of [`Self::compact`].
    ///
    /// # Errors
    /// When the change cannot be put, or files not be removed.
    pub(crate) fn expire(&mut self, due: &Due, now: EventTime) -> Result<Option<Done>, ArchiveError> {
        self.put(Act::Expire(Exchange { removed: due.files.clone(), added: Vec::new() }), now)
    }

    /// Notes the hash of a new file, where that is wanted.
    fn seal(&self, added: &mut StagedFile, local: &Path) -> Result<(), ArchiveError> {
        if self.audit {
            added.sha256 = Some(audit::sha256_of_local(local)?);
        }
        Ok(())
    }

    /// Where a job's new file is written, and what is known of it by then.
    pub(super) fn stage(&self, job: &Job, mark: &str, index: usize) -> (PathBuf, StagedFile) {
        let number = self.head.as_ref().map_or(1, |head| head.number + 1);
        let name = format!("{number:012}-{index}.parquet");
        let staged = format!("{}-{name}", escape(&self.writer));
        let added = StagedFile {
            staged: format!("{}/{staged}", self.keys.staging(HOME)),
            path: format!("{}/{}-{mark}{name}", job.folder, file_name(&self.pipeline)),
            kind: job.files.first().map_or(super::Kind::Data, |file| file.kind),
            rows: 0,
            bytes: 0,
            min_us: 0,
            max_us: 0,
            sealed_us: None,
            digest: None,
            sha256: None,
            cold: None,
            columns: None,
        };
        (self.scratch.join(staged), added)
    }

    /// Rewrites a job's files; returns them with what their rows come to.
    pub(super) fn rewrite(
        &self,
        job: &Job,
        local: &Path,
        notes: &[(&str, String)],
        goes_on: &dyn Fn() -> bool,
    ) -> Result<(Written, Vec<StagedFile>), ArchiveError> {
        if self.audit {
            for file in &job.files {
                audit::check(self.store.as_ref(), file)?;
            }
        }
        let rewriting = Rewriting {
            store: self.store.as_ref(),
            scratch: &self.scratch,
            crew: &self.crew,
            memory_bytes: self.memory_bytes,
            zstd_level: job.level,
            goes_on,
        };
        let written = rewriting.write(&job.files, local, notes)?;
        let known = |(file, digest): (&StagedFile, &super::digest::Digest)| StagedFile {
            digest: Some(digest.to_string()),
            ..file.clone()
        };
        let removed = job.files.iter().zip(&written.read).map(known).collect();
        Ok((written, removed))
    }

    /// Puts a change and moves its files. `None` when another one has taken the upkeep over.
    pub(super) fn put(&mut self, act: Act, now: EventTime) -> Result<Option<Done>, ArchiveError> {
        let change = self.next(act, now)?;
        if !change::append(self.store.as_ref(), &self.keys, &change)? {
            self.head = None;
            return Ok(None);
        }
        self.catalogue.apply(&change);
        self.finish(&change)?;
        self.head = Some(change.clone());
        self.catalogue.fold_when_due(self.store.as_ref(), &self.keys, self.audit)?;
        let Some(Exchange { removed, added }) = change.exchange() else { return Ok(Some(Done::default())) };
        Ok(Some(Done {
            files_before: removed.len() as u64,
            files_after: added.len() as u64,
            rows: removed.iter().map(|file| file.rows).sum(),
            bytes_before: removed.iter().map(|file| file.bytes).sum(),
            bytes_after: added.iter().map(|file| file.bytes).sum(),
        }))
    }

    /// Removes a local file that isn't needed any more; in a folder it may have been linked to its place.
    pub(super) fn discard(&self, local: &Path) {
        let gone = std::fs::remove_file(local);
        if let Some(error) = gone.err().filter(|error| error.kind() != std::io::ErrorKind::NotFound) {
            tracing::warn!(%error, path = %local.display(), "a staged file is left behind until the next start");
        }
    }

    /// Deletes files that were replaced longer than `grace` ago; returns how many.
    ///
    /// # Errors
    /// When they can't be listed or removed.
    pub(crate) fn sweep(&self, grace: Span, now: EventTime) -> Result<u64, ArchiveError> {
        let before = (now - grace).micros();
        let old: Vec<String> =
            self.store.walk(&self.keys.replaced())?.into_iter().filter(|key| is_replaced_before(key, before)).collect();
        self.store.remove_all(&old)?;
        Ok(old.len() as u64)
    }
}

/// Name of the lock and of the folder of what is being written.
pub(super) const HOME: &str = "upkeep";

/// Says of a file what was written to it.
pub(super) fn describe(added: &mut StagedFile, written: &Written, of: &[StagedFile]) {
    (added.rows, added.bytes) = (written.rows, written.bytes);
    (added.min_us, added.max_us) = (written.min_us, written.max_us);
    added.digest = Some(written.digest.to_string());
    added.sealed_us = of.iter().filter_map(|file| file.sealed_us).max();
}

fn cold_at(known: &mut BTreeMap<String, Arc<dyn Store>>, url: &str) -> Result<Arc<dyn Store>, ArchiveError> {
    if let Some(store) = known.get(url) {
        return Ok(Arc::clone(store));
    }
    let store = store_at(url)?;
    known.insert(url.to_owned(), Arc::clone(&store));
    Ok(store)
}

/// The place at `url`, with the environment's settings.
pub(super) fn store_at(url: &str) -> Result<Arc<dyn Store>, ArchiveError> {
    store_with(url, None)
}

/// The place at `url`, with the settings of a bucket.
pub(super) fn store_with(url: &str, settings: Option<&StoreConfig>) -> Result<Arc<dyn Store>, ArchiveError> {
    Ok(match location_of(url)? {
        Location::Folder(root) => Arc::new(Folder::new(root)),
        Location::Bucket(url) => Arc::new(Bucket::connect_with(&url, settings)?),
    })
}
