//! An archive in a local folder: objects are files, and what was told to be done survives a power cut.

use super::ArchiveError;
use super::disk;
use super::store::{Placement, Store};
use super::swap;
use rustix::fs::FlockOperation;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Where files lie until they are linked to their names.
const ASIDE: &str = "_headrig";
/// How their names begin.
const PUT: &str = ".put-";
/// The file that is locked while files are moved to where readers look.
const GATE: &str = ".gate";

/// The folder of an archive.
#[derive(Debug)]
pub(crate) struct Folder {
    root: PathBuf,
}

/// Files begun by this process, so that no two have one name: several pipelines may write one archive.
static BEGUN: AtomicU64 = AtomicU64::new(0);

impl Folder {
    pub(crate) fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// Removes what processes that died while they put something have left.
    pub(crate) fn sweep(&self) -> Result<(), ArchiveError> {
        for name in self.list(ASIDE)?.into_iter().filter(|name| name.starts_with(PUT)) {
            let path = self.root.join(ASIDE).join(name);
            let Ok(file) = File::open(&path) else { continue };
            // Whoever is alive holds a lock on it.
            if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
                self.remove(&format!("{ASIDE}/{}", path.file_name().and_then(|n| n.to_str()).unwrap_or_default()))?;
            }
        }
        Ok(())
    }

    /// Held while files are moved to where readers look: shared by those who add to folders, alone by who replaces one.
    fn gate(&self, operation: FlockOperation) -> Result<File, ArchiveError> {
        let folder = self.root.join(ASIDE);
        disk::make_folder(&folder)?;
        let path = folder.join(GATE);
        let file = File::options().read(true).write(true).create(true).truncate(false).open(&path);
        let file = file.map_err(ArchiveError::io("open", &path))?;
        let locked = rustix::io::retry_on_intr(|| rustix::fs::flock(&file, operation));
        locked.map_err(|error| ArchiveError::io("lock", &path)(error.into()))?;
        Ok(file)
    }

    fn path(&self, key: &str) -> Result<PathBuf, ArchiveError> {
        disk::below(&self.root, key).ok_or_else(|| ArchiveError::Corrupt {
            path: self.root.clone(),
            detail: format!("has an entry that names a file outside of the archive: {key:?}"),
        })
    }

    /// Writes an object under a name that no reader looks at, on the same disk. The file is locked as long as it is held.
    fn write_aside(&self, bytes: &[u8]) -> Result<(PathBuf, File), ArchiveError> {
        let folder = self.root.join(ASIDE);
        disk::make_folder(&folder)?;
        let number = BEGUN.fetch_add(1, Ordering::Relaxed);
        let path = folder.join(format!("{PUT}{}-{number}", std::process::id()));
        let written = begin(&path).and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()?;
            Ok(file)
        });
        match written {
            Ok(file) => Ok((path, file)),
            Err(error) => {
                // A full disk would stay full.
                let _ = fs::remove_file(&path);
                Err(ArchiveError::io("write", &path)(error))
            }
        }
    }
}

/// Makes a file and locks it. One that another writer has swept away in between is made again.
fn begin(path: &Path) -> std::io::Result<File> {
    loop {
        let file = File::create(path)?;
        rustix::fs::flock(&file, FlockOperation::LockShared)?;
        if file.metadata()?.nlink() > 0 {
            return Ok(file);
        }
    }
}

pub(super) fn parent(path: &Path) -> &Path {
    path.parent().expect("a file has a folder")
}

impl Store for Folder {
    fn show(&self, key: &str) -> String {
        self.root.join(key).display().to_string()
    }

