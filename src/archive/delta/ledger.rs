//! Who keeps logs: a chain's writer, and upkeep.

use super::action::{self, Action, Add, CommitInfo, Format, MetaData, Protocol, READER_VERSION, Txn, WRITER_VERSION};
use super::listing;
use super::place::{self, application, below, commit, root_of, wrong};
use super::schema::{self, Layout};
use super::snapshot::{self, Head, Snapshot};
use crate::archive::ArchiveError;
use crate::archive::audit::sha256;
use crate::archive::catalogue::Catalogue;
use crate::archive::chain::{self, Entry, Keys};
use crate::archive::change::{self, Change};
use crate::archive::staging::StagedFile;
use crate::archive::store::{Placement, Store, name_of};
use crate::archive::upkeep::HOME;
use crate::limits;
use crate::record::receipt::LogCommits;
use std::collections::{BTreeMap, BTreeSet};

/// The logs of one pipeline's tables, for one who commits to them.
#[derive(Debug)]
pub(crate) struct Ledger {
    /// Name of the pipeline's folder.
    pipeline: String,
    /// By root, of tables whose logs this one makes where there are none.
    layouts: BTreeMap<String, Layout>,
    /// By root, as far as was looked.
    heads: BTreeMap<String, Head>,
    commits: LogCommits,
}

/// What one commit shall do to one root's table.
struct Intent<'f> {
    application: String,
    /// Of the seal or the change.
    number: u64,
    operation: &'static str,
    added: Vec<&'f StagedFile>,
    removed: Vec<&'f StagedFile>,
    /// Whether other rows are in the table afterwards.
    data_change: bool,
    at_ms: i64,
}

impl Ledger {
    /// For the pipeline of `keys`. Upkeep has no `layouts`, and leaves tables alone that have no log.
    pub(crate) fn new(keys: &Keys, layouts: BTreeMap<String, Layout>) -> Self {
        let pipeline = name_of(keys.home()).to_owned();
        Self { pipeline, layouts, heads: BTreeMap::new(), commits: LogCommits::default() }
    }

    /// Commits since this was asked last.
    pub(crate) fn take_commits(&mut self) -> LogCommits {
        std::mem::take(&mut self.commits)
    }

    /// Begins: finishes what a crash has left between a change and its commit, and makes logs say what counts. The files of the newest change
    /// are in place, or are put there.
    ///
    /// # Errors
    /// When a log cannot be read, or what is in it is not to be gone on with.
    pub(crate) fn begin(&mut self, store: &dyn Store, keys: &Keys, at_ms: i64) -> Result<(), ArchiveError> {
        change::settle(store, keys)?;
        if let Some(newest) = change::newest(store, keys)? {
            // As the change that it is, not as rows that have come and gone.
            self.change(store, &newest)?;
        }
        self.make_up(store, keys, at_ms)
    }

    /// Makes the logs of all roots say what counts.
    ///
    /// # Errors
    /// As [`Self::begin`].
    pub(crate) fn make_up(&mut self, store: &dyn Store, keys: &Keys, at_ms: i64) -> Result<(), ArchiveError> {
        let mut roots = place::roots(store)?;
        roots.extend(self.layouts.keys().cloned());
        self.make_up_for(store, keys, roots, at_ms)
    }

    /// Commits what `entry` has sealed; its files are in place.
    ///
    /// # Errors
    /// As [`Self::begin`].
    pub(crate) fn seal(
        &mut self,
        store: &dyn Store,
        keys: &Keys,
        entry: &Entry,
        at_ms: i64,
    ) -> Result<(), ArchiveError> {
        let chain::Act::Seal(seal) = &entry.act else { return Ok(()) };
        let mut unknown = BTreeSet::new();
        for (root, added) in by_root(&seal.files) {
            if !self.knows(store, root)? {
                unknown.insert(root.to_owned());
                continue;
            }
            let intent = Intent {
                application: application(&self.pipeline, &entry.chain),
                number: entry.number,
                operation: "WRITE",
                added,
                removed: Vec::new(),
                data_change: true,
                at_ms,
            };
            self.commit(store, root, &intent)?;
        }
        // The entry is among what counts.
        if unknown.is_empty() { Ok(()) } else { self.make_up_for(store, keys, unknown, at_ms) }
    }

