//! `type: file` with `follow: true`: lines of files that grow, and of files that come later.
//!
//! One thread has it all. Files that give lines are open (`limits::FILES_HOT` at most) and looked at in turn, a batch from
//! each that has more; when none has, it waits a little (`limits::FOLLOW_POLL`). All others are closed; once a
//! second their sizes are looked at ([`super::tail`]), and the folders' times, which say whether to go through the
//! patterns again ([`super::scan`]). A line is handed on when its end is there.
//!
//! - A file that was **renamed** is followed under its new name where the patterns match that; else it is read until it has
//!   been silent for `limits::FOLLOW_ROTATED`, and its partition ends. The file that has come in its place waits for it.
//! - A file that was **deleted** is read to its end if it was open, and forgotten.
//! - A file that was **truncated** is another one from then on. If a copy of its old content is there, which the patterns
//!   match, the copy is read from where the file was left. So a new file that begins like one that is followed is not read
//!   before it is clear that it's no such copy.
//! - A file without a whole line is no partition yet: there is nothing to tell it by.

use super::file::{Found, Stamp, find};
use super::fingerprint::{FileId, HEAD_BYTES, Identity};
use super::known::{self, Known, Look, Placed};
use super::outlet::blocking;
use super::scan::Scan;
use super::tail::{Opening, Stop, Tail, Visit};
use super::{Closed, Feed, FileConfig, Outlet, PartitionName, Setting, Source, SourceError};
use crate::limits::{FILES_FOLLOWED, FILES_HOT, FOLLOW_POLL, FOLLOW_SCAN, FOLLOW_SILENT};
use crate::record::raw::PartitionId;
use crate::record::receipt::Checkpoint;
use crate::time::clock::Monotonic;
use futures::future::BoxFuture;
use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::Path;

/// Files that are followed.
#[derive(Debug)]
pub(super) struct Follow {
    config: FileConfig,
    known: Known,
    placed: Vec<Placed>,
    /// How many of them, the last ones, are where the patterns don't reach.
    outside: usize,
}

impl Follow {
    /// Looks at the files that are there. None need be.
    ///
    /// # Errors
    /// When one that is there cannot be read.
    pub(super) fn connect(
        config: &FileConfig,
        name: &str,
        stored: &Checkpoint,
        setting: &Setting<'_>,
    ) -> Result<Self, SourceError> {
        let mut known = Known::new(name, stored);
        let mut looks = Vec::new();
        for file in find(&config.paths, tolerate)?.into_iter().take(FILES_FOLLOWED) {
            match Look::at(&file.path) {
                Ok(look) if has_line(&look) || known.wants(&look) => looks.push(look),
                Ok(_) => {}
                Err(error) => tolerate(error)?,
            }
        }
        let (old, new): (Vec<_>, Vec<_>) = known.assign(looks).into_iter().partition(|placed| placed.known);
        let mut heads = Heads::of(old.iter().map(|placed| (&placed.identity, placed.position)));
        let mut placed = old;
        for new in new {
            // It may be the copy of a rotation under way, and waits for a scan.
            if heads.has(&new.look.head) {
                known.unplace(&new);
            } else {
                heads.add(&new.identity, 0);
                placed.push(new);
            }
        }
        placed.sort_by(|a, b| a.look.path.cmp(&b.look.path));
        let rescued = known.rescue(setting.telemetry, setting.pipeline);
        let outside = rescued.len();
        placed.extend(rescued);
        Ok(Self { config: config.clone(), known, placed, outside })
    }
}

/// Whether there is something to tell a file by.
fn has_line(look: &Look) -> bool {
    look.head.len() == HEAD_BYTES || look.head.contains(&b'\n')
}

/// What may still come, or go away, is no error of a source that waits for files; nor is a compressed file beside them,
/// as log rotation leaves it.
fn tolerate(error: SourceError) -> Result<(), SourceError> {
    match error {
        SourceError::Missing { .. } | SourceError::NoMatch { .. } | SourceError::Compressed { .. } => Ok(()),
        other => Err(other),
    }
}

