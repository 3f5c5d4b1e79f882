//! What the archive holds of a source's files, and which file that is there each entry belongs to.
//!
//! A partition is called by the path at which its file was first opened; where another known file has that name, `#2`,
//! `#3`, … is put behind it. Names say nothing about where a file lies by now: [`Known::assign`] goes by identity. In this
//! order, and always only where the file begins as it did and is no shorter than what was read of it:
//!
//! 1. device and inode: the file itself, renamed or not;
//! 2. the inode alone: device numbers change when a machine or a container starts anew;
//! 3. the path, for entries of earlier versions, which knew no inodes;
//! 4. the head alone, where it tells enough: a copy, on another disk or by a rotation that copies and truncates.
//!
//! Two files with the same head and their own inodes are two files, as long as both are there. An entry whose file is
//! there and holds something else by now (it was truncated, or its inode is another file's) is dropped. Any other entry
//! without a file is kept, as its file may come back; how many is bounded by `limits::FILES_GONE`.

use super::fingerprint::{self, FileId, Identity};
use super::{PartitionName, SourceError};
use crate::limits::FILES_GONE;
use crate::record::receipt::Checkpoint;
use crate::telemetry::metrics::SelfMetrics;
use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirEntryExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How far a file was read that is not being read.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub name: String,
    pub identity: Identity,
    pub position: u64,
}

impl Entry {
    fn fits(&self, look: &Look) -> bool {
        look.size >= self.position && self.identity.fits(&look.head)
    }

    /// The folder in which it was first opened.
    fn folder(&self) -> Option<&Path> {
        Path::new(&self.name).parent()
    }

    /// Whether its folder is there, on the disk on which it was, so that a file that isn't in it is gone.
    fn has_folder(&self) -> bool {
        let device = self.folder().and_then(|folder| fs::metadata(or_here(folder)).ok()).map(|folder| folder.dev());
        self.identity.file.is_some_and(|file| device == Some(file.device))
    }
}

/// A path without a folder lies in the working directory.
pub(super) fn or_here(folder: &Path) -> &Path {
    if folder.as_os_str().is_empty() { Path::new(".") } else { folder }
}

/// A file as a look at it shows it.
#[derive(Debug)]
pub(super) struct Look {
    pub path: PathBuf,
    pub file_id: FileId,
    pub size: u64,
    pub head: Vec<u8>,
}

impl Look {
    pub(super) fn identity(&self) -> Identity {
        Identity::new(self.file_id, &self.head)
    }

    /// Looks at the file at `path`, which must be a regular one.
    ///
    /// # Errors
    /// When it cannot be opened or read.
    pub(super) fn at(path: &Path) -> Result<Self, SourceError> {
        let looked = File::open(path).and_then(|file| {
            // Before the size, so that the size is never less than the head.
            let head = fingerprint::head(&file)?;
            let metadata = file.metadata()?;
            Ok(Self { path: path.to_owned(), file_id: FileId::of(&metadata), size: metadata.len(), head })
        });
        looked.map_err(|error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => SourceError::Missing { path: path.to_owned() },
            _ => SourceError::Open { path: path.to_owned(), source: error },
        })
    }
}

/// A file, and where to read on in it.
#[derive(Debug)]
pub(super) struct Placed {
    pub look: Look,
    pub name: PartitionName,
    /// What checkpoints know it by; for a new file what it is now.
    pub identity: Identity,
    pub position: u64,
    /// Whether something had been read of it.
    pub known: bool,
}

/// The entries of files that are not being read.
#[derive(Debug)]
pub(super) struct Known {
    source: Arc<str>,
    /// Oldest first.
    gone: Vec<Entry>,
    /// Names of files that are being read.
    taken: HashSet<String>,
    /// What checkpoints need not keep any longer.
    forgotten: Vec<PartitionName>,
}