    fn read(&self, key: &str) -> Result<Option<Vec<u8>>, ArchiveError> {
        let path = self.path(key)?;
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(ArchiveError::io("read", &path)(error)),
        }
    }

    fn size(&self, key: &str) -> Result<Option<u64>, ArchiveError> {
        disk::size(&self.path(key)?)
    }

    fn range(&self, key: &str, start: u64, length: u64) -> Result<Vec<u8>, ArchiveError> {
        let path = self.path(key)?;
        let read = || {
            let file = File::open(&path)?;
            let there = file.metadata()?.len().saturating_sub(start).min(length);
            let mut bytes = vec![0; there as usize];
            file.read_exact_at(&mut bytes, start)?;
            Ok(bytes)
        };
        read().map_err(ArchiveError::io("read", &path))
    }

    fn list(&self, folder: &str) -> Result<Vec<String>, ArchiveError> {
        let path = self.path(folder)?;
        let listing = match fs::read_dir(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            listing => listing.map_err(ArchiveError::io("list", &path))?,
        };
        let mut names = Vec::new();
        for entry in listing {
            // What isn't UTF-8 is none of ours.
            names.extend(entry.map_err(ArchiveError::io("list", &path))?.file_name().into_string().ok());
        }
        names.sort_unstable();
        Ok(names)
    }

    fn walk(&self, folder: &str) -> Result<Vec<String>, ArchiveError> {
        let mut keys = Vec::new();
        for name in self.list(folder)? {
            let key = format!("{folder}/{name}");
            if self.path(&key)?.is_dir() { keys.extend(self.walk(&key)?) } else { keys.push(key) }
        }
        keys.sort_unstable();
        Ok(keys)
    }

    fn put_if_absent(&self, key: &str, bytes: &[u8]) -> Result<bool, ArchiveError> {
        let path = self.path(key)?;
        disk::make_folder(parent(&path))?;
        let (aside, _held) = self.write_aside(bytes)?;
        let linked = fs::hard_link(&aside, &path);
        fs::remove_file(&aside).map_err(ArchiveError::io("remove", &aside))?;
        match linked {
            Ok(()) => disk::sync_folder(parent(&path)).map(|()| true),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(ArchiveError::io("write", &path)(error)),
        }
    }

    fn put(&self, key: &str, bytes: &[u8]) -> Result<(), ArchiveError> {
        let path = self.path(key)?;
        disk::make_folder(parent(&path))?;
        let (aside, _held) = self.write_aside(bytes)?;
        fs::rename(&aside, &path).map_err(ArchiveError::io("write", &path))?;
        disk::sync_folder(parent(&path))
    }

    fn upload(&self, files: &[(PathBuf, String)]) -> Result<(), ArchiveError> {
        let mut touched = BTreeSet::new();
        for (local, key) in files {
            let path = self.path(key)?;
            if *local != path {
                disk::make_folder(parent(&path))?;
                match fs::rename(local, &path) {
                    // An earlier try came so far.
                    Err(error) if error.kind() == ErrorKind::NotFound && disk::size(&path)?.is_some() => {}
                    renamed => renamed.map_err(ArchiveError::io("place", &path))?,
                }
            }
            touched.insert(parent(&path).to_owned());
        }
        touched.iter().try_for_each(|folder| disk::sync_folder(folder))
    }

    fn place(&self, files: &[Placement]) -> Result<(), ArchiveError> {
        // Nobody puts another folder in the place of one that a file is about to be moved into.
        let _shared = self.gate(FlockOperation::LockShared)?;
        let mut touched = BTreeSet::new();
        for file in files {
            let (staged, target) = (self.path(&file.from)?, self.path(&file.to)?);
            if is_in_place(&staged, &target, file.bytes)? {
                continue;
            }
            disk::make_folder(parent(&target))?;
            match fs::rename(&staged, &target) {
                // Another one who places the same was faster.
                Err(error) if error.kind() == ErrorKind::NotFound && disk::size(&target)? == Some(file.bytes) => {}
                renamed => renamed.map_err(ArchiveError::io("place", &target))?,
            }
            touched.extend([parent(&target).to_owned(), parent(&staged).to_owned()]);
        }
        touched.iter().try_for_each(|folder| disk::sync_folder(folder))
    }

    fn remove(&self, key: &str) -> Result<(), ArchiveError> {
        let path = self.path(key)?;
        match fs::remove_file(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            removed => removed.map_err(ArchiveError::io("remove", &path)),
        }
    }

    /// Folders that are left empty go, too.
    fn remove_all(&self, keys: &[String]) -> Result<(), ArchiveError> {
        keys.iter().try_for_each(|key| self.remove(key))?;
        let folders: BTreeSet<PathBuf> =
            keys.iter().filter_map(|key| Some(parent(&self.path(key).ok()?).to_owned())).collect();
        // What is gone stays gone after a power cut.
        folders.iter().filter(|folder| folder.is_dir()).try_for_each(|folder| disk::sync_folder(folder))?;
        let _alone = self.gate(FlockOperation::LockExclusive)?;
        for key in keys {
            let mut folder = key.as_str();
            // Never the table's own folder.
            while let Some((above, _)) = folder.rsplit_once('/').filter(|(above, _)| above.contains('/')) {
                if fs::remove_dir(self.path(above)?).is_err() {
                    break;
                }
                folder = above;
            }
        }
        Ok(())
    }

    fn copy(&self, file: &Placement) -> Result<(), ArchiveError> {
        let (from, to) = (self.path(&file.from)?, self.path(&file.to)?);
        disk::make_folder(parent(&to))?;
        match fs::hard_link(&from, &to) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            linked => linked.map_err(ArchiveError::io("place", &to))?,
        }
        disk::sync_folder(parent(&to))
    }

    fn replace(&self, added: &[Placement], removed: &[Placement]) -> Result<(), ArchiveError> {
        for file in added.iter().chain(removed) {
            self.path(&file.from).and(self.path(&file.to))?;
        }
        let _alone = self.gate(FlockOperation::LockExclusive)?;
        if let Some(folder) = swap::one_folder(added, removed)
            && swap::swap(&self.root, folder, added, removed)?
        {
            return Ok(());
        }
        swap::one_by_one(&self.root, added, removed)
    }

    fn swaps(&self) -> bool {
        swap::works(&self.root.join(ASIDE))
    }

    fn local(&self, key: &str) -> Option<PathBuf> {
        self.path(key).ok()
    }
}