/// The heads of files that may be copied.
#[derive(Debug)]
struct Heads(HashMap<usize, HashSet<Identity>>);

impl Heads {
    fn of<'i>(files: impl Iterator<Item = (&'i Identity, u64)>) -> Self {
        let mut heads = Self(HashMap::new());
        files.for_each(|(identity, position)| heads.add(identity, position));
        heads
    }

    fn add(&mut self, identity: &Identity, position: u64) {
        if identity.tells_alone(position) {
            self.0.entry(identity.length).or_default().insert(identity.of_copy());
        }
    }

    /// Whether a file that begins with `head` may be a copy of one of them.
    fn has(&self, head: &[u8]) -> bool {
        self.0
            .iter()
            .any(|(length, known)| head.get(..*length).is_some_and(|head| known.contains(&Identity::of_head(head))))
    }
}

impl Source for Follow {
    fn partitions(&self) -> Vec<PartitionName> {
        self.placed.iter().map(|placed| placed.name.clone()).collect()
    }

    fn finite(&self) -> bool {
        false
    }

    fn run(self: Box<Self>, ids: Vec<PartitionId>, outlet: Outlet) -> BoxFuture<'static, Result<(), SourceError>> {
        assert_eq!(ids.len(), self.placed.len(), "each file has its number");
        let now = outlet.clock().monotonic();
        let listed = self.placed.len() - self.outside;
        let mut tails: Vec<_> =
            self.placed.into_iter().zip(ids).map(|(placed, id)| Tail::new(placed, id, now)).collect();
        for outside in &mut tails[listed..] {
            outside.leave(None, now);
        }
        let scan = Scan::new(self.config.paths);
        let mut follower = Follower { known: self.known, tails, scan, looked: now, turn: 0, outlet };
        Box::pin(blocking(move || match follower.run() {
            Ok(()) | Err(Stop::Closed) => Ok(()),
            Err(Stop::Failed(error)) => Err(error),
        }))
    }
}

#[derive(Debug)]
struct Follower {
    known: Known,
    tails: Vec<Tail>,
    scan: Scan,
    /// When sizes and folders were last looked at, …
    looked: Monotonic,
    /// … and how often they have been.
    turn: usize,
    outlet: Outlet,
}

impl Follower {
    fn run(&mut self) -> Result<(), Stop> {
        self.forget()?;
        self.rescan(self.looked)?;
        loop {
            let mut busy = false;
            for index in 0..self.tails.len() {
                if self.outlet.stopped() {
                    return Ok(());
                }
                busy |= self.visit(index)?;
            }
            self.tails.retain(|tail| !tail.ended);
            if self.outlet.stopped() {
                return Ok(());
            }
            let now = self.outlet.clock().monotonic();
            let look = now.since(self.looked) >= FOLLOW_SCAN;
            if look {
                self.looked = now;
                self.look(now);
            }
            if (look || self.scan.is_urgent()) && self.scan.is_due(now) {
                self.rescan(now)?;
            }
            if !busy {
                self.outlet.pause_blocking(FOLLOW_POLL);
            }
        }
    }

    /// Does for one file what there is to do. True when there is more of it.
    fn visit(&mut self, index: usize) -> Result<bool, Stop> {
        let now = self.outlet.clock().monotonic();
        if self.tails[index].behind && !self.tails[index].is_open() {
            self.open(index)?;
        }
        let tail = &mut self.tails[index];
        if !tail.is_open() {
            return Ok(false);
        }
        match tail.visit(&self.outlet, now)? {
            Visit::More => return Ok(true),
            Visit::Idle if !tail.listed && tail.is_rested(now) => self.end_moved(index)?,
            Visit::Idle if tail.is_cold(now) => tail.close(),
            Visit::Idle => {}
            Visit::Rewritten => self.end_rewritten(index)?,
        }
        Ok(false)
    }