impl Known {
    pub(super) fn new(source: &str, stored: &Checkpoint) -> Self {
        let own = stored.partitions.iter().filter(|entry| entry.source == source);
        let parse = |identity: &str| Identity::parse(identity);
        let gone = own.filter_map(|entry| {
            let identity = parse(&entry.identity)?;
            Some(Entry { name: entry.partition.clone(), identity, position: entry.position })
        });
        Self { source: source.into(), gone: gone.collect(), taken: HashSet::new(), forgotten: Vec::new() }
    }

    /// Which entry each of `looks` belongs to, and how files without one shall be called. Looks that came together should be
    /// handed in together, so that no file gets what belongs to another.
    pub(super) fn assign(&mut self, looks: Vec<Look>) -> Vec<Placed> {
        let mut owners: Vec<Option<Entry>> = looks.iter().map(|_| None).collect();
        self.by_key(&looks, &mut owners, |look| Some(look.file_id), |entry| entry.identity.file);
        let inode = |entry: &Entry| entry.identity.file.filter(|_| entry.identity.length > 0).map(|file| file.inode);
        self.by_key(&looks, &mut owners, |look| Some(look.file_id.inode), inode);
        let path = |entry: &Entry| entry.identity.file.is_none().then(|| PathBuf::from(&entry.name));
        self.by_key(&looks, &mut owners, |look| Some(look.path.clone()), path);
        self.by_head(&looks, &mut owners);
        self.drop_replaced(&looks);
        self.taken.extend(owners.iter().flatten().map(|entry| entry.name.clone()));
        looks.into_iter().zip(owners).map(|(look, owner)| self.place(look, owner)).collect()
    }

    fn by_key<K: Eq + std::hash::Hash>(
        &mut self,
        looks: &[Look],
        owners: &mut [Option<Entry>],
        of_look: impl Fn(&Look) -> Option<K>,
        of_entry: impl Fn(&Entry) -> Option<K>,
    ) {
        let free = looks.iter().enumerate().filter(|(index, _)| owners[*index].is_none());
        let free: HashMap<K, usize> = free.filter_map(|(index, look)| Some((of_look(look)?, index))).collect();
        self.give(owners, |entry, owners| {
            let index = *free.get(&of_entry(entry)?)?;
            (owners[index].is_none() && entry.fits(&looks[index])).then_some(index)
        });
    }

    fn by_head(&mut self, looks: &[Look], owners: &mut [Option<Entry>]) {
        let alone = |entry: &Entry| entry.identity.tells_alone(entry.position);
        let lengths: HashSet<usize> = self.gone.iter().filter(|e| alone(e)).map(|e| e.identity.length).collect();
        let mut heads: HashMap<(usize, u64), Vec<usize>> = HashMap::new();
        for (index, look) in looks.iter().enumerate().filter(|(index, _)| owners[*index].is_none()) {
            for length in lengths.iter().filter(|length| **length <= look.head.len()) {
                heads.entry((*length, fingerprint::hash(&look.head[..*length]))).or_default().push(index);
            }
        }
        self.give(owners, |entry, owners| {
            let candidates = heads.get(&entry.identity.key()).filter(|_| alone(entry))?.iter().copied();
            let mut fitting = candidates.filter(|i| owners[*i].is_none() && entry.fits(&looks[*i]));
            let first = fitting.next()?;
            let own_path = |index: &usize| looks[*index].path == Path::new(&entry.name);
            Some(fitting.chain([first]).find(own_path).unwrap_or(first))
        });
    }

    /// Moves each entry for which `find` names a file to that file.
    fn give(&mut self, owners: &mut [Option<Entry>], find: impl Fn(&Entry, &[Option<Entry>]) -> Option<usize>) {
        for entry in std::mem::take(&mut self.gone) {
            match find(&entry, owners) {
                Some(index) => owners[index] = Some(entry),
                None => self.gone.push(entry),
            }
        }
    }

