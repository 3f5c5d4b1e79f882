//! Folders and files that survive a power cut: what is made is synced, and so is the folder that names it.

use super::error::ArchiveError;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Component, Path, PathBuf};

/// Makes the entries of a folder durable.
pub(crate) fn sync_folder(folder: &Path) -> Result<(), ArchiveError> {
    File::open(folder).and_then(|f| f.sync_all()).map_err(ArchiveError::io("sync the folder", folder))
}

/// Makes `folder` and what is missing above it, each durably named in its parent.
pub(crate) fn make_folder(folder: &Path) -> Result<(), ArchiveError> {
    if folder.is_dir() {
        return Ok(());
    }
    let parent = folder.parent().filter(|p| !p.as_os_str().is_empty());
    if let Some(parent) = parent {
        make_folder(parent)?;
    }
    match fs::create_dir(folder) {
        Err(error) if !(error.kind() == std::io::ErrorKind::AlreadyExists && folder.is_dir()) => {
            Err(ArchiveError::io("make the folder", folder)(error))
        }
        _ => sync_folder(parent.unwrap_or(Path::new("."))),
    }
}

/// The length of a file in bytes; `None` where there is none.
pub(crate) fn size(path: &Path) -> Result<Option<u64>, ArchiveError> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(Some(metadata.len())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(ArchiveError::io("look at", path)(error)),
    }
}

/// Writes a file anew and syncs its bytes, not its name.
pub(crate) fn write_synced(path: &Path, bytes: &[u8]) -> Result<(), ArchiveError> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .open(path)
        .map_err(ArchiveError::io("write", path))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(ArchiveError::io("write", path))
}

/// `relative` below `root`; `None` where it would lead out of it.
pub(crate) fn below(root: &Path, relative: &str) -> Option<PathBuf> {
    let inside = !relative.is_empty() && Path::new(relative).components().all(|c| matches!(c, Component::Normal(_)));
    inside.then(|| root.join(relative))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_below_their_root() {
        let root = Path::new("/archive");
        assert_eq!(below(root, "data/a.parquet"), Some(PathBuf::from("/archive/data/a.parquet")));
        for path in ["", "/etc/passwd", "../x", "data/../../x"] {
            assert_eq!(below(root, path), None, "{path}");
        }
    }
}
