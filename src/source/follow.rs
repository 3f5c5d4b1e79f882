//! `type: file` with `follow: true`: lines of files that grow, and of files that come later.
//!
//! One thread looks at every file in turn: a batch from each that has more; when none has, it waits a little
//! (`limits::FOLLOW_POLL`). A line is handed on when its end is there. A file that is no longer where it was (renamed,
//! deleted) is read until it has been silent for `limits::FOLLOW_ROTATED`, and then its partition ends and the file
//! that has come in its place is opened, as a partition of the same name and another identity; where the pattern matches
//! the old file's new name, too, it is not read again. A file that became
//! shorter was written anew: its partition ends and a new one begins at its start. An empty file is no partition yet,
//! for it has no identity.

use super::file::{FileId, Opened, Reader, find, open};
use super::lines::Lines;
use super::outlet::blocking;
use super::{Buffers, Closed, FileConfig, Outlet, PartitionName, Source, SourceError, fingerprint};
use crate::limits::{FILES_FOLLOWED, FOLLOW_POLL, FOLLOW_ROTATED, FOLLOW_SCAN};
use crate::place::Located;
use crate::record::raw::PartitionId;
use crate::record::receipt::Checkpoint;
use crate::time::clock::Monotonic;
use futures::future::BoxFuture;
use std::collections::{BTreeSet, VecDeque};
use std::fs;
use std::io::{Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Files that are followed.
#[derive(Debug)]
pub(super) struct Follow {
    source: Arc<str>,
    paths: Vec<Located<String>>,
    found: Vec<(PathBuf, Opened)>,
    /// What the archive has of files that were not opened yet.
    stored: Checkpoint,
}

impl Follow {
    /// Opens the files that are there. None need be.
    ///
    /// # Errors
    /// When one that is there cannot be read.
    pub(super) fn connect(config: &FileConfig, name: &str, stored: &Checkpoint) -> Result<Self, SourceError> {
        let source: Arc<str> = name.into();
        let mut found = Vec::new();
        let mut unopened = stored.clone();
        for file in find(&config.paths, tolerate)?.into_iter().take(FILES_FOLLOWED) {
            let opened = open(&file.path, &source, stored)?;
            if opened.size > 0 {
                forget(&mut unopened, &opened.name);
                found.push((file.path, opened));
            }
        }
        Ok(Self { source, paths: config.paths.clone(), found, stored: unopened })
    }
}

/// A stored position counts once: a file that comes later under the same name is another one.
fn forget(stored: &mut Checkpoint, name: &PartitionName) {
    stored.partitions.retain(|known| known.source != *name.source || known.partition != name.partition);
}

/// What may still come, or go away, is no error of a source that waits for files; nor is a compressed file beside them,
/// as log rotation leaves it.
fn tolerate(error: SourceError) -> Result<(), SourceError> {
    match error {
        SourceError::Missing { .. } | SourceError::NoMatch { .. } | SourceError::Compressed { .. } => Ok(()),
        other => Err(other),
    }
}

impl Source for Follow {
    fn partitions(&self) -> Vec<PartitionName> {
        self.found.iter().map(|(_, opened)| opened.name.clone()).collect()
    }

    fn total_bytes(&self) -> Option<u64> {
        None
    }

    fn finite(&self) -> bool {
        false
    }

    fn run(self: Box<Self>, ids: Vec<PartitionId>, outlet: Outlet) -> BoxFuture<'static, Result<(), SourceError>> {
        assert_eq!(ids.len(), self.found.len(), "each file has its number");
        let now = outlet.clock().monotonic();
        let buffers = outlet.buffers().clone();
        let tails =
            self.found.into_iter().zip(ids).map(|((path, opened), id)| Tail::new(path, opened, id, now, &buffers));
        let mut follower = Follower {
            source: self.source,
            paths: self.paths,
            stored: self.stored,
            tails: tails.collect(),
            warned: BTreeSet::new(),
            scanned: now,
            scan_due: false,
            done: VecDeque::new(),
            outlet,
        };
        Box::pin(blocking(move || match follower.run() {
            Ok(()) | Err(Stop::Closed) => Ok(()),
            Err(Stop::Failed(error)) => Err(error),
        }))
    }
}