    /// Drops entries whose file holds something else by now.
    fn drop_replaced(&mut self, looks: &[Look]) {
        let files: HashSet<FileId> = looks.iter().map(|look| look.file_id).collect();
        let paths: HashSet<&Path> = looks.iter().map(|look| look.path.as_path()).collect();
        for entry in std::mem::take(&mut self.gone) {
            let replaced = match entry.identity.file {
                Some(file) => files.contains(&file),
                None => paths.contains(Path::new(&entry.name)),
            };
            if replaced {
                tracing::info!(
                    file = entry.name,
                    position = entry.position,
                    "file was replaced, reading it from its start"
                );
                self.forget(&entry);
            } else {
                self.gone.push(entry);
            }
        }
    }

    fn place(&mut self, look: Look, owner: Option<Entry>) -> Placed {
        let known = owner.is_some();
        let now = look.identity();
        let Entry { name, identity, position } =
            owner.unwrap_or_else(|| Entry { name: self.free_name(&look.path), identity: now, position: 0 });
        self.taken.insert(name.clone());
        let name = PartitionName { source: Arc::clone(&self.source), partition: name, identity: identity.to_string() };
        Placed { look, name, identity, position, known }
    }

    fn free_name(&self, path: &Path) -> String {
        let name = path.to_string_lossy().into_owned();
        let free = |name: &String| !self.taken.contains(name) && !self.gone.iter().any(|entry| entry.name == *name);
        if free(&name) {
            return name;
        }
        let mut numbered = (2_u64..).map(|number| format!("{name}#{number}"));
        numbered.find(free).expect("there are more numbers than files")
    }

    /// Looks for files that left the patterns while nobody read them: in the folder in which they were first opened, by
    /// their inodes. Returns those that have more to read; tells of those that are lost.
    pub(super) fn rescue(&mut self, telemetry: &SelfMetrics, pipeline: &str) -> Vec<Placed> {
        let wanted = self.gone.iter().filter_map(|entry| Some((entry.identity.file?, entry.folder()?)));
        let mut found = locate(wanted);
        let mut rescued = Vec::new();
        for entry in std::mem::take(&mut self.gone) {
            let look = entry.identity.file.and_then(|file| found.remove(&file)).filter(|look| entry.fits(look));
            match look {
                Some(look) if look.size > entry.position => rescued.push(self.place(look, Some(entry))),
                Some(_) => self.gone.push(entry),
                None => {
                    if !entry.identity.ended {
                        tracing::warn!(
                            file = entry.name,
                            position = entry.position,
                            "cannot find a file that was read up to here, what came behind is not read"
                        );
                        let labels = [pipeline, &self.source, "file_gone"];
                        telemetry.source_interruptions.with_label_values(&labels).inc();
                    }
                    if entry.has_folder() { self.forget(&entry) } else { self.gone.push(entry) }
                }
            }
        }
        self.trim();
        rescued
    }

    /// Notes how far a file was read that is not read any more; it may be found again.
    pub(super) fn leave(&mut self, entry: Entry) {
        self.taken.remove(&entry.name);
        self.gone.push(entry);
        self.trim();
    }

    /// Whether there is an entry that would go to this file, were it alone.
    pub(super) fn wants(&self, look: &Look) -> bool {
        let mut hashes = HashMap::new();
        self.gone.iter().any(|entry| {
            let itself = entry.identity.file.is_some_and(|file| file.inode == look.file_id.inode);
            let (length, hash) = entry.identity.key();
            (itself || entry.identity.tells_alone(entry.position))
                && look.size >= entry.position
                && look
                    .head
                    .get(..length)
                    .is_some_and(|head| *hashes.entry(length).or_insert_with(|| fingerprint::hash(head)) == hash)
        })
    }

    /// Takes back that a new file was placed.
    pub(super) fn unplace(&mut self, placed: &Placed) {
        self.taken.remove(&placed.name.partition);
    }

    /// Notes that a file was deleted, or that nothing was handed on of it.
    pub(super) fn leave_for_ever(&mut self, entry: &Entry) {
        self.taken.remove(&entry.name);
        self.forget(entry);
    }

