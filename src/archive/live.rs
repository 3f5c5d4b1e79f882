//! What readers see: the files whose rows make up an archive, as of one moment, and the way to their bytes.
//!
//! The list comes from the chains and never from a listing: a file counts when an entry names it and no later one has
//! replaced it. A file that a crash left unplaced is read where it is staged. Folders that were copied without
//! `_headrig` have no chains; then, and only then, what is found there counts.

use super::ArchiveError;
use super::bucket::Bucket;
use super::chain::{self, Act, Entry, Keys};
use super::check::{self, Location};
use super::fold::Summary;
use super::folder::Folder;
use super::partition;
use super::staging::StagedFile;
use super::store::Store;
use super::table::Kind;
use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use object_store::prefix::PrefixStore;
use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

/// Requests to a store that are under way at a time.
const REQUESTS: usize = 16;
/// How often a chain is read again when entries were folded while it was read.
const ROUNDS: usize = 8;

/// A file whose rows count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveFile {
    pub kind: Kind,
    /// Its key in the archive, as in `data/date=2026-05-06/x.parquet`.
    pub path: String,
    /// Where its bytes are: `path`, or the staged object that is still to be placed.
    pub location: String,
    pub bytes: u64,
    /// Rows, and least and largest time in µs since 1970; only where a seal says so.
    pub sealed: Option<SealedRows>,
    /// Values of the folders, outermost first; `None` for null.
    pub partition: Vec<(String, Option<String>)>,
}

/// What a seal says of a file's rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SealedRows {
    pub rows: u64,
    /// Least and largest value of the table's time, in µs since 1970: `ts`, `window_start` or `window_end`.
    pub min_us: i64,
    pub max_us: i64,
}

/// All live files of an archive.
#[derive(Debug, Clone, Default)]
pub struct Live {
    /// By path.
    pub files: Vec<LiveFile>,
    /// What readers should be told: files that are gone, entries that cannot be read, that there are no seals.
    pub notes: Vec<String>,
}

/// Lists the live files of the archive at `url`, as of one moment.
///
/// # Errors
/// When it is none, or cannot be read.
pub fn live_files(url: &str) -> Result<Live, ArchiveError> {
    let store: Box<dyn Store> = match check::location_of(url)? {
        Location::Folder(root) => Box::new(Folder::new(root)),
        Location::Bucket(url) => Box::new(Bucket::connect(&url)?),
    };
    let live = live_in(store.as_ref())?;
    match live.files.is_empty() && store.list("_headrig")?.is_empty() {
        true => Err(ArchiveError::None { path: url.into() }),
        false => Ok(live),
    }
}

/// The objects of the archive at `url`, by their keys in it. Nothing is asked of a bucket yet.
///
/// # Errors
/// When the URL names no archive.
pub fn objects(url: &str) -> Result<Arc<dyn ObjectStore>, ArchiveError> {
    let failed = |cause| ArchiveError::Store { action: "use", key: url.to_owned(), cause: Box::new(cause) };
    match check::location_of(url)? {
        Location::Folder(root) => Ok(Arc::new(LocalFileSystem::new_with_prefix(root).map_err(failed)?)),
        Location::Bucket(url) => {
            let (store, root) = Bucket::client(&url)?;
            Ok(Arc::new(PrefixStore::new(store, root)))
        }
    }
}

/// A sealed file, and whether it may still be where it was staged.
struct Sealed {
    file: StagedFile,
    fresh: bool,
}

/// As [`live_files`], of a place that is there already.
pub(crate) fn live_in(store: &dyn Store) -> Result<Live, ArchiveError> {
    let mut notes = Vec::new();
    let homes: Vec<String> = store.list("_headrig")?.into_iter().filter(|name| !name.starts_with('.')).collect();
    if homes.is_empty() {
        return unsealed(store);
    }
    let mut sealed = Vec::new();
    for home in &homes {
        let keys = Keys::of_home(home);
        let chains: BTreeSet<String> =
            store.list(&keys.chains())?.into_iter().chain(store.list(&keys.all_summaries())?).collect();
        for chain in &chains {
            sealed.extend(chain_files(store, &keys, chain, &mut notes)?);
        }
    }
    // Behind the chains: what they name was placed by now, or is staged.
    let mut there = HashSet::new();
    for keys in side_by_side(&Kind::ALL, |kind| store.walk(kind.as_str()))? {
        there.extend(keys);
    }
    let found = side_by_side(&sealed, |sealed| locate(store, sealed, &there))?;
    let gone = found.iter().filter(|location| location.is_none()).count();
    if gone > 0 {
        notes.push(format!("{gone} sealed files are gone, their rows are left out; `headrig verify` names them"));
    }
    let live = |(sealed, location): (Sealed, Option<String>)| Some(live_file(sealed.file, location?));
    let mut files: Vec<LiveFile> = sealed.into_iter().zip(found).filter_map(live).collect();
    files.sort_unstable_by(|a, b| a.path.cmp(&b.path));
    Ok(Live { files, notes })
}

fn live_file(file: StagedFile, location: String) -> LiveFile {
    let rows = SealedRows { rows: file.rows, min_us: file.min_us, max_us: file.max_us };
    let partition = partition::values(&file.path);
    LiveFile { kind: file.kind, path: file.path, location, bytes: file.bytes, sealed: Some(rows), partition }
}

