//! When to go through the patterns of followed files again, and what is waited for meanwhile.
//!
//! Listing thousands of files every second would be most of what an idle daemon does. A folder's time says whether a file
//! has come, gone or been renamed, so that alone is looked at; and, of files that were passed over because there was
//! no line in them yet, the sizes. A pattern with a wildcard before its last part may find a new folder, which the times
//! of the known ones don't show: such patterns are gone through every time, within `limits::FOLLOW_SCAN_SHARE`.

use super::SourceError;
use super::file::{Found, Stamp, find};
use super::fingerprint::FileId;
use super::known::{Look, or_here};
use crate::limits::{FILES_FOLLOWED, FOLLOW_COPY, FOLLOW_COPY_MOST, FOLLOW_RESCAN, FOLLOW_SCAN_SHARE};
use crate::place::Located;
use crate::time::clock::Monotonic;
use crate::time::{EventTime, Span};
use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The clock of a file system may stand still for as long: a folder that changed just now may change again at the
/// same time.
const CLOCK_STEP_SECONDS: i64 = 2;

#[derive(Debug)]
pub(super) struct Scan {
    paths: Vec<Located<String>>,
    /// Whether new files may come where no folder's time tells of it.
    deep: bool,
    /// When the folders were last changed; nothing where that is not to be relied on.
    folders: HashMap<PathBuf, Option<(i64, i64)>>,
    /// Files without a line, as they were.
    waiting: HashMap<PathBuf, Stamp>,
    /// Files that may be copies of others.
    copies: HashMap<FileId, Copy>,
    /// Those of the scan before.
    earlier_copies: HashMap<FileId, Copy>,
    /// Something is known to have changed: at once, …
    urgent: bool,
    /// … or something is waited for by the clock.
    again: bool,
    scanned: Option<Monotonic>,
    /// What the last scan took.
    cost: Span,
    /// Paths that somebody has been told about.
    warned: BTreeSet<PathBuf>,
}

/// A file that may be the copy of another one.
#[derive(Debug, Clone, Copy)]
struct Copy {
    seen: Monotonic,
    size: u64,
    grown: Monotonic,
}

impl Scan {
    pub(super) fn new(paths: Vec<Located<String>>) -> Self {
        let wild = |part: &Path| part.to_string_lossy().contains(['*', '?', '[']);
        let deep = paths.iter().any(|path| Path::new(&path.value).parent().is_some_and(wild));
        Self {
            paths,
            deep,
            folders: HashMap::new(),
            waiting: HashMap::new(),
            copies: HashMap::new(),
            earlier_copies: HashMap::new(),
            urgent: false,
            again: false,
            scanned: None,
            cost: Span::ZERO,
            warned: BTreeSet::new(),
        }
    }

    /// The files that the patterns find, and what was in the way of finding more.
    pub(super) fn find(&self) -> (Vec<Found>, Vec<SourceError>) {
        let mut failed = Vec::new();
        let found = find(&self.paths, |error| {
            failed.push(error);
            Ok(())
        });
        match found {
            Ok(found) => (found, failed),
            Err(error) => (Vec::new(), vec![error]),
        }
    }

    /// Asks for a scan as soon as may be.
    pub(super) fn hurry(&mut self) {
        self.urgent = true;
    }

    /// Whether somebody did.
    pub(super) fn is_urgent(&self) -> bool {
        self.urgent
    }

    /// Whether to go through the patterns.
    pub(super) fn is_due(&self, now: Monotonic) -> bool {
        let since = self.scanned.map_or(FOLLOW_RESCAN, |scanned| now.since(scanned));
        if since < Span::from_micros(self.cost.micros() * FOLLOW_SCAN_SHARE) {
            return false;
        }
        self.urgent || self.again || self.deep || since >= FOLLOW_RESCAN || self.has_changed()
    }

    fn has_changed(&self) -> bool {
        let waited_for = |(path, before): (&PathBuf, &Stamp)| {
            fs::metadata(path).map_or(true, |metadata| Stamp::of(&metadata) != *before)
        };
        let changed =
            |(folder, before): (&PathBuf, &Option<(i64, i64)>)| before.is_none() || time_of(folder) != *before;
        self.folders.iter().any(changed) || self.waiting.iter().any(waited_for)
    }

    /// Begins a scan that found `found`, at the wall clock's `wall`.
    pub(super) fn begin(&mut self, found: &[Found], wall: EventTime) {
        (self.urgent, self.again) = (false, false);
        self.waiting.clear();
        self.earlier_copies = std::mem::take(&mut self.copies);
        let listed = self.paths.iter().map(|path| Path::new(&path.value)).chain(found.iter().map(|file| &*file.path));
        let folders: BTreeSet<PathBuf> = listed.filter_map(Path::parent).map(|p| or_here(p).to_owned()).collect();
        let settled = |(seconds, _): &(i64, i64)| wall.micros() / 1_000_000 - seconds > CLOCK_STEP_SECONDS;
        // A folder that isn't there has no time, and is looked for by a scan each time.
        let time = |folder: PathBuf| (time_of(&folder).filter(settled), folder);
        self.folders = folders.into_iter().map(time).map(|(time, folder)| (folder, time)).collect();
    }

    /// Notes that a scan has ended, and what it took.
    pub(super) fn end(&mut self, started: Monotonic, now: Monotonic) {
        self.cost = now.since(started);
        self.scanned = Some(now);
    }

    /// Asks for a scan the next time.
    pub(super) fn come_back(&mut self) {
        self.again = true;
    }

    /// Asks for a scan when `file` has changed.
    pub(super) fn wait_for(&mut self, file: Found) {
        self.waiting.insert(file.path, file.stamp);
    }

    /// Whether a new file that begins like one that is followed should be left alone for now: its copying may be under way, or
    /// the other one be truncated in a moment.
    pub(super) fn may_be_copy(&mut self, look: &Look, now: Monotonic) -> bool {
        let new = Copy { seen: now, size: look.size, grown: now };
        let mut copy = self.earlier_copies.get(&look.file_id).copied().unwrap_or(new);
        if copy.size != look.size {
            (copy.size, copy.grown) = (look.size, now);
        }
        let waits = now.since(copy.grown) < FOLLOW_COPY && now.since(copy.seen) < FOLLOW_COPY_MOST;
        if waits {
            self.copies.insert(look.file_id, copy);
            self.again = true;
        }
        waits
    }

    /// Tells once about a file that cannot be read.
    pub(super) fn warn(&mut self, error: &SourceError) {
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

    /// Tells once about a file for which there is no room.
    pub(super) fn warn_of_too_many(&mut self, path: &Path) {
        if self.warned.insert(path.to_owned()) {
            tracing::warn!(file = %path.display(), limit = FILES_FOLLOWED, "too many files to follow");
        }
    }
}

/// When a folder was last changed.
fn time_of(folder: &Path) -> Option<(i64, i64)> {
    fs::metadata(folder).ok().map(|metadata| (metadata.mtime(), metadata.mtime_nsec()))
}