    /// Commits `change`; its new files are in place.
    ///
    /// # Errors
    /// As [`Self::begin`].
    pub(crate) fn change(&mut self, store: &dyn Store, change: &Change) -> Result<(), ArchiveError> {
        let Some(exchange) = change.exchange() else { return Ok(()) };
        let data_change = !matches!(change.act, change::Act::Compact(_));
        let (mut removed, mut added) = (by_root(&exchange.removed), by_root(&exchange.added));
        let roots: BTreeSet<&str> = removed.keys().chain(added.keys()).copied().collect();
        for root in roots {
            if !self.knows(store, root)? && !self.look(store, root)? {
                continue;
            }
            let intent = Intent {
                application: application(&self.pipeline, HOME),
                number: change.number,
                operation: if data_change { "DELETE" } else { "OPTIMIZE" },
                added: added.remove(root).unwrap_or_default(),
                removed: removed.remove(root).unwrap_or_default(),
                data_change,
                at_ms: change.at_us.div_euclid(1_000),
            };
            self.commit(store, root, &intent)?;
        }
        Ok(())
    }

    /// Whether this one knows the log, and it is still there: somebody may have removed it.
    fn knows(&mut self, store: &dyn Store, root: &str) -> Result<bool, ArchiveError> {
        let Some(version) = self.heads.get(root).and_then(|head| head.version) else { return Ok(false) };
        let there = store.size(&commit(root, version))?.is_some();
        if !there {
            tracing::warn!(log = place::log(root), "the Delta log is gone, it is made anew");
            self.heads.remove(root);
        }
        Ok(there)
    }

    /// Reads a log; false where there is none.
    fn look(&mut self, store: &dyn Store, root: &str) -> Result<bool, ArchiveError> {
        let head = Snapshot::read(store, root)?.head;
        let there = head.version.is_some();
        if there {
            self.heads.insert(root.to_owned(), head);
        }
        Ok(there)
    }

    /// Puts one commit to a log that is known, unless it is in.
    fn commit(&mut self, store: &dyn Store, root: &str, intent: &Intent<'_>) -> Result<(), ArchiveError> {
        let mut gone = BTreeSet::new();
        for _ in 0..limits::DELTA_ROUNDS {
            let mut head = self.heads.remove(root).unwrap_or_default();
            let actions = match head.has(&intent.application, intent.number) {
                true => Vec::new(),
                false => self.actions(store, root, &head, intent, &gone)?,
            };
            let version = head.next();
            let put = actions.is_empty() || store.put_if_absent(&commit(root, version), &action::text(&actions))?;
            if put && !actions.is_empty() {
                head.apply(version, &actions);
                self.commits.put += 1;
            } else if !put {
                self.commits.conflicts += 1;
                for (version, actions) in snapshot::since(store, root, version)? {
                    gone.extend(actions.iter().filter_map(|action| match action {
                        Action::Remove(remove) => Some(place::decode(&remove.path)),
                        _ => None,
                    }));
                    head.apply(version, &actions);
                }
            }
            self.heads.insert(root.to_owned(), head);
            if put {
                return Ok(());
            }
        }
        Err(wrong(store, root, "other writers are faster each time"))
    }

    /// What `intent` comes to; nothing when all its files were removed since.
    fn actions(
        &self,
        store: &dyn Store,
        root: &str,
        head: &Head,
        intent: &Intent<'_>,
        gone: &BTreeSet<String>,
    ) -> Result<Vec<Action>, ArchiveError> {
        let Intent { data_change, at_ms, .. } = *intent;
        let removes_rows = data_change && !intent.removed.is_empty();
        let (mut actions, levels) = self.frame(store, root, head, removes_rows, at_ms)?;
        let framed = actions.len();
        for file in &intent.removed {
            actions.push(Action::Remove(listing::remove(root, file, &levels, data_change, at_ms)));
        }
        for file in intent.added.iter().filter(|file| !gone.contains(below(root, file))) {
            actions.push(Action::Add(listing::add(store, root, file, (&self.pipeline, &levels), data_change)?));
        }
        if actions.len() == framed {
            return Ok(Vec::new());
        }
        actions.push(txn(intent.application.clone(), intent.number, at_ms));
        actions.insert(0, info(intent.operation, intent.removed.is_empty(), at_ms));
        Ok(actions)
    }