    /// Opens a file that has more, if there is room or another one can be closed.
    fn open(&mut self, index: usize) -> Result<(), Stop> {
        if self.tails.iter().filter(|tail| tail.is_open()).count() >= FILES_HOT {
            let open = self.tails.iter_mut().filter(|tail| tail.is_open() && tail.listed && !tail.behind);
            match open.min_by_key(|tail| tail.active) {
                Some(longest_silent) => longest_silent.close(),
                None => return Ok(()),
            }
        }
        let tail = &mut self.tails[index];
        match tail.open(&self.outlet) {
            Ok(Opening::Open) => {}
            Ok(Opening::Rewritten) => self.end_rewritten(index)?,
            Ok(Opening::Moved) => {
                tail.behind = false;
                tail.stamp = None;
                self.scan.hurry();
            }
            Err(error) => {
                tail.behind = false;
                self.scan.warn(&error);
            }
        }
        Ok(())
    }

    /// Ends a file that is where no pattern finds it, as it was read to its end.
    fn end_moved(&mut self, index: usize) -> Result<(), Closed> {
        let tail = &mut self.tails[index];
        let deleted = tail.is_deleted();
        let ended = tail.identity.at_its_end();
        if !deleted {
            tail.identify(ended, &self.outlet)?;
        }
        tail.end(true, &self.outlet)?;
        let entry = tail.entry();
        if deleted {
            self.known.leave_for_ever(&entry)
        } else {
            self.known.leave(entry)
        }
        self.scan.hurry();
        self.forget()
    }

    /// Ends a file of which the content has gone. What stands there now, and a copy of the old content, are new files.
    fn end_rewritten(&mut self, index: usize) -> Result<(), Closed> {
        let copied = self.is_copied(&self.tails[index]);
        let tail = &mut self.tails[index];
        tracing::info!(file = %tail.path.display(), position = tail.position, copied, "file was written anew");
        tail.end(!copied, &self.outlet)?;
        self.known.leave(tail.entry());
        self.scan.hurry();
        self.forget()
    }

    /// Whether there is a file with the content that `tail` had.
    fn is_copied(&self, tail: &Tail) -> bool {
        let followed: HashSet<FileId> = self.tails.iter().map(|tail| tail.file_id).collect();
        let new = self.scan.find().0.into_iter().filter(|file| !followed.contains(&file.file_id));
        let longer = new.filter(|file| file.stamp.size >= tail.position && tail.identity.tells_alone(tail.position));
        longer.filter_map(|file| Look::at(&file.path).ok()).any(|look| tail.identity.fits(&look.head))
    }

    /// Looks at the sizes of files that are closed, and whether each is where it was.
    fn look(&mut self, now: Monotonic) {
        self.turn += 1;
        for (index, tail) in self.tails.iter_mut().enumerate().filter(|(_, tail)| tail.listed && !tail.ended) {
            let silent = now.since(tail.active) >= FOLLOW_SILENT;
            if silent && (self.turn + index) % 2 == 1 {
                continue;
            }
            match fs::metadata(&tail.path) {
                Ok(metadata) if FileId::of(&metadata) == tail.file_id => {
                    tail.see(Stamp::of(&metadata));
                }
                _ => self.scan.hurry(),
            }
        }
    }

    /// Goes through the patterns.
    fn rescan(&mut self, now: Monotonic) -> Result<(), Stop> {
        let started = self.outlet.clock().monotonic();
        let (found, failed) = self.scan.find();
        failed.iter().for_each(|error| self.scan.warn(error));
        let places: HashMap<FileId, usize> = self.tails.iter().enumerate().map(|(i, tail)| (tail.file_id, i)).collect();
        let mut missing: HashSet<usize> = (0..self.tails.len()).collect();
        let mut new = Vec::new();
        self.scan.begin(&found, self.outlet.clock().now());
        for file in found {
            let Some(index) = places.get(&file.file_id) else {
                new.push(file);
                continue;
            };
            missing.remove(index);
            let tail = &mut self.tails[*index];
            if tail.path != file.path || !tail.listed {
                tail.leave(Some(&file.path), now);
            }
            tail.see(file.stamp);
        }
        self.miss(&missing, now)?;
        let looks = self.choose(new, now);
        for placed in self.known.assign(looks) {
            self.add(placed, now)?;
        }
        self.scan.end(started, self.outlet.clock().monotonic());
        Ok(())
    }