/// Whether a sealed file has been moved already; an error when it is gone or not the one that was sealed.
pub(super) fn is_in_place(staged: &Path, target: &Path, bytes: u64) -> Result<bool, ArchiveError> {
    let corrupt = |path: &Path, detail: String| Err(ArchiveError::Corrupt { path: path.to_owned(), detail });
    match (disk::size(staged)?, disk::size(target)?) {
        (None, None) => corrupt(target, "is missing, and so is its staged copy".to_owned()),
        (Some(found), None) if found == bytes => Ok(false),
        (_, Some(found)) if found == bytes => Ok(true),
        (_, Some(found)) => corrupt(target, format!("has {found} bytes, {bytes} were sealed")),
        (Some(found), None) => corrupt(staged, format!("has {found} bytes, {bytes} were sealed")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_never_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let store = Folder::new(folder.path().to_owned());
        assert!(store.put_if_absent("a/1.json", b"first").unwrap());
        assert!(!store.put_if_absent("a/1.json", b"second").unwrap());
        assert_eq!(store.read("a/1.json").unwrap().unwrap(), b"first");
        assert_eq!(store.list("a").unwrap(), ["1.json"], "nothing else is left");
        fs::write(folder.path().join("_headrig/.put-1-1"), b"left by a crash").unwrap();
        store.sweep().unwrap();
        assert_eq!(store.list("_headrig").unwrap(), Vec::<String>::new());
        assert_eq!(store.list("nowhere").unwrap(), Vec::<String>::new());
    }

    /// As two pipelines of one daemon do, while another daemon starts.
    #[test]
    fn writers_side_by_side_are_not_in_each_others_way() {
        let folder = tempfile::tempdir().unwrap();
        let store = || Folder::new(folder.path().to_owned());
        let put = |name: &str| {
            let store = store();
            for number in 0..100 {
                store.put(&format!("{name}/{number}"), name.as_bytes()).unwrap();
                assert!(store.put_if_absent(&format!("{name}/{number}.json"), name.as_bytes()).unwrap());
                store.sweep().unwrap();
            }
        };
        std::thread::scope(|scope| {
            for name in ["a", "b", "c"] {
                scope.spawn(move || put(name));
            }
        });
        for name in ["a", "b", "c"] {
            assert_eq!(store().list(name).unwrap().len(), 200);
            assert_eq!(store().read(&format!("{name}/7")).unwrap().unwrap(), name.as_bytes());
        }
    }

    #[test]
    fn placing_again_and_after_another_is_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let store = Folder::new(folder.path().to_owned());
        store.put("s/x", b"rows").unwrap();
        let files = [Placement { from: "s/x".into(), to: "data/d=1/x".into(), bytes: 4 }];
        for _ in 0..3 {
            store.place(&files).unwrap();
            assert_eq!(store.walk("data").unwrap(), ["data/d=1/x"]);
        }
        let gone = [Placement { from: "s/y".into(), to: "data/y".into(), bytes: 4 }];
        assert!(matches!(store.place(&gone), Err(ArchiveError::Corrupt { .. })));
        assert!(store.remove("s/x").is_ok() && store.read("../x").is_err());
    }
}