/// A followed file.
#[derive(Debug)]
struct Tail {
    reader: Reader,
    file_id: FileId,
    identity: String,
    /// When it last gave something.
    active: Monotonic,
    /// Whether its path is another file's by now, or nobody's.
    moved: bool,
}

/// What has become of a file that has no more for now.
enum Fate {
    Lives,
    /// Renamed or deleted.
    Moved,
    /// Shorter than what was read of it.
    Truncated,
}

impl Tail {
    fn new(path: PathBuf, opened: Opened, id: PartitionId, now: Monotonic, buffers: &Buffers) -> Self {
        let lines = Lines::new(id, opened.position, buffers.clone());
        let reader = Reader { path, id, file: opened.file, lines };
        Self { reader, file_id: opened.file_id, identity: opened.name.identity, active: now, moved: false }
    }

    fn fate(&self) -> Fate {
        if self.reader.file.metadata().is_ok_and(|metadata| metadata.len() < self.reader.lines.position()) {
            return Fate::Truncated;
        }
        match fs::metadata(&self.reader.path) {
            Ok(metadata) if FileId::of(&metadata) == self.file_id => Fate::Lives,
            _ => Fate::Moved,
        }
    }
}

/// A file that was read to its end, should it turn up under another name.
#[derive(Debug)]
struct Done {
    file_id: FileId,
    identity: String,
    position: u64,
}

enum Stop {
    Closed,
    Failed(SourceError),
}

impl From<Closed> for Stop {
    fn from(_: Closed) -> Self {
        Self::Closed
    }
}

impl From<SourceError> for Stop {
    fn from(error: SourceError) -> Self {
        Self::Failed(error)
    }
}

#[derive(Debug)]
struct Follower {
    source: Arc<str>,
    paths: Vec<Located<String>>,
    stored: Checkpoint,
    tails: Vec<Tail>,
    /// Paths that somebody has been told about; they are not repeated every second.
    warned: BTreeSet<PathBuf>,
    scanned: Monotonic,
    /// A file has ended, and another one may stand in its place.
    scan_due: bool,
    /// Files that ended because they were renamed: under their new names they are not read again.
    done: VecDeque<Done>,
    outlet: Outlet,
}

impl Follower {
    fn run(&mut self) -> Result<(), Stop> {
        loop {
            let mut busy = false;
            let mut index = 0;
            while index < self.tails.len() {
                if self.outlet.stopped() {
                    return Ok(());
                }
                let ended = self.visit(index, &mut busy)?;
                if ended {
                    self.tails.remove(index);
                } else {
                    index += 1;
                }
            }
            if self.outlet.stopped() {
                return Ok(());
            }
            let now = self.outlet.clock().monotonic();
            if self.scan_due || now.since(self.scanned) >= FOLLOW_SCAN {
                self.scanned = now;
                self.scan_due = false;
                self.scan(now)?;
            }
            if !busy {
                self.outlet.pause_blocking(FOLLOW_POLL);
            }
        }
    }

    /// Hands on what one file has, a batch at most. True when the file has ended.
    fn visit(&mut self, index: usize, busy: &mut bool) -> Result<bool, Stop> {
        let now = self.outlet.clock().monotonic();
        let tail = &mut self.tails[index];
        let before = tail.reader.lines.position();
        let more = tail.reader.fill()?;
        *busy |= more;
        if tail.reader.lines.position() > before {
            tail.active = now;
        }
        if tail.reader.lines.full() || tail.reader.lines.ready() {
            tail.reader.hand_on(&self.outlet)?;
        }
        if more {
            return Ok(false);
        }
        let ended = match tail.fate() {
            Fate::Lives => false,
            Fate::Truncated => {
                tracing::info!(file = %tail.reader.path.display(), "file became shorter, reading it from its start");
                true
            }
            Fate::Moved => {
                if !tail.moved {
                    tail.moved = true;
                    tail.active = now;
                }
                now.since(tail.active) >= FOLLOW_ROTATED
            }
        };
        if ended {
            tail.reader.end(&self.outlet)?;
            if tail.moved {
                let position = tail.reader.lines.position();
                self.done.push_back(Done { file_id: tail.file_id, identity: tail.identity.clone(), position });
                if self.done.len() > FILES_FOLLOWED {
                    self.done.pop_front();
                }
            }
            // What stands in its place need not wait for the next scan.
            self.scan_due = true;
        }
        Ok(ended)
    }