    fn trim(&mut self) {
        let surplus = self.gone.len().saturating_sub(FILES_GONE);
        for entry in self.gone.drain(..surplus).collect::<Vec<_>>() {
            self.forget(&entry);
        }
    }

    fn forget(&mut self, entry: &Entry) {
        let (source, partition) = (Arc::clone(&self.source), entry.name.clone());
        self.forgotten.push(PartitionName { source, partition, identity: entry.identity.to_string() });
    }

    /// What checkpoints need not keep any longer, each once. To be told before a partition is opened that may have got
    /// such a name.
    pub(super) fn take_forgotten(&mut self) -> Vec<PartitionName> {
        std::mem::take(&mut self.forgotten)
    }
}

/// Looks for files by their inodes, each in a folder in which it was before. Compressed files have other inodes.
pub(super) fn locate<'f>(wanted: impl Iterator<Item = (FileId, &'f Path)>) -> HashMap<FileId, Look> {
    let mut by_folder: HashMap<&Path, HashMap<u64, FileId>> = HashMap::new();
    for (file, folder) in wanted {
        by_folder.entry(folder).or_default().insert(file.inode, file);
    }
    let mut found = HashMap::new();
    for (folder, files) in by_folder {
        // A folder that cannot be listed has nothing to find.
        for entry in fs::read_dir(or_here(folder)).into_iter().flatten().flatten() {
            if let Some(file) = files.get(&entry.ino())
                && entry.file_type().is_ok_and(|kind| kind.is_file())
                && let Ok(look) = Look::at(&folder.join(entry.file_name()))
                && look.file_id == *file
            {
                found.insert(*file, look);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::receipt::PartitionPosition;

    const A: FileId = FileId { device: 1, inode: 10 };
    const B: FileId = FileId { device: 1, inode: 11 };

    fn look(path: &str, file_id: FileId, text: &str, size: u64) -> Look {
        let head = text.as_bytes()[..text.len().min(fingerprint::HEAD_BYTES)].to_vec();
        Look { path: path.into(), file_id, size, head }
    }

    fn known(entries: &[(&str, Identity, u64)]) -> Known {
        let entry = |(name, identity, position): &(&str, Identity, u64)| PartitionPosition {
            source: "s".to_owned(),
            partition: (*name).to_owned(),
            identity: identity.to_string(),
            position: *position,
        };
        Known::new("s", &Checkpoint { partitions: entries.iter().map(entry).collect() })
    }

    /// Which names and positions files get when `entries` are known.
    fn check(entries: &[(&str, Identity, u64)], looks: Vec<Look>, expected: &[(&str, u64)]) -> Known {
        let mut known = known(entries);
        let placed = known.assign(looks);
        let got: Vec<_> = placed.iter().map(|p| (p.name.partition.as_str(), p.position)).collect();
        assert_eq!(got, expected);
        known
    }

    fn whole() -> String {
        "2026-11-21 a line ".repeat(100)
    }

    #[test]
    fn a_file_is_itself_wherever_it_lies() {
        let id = Identity::new(A, b"one\n");
        check(&[("a", id, 4)], vec![look("a", A, "one\ntwo\n", 8)], &[("a", 4)]);
        let rotated = vec![look("a", B, "three\n", 6), look("a.1", A, "one\ntwo\n", 8)];
        check(&[("a", id, 4)], rotated, &[("a#2", 0), ("a", 4)]);
        let chain = [("a", id, 4), ("a#2", Identity::new(B, b"three\n"), 6)];
        let later = FileId { device: 1, inode: 12 };
        let rotated =
            vec![look("a", later, "five\n", 5), look("a.1", B, "three\n", 6), look("a.2", A, "one\ntwo\n", 8)];
        check(&chain, rotated, &[("a#3", 0), ("a#2", 6), ("a", 4)]);
    }

    #[test]
    fn a_device_may_get_another_number() {
        let after_the_boot = FileId { device: 2, ..A };
        let entry = ("a", Identity::new(A, b"one\n"), 4);
        check(&[entry], vec![look("a.1", after_the_boot, "one\ntwo\n", 8)], &[("a", 4)]);
        check(&[entry], vec![look("a.1", after_the_boot, "two\none\n", 8)], &[("a.1", 0)]);
    }

    #[test]
    fn an_inode_that_is_another_files_and_a_truncated_file_begin_anew() {
        let entry = ("a", Identity::new(A, b"one\n"), 8);
        for (text, size) in [("two\n and more", 13), ("one\n", 4)] {
            let mut known = check(&[entry], vec![look("a", A, text, size)], &[("a", 0)]);
            let forgotten = known.take_forgotten();
            assert_eq!((forgotten.len(), forgotten[0].identity.clone()), (1, entry.1.to_string()));
        }
    }

    #[test]
    fn a_copy_is_known_by_its_head_once_the_file_is_gone_or_truncated() {
        let text = whole();
        let entry = ("a", Identity::new(A, &text.as_bytes()[..fingerprint::HEAD_BYTES]), 1_500);
        check(&[entry], vec![look("a", B, &text, 1_800)], &[("a", 1_500)]);
        check(&[entry], vec![look("a", A, "new\n", 4), look("a.1", B, &text, 1_800)], &[("a#2", 0), ("a", 1_500)]);
        let both = vec![look("a", A, &text, 1_800), look("b", B, &text, 1_800)];
        check(&[entry], both, &[("a", 1_500), ("b", 0)]);
        check(&[entry], vec![look("a.1", B, &text, 1_400)], &[("a.1", 0)]);
        let (other, own) = (FileId { device: 1, inode: 12 }, FileId { device: 1, inode: 13 });
        let two = vec![look("Z", other, &text, 1_800), look("a", own, &text, 1_800)];
        check(&[entry], two, &[("Z", 0), ("a", 1_500)]);
    }

    #[test]
    fn a_short_head_alone_says_nothing() {
        let entry = ("a", Identity::new(A, b"level,message\n"), 14);
        check(&[entry], vec![look("b", B, "level,message\nINFO,x\n", 21)], &[("b", 0)]);
        let line = whole()[..300].to_owned();
        let entry = ("a", Identity::new(A, line.as_bytes()), 300);
        check(&[entry], vec![look("b", B, &whole(), 1_800)], &[("a", 300)]);
        let further = ("a", Identity::new(A, line.as_bytes()), 301);
        check(&[further], vec![look("b", B, &whole(), 1_800)], &[("b", 0)]);
    }

    #[test]
    fn what_earlier_versions_stored_still_counts() {
        let short = Identity::new(A, b"one\n").of_copy();
        check(&[("a", short, 4)], vec![look("a", A, "one\ntwo\n", 8)], &[("a", 4)]);
        check(&[("a", short, 4)], vec![look("a", A, "two\none\n", 8)], &[("a", 0)]);
        check(&[("a", short, 4)], vec![look("a.1", A, "one\ntwo\n", 8)], &[("a.1", 0)]);
        let text = whole();
        let full = Identity::new(A, &text.as_bytes()[..fingerprint::HEAD_BYTES]).of_copy();
        check(&[("a", full, 1_500)], vec![look("a.1", A, &text, 1_800)], &[("a", 1_500)]);
    }

    #[test]
    fn files_that_are_gone_do_not_pile_up() {
        let mut known = known(&[]);
        for number in 0..FILES_GONE as u64 + 3 {
            let identity = Identity::new(FileId { device: 1, inode: number }, b"one\n");
            known.leave(Entry { name: number.to_string(), identity, position: 4 });
        }
        let forgotten: Vec<_> = known.take_forgotten().into_iter().map(|name| name.partition).collect();
        assert_eq!(forgotten, ["0", "1", "2"]);
        assert_eq!((known.gone.len(), known.take_forgotten().len()), (FILES_GONE, 0));
    }
}
