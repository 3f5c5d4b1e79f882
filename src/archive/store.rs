//! What an archive asks of the place that keeps it: a local folder, or a bucket of an object store.
//!
//! Everything that exactly-once stands on is here: [`Store::put_if_absent`] decides between writers, and an object is there
//! whole or not at all. Keys are relative, with `/` between their parts. An error may hide an effect (a reply that was
//! lost): whoever puts again must be able to tell its own object from another's.

use super::ArchiveError;
use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;

/// A file that a seal has named, on its way to where readers look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Placement {
    /// Key of the staged object.
    pub(crate) from: String,
    /// Key that readers find.
    pub(crate) to: String,
    pub(crate) bytes: u64,
}

/// A place for objects. Calls block.
pub(crate) trait Store: fmt::Debug + Send + Sync {
    /// How people call the object, for messages.
    fn show(&self, key: &str) -> String;

    /// The whole object; `None` where there is none.
    fn read(&self, key: &str) -> Result<Option<Vec<u8>>, ArchiveError>;

    /// Its length in bytes; `None` where there is none.
    fn size(&self, key: &str) -> Result<Option<u64>, ArchiveError>;

    /// `length` bytes of an object from byte `start` on; fewer where it ends before.
    fn range(&self, key: &str, start: u64, length: u64) -> Result<Vec<u8>, ArchiveError>;

    /// Names directly below `folder`, of objects and of folders, in order; none where there is no such folder.
    fn list(&self, folder: &str) -> Result<Vec<String>, ArchiveError>;

    /// Keys of all objects below `folder`, at any depth, in order.
    fn walk(&self, folder: &str) -> Result<Vec<String>, ArchiveError>;

    /// Puts an object unless there is one under that key; tells whether it was put. Of several that try at once, one is told so.
    fn put_if_absent(&self, key: &str, bytes: &[u8]) -> Result<bool, ArchiveError>;

    /// Puts an object under a key that nobody else uses.
    fn put(&self, key: &str, bytes: &[u8]) -> Result<(), ArchiveError>;

    /// Makes finished local files durable under their keys. Where a file is that object already, only its name has to be.
    fn upload(&self, files: &[(PathBuf, String)]) -> Result<(), ArchiveError>;

    /// Brings staged objects to where readers look, durably. May be repeated after any failure, and by several at once, and
    /// goes on where it was broken off.
    fn place(&self, files: &[Placement]) -> Result<(), ArchiveError>;

    /// Removes an object; that there is none is no error.
    fn remove(&self, key: &str) -> Result<(), ArchiveError>;

    /// Removes objects at once, as far as the place can do so; that some aren't there is no error.
    fn remove_all(&self, keys: &[String]) -> Result<(), ArchiveError> {
        keys.iter().try_for_each(|key| self.remove(key))
    }

    /// Copies an object within the place, over what is there.
    fn copy(&self, file: &Placement) -> Result<(), ArchiveError>;

    /// Brings `added` to where readers look and takes `removed` away to where they don't, durably. May be repeated after any
    /// failure. Where the place can ([`Self::swaps`]), a reader that lists a folder sees those before or those behind it;
    /// else both for a moment, the new ones first: rows are never missing.
    fn replace(&self, added: &[Placement], removed: &[Placement]) -> Result<(), ArchiveError> {
        let there = neighbours(self, added.iter().map(|file| &file.to).chain(removed.iter().map(|file| &file.from)))?;
        let left: Vec<&Placement> = removed.iter().filter(|file| there.contains(&file.from)).collect();
        for file in &left {
            if self.size(&file.to)? != Some(file.bytes) {
                self.copy(file)?;
            }
        }
        let missing: Vec<Placement> = added.iter().filter(|file| !there.contains(&file.to)).cloned().collect();
        self.place(&missing)?;
        self.remove_all(&left.into_iter().map(|file| file.from.clone()).collect::<Vec<_>>())
    }

    /// Whether [`Self::replace`] within one folder is one step to whoever lists it.
    fn swaps(&self) -> bool {
        false
    }

    /// Where the object is as a local file; `None` where it is none.
    fn local(&self, _key: &str) -> Option<PathBuf> {
        None
    }
}

/// The keys of all objects that lie beside these.
fn neighbours<'k, S: Store + ?Sized>(
    store: &S,
    keys: impl Iterator<Item = &'k String>,
) -> Result<BTreeSet<String>, ArchiveError> {
    let folders: BTreeSet<&str> = keys.filter_map(|key| Some(key.rsplit_once('/')?.0)).collect();
    let mut there = BTreeSet::new();
    for folder in folders {
        there.extend(store.list(folder)?.into_iter().map(|name| format!("{folder}/{name}")));
    }
    Ok(there)
}

/// `key` as the last part of a path.
pub(crate) fn name_of(key: &str) -> &str {
    key.rsplit('/').next().unwrap_or(key)
}