    /// Looks for files that are not followed yet.
    fn scan(&mut self, now: Monotonic) -> Result<(), Stop> {
        let mut failed = Vec::new();
        let found = find(&self.paths, |error| {
            failed.push(error);
            Ok(())
        })?;
        for error in failed {
            self.warn(&error);
        }
        for file in found {
            let known = |tail: &Tail| tail.file_id == file.file_id || tail.reader.path == file.path;
            if self.tails.iter().any(known) {
                continue;
            }
            if self.tails.len() >= FILES_FOLLOWED {
                if self.warned.insert(file.path.clone()) {
                    tracing::warn!(file = %file.path.display(), limit = FILES_FOLLOWED, "too many files to follow");
                }
                continue;
            }
            match open(&file.path, &self.source, &self.stored).and_then(|opened| self.skip_known(opened, &file.path)) {
                Ok(opened) if opened.size == opened.position => {}
                Ok(opened) => self.add(&file.path, opened, now)?,
                Err(error) => self.warn(&error),
            }
        }
        Ok(())
    }

    /// Places a file that was read under another name behind what was read of it.
    fn skip_known(&self, mut opened: Opened, path: &Path) -> Result<Opened, SourceError> {
        let failed = |source| SourceError::Open { path: path.to_owned(), source };
        for done in self.done.iter().rev().filter(|done| done.file_id == opened.file_id) {
            // Another file may have got the number of one that was deleted.
            if opened.size >= done.position && fingerprint::matches(&opened.file, &done.identity).map_err(failed)? {
                opened.position = done.position;
                opened.file.seek(SeekFrom::Start(done.position)).map_err(failed)?;
                break;
            }
        }
        Ok(opened)
    }

    fn add(&mut self, path: &Path, opened: Opened, now: Monotonic) -> Result<(), Closed> {
        self.warned.remove(path);
        forget(&mut self.stored, &opened.name);
        tracing::info!(file = %path.display(), "following a new file");
        let id = self.outlet.open_partition_blocking(opened.name.clone())?;
        self.tails.push(Tail::new(path.to_owned(), opened, id, now, self.outlet.buffers()));
        Ok(())
    }

