//! The files that count: what was sealed, less what was replaced or has expired, and what stands instead.
//!
//! It is made of the chains and the log of changes, and goes on from where it was when it is asked again. Behind each
//! [`limits::CATALOGUE_CHANGES`] changes whoever does the upkeep stores it, so that nobody has to begin at the archive's
//! beginning: then its size goes by the files that are there, which compaction keeps few, and not by those that ever were.

use super::ArchiveError;
use super::chain::{self, Act, Keys};
use super::change::{self, Change};
use super::fold::Summary;
use super::live::side_by_side;
use super::staging::StagedFile;
use super::store::{Store, name_of};
use super::table::Kind;
use crate::limits;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// The layout that this version stores and reads.
const FORMAT: u32 = 1;

/// How often a chain is looked at again because it was folded meanwhile.
const FOLDED_MEANWHILE: usize = 3;

/// Files that count, and up to where that was looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Catalogue {
    /// Number of the last change that is in it.
    pub(crate) changes: u64,
    /// The last entry of each chain that is in it.
    pub(crate) covers: BTreeMap<String, u64>,
    /// By path; files that were moved elsewhere have their paths there.
    pub(crate) files: BTreeMap<String, StagedFile>,
    /// Rows that have expired, by table.
    pub(crate) expired: BTreeMap<Kind, u64>,
}

/// As it is stored.
#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    format: u32,
    changes: u64,
    covers: BTreeMap<String, u64>,
    files: Vec<StagedFile>,
    expired: BTreeMap<Kind, u64>,
    /// The changes that were folded into this one, as they were, of an archive with `audit: true`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    folded: Vec<String>,
}

impl Catalogue {
    /// The files of one pipeline.
    pub(crate) fn read(store: &dyn Store, keys: &Keys) -> Result<Self, ArchiveError> {
        let mut catalogue = Self::stored(store, keys)?.map(|(catalogue, _)| catalogue).unwrap_or_default();
        catalogue.refresh(store, keys)?;
        Ok(catalogue)
    }

    /// The newest one that was stored, and the changes that were folded into it.
    fn stored(store: &dyn Store, keys: &Keys) -> Result<Option<(Self, Vec<String>)>, ArchiveError> {
        let Some(name) = store.list(&keys.catalogues())?.pop() else { return Ok(None) };
        let key = format!("{}/{name}", keys.catalogues());
        let corrupt = |detail: String| ArchiveError::Corrupt { path: PathBuf::from(store.show(&key)), detail };
        let text = store.read(&key)?.ok_or_else(|| corrupt("was there and is gone".to_owned()))?;
        let stored: Stored =
            serde_json::from_slice(&text).map_err(|error| corrupt(format!("is no list of files: {error}")))?;
        if stored.format != FORMAT {
            return Err(corrupt(format!("is of format {}, this version knows {FORMAT}", stored.format)));
        }
        let files = stored.files.into_iter().map(|file| (file.path.clone(), file)).collect();
        let Stored { changes, covers, expired, folded, .. } = stored;
        Ok(Some((Self { changes, covers, files, expired }, folded)))
    }

    /// Takes in what was sealed and changed since.
    pub(crate) fn refresh(&mut self, store: &dyn Store, keys: &Keys) -> Result<(), ArchiveError> {
        // Changes are listed first and read last: what one of these has replaced was sealed before it, so it is known then.
        let mut numbers = change::numbers(store, keys)?;
        if numbers.first().is_some_and(|first| *first > self.changes + 1)
            && let Some((stored, _)) = Self::stored(store, keys)?.filter(|(stored, _)| stored.changes > self.changes)
        {
            *self = stored;
        }
        numbers.retain(|number| *number > self.changes);
        let chains: BTreeSet<String> =
            store.list(&keys.chains())?.into_iter().chain(store.list(&keys.all_summaries())?).collect();
        for chain in &chains {
            self.follow(store, keys, chain)?;
        }
        for number in numbers {
            let gone = || ArchiveError::Corrupt {
                path: PathBuf::from(store.show(&keys.change(number))),
                detail: "was there and is gone".to_owned(),
            };
            self.apply(&change::read(store, keys, number)?.ok_or_else(gone)?);
        }
        Ok(())
    }