fn locate(store: &dyn Store, sealed: &Sealed, there: &HashSet<String>) -> Result<Option<String>, ArchiveError> {
    let StagedFile { path, staged, .. } = &sealed.file;
    if there.contains(path) {
        return Ok(Some(path.clone()));
    }
    if !sealed.fresh {
        return Ok(None);
    }
    if store.size(staged)?.is_some() {
        return Ok(Some(staged.clone()));
    }
    // It may have been placed since the listing.
    Ok(store.size(path)?.map(|_| path.clone()))
}

/// Files that the entries of one chain name: of its summaries, and of the entries behind them.
fn chain_files(
    store: &dyn Store,
    keys: &Keys,
    chain: &str,
    notes: &mut Vec<String>,
) -> Result<Vec<Sealed>, ArchiveError> {
    for round in 1.. {
        let names = store.list(&keys.summaries(chain))?;
        let summaries = side_by_side(&names, |name| {
            let key = format!("{}/{name}", keys.summaries(chain));
            let text = store.read(&key)?.unwrap_or_default();
            serde_json::from_slice::<Summary>(&text)
                .map_err(|error| chain::corrupt(store, &key, format!("is no summary of a chain: {error}")))
        })?;
        let folded = summaries.last().map_or(0, |summary| summary.through);
        let numbers: Vec<u64> =
            chain::numbers(store, keys, chain)?.into_iter().filter(|number| *number > folded).collect();
        let entries = side_by_side(&numbers, |number| chain::entry(store, keys, chain, *number))?;
        let follow = |(expected, number): (u64, &u64)| expected == *number;
        let whole = (folded + 1..).zip(&numbers).all(follow) && entries.iter().all(Option::is_some);
        if whole || round == ROUNDS {
            if !whole {
                let home = store.show(&keys.chain(chain));
                notes.push(format!(
                    "entries of {home} are missing, their rows are left out; `headrig verify` names them"
                ));
            }
            let old = summaries.into_iter().flat_map(|summary| summary.files);
            let old = old.map(|file| Sealed { file, fresh: false });
            return Ok(old.chain(entry_files(entries.into_iter().flatten())).collect());
        }
    }
    unreachable!("a round is the last one")
}

/// Only the newest seal's files can be unplaced: a writer places them before it goes on.
fn entry_files(entries: impl Iterator<Item = Entry>) -> Vec<Sealed> {
    let mut found: Vec<Sealed> = Vec::new();
    for entry in entries {
        let Act::Seal(seal) = entry.act else { continue };
        found.iter_mut().for_each(|sealed| sealed.fresh = false);
        found.extend(seal.files.into_iter().map(|file| Sealed { file, fresh: true }));
    }
    found
}

/// What lies there, of an archive that was copied without its seals.
fn unsealed(store: &dyn Store) -> Result<Live, ArchiveError> {
    let mut files = Vec::new();
    for kind in Kind::ALL {
        let keys: Vec<String> =
            store.walk(kind.as_str())?.into_iter().filter(|key| key.ends_with(".parquet")).collect();
        let sizes = side_by_side(&keys, |key| store.size(key))?;
        let live = |(path, bytes): (String, Option<u64>)| {
            let (location, partition) = (path.clone(), partition::values(&path));
            Some(LiveFile { kind, path, location, bytes: bytes?, sealed: None, partition })
        };
        files.extend(keys.into_iter().zip(sizes).filter_map(live));
    }
    let note = "there is no folder `_headrig`: files are read as they are listed, also such as no seal ever named";
    let notes = if files.is_empty() { Vec::new() } else { vec![note.to_owned()] };
    Ok(Live { files, notes })
}

/// Does `work` for all items, some at a time, and returns what came in their order.
fn side_by_side<T: Sync, R: Send>(
    items: &[T],
    work: impl Fn(&T) -> Result<R, ArchiveError> + Sync,
) -> Result<Vec<R>, ArchiveError> {
    if items.len() < 4 {
        return items.iter().map(work).collect();
    }
    let share = items.len().div_ceil(REQUESTS);
    std::thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = items
            .chunks(share)
            .map(|items| scope.spawn(move || items.iter().map(work).collect::<Result<Vec<R>, _>>()))
            .collect();
        let mut all = Vec::with_capacity(items.len());
        for thread in threads {
            all.extend(thread.join().expect("a thread that reads doesn't panic")?);
        }
        Ok(all)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_side_by_side_keeps_its_order() {
        let items: Vec<u64> = (0..1_000).collect();
        assert_eq!(side_by_side(&items, |item| Ok(item * 2)).unwrap(), items.iter().map(|i| i * 2).collect::<Vec<_>>());
        let failed = side_by_side(&items, |item| match item {
            700 => Err(ArchiveError::None { path: "x".into() }),
            item => Ok(*item),
        });
        assert!(matches!(failed, Err(ArchiveError::None { .. })));
    }

    #[test]
    fn folders_without_seals_are_listed() {
        let folder = tempfile::tempdir().unwrap();
        let store = Folder::new(folder.path().to_owned());
        assert!(live_files(folder.path().to_str().unwrap()).is_err(), "nothing is there");
        store.put("data/date=2026-05-06/path=%2Fv1%2Fx/a.parquet", b"rows").unwrap();
        store.put("data/README", b"no rows").unwrap();
        let live = live_in(&store).unwrap();
        assert_eq!(live.notes.len(), 1);
        let [file] = &live.files[..] else { panic!("{live:?}") };
        assert_eq!((file.bytes, file.sealed), (4, None));
        let expected = [("date", "2026-05-06"), ("path", "/v1/x")];
        assert_eq!(file.partition, expected.map(|(name, value)| (name.to_owned(), Some(value.to_owned()))));
    }
}
