//! `type: file` without `follow`: lines of files, each read to its end.
//!
//! Each file is a partition. Files are read side by side, a batch each in turn, `limits::FILES_OPEN` at a time in the order
//! of their paths, so that the event times of all of them rise together. Which of the archive's positions is whose, also
//! when files were renamed, says [`super::known`]; the rest of a file that was renamed to where the patterns don't reach
//! is read as well, if it stayed in its folder.

use super::fingerprint::{self, FileId, Identity};
use super::known::{Known, Look, Placed};
use super::lines::Lines;
use super::outlet::blocking;
use super::{Buffers, Closed, Feed, FileConfig, Outlet, PartitionName, Setting, Source, SourceError};
use crate::limits::FILES_OPEN;
use crate::place::{Located, Place, Problem};
use crate::record::raw::PartitionId;
use crate::record::receipt::Checkpoint;
use futures::future::BoxFuture;
use rustix::buffer::spare_capacity;
use rustix::fs::Advice;
use std::collections::{BTreeSet, HashSet, VecDeque};
use std::fs::{self, File, Metadata};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

/// Says what is wrong with the patterns as texts.
pub(super) fn check(config: &FileConfig) -> Vec<Problem> {
    if config.paths.is_empty() {
        return vec![
            Problem::new(Place::default(), "cannot read files, `paths` is empty").hint("name at least one file"),
        ];
    }
    config.paths.iter().filter_map(check_path).collect()
}

fn check_path(path: &Located<String>) -> Option<Problem> {
    if path.value.is_empty() {
        return Some(path.problem("cannot use an empty text as a path"));
    }
    if let Err(error) = glob::Pattern::new(&path.value) {
        let place = path.inside(0, error.pos as u32);
        let message = format!("cannot use {:?} as a path: {}", path.value, error.msg);
        return Some(Problem::new(place, message).hint("`*`, `?`, `[…]` and `**` are special; write `[[]` for `[`"));
    }
    if is_compressed(Path::new(&path.value)) {
        let error = SourceError::Compressed { path: PathBuf::from(&path.value) };
        return Some(path.problem(error.to_string()).hint(error.hint().unwrap_or_default()));
    }
    None
}

/// A file that is not the same as any found before.
#[derive(Debug)]
pub(super) struct Found {
    pub path: PathBuf,
    pub file_id: FileId,
    pub stamp: Stamp,
}

/// By what it shows without reading that a file has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    pub size: u64,
    modified: (i64, i64),
}

impl Stamp {
    pub(super) fn of(metadata: &Metadata) -> Self {
        Self { size: metadata.len(), modified: (metadata.mtime(), metadata.mtime_nsec()) }
    }
}

/// The files that `paths` name, in the order of their paths, each once. `missing` is told what could not be used; it
/// decides whether that is an error.
///
/// # Errors
/// Those of `missing`, and when a pattern is none.
pub(super) fn find(
    paths: &[Located<String>],
    mut missing: impl FnMut(SourceError) -> Result<(), SourceError>,
) -> Result<Vec<Found>, SourceError> {
    let mut candidates = BTreeSet::new();
    for pattern in paths {
        let mut found_any = false;
        let is_glob = pattern.value.contains(['*', '?', '[']);
        if !is_glob {
            candidates.insert(normalise(Path::new(&pattern.value)));
            continue;
        }
        let matches = glob::glob(&pattern.value)
            .map_err(|error| SourceError::Pattern { pattern: pattern.value.clone(), reason: error.msg.to_owned() })?;
        for entry in matches {
            match entry {
                // What a glob matches besides files is not meant.
                Ok(path) if path.is_dir() => {}
                Ok(path) => {
                    found_any = true;
                    candidates.insert(normalise(&path));
                }
                Err(error) => {
                    let path = error.path().to_owned();
                    missing(SourceError::Open { path, source: error.into() })?;
                }
            }
        }
        if !found_any {
            missing(SourceError::NoMatch { pattern: pattern.value.clone() })?;
        }
    }
    let mut seen = HashSet::new();
    let mut found = Vec::new();
    for path in candidates {
        match inspect(&path) {
            Ok(metadata) => {
                let file_id = FileId::of(&metadata);
                if seen.insert(file_id) {
                    let stamp = Stamp::of(&metadata);
                    found.push(Found { path, file_id, stamp });
                }
            }
            Err(error) => missing(error)?,
        }
    }
    Ok(found)
}

/// `path` without `.` and doubled slashes. `..` stays: behind a symbolic link it means something.
fn normalise(path: &Path) -> PathBuf {
    path.components().filter(|component| *component != Component::CurDir).collect()
}