    /// Which of the files that are not followed shall be from now on; sees to it that the others are looked at again.
    fn choose(&mut self, new: Vec<Found>, now: Monotonic) -> Vec<Look> {
        let live = self.tails.iter().filter(|tail| !tail.ended);
        let mut heads = Heads::of(live.map(|tail| (&tail.identity, tail.position)));
        let mut looks = Vec::new();
        for file in new {
            if file.stamp.size == 0 {
                self.scan.wait_for(file);
                continue;
            }
            let look = match Look::at(&file.path) {
                Ok(look) => look,
                Err(error) => {
                    self.scan.warn(&error);
                    continue;
                }
            };
            if self.known.wants(&look) {
                // First of all: what was read on its behalf must not go to another.
                looks.push(look);
            } else if !has_line(&look) {
                self.scan.wait_for(file);
            } else if self.tails.iter().any(|tail| !tail.ended && tail.comes_before(&file.path, now)) {
                self.scan.come_back();
            } else if !(heads.has(&look.head) && self.scan.may_be_copy(&look, now)) {
                heads.add(&look.identity(), 0);
                looks.push(look);
            }
        }
        looks
    }

    /// Sees to files that no pattern finds any more. One that is closed is looked for in its folder.
    fn miss(&mut self, missing: &HashSet<usize>, now: Monotonic) -> Result<(), Stop> {
        // While a folder cannot be seen, as when its disk is not mounted, nothing is known of its files.
        let seen = |tail: &Tail| {
            let folder = tail.path.parent().map(known::or_here).and_then(|folder| fs::metadata(folder).ok());
            folder.is_some_and(|folder| FileId::of(&folder).device == tail.file_id.device)
        };
        let mut closed = Vec::new();
        for index in missing.iter().copied() {
            let tail = &mut self.tails[index];
            if !tail.listed || tail.ended {
                continue;
            }
            if tail.is_open() {
                tail.leave(None, now);
            } else if seen(tail) {
                closed.push(index);
            }
        }
        let folders =
            closed.iter().map(|i| (self.tails[*i].file_id, self.tails[*i].path.parent().unwrap_or(Path::new(""))));
        let mut found = known::locate(folders);
        for index in closed {
            let tail = &mut self.tails[index];
            tail.leave(None, now);
            match found.remove(&tail.file_id) {
                Some(look) if look.size > tail.position => {
                    tail.path = look.path;
                    tail.behind = true;
                }
                _ => self.end_moved(index)?,
            }
        }
        Ok(())
    }

    fn add(&mut self, placed: Placed, now: Monotonic) -> Result<(), Closed> {
        self.forget()?;
        if self.tails.len() >= FILES_FOLLOWED {
            self.scan.warn_of_too_many(&placed.look.path);
            self.known.unplace(&placed);
            return Ok(());
        }
        tracing::info!(file = %placed.look.path.display(), position = placed.position, "following a new file");
        let id = self.outlet.open_partition_blocking(placed.name.clone())?;
        self.tails.push(Tail::new(placed, id, now));
        Ok(())
    }

    /// Tells the pipeline what its checkpoints need not keep.
    fn forget(&mut self) -> Result<(), Closed> {
        self.known.take_forgotten().into_iter().try_for_each(|name| self.outlet.send_blocking(Feed::Forgotten(name)))
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
        stored: Checkpoint,
        feeds: Vec<Feed>,
        running: Option<Running>,
    }

    impl Scene {
        fn new(files: &[(&str, &str)]) -> Self {
            let folder = tempfile::tempdir().unwrap();
            for (name, text) in files {
                fs::write(folder.path().join(name), text).unwrap();
            }
            let mut scene = Self::paused(folder, Checkpoint::default());
            scene.go_on();
            scene
        }