    /// Tells once about a file that cannot be read.
    fn warn(&mut self, error: &SourceError) {
        match error {
            SourceError::Open { path, .. }
            | SourceError::Directory { path }
            | SourceError::Special { path }
            | SourceError::Compressed { path }
                if self.warned.insert(path.clone()) =>
            {
                tracing::warn!(%error, "passing over a file");
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::Feed;
    use crate::source::testing::{Running, clock, config, lines_of, setting, start};
    use crate::telemetry::metrics::SelfMetrics;
    use std::fs::{File, OpenOptions};
    use std::io::Write;

    /// A folder and a source that follows `*.log*` in it.
    struct Scene {
        folder: tempfile::TempDir,
        feeds: Vec<Feed>,
        running: Running,
    }

    impl Scene {
        fn new(files: &[(&str, &str)]) -> Self {
            let folder = tempfile::tempdir().unwrap();
            for (name, text) in files {
                fs::write(folder.path().join(name), text).unwrap();
            }
            let source = config(folder.path(), &["*.log*"], true).connect(
                "disk",
                &Checkpoint::default(),
                clock(),
                &setting(folder.path(), &SelfMetrics::new()),
            );
            let (feeds, running) = start(source.unwrap());
            Self { folder, feeds, running }
        }

        fn append(&self, name: &str, text: &str) -> File {
            let path = self.folder.path().join(name);
            let mut file = OpenOptions::new().append(true).create(true).open(path).unwrap();
            file.write_all(text.as_bytes()).unwrap();
            file
        }

        /// Waits until `count` lines have come in all and compares them.
        fn expect(&mut self, expected: &[(&str, &str)]) {
            loop {
                let (lines, _) = lines_of(self.folder.path(), &self.feeds, &Checkpoint::default());
                if lines.len() >= expected.len() {
                    let lines: Vec<_> = lines.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
                    assert_eq!(lines, expected);
                    return;
                }
                self.feeds.push(self.running.feeds.blocking_recv().expect("more lines"));
            }
        }

        /// Stops the source and makes sure that nothing more came.
        fn stop(mut self, expected: &[(&str, &str)]) -> Checkpoint {
            self.running.stop.cancel();
            while let Some(feed) = self.running.feeds.blocking_recv() {
                self.feeds.push(feed);
            }
            self.running.runtime.block_on(self.running.task).unwrap().unwrap();
            let (lines, stored) = lines_of(self.folder.path(), &self.feeds, &Checkpoint::default());
            let lines: Vec<_> = lines.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
            assert_eq!(lines, expected);
            stored
        }
    }

    #[test]
    fn a_file_that_grows_gives_whole_lines() {
        let mut scene = Scene::new(&[("a.log", "one\ntw"), ("empty.log", "")]);
        scene.expect(&[("a.log", "one")]);
        scene.append("a.log", "o\nthr");
        scene.expect(&[("a.log", "one"), ("a.log", "two")]);
        let stored = scene.stop(&[("a.log", "one"), ("a.log", "two")]);
        assert_eq!(stored.partitions[0].position, 8, "before the line that has no end");
    }

    #[test]
    fn new_files_are_found() {
        let mut scene = Scene::new(&[]);
        scene.append("b.log", "one\n");
        scene.expect(&[("b.log", "one")]);
        scene.append("a.log", "two\n");
        scene.append("other.txt", "no\n");
        scene.expect(&[("b.log", "one"), ("a.log", "two")]);
        scene.append("b.log", "three\n");
        let all = [("b.log", "one"), ("a.log", "two"), ("b.log", "three")];
        scene.expect(&all);
        scene.stop(&all);
    }

    #[test]
    fn a_renamed_file_is_read_to_its_end_before_the_new_one() {
        let mut scene = Scene::new(&[("a.log", "one\n")]);
        scene.expect(&[("a.log", "one")]);
        let mut old = scene.append("a.log", "");
        fs::rename(scene.folder.path().join("a.log"), scene.folder.path().join("a.log.1")).unwrap();
        scene.append("a.log", "four\n");
        old.write_all(b"two\nthree").unwrap();
        let all = [("a.log", "one"), ("a.log", "two"), ("a.log", "three"), ("a.log", "four")];
        scene.expect(&all);
        old.write_all(b"\nlate\n").unwrap();
        let all = [&all[..], &[("a.log.1", "late")]].concat();
        scene.expect(&all);
        scene.stop(&all);
    }

    #[test]
    fn a_deleted_file_ends() {
        let mut scene = Scene::new(&[("a.log", "one\n")]);
        scene.expect(&[("a.log", "one")]);
        scene.append("a.log", "two");
        fs::remove_file(scene.folder.path().join("a.log")).unwrap();
        scene.expect(&[("a.log", "one"), ("a.log", "two")]);
        while !matches!(scene.feeds.last(), Some(Feed::Ended(PartitionId(0)))) {
            scene.feeds.push(scene.running.feeds.blocking_recv().unwrap());
        }
        scene.stop(&[("a.log", "one"), ("a.log", "two")]);
    }

    #[test]
    fn a_truncated_file_is_read_anew() {
        let mut scene = Scene::new(&[("a.log", "one\ntwo\n")]);
        scene.expect(&[("a.log", "one"), ("a.log", "two")]);
        fs::write(scene.folder.path().join("a.log"), "new\n").unwrap();
        scene.expect(&[("a.log", "one"), ("a.log", "two"), ("a.log", "new")]);
        let stored = scene.stop(&[("a.log", "one"), ("a.log", "two"), ("a.log", "new")]);
        assert_eq!(stored.partitions[0].position, 4);
    }
}
