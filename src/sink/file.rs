//! `type: file`: JSON lines appended to a file, on disk when `deliver` returns.

use super::readable::json_lines;
use super::{FileConfig, Sink, SinkError};
use crate::place::Problem;
use crate::record::alert::AlertEvent;
use futures::future::BoxFuture;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

impl FileConfig {
    pub(crate) fn check(&self) -> Vec<Problem> {
        let path = &self.path.value;
        if path.trim().is_empty() || path.ends_with('/') {
            let message = format!("cannot use {path:?} as a file for alerts, expected the name of a file");
            return vec![self.path.problem(message).hint("as in `path: alerts.ndjson`")];
        }
        Vec::new()
    }

    /// Whether the file can be written, or made.
    pub(crate) fn probe(&self) -> Option<Problem> {
        let path = Path::new(&self.path.value);
        let there = path.ancestors().find(|part| part.exists());
        // A relative path's last ancestor is the empty one, which stands for the working directory.
        let there = there.filter(|part| !part.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let tried = match (there == path, there.is_dir()) {
            (true, true) => Err(io::ErrorKind::IsADirectory.into()),
            (true, false) => fs::OpenOptions::new().append(true).open(path).map(drop),
            (false, false) => Err(io::ErrorKind::NotADirectory.into()),
            (false, true) => match fs::metadata(there) {
                Ok(metadata) if metadata.permissions().readonly() => Err(io::ErrorKind::PermissionDenied.into()),
                looked_at => looked_at.map(drop),
            },
        };
        let error = SinkError::File { action: "open", path: path.to_owned(), cause: tried.err()? };
        let mut problem = self.path.problem(error.to_string());
        problem.hint = error.hint().map(str::to_owned);
        Some(problem)
    }
}

#[derive(Debug)]
pub(crate) struct File {
    path: PathBuf,
    file: Arc<fs::File>,
}

impl File {
    /// Opens the file for appending, making it and the folders above it where they are missing.
    pub(crate) fn connect(config: &FileConfig) -> Result<Self, SinkError> {
        let path = PathBuf::from(&config.path.value);
        let file = open(&path).map_err(|cause| SinkError::File { action: "open", path: path.clone(), cause })?;
        Ok(Self { path, file: Arc::new(file) })
    }
}

fn open(path: &Path) -> io::Result<fs::File> {
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(parent)?;
    let file = fs::OpenOptions::new().read(true).append(true).create(true).open(path)?;
    fs::File::open(parent)?.sync_all()?;
    Ok(file)
}

/// Appends whole lines. A line that a crash or a full disk has cut short is ended first, so that it spoils no other.
fn append(mut file: &fs::File, lines: &str) -> io::Result<()> {
    let length = file.metadata()?.len();
    let mut last = [b'\n'];
    if length > 0 && file.metadata()?.is_file() {
        file.read_exact_at(&mut last, length - 1)?;
    }
    let end = if last == [b'\n'] { "" } else { "\n" };
    file.write_all(format!("{end}{lines}").as_bytes())?;
    match file.sync_data() {
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()), // a pipe or a device has nothing to sync
        synced => synced,
    }
}

impl Sink for File {
    fn at_once(&self) -> bool {
        true
    }

    fn deliver<'a>(&'a mut self, events: &'a [AlertEvent]) -> BoxFuture<'a, Result<(), SinkError>> {
        Box::pin(async move {
            let (file, lines) = (Arc::clone(&self.file), json_lines(events));
            let written = tokio::task::spawn_blocking(move || append(&file, &lines)).await;
            let written = written.unwrap_or_else(|stopped| Err(io::Error::other(stopped)));
            written.map_err(|cause| SinkError::File { action: "write", path: self.path.clone(), cause })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::place::Located;
    use crate::sink::readable::tests::event;

    fn config(path: &Path) -> FileConfig {
        FileConfig { path: Located::nowhere(path.to_str().unwrap().to_owned()) }
    }

    async fn check(before: &str, expected: &[&str]) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/alerts.ndjson");
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, before).unwrap();
        let mut sink = File::connect(&config(&path)).unwrap();
        sink.deliver(&[event()]).await.unwrap();
        sink.deliver(&[event()]).await.unwrap();
        let text = fs::read_to_string(&path).unwrap();
        let starts: Vec<&str> = text.lines().map(|l| l.get(..10).unwrap_or(l)).collect();
        assert_eq!(starts, expected);
        assert!(text.ends_with('\n'));
    }

    #[tokio::test]
    async fn lines_are_appended_and_a_torn_one_is_ended() {
        let line = r#"{"id":"a1","#.get(..10).unwrap();
        check("", &[line, line]).await;
        check("old\n", &["old", line, line]).await;
        check("{\"id\"", &["{\"id\"", line, line]).await;
    }

    #[tokio::test]
    async fn a_full_disk_and_a_wrong_path_are_errors() {
        let mut full = File::connect(&config(Path::new("/dev/full"))).unwrap();
        let error = full.deliver(&[event()]).await.unwrap_err();
        assert!(error.is_retryable() && error.hint().is_some(), "{error}");
        let folder = tempfile::tempdir().unwrap();
        let error = File::connect(&config(folder.path())).unwrap_err();
        assert!(error.to_string().starts_with("cannot open"), "{error}");
        assert_eq!(config(Path::new("alerts/")).check().len(), 1);
        assert!(config(Path::new("alerts")).check().is_empty());
    }
}