        /// A folder that nobody looks at yet.
        fn paused(folder: tempfile::TempDir, stored: Checkpoint) -> Self {
            Self { folder, stored, feeds: Vec::new(), running: None }
        }

        fn go_on(&mut self) {
            let metrics = SelfMetrics::new();
            let source = config(self.folder.path(), &["*.log*"], true).connect(
                "disk",
                &self.stored,
                clock(),
                &setting(self.folder.path(), &metrics),
            );
            let (feeds, running) = start(source.unwrap());
            self.feeds = feeds;
            self.running = Some(running);
        }

        fn append(&self, name: &str, text: &str) -> File {
            let path = self.folder.path().join(name);
            let mut file = OpenOptions::new().append(true).create(true).open(path).unwrap();
            file.write_all(text.as_bytes()).unwrap();
            file
        }

        fn rename(&self, from: &str, to: &str) {
            fs::rename(self.folder.path().join(from), self.folder.path().join(to)).unwrap();
        }

        fn copy_and_truncate(&self, from: &str, to: &str) {
            let from = self.folder.path().join(from);
            fs::copy(&from, self.folder.path().join(to)).unwrap();
            OpenOptions::new().write(true).open(from).unwrap().set_len(0).unwrap();
        }

        fn lines(&self) -> (Vec<(String, String)>, Checkpoint) {
            lines_of(self.folder.path(), &self.feeds, &self.stored)
        }

        /// Waits until `count` lines have come in all and compares them.
        #[track_caller]
        fn expect(&mut self, expected: &[(&str, &str)]) {
            self.wait_for(expected.len());
            assert_eq!(borrowed(&self.lines().0), expected);
        }

        /// As `expect`, for what comes from several files.
        #[track_caller]
        fn expect_in_any_order(&mut self, expected: &[(&str, &str)]) {
            self.wait_for(expected.len());
            assert_eq!(sorted(borrowed(&self.lines().0)), sorted(expected.to_vec()));
        }

        fn wait_for(&mut self, count: usize) {
            let mut lines = self.lines().0.len();
            while lines < count {
                let feed = self.running.as_mut().unwrap().feeds.blocking_recv().expect("more lines");
                if let Feed::Batch(batch) = &feed {
                    lines += batch.records.len();
                }
                self.feeds.push(feed);
            }
        }

        fn end(&mut self) -> (Vec<(String, String)>, Checkpoint) {
            let mut running = self.running.take().unwrap();
            running.stop.cancel();
            while let Some(feed) = running.feeds.blocking_recv() {
                self.feeds.push(feed);
            }
            running.runtime.block_on(running.task).unwrap().unwrap();
            self.lines()
        }

        /// Stops the source and makes sure that nothing more came.
        #[track_caller]
        fn stop(self, expected: &[(&str, &str)]) -> Checkpoint {
            self.halt(expected).1
        }

        /// As `stop`; the folder stays.
        #[track_caller]
        fn halt(mut self, expected: &[(&str, &str)]) -> (tempfile::TempDir, Checkpoint) {
            let (lines, stored) = self.end();
            assert_eq!(borrowed(&lines), expected);
            (self.folder, stored)
        }

        #[track_caller]
        fn halt_in_any_order(mut self, expected: &[(&str, &str)]) -> (tempfile::TempDir, Checkpoint) {
            let (lines, stored) = self.end();
            assert_eq!(sorted(borrowed(&lines)), sorted(expected.to_vec()));
            (self.folder, stored)
        }
    }

    fn borrowed(lines: &[(String, String)]) -> Vec<(&str, &str)> {
        lines.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect()
    }

    fn sorted<'l>(mut lines: Vec<(&'l str, &'l str)>) -> Vec<(&'l str, &'l str)> {
        lines.sort_unstable();
        lines
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

    /// A line long enough to tell a file by.
    fn long(text: &str) -> String {
        format!("{text} {}", "x".repeat(200))
    }

