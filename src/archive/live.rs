//! What readers see: the files whose rows make up an archive, as of one moment, and the way to their bytes.
//!
//! The list comes from the chains and the log of changes (`catalogue.rs`) and never from a listing: a file counts when a seal
//! names it and no change has replaced it. A file that a crash left unplaced is read where it is staged. Folders that were copied without
//! `_headrig` have no chains; then, and only then, what is found there counts.

use super::ArchiveError;
use super::bucket::Bucket;
use super::catalogue::Catalogue;
use super::chain::{self, Keys};
use super::check::{self, Location};
use super::delta;
use super::folder::Folder;
use super::partition;
use super::staging::{StagedFile, is_lines};
use super::store::Store;
use super::table::Kind;
use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use object_store::prefix::PrefixStore;
use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

/// Requests to a store that are under way at a time.
const REQUESTS: usize = 16;

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
    /// Of JSON Lines, the object that says what their columns are, where there is one ([`FileColumns`](super::FileColumns)).
    pub columns: Option<String>,
    /// The folder under `_headrig` of the pipeline whose file it is; `None` where no seal says so.
    pub home: Option<String>,
}

impl LiveFile {
    /// Whether it is JSON Lines, and not Parquet.
    pub fn is_lines(&self) -> bool {
        is_lines(&self.path)
    }
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

/// The name of a pipeline's folder under `_headrig`.
pub fn home(pipeline: &str) -> String {
    super::partition::file_name(pipeline)
}

/// How many source partitions the chains of one pipeline hold; 0 where there are none.
///
/// # Errors
/// When the archive cannot be read.
pub fn held_partitions(url: &str, pipeline: &str) -> Result<usize, ArchiveError> {
    let store: Box<dyn Store> = match check::location_of(url)? {
        Location::Folder(root) => Box::new(Folder::new(root)),
        Location::Bucket(url) => Box::new(Bucket::connect(&url)?),
    };
    let heads = chain::heads(store.as_ref(), &Keys::new(pipeline))?;
    let holds = heads.iter().flat_map(|entry| &entry.holds);
    let names: BTreeSet<(&str, &str)> =
        holds.map(|held| (held.at.source.as_str(), held.at.partition.as_str())).collect();
    Ok(names.len())
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
            let (store, root) = Bucket::client(&url, None)?;
            Ok(Arc::new(PrefixStore::new(store, root)))
        }
    }
}

/// As [`live_files`], of a place that is there already.
pub(crate) fn live_in(store: &dyn Store) -> Result<Live, ArchiveError> {
    let homes: Vec<String> = store.list("_headrig")?.into_iter().filter(|name| !name.starts_with('.')).collect();
    if homes.is_empty() {
        return unsealed(store);
    }
    let mut before = None;
    loop {
        let mut sealed = Vec::new();
        for home in &homes {
            sealed.extend(Catalogue::read(store, &Keys::of_home(home))?.files.into_values());
        }
        let (elsewhere, sealed): (Vec<StagedFile>, Vec<StagedFile>) =
            sealed.into_iter().partition(|file| file.cold.is_some());
        // Behind the list: what it names was placed by now, or is staged.
        let mut there = HashSet::new();
        for keys in side_by_side(&Kind::ALL, |kind| store.walk(kind.as_str()))? {
            there.extend(keys);
        }
        let found = side_by_side(&sealed, |file| locate(store, file, &there))?;
        let gone: Vec<&str> =
            sealed.iter().zip(&found).filter(|(_, at)| at.is_none()).map(|(file, _)| file.path.as_str()).collect();
        // Replaced since the list was made; the next one says by what. What is gone twice was deleted by somebody else.
        let gone: BTreeSet<String> = gone.into_iter().map(str::to_owned).collect();
        if !gone.is_empty() && before.as_ref() != Some(&gone) {
            before = Some(gone);
            continue;
        }
        let notes = notes(gone.len(), &elsewhere);
        let live = |(file, location): (StagedFile, Option<String>)| Some(live_file(file, location?));
        let mut files: Vec<LiveFile> = sealed.into_iter().zip(found).filter_map(live).collect();
        files.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        return Ok(Live { files, notes });
    }
}

fn notes(gone: usize, elsewhere: &[StagedFile]) -> Vec<String> {
    let mut notes = Vec::new();
    if gone > 0 {
        notes.push(format!("{gone} sealed files are gone, their rows are left out; `headrig verify` names them"));
    }
    let archives: BTreeSet<&str> = elsewhere.iter().filter_map(|file| file.cold.as_deref()).collect();
    for archive in archives {
        let files = elsewhere.iter().filter(|file| file.cold.as_deref() == Some(archive)).count();
        notes.push(format!(
            "{files} older files were moved to {archive}, their rows are left out; query that archive for them"
        ));
    }
    notes
}

fn live_file(file: StagedFile, location: String) -> LiveFile {
    let rows = SealedRows { rows: file.rows, min_us: file.min_us, max_us: file.max_us };
    let partition = partition::values(&file.path);
    let StagedFile { kind, path, bytes, columns, staged, .. } = file;
    let home = staged.split('/').nth(1).map(str::to_owned);
    LiveFile { kind, path, location, bytes, sealed: Some(rows), partition, columns, home }
}

/// Where a file's bytes are; `None` where they are gone.
fn locate(store: &dyn Store, file: &StagedFile, there: &HashSet<String>) -> Result<Option<String>, ArchiveError> {
    let StagedFile { path, staged, .. } = file;
    if there.contains(path) {
        return Ok(Some(path.clone()));
    }
    if store.size(staged)?.is_some() {
        return Ok(Some(staged.clone()));
    }
    // It may have been placed since the listing.
    Ok(store.size(path)?.map(|_| path.clone()))
}

/// What lies there, of an archive that was copied without its seals.
fn unsealed(store: &dyn Store) -> Result<Live, ArchiveError> {
    let mut files = Vec::new();
    for kind in Kind::ALL {
        let is_data = |key: &String| (key.ends_with(".parquet") || is_lines(key)) && !delta::is_log(key);
        let keys: Vec<String> = store.walk(kind.as_str())?.into_iter().filter(is_data).collect();
        let sizes = side_by_side(&keys, |key| store.size(key))?;
        let live = |(path, bytes): (String, Option<u64>)| {
            let (location, partition) = (path.clone(), partition::values(&path));
            Some(LiveFile { kind, path, location, bytes: bytes?, sealed: None, partition, columns: None, home: None })
        };
        files.extend(keys.into_iter().zip(sizes).filter_map(live));
    }
    let note = "there is no folder `_headrig`: files are read as they are listed, also such as no seal ever named";
    let notes = if files.is_empty() { Vec::new() } else { vec![note.to_owned()] };
    Ok(Live { files, notes })
}

/// Does `work` for all items, some at a time, and returns what came in their order.
pub(super) fn side_by_side<T: Sync, R: Send>(
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