fn inspect(path: &Path) -> Result<Metadata, SourceError> {
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(SourceError::Missing { path: path.to_owned() });
        }
        Err(source) => return Err(SourceError::Open { path: path.to_owned(), source }),
    };
    if metadata.is_dir() {
        return Err(SourceError::Directory { path: path.to_owned() });
    }
    // Opening a named pipe would wait for its writer, and a device may never end.
    if !metadata.is_file() {
        return Err(SourceError::Special { path: path.to_owned() });
    }
    if is_compressed(path) {
        return Err(SourceError::Compressed { path: path.to_owned() });
    }
    Ok(metadata)
}

fn is_compressed(path: &Path) -> bool {
    path.extension().is_some_and(|extension| ["gz", "zst", "bz2", "xz", "lz4"].iter().any(|known| extension == *known))
}

/// A file as it is known before its turn comes.
#[derive(Debug)]
struct Waiting {
    path: PathBuf,
    name: PartitionName,
    /// What it is by now, where that is more than its name says.
    identity: Identity,
    position: u64,
}

/// Files that are read to their ends.
#[derive(Debug)]
pub(super) struct Files {
    files: Vec<Waiting>,
    bytes: u64,
    forgotten: Vec<PartitionName>,
}

impl Files {
    /// Finds the files and makes sure that each can be read.
    ///
    /// # Errors
    /// When one cannot, or a pattern matches none.
    pub(super) fn connect(
        config: &FileConfig,
        name: &str,
        stored: &Checkpoint,
        setting: &Setting<'_>,
    ) -> Result<Self, SourceError> {
        let mut known = Known::new(name, stored);
        let looks: Result<_, _> = find(&config.paths, Err)?.iter().map(|found| Look::at(&found.path)).collect();
        let mut placed = known.assign(looks?);
        placed.extend(known.rescue(setting.telemetry, setting.pipeline));
        let bytes = placed.iter().map(|placed| placed.look.size - placed.position).sum();
        let wait = |placed: Placed| {
            let (identity, path) = (placed.look.identity(), placed.look.path);
            Waiting { path, name: placed.name, identity, position: placed.position }
        };
        let files = placed.into_iter().map(wait).collect();
        Ok(Self { files, bytes, forgotten: known.take_forgotten() })
    }

    fn read_all(self, ids: &[PartitionId], outlet: &Outlet) -> Result<Result<(), Closed>, SourceError> {
        assert_eq!(ids.len(), self.files.len(), "each file has its number");
        for name in self.forgotten {
            if outlet.send_blocking(Feed::Forgotten(name)).is_err() {
                return Ok(Err(Closed));
            }
        }
        let mut waiting = self.files.into_iter().zip(ids.iter().copied());
        let mut open = VecDeque::new();
        loop {
            while open.len() < FILES_OPEN
                && let Some((file, id)) = waiting.next()
            {
                let identity = file.identity.to_string();
                let more_is_known = identity != file.name.identity;
                open.push_back(Reader::open(file, id, outlet.buffers())?);
                if more_is_known && outlet.send_blocking(Feed::Identified { id, identity }).is_err() {
                    return Ok(Err(Closed));
                }
            }
            let Some(mut reader) = open.pop_front() else {
                return Ok(Ok(()));
            };
            if outlet.stopped() {
                return Ok(Ok(()));
            }
            match reader.turn(outlet)? {
                Ok(true) => open.push_back(reader),
                Ok(false) => {}
                Err(Closed) => return Ok(Err(Closed)),
            }
        }
    }
}

impl Source for Files {
    fn partitions(&self) -> Vec<PartitionName> {
        self.files.iter().map(|file| file.name.clone()).collect()
    }

    fn total_bytes(&self) -> Option<u64> {
        Some(self.bytes)
    }

    fn finite(&self) -> bool {
        true
    }

    fn run(self: Box<Self>, ids: Vec<PartitionId>, outlet: Outlet) -> BoxFuture<'static, Result<(), SourceError>> {
        // That the pipeline is closed is no failure of the source.
        Box::pin(blocking(move || self.read_all(&ids, &outlet).map(|_| ())))
    }
}

/// A file and its lines.
#[derive(Debug)]
pub(super) struct Reader {
    pub path: PathBuf,
    pub id: PartitionId,
    pub file: File,
    pub lines: Lines,
}