    #[test]
    fn a_renamed_file_is_read_to_its_end_before_the_new_one() {
        let mut scene = Scene::new(&[("a.log", "one\n")]);
        scene.expect(&[("a.log", "one")]);
        let mut old = scene.append("a.log", "");
        scene.rename("a.log", "a.log.1");
        scene.append("a.log", "four\n");
        old.write_all(b"two\nthree").unwrap();
        let all = [("a.log", "one"), ("a.log", "two"), ("a.log#2", "four")];
        scene.expect(&all);
        old.write_all(b"\nlate\n").unwrap();
        let all = [&all[..], &[("a.log", "three"), ("a.log", "late")]].concat();
        scene.expect(&all);
        let stored = scene.stop(&all);
        assert_eq!(stored.partitions.len(), 2, "each file has a position of its own");
    }

    #[test]
    fn a_file_renamed_to_where_no_pattern_finds_it_is_read_and_ends() {
        let mut scene = Scene::new(&[("a.log", "one\n")]);
        scene.expect(&[("a.log", "one")]);
        let mut old = scene.append("a.log", "");
        scene.rename("a.log", "old");
        scene.append("a.log", "four\n");
        old.write_all(b"two\nthree").unwrap();
        let all = [("a.log", "one"), ("a.log", "two"), ("a.log", "three"), ("a.log#2", "four")];
        scene.expect(&all);
        old.write_all(b"\nlate\n").unwrap();
        scene.rename("old", "b.log");
        let all = [&all[..], &[("a.log", "late")]].concat();
        scene.expect(&all);
        scene.stop(&all);
    }

    /// Rotation by renaming while nobody looks: three generations, of which the last leaves the pattern with a line that
    /// was not read.
    #[test]
    fn files_are_found_again_however_they_were_renamed() {
        let mut scene = Scene::new(&[("a.log", "one\n")]);
        scene.expect(&[("a.log", "one")]);
        scene.rename("a.log", "a.log.1");
        scene.append("a.log", "two\n");
        let all = [("a.log", "one"), ("a.log#2", "two")];
        scene.expect(&all);
        scene.append("a.log", "part");
        let (folder, stored) = scene.halt(&all);
        let mut scene = Scene::paused(folder, stored);
        scene.append("a.log.1", "three\n");
        scene.rename("a.log.1", "old.2");
        scene.append("a.log", "ly\n");
        scene.rename("a.log", "a.log.1");
        scene.append("a.log", "five\n");
        scene.go_on();
        let all = [("a.log", "three"), ("a.log#2", "partly"), ("a.log#3", "five")];
        scene.expect_in_any_order(&all);
        let (folder, stored) = scene.halt_in_any_order(&all);
        let mut scene = Scene::paused(folder, stored);
        scene.go_on();
        scene.append("a.log", "six\n");
        scene.expect(&[("a.log#3", "six")]);
        scene.stop(&[("a.log#3", "six")]);
    }

    #[test]
    fn a_copy_goes_on_where_the_truncated_file_was_left() {
        let (one, two) = (long("one"), long("two"));
        let mut scene = Scene::new(&[("a.log", &format!("{one}\n"))]);
        scene.expect(&[("a.log", &one)]);
        // Down: a line, the copy, the truncation, a line.
        let (folder, stored) = scene.halt(&[("a.log", &one)]);
        let mut scene = Scene::paused(folder, stored);
        scene.append("a.log", &format!("{two}\n"));
        scene.copy_and_truncate("a.log", "a.log.1");
        scene.append("a.log", "three\n");
        scene.go_on();
        let all = [("a.log", two.as_str()), ("a.log#2", "three")];
        scene.expect_in_any_order(&all);
        // Up: the same with two generations.
        let four = long("four");
        scene.append("a.log", &format!("{four}\n"));
        let all = [&all[..], &[("a.log#2", four.as_str())]].concat();
        scene.expect_in_any_order(&all);
        scene.rename("a.log.1", "a.log.2");
        scene.append("a.log", "five\n");
        scene.copy_and_truncate("a.log", "a.log.1");
        scene.append("a.log", "six\n");
        let all = [&all[..], &[("a.log#2", "five"), ("a.log#3", "six")]].concat();
        scene.expect_in_any_order(&all);
        scene.halt_in_any_order(&all);
    }