    /// Takes in a chain's seals that are not in it yet.
    fn follow(&mut self, store: &dyn Store, keys: &Keys, chain: &str) -> Result<(), ArchiveError> {
        let mut covered = self.covers.get(chain).copied().unwrap_or(0);
        for round in 0..FOLDED_MEANWHILE {
            for name in store.list(&keys.summaries(chain))? {
                let through = name.strip_suffix(".json").and_then(|number| number.parse().ok()).unwrap_or(0);
                if through <= covered {
                    continue;
                }
                let key = format!("{}/{name}", keys.summaries(chain));
                let text = store.read(&key)?.unwrap_or_default();
                let summary: Summary = serde_json::from_slice(&text).map_err(|error| ArchiveError::Corrupt {
                    path: PathBuf::from(store.show(&key)),
                    detail: format!("is no summary: {error}"),
                })?;
                self.add(summary.files.into_iter().filter(|file| file.seal_number() > covered));
                covered = through;
            }
            let mut complete = true;
            let numbers = chain::numbers(store, keys, chain)?.into_iter().filter(|number| *number > covered);
            let numbers: Vec<u64> = numbers.collect();
            let entries = side_by_side(&numbers, |number| chain::entry(store, keys, chain, *number))?;
            for (number, entry) in numbers.into_iter().zip(entries) {
                // A gap that stays is for `verify` to name.
                if round + 1 < FOLDED_MEANWHILE && (number > covered + 1 || entry.is_none()) {
                    complete = false;
                    break;
                }
                if let Some(chain::Entry { act: Act::Seal(seal), .. }) = entry {
                    self.add(seal.files);
                }
                covered = number;
            }
            if complete {
                break;
            }
        }
        self.covers.insert(chain.to_owned(), covered);
        Ok(())
    }

    fn add(&mut self, files: impl IntoIterator<Item = StagedFile>) {
        self.files.extend(files.into_iter().map(|file| (file.path.clone(), file)));
    }

    /// Takes one change in, which follows the last.
    pub(crate) fn apply(&mut self, change: &Change) {
        if let Some(exchange) = change.exchange() {
            for file in &exchange.removed {
                self.files.remove(&file.path);
                if matches!(change.act, change::Act::Expire(_)) {
                    *self.expired.entry(file.kind).or_default() += file.rows;
                }
            }
            self.add(exchange.added.iter().cloned());
        }
        self.changes = change.number;
    }

    /// Stores it when it is time and removes the changes that are in it, but for the newest.
    pub(crate) fn fold_when_due(&self, store: &dyn Store, keys: &Keys, audit: bool) -> Result<(), ArchiveError> {
        let old: Vec<u64> = change::numbers(store, keys)?.into_iter().filter(|number| *number < self.changes).collect();
        if (old.len() as u64) < limits::CATALOGUE_CHANGES {
            return Ok(());
        }
        let mut folded = Vec::new();
        if audit {
            for number in &old {
                let text = store.read(&keys.change(*number))?.unwrap_or_default();
                folded.push(String::from_utf8_lossy(&text).into_owned());
            }
        }
        let stored = Stored {
            format: FORMAT,
            changes: self.changes,
            covers: self.covers.clone(),
            files: self.files.values().cloned().collect(),
            expired: self.expired.clone(),
            folded,
        };
        let text = serde_json::to_vec(&stored).expect("a list of files is JSON");
        // One that is there already was made of the same changes.
        store.put_if_absent(&keys.catalogue(self.changes), &text)?;
        for name in store.list(&keys.catalogues())? {
            let key = format!("{}/{name}", keys.catalogues());
            if !audit && key != keys.catalogue(self.changes) {
                store.remove(&key)?;
            }
        }
        old.iter().try_for_each(|number| store.remove(&keys.change(*number)))
    }

    /// All changes of a pipeline that are still known, as they were stored, in order: what holds each, the number that it has
    /// by its place where that says one, and its text. One that a crash has left beside the list that holds it is named once.
    pub(crate) fn changes(store: &dyn Store, keys: &Keys) -> Result<Vec<(String, Option<u64>, String)>, ArchiveError> {
        let mut folded = BTreeSet::new();
        let mut texts = Vec::new();
        for name in store.list(&keys.catalogues())? {
            let key = format!("{}/{name}", keys.catalogues());
            let text = store.read(&key)?.unwrap_or_default();
            for text in serde_json::from_slice::<Stored>(&text).map(|stored| stored.folded).unwrap_or_default() {
                if folded.insert(text.clone()) {
                    texts.push((format!("a change in {}", store.show(&key)), None, text));
                }
            }
        }
        for number in change::numbers(store, keys)? {
            let key = keys.change(number);
            let Some(text) = store.read(&key)? else { continue };
            let text = String::from_utf8_lossy(&text).into_owned();
            if !folded.contains(&text) {
                texts.push((store.show(&key), Some(number), text));
            }
        }
        Ok(texts)
    }
}

/// Whether a name below `replaced/` is of before `before_us`: it begins with the time of its change.
pub(crate) fn is_replaced_before(key: &str, before_us: i64) -> bool {
    let folder = key.rsplit('/').nth(1).unwrap_or_else(|| name_of(key));
    folder.split('-').next().and_then(|at| at.parse::<i64>().ok()).is_some_and(|at| at <= before_us)
}