    /// What has to stand before files: protocol and columns, of a new log or where they are others. And the columns that it is partitioned by.
    fn frame(
        &self,
        store: &dyn Store,
        root: &str,
        head: &Head,
        removes_rows: bool,
        at_ms: i64,
    ) -> Result<(Vec<Action>, Vec<String>), ArchiveError> {
        let layout = self.layouts.get(root);
        let Some(known) = &head.metadata else {
            let layout = layout.ok_or_else(|| wrong(store, root, "there is none"))?;
            let protocol = Protocol { min_reader_version: READER_VERSION, min_writer_version: WRITER_VERSION };
            let metadata = self.metadata(store, root, layout, at_ms);
            return Ok((
                vec![Action::Protocol(protocol), Action::MetaData(metadata)],
                layout.partition_columns.clone(),
            ));
        };
        let allowed = head.check().and_then(|()| schema::forbids(known, removes_rows));
        allowed.map_err(|detail| wrong(store, root, detail))?;
        let wider = layout.map(|layout| layout.missing_in(known)).transpose();
        let wider = wider.map_err(|detail| wrong(store, root, detail))?.flatten();
        let wider = wider.map(|schema_string| Action::MetaData(MetaData { schema_string, ..known.clone() }));
        Ok((wider.into_iter().collect(), known.partition_columns.clone()))
    }

    fn metadata(&self, store: &dyn Store, root: &str, layout: &Layout, at_ms: i64) -> MetaData {
        let seed = format!("{} {at_ms} {}", store.show(root), std::process::id());
        MetaData {
            id: unique(&sha256(seed.as_bytes())),
            name: Some(root.to_owned()),
            description: None,
            format: Format { provider: "parquet".to_owned(), options: BTreeMap::new() },
            schema_string: layout.schema_string(),
            partition_columns: layout.partition_columns.clone(),
            created_time: Some(at_ms),
            configuration: BTreeMap::new(),
        }
    }

    /// Makes the logs of `roots` say what counts: the whole of them where they are gone, what a crash has kept from them, or nothing.
    fn make_up_for(
        &mut self,
        store: &dyn Store,
        keys: &Keys,
        mut roots: BTreeSet<String>,
        at_ms: i64,
    ) -> Result<(), ArchiveError> {
        for _ in 0..limits::DELTA_ROUNDS {
            // The logs first: what counts is never behind what is read here, whoever commits meanwhile.
            let mut snapshots = Vec::new();
            for root in &roots {
                let snapshot = Snapshot::read(store, root)?;
                // What isn't kept doesn't need the catalogue.
                if snapshot.head.version.is_some() || self.layouts.contains_key(root) {
                    snapshots.push((root.clone(), snapshot));
                }
            }
            if snapshots.is_empty() {
                return Ok(());
            }
            let catalogue = Catalogue::read(store, keys)?;
            for (root, snapshot) in snapshots {
                if self.level(store, &root, snapshot, &catalogue, at_ms)? {
                    roots.remove(&root);
                }
            }
        }
        match roots.first() {
            Some(root) => Err(wrong(store, root, "other writers are faster each time")),
            None => Ok(()),
        }
    }