    #[test]
    fn a_file_truncated_and_grown_beyond_what_was_read_is_read_anew() {
        let mut scene = Scene::new(&[("a.log", "one\n")]);
        scene.expect(&[("a.log", "one")]);
        let text = "something else\nthat is longer\n";
        fs::write(scene.folder.path().join("a.log"), text).unwrap();
        let all = [("a.log", "one"), ("a.log", "something else"), ("a.log", "that is longer")];
        scene.expect(&all);
        let stored = scene.stop(&all);
        assert_eq!((stored.partitions.len(), stored.partitions[0].position), (1, text.len() as u64));
    }

    #[test]
    fn two_files_with_the_same_head_are_two_files() {
        let one = long("one");
        let mut scene = Scene::new(&[("a.log", &format!("{one}\n"))]);
        scene.expect(&[("a.log", &one)]);
        scene.append("b.log", &format!("{one}\n"));
        let all = [("a.log", one.as_str()), ("b.log", &one)];
        scene.expect(&all);
        let (folder, stored) = scene.halt(&all);
        let mut scene = Scene::paused(folder, stored);
        scene.append("b.log", "two\n");
        scene.go_on();
        scene.expect(&[("b.log", "two")]);
        scene.stop(&[("b.log", "two")]);
    }

    #[test]
    fn thousands_of_files_need_few_descriptors_and_each_is_heard() {
        let names: Vec<String> = (0..2_000).map(|n| format!("{n:04}.log")).collect();
        let files: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "one\n")).collect();
        let mut scene = Scene::new(&files);
        let mut all = files.iter().map(|(name, _)| (*name, "one")).collect::<Vec<_>>();
        scene.expect_in_any_order(&all);
        let open = fs::read_dir("/proc/self/fd").unwrap().filter(|descriptor| {
            let target = descriptor.as_ref().map(|d| fs::read_link(d.path()).unwrap_or_default()).unwrap_or_default();
            target.starts_with(scene.folder.path())
        });
        assert!(open.count() <= FILES_HOT);
        scene.append("0003.log", "two\n");
        scene.append("1999.log", "three\n");
        all.extend([("0003.log", "two"), ("1999.log", "three")]);
        scene.expect_in_any_order(&all);
        scene.halt_in_any_order(&all);
    }

    #[test]
    fn a_file_that_was_deleted_and_read_is_forgotten() {
        let mut scene = Scene::new(&[("a.log", "one\n"), ("b.log", "two\n")]);
        scene.expect_in_any_order(&[("a.log", "one"), ("b.log", "two")]);
        fs::remove_file(scene.folder.path().join("a.log")).unwrap();
        while !matches!(scene.feeds.last(), Some(Feed::Forgotten(_))) {
            scene.feeds.push(scene.running.as_mut().unwrap().feeds.blocking_recv().unwrap());
        }
        let (_, stored) = scene.halt_in_any_order(&[("a.log", "one"), ("b.log", "two")]);
        assert!(stored.partitions.len() == 1 && stored.partitions[0].partition.ends_with("b.log"));
    }

    #[test]
    fn a_deleted_file_ends() {
        let mut scene = Scene::new(&[("a.log", "one\n")]);
        scene.expect(&[("a.log", "one")]);
        scene.append("a.log", "two");
        fs::remove_file(scene.folder.path().join("a.log")).unwrap();
        scene.expect(&[("a.log", "one"), ("a.log", "two")]);
        while !matches!(scene.feeds.last(), Some(Feed::Ended(PartitionId(0)))) {
            scene.feeds.push(scene.running.as_mut().unwrap().feeds.blocking_recv().unwrap());
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