impl Reader {
    /// Opens a file whose turn has come, and makes sure that it is still the one that was announced.
    fn open(waiting: Waiting, id: PartitionId, buffers: &Buffers) -> Result<Self, SourceError> {
        let Waiting { path, name, position, .. } = waiting;
        let opened = File::open(&path).and_then(|mut file| {
            file.seek(SeekFrom::Start(position))?;
            // Without it nothing is wrong, only slower.
            let _ = rustix::fs::fadvise(&file, position, None, Advice::Sequential);
            let head = fingerprint::head(&file)?;
            Ok((Identity::parse(&name.identity).is_some_and(|identity| identity.fits(&head)), file))
        });
        match opened {
            Ok((true, file)) => Ok(Self { path, id, file, lines: Lines::new(id, position, buffers.clone()) }),
            Ok((false, _)) => Err(SourceError::Replaced { path }),
            Err(source) => Err(SourceError::Open { path, source }),
        }
    }

    /// Reads until a batch is full; true says that the file has more.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(super) fn fill(&mut self) -> Result<bool, SourceError> {
        while !self.lines.full() {
            match self.lines.fill(|buffer| Ok(rustix::io::read(&self.file, spare_capacity(buffer))?)) {
                Ok(0) => return Ok(false),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => {
                    let position = self.lines.position();
                    return Err(SourceError::Read { path: self.path.clone(), position, source });
                }
            }
        }
        Ok(true)
    }

    /// Hands on one batch, or at the end of the file all that is left. True says that the file has more.
    fn turn(&mut self, outlet: &Outlet) -> Result<Result<bool, Closed>, SourceError> {
        let more = self.fill()?;
        Ok(if more { self.hand_on(outlet).map(|()| true) } else { self.end(outlet).map(|()| false) })
    }

    /// Hands on the complete lines.
    ///
    /// # Errors
    /// When the pipeline is closed.
    pub(super) fn hand_on(&mut self, outlet: &Outlet) -> Result<(), Closed> {
        match self.lines.take(outlet.clock().now()) {
            Some(batch) => outlet.send_blocking(Feed::Batch(batch)),
            None => Ok(()),
        }
    }

    /// Hands on what is left and ends the partition.
    ///
    /// # Errors
    /// When the pipeline is closed.
    pub(super) fn end(&mut self, outlet: &Outlet) -> Result<(), Closed> {
        while let Some(batch) = self.lines.finish(outlet.clock().now()) {
            outlet.send_blocking(Feed::Batch(batch))?;
        }
        outlet.send_blocking(Feed::Ended(self.id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::RECORD_BYTES;
    use crate::record::receipt::PartitionPosition;
    use crate::source::testing::{clock, config, drive, lines_of, setting, start};
    use crate::telemetry::metrics::SelfMetrics;
    use std::fmt::Write as _;

    /// Reads `paths` to the end, with what is `stored`, and returns the lines by partition and the new positions.
    fn check(
        folder: &Path,
        paths: &[&str],
        stored: &Checkpoint,
    ) -> Result<(Vec<(String, String)>, Checkpoint), SourceError> {
        let source =
            config(folder, paths, false).connect("disk", stored, clock(), &setting(folder, &SelfMetrics::new()))?;
        assert!(source.finite());
        let (feeds, result) = drive(source);
        result?;
        Ok(lines_of(folder, &feeds, stored))
    }

    fn texts(lines: &[(String, String)]) -> Vec<&str> {
        lines.iter().map(|(_, text)| text.as_str()).collect()
    }

    #[test]
    fn files_are_read_once_and_read_on() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        write("b.log", "three\n\nfour");
        write("a.log", "one\r\ntwo\n");
        write("empty.log", "");
        std::os::unix::fs::symlink(folder.path().join("a.log"), folder.path().join("c.log")).unwrap();
        fs::create_dir(folder.path().join("d.log")).unwrap();
        let (lines, stored) =
            check(folder.path(), &["*.log", "a*.log", "a.log", "./b.log"], &Checkpoint::default()).unwrap();
        assert_eq!(texts(&lines), ["one", "two", "three", "four"]);
        assert_eq!(check(folder.path(), &["*.log"], &stored).unwrap().0, []);
        write("a.log", "one\r\ntwo\nfive\n");
        write("b.log", "something else that is as long\n");
        let (lines, stored) = check(folder.path(), &["*.log"], &stored).unwrap();
        assert_eq!(texts(&lines), ["five", "something else that is as long"]);
        write("a.log", "one\r\n");
        assert_eq!(texts(&check(folder.path(), &["*.log"], &stored).unwrap().0), ["one"], "it became shorter");
    }

    #[test]
    fn many_files_are_read_side_by_side() {
        let folder = tempfile::tempdir().unwrap();
        let mut names = Vec::new();
        for file in 0..FILES_OPEN + 9 {
            let mut text = String::new();
            for line in 0..20_000 {
                writeln!(text, "{file} {line}").unwrap();
            }
            names.push(format!("{file:03}.log"));
            fs::write(folder.path().join(&names[file]), text).unwrap();
        }
        let (lines, _) = check(folder.path(), &["*.log"], &Checkpoint::default()).unwrap();
        assert_eq!(lines.len(), (FILES_OPEN + 9) * 20_000);
        let mut next = [0; FILES_OPEN + 9];
        let mut switches = 0;
        let mut last = 0;
        for (name, text) in &lines {
            let file = names.iter().position(|n| n == name).unwrap();
            assert_eq!(*text, format!("{file} {}", next[file]));
            next[file] += 1;
            switches += usize::from(file != last);
            last = file;
        }
        assert!(switches > FILES_OPEN * 2, "in turns");
    }

    #[test]
    fn what_cannot_be_read_is_named_with_a_remedy() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("old.log.gz"), "x").unwrap();
        fs::create_dir(folder.path().join("dir")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(folder.path().join("socket")).unwrap();
        for (path, message, hint) in [
            ("no.log", "cannot find file", "working directory"),
            ("no*.log", "cannot find any file that matches", "working directory"),
            ("dir", "it is a directory", "dir/*.log"),
            ("socket", "no regular file", "type: stdin"),
            ("old.log*", "compressed files are not supported", "gzip -dc"),
        ] {
            let error = check(folder.path(), &[path], &Checkpoint::default()).unwrap_err();
            assert!(error.to_string().contains(message), "{error}");
            assert!(error.hint().unwrap().contains(hint), "{error:?}");
        }
        let problems = |paths: &[&str]| {
            let paths = paths.iter().map(|path| Located::nowhere((*path).to_owned())).collect();
            super::check(&FileConfig { paths, follow: false })
        };
        assert!(problems(&["/var/log/*.log", "a b/[ab]?.txt"]).is_empty());
        let found = problems(&["", "a/***/b", "x.log.zst"]);
        assert_eq!(found.len(), 3);
        assert_eq!(found[1].place.column, 5, "{found:?}");
        assert_eq!(problems(&[]).len(), 1);
    }

    #[test]
    fn a_position_of_another_source_or_form_does_not_count() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a.log"), "one\ntwo\n").unwrap();
        let partition = folder.path().join("a.log").to_str().unwrap().to_owned();
        let identity = Look::at(Path::new(&partition)).unwrap().identity();
        let identity = identity.of_copy().to_string();
        for (source, identity, position, count) in [
            ("disk", identity.as_str(), 4, 1),
            ("other", identity.as_str(), 4, 2),
            ("disk", "", 4, 2),
            ("disk", identity.as_str(), 9, 2),
        ] {
            let (source, identity) = (source.to_owned(), identity.to_owned());
            let entry = PartitionPosition { source, partition: partition.clone(), identity, position };
            let stored = Checkpoint { partitions: vec![entry] };
            assert_eq!(check(folder.path(), &["a.log"], &stored).unwrap().0.len(), count);
        }
    }

    #[test]
    fn a_line_that_is_too_long_is_cut_and_the_next_run_goes_on_behind_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.log");
        let mut text = format!("one\n{}\ntwo\n", "x".repeat(3 * RECORD_BYTES));
        fs::write(&path, &text).unwrap();
        let (lines, stored) = check(folder.path(), &["a.log"], &Checkpoint::default()).unwrap();
        assert_eq!(lines.iter().map(|(_, text)| text.len()).collect::<Vec<_>>(), [3, RECORD_BYTES + 1, 3]);
        assert_eq!(stored.partitions[0].position, text.len() as u64);
        text.push_str("three\n");
        fs::write(&path, &text).unwrap();
        assert_eq!(texts(&check(folder.path(), &["a.log"], &stored).unwrap().0), ["three"]);
    }

    #[test]
    fn a_file_replaced_before_its_turn_is_an_error_and_a_closed_pipeline_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.log");
        let connect = || {
            fs::write(&path, "one\n".repeat(100_000)).unwrap();
            config(folder.path(), &["a.log"], false)
                .connect("disk", &Checkpoint::default(), clock(), &setting(folder.path(), &SelfMetrics::new()))
                .unwrap()
        };
        let source = connect();
        assert_eq!(source.total_bytes(), Some(400_000));
        fs::write(&path, "another\n").unwrap();
        assert!(matches!(drive(source).1, Err(SourceError::Replaced { .. })));
        let (_, running) = start(connect());
        drop(running.feeds);
        running.runtime.block_on(running.task).unwrap().unwrap();
    }
}