    /// Puts what a log lacks; false when another one was faster.
    fn level(
        &mut self,
        store: &dyn Store,
        root: &str,
        snapshot: Snapshot,
        catalogue: &Catalogue,
        at_ms: i64,
    ) -> Result<bool, ArchiveError> {
        let counts = catalogue.files.values().filter(|file| file.cold.is_none() && root_of(file) == root);
        let wanted: BTreeMap<&str, &StagedFile> = counts.map(|file| (below(root, file), file)).collect();
        let Snapshot { mut head, files } = snapshot;
        if head.version.is_none() && wanted.is_empty() {
            return Ok(true);
        }
        let missing = wanted.iter().filter(|(path, _)| !files.contains_key(**path)).map(|(_, file)| *file).collect();
        let removed: Vec<&Add> = (files.iter())
            .filter(|(path, add)| listing::is_of(add, &self.pipeline) && !wanted.contains_key(path.as_str()))
            .map(|(_, add)| add)
            .collect();
        let added = placed(store, root, missing)?;
        // Whatever is to be done: a start hears at once that it cannot go on with the log.
        let (frame, levels) = self.frame(store, root, &head, !removed.is_empty(), at_ms)?;
        if added.is_empty() && removed.is_empty() && head.version.is_some() {
            self.heads.insert(root.to_owned(), head);
            return Ok(true);
        }
        let operation = if head.version.is_none() { "CREATE TABLE" } else { "WRITE" };
        let mut actions = vec![info(operation, removed.is_empty(), at_ms)];
        actions.extend(frame);
        actions.extend(removed.into_iter().map(|add| Action::Remove(listing::remove_known(add, at_ms))));
        for file in added {
            actions.push(Action::Add(listing::add(store, root, file, (&self.pipeline, &levels), true)?));
        }
        let chains = catalogue.covers.iter().map(|(chain, number)| (application(&self.pipeline, chain), *number));
        let all = chains.chain([(application(&self.pipeline, HOME), catalogue.changes)]);
        let newer = all.filter(|(application, number)| *number > 0 && !head.has(application, *number));
        actions.extend(newer.map(|(application, number)| txn(application, number, at_ms)));
        let version = head.next();
        if !store.put_if_absent(&commit(root, version), &action::text(&actions))? {
            self.commits.conflicts += 1;
            return Ok(false);
        }
        self.commits.put += 1;
        head.apply(version, &actions);
        self.heads.insert(root.to_owned(), head);
        Ok(true)
    }
}

/// Those of `files` that are where readers look. What a crash has left staged is brought there first; what is gone is left out, for
/// `verify` to name.
fn placed<'f>(store: &dyn Store, root: &str, files: Vec<&'f StagedFile>) -> Result<Vec<&'f StagedFile>, ArchiveError> {
    let listed: Option<BTreeSet<String>> = match files.len() {
        0..limits::DELTA_LISTED_FILES => None,
        _ => Some(store.walk(root)?.into_iter().collect()),
    };
    let mut there = Vec::new();
    for file in files {
        let known = listed.as_ref().is_some_and(|listed| listed.contains(&file.path));
        if known || store.size(&file.path)?.is_some() {
            there.push(file);
        } else if store.size(&file.staged)? == Some(file.bytes) {
            store.place(&[Placement { from: file.staged.clone(), to: file.path.clone(), bytes: file.bytes }])?;
            there.push(file);
        }
    }
    Ok(there)
}

/// Files of this archive, by the root of their table.
fn by_root(files: &[StagedFile]) -> BTreeMap<&str, Vec<&StagedFile>> {
    let mut roots: BTreeMap<&str, Vec<&StagedFile>> = BTreeMap::new();
    for file in files.iter().filter(|file| file.cold.is_none()) {
        roots.entry(root_of(file)).or_default().push(file);
    }
    roots
}

fn txn(app_id: String, number: u64, at_ms: i64) -> Action {
    Action::Txn(Txn { app_id, version: i64::try_from(number).unwrap_or(i64::MAX), last_updated: Some(at_ms) })
}

fn info(operation: &str, is_blind_append: bool, timestamp: i64) -> Action {
    Action::CommitInfo(CommitInfo {
        timestamp,
        operation: operation.to_owned(),
        operation_parameters: BTreeMap::new(),
        engine_info: concat!("headrig/", env!("CARGO_PKG_VERSION")).to_owned(),
        is_blind_append,
    })
}

/// Digits of a hash, as a UUID is written (version 8: of the maker's own making).
fn unique(digits: &str) -> String {
    let part = |from: usize, to: usize| digits.get(from..to).unwrap_or("0");
    format!("{}-{}-8{}-a{}-{}", part(0, 8), part(8, 12), part(12, 15), part(15, 18), part(18, 30))
}
