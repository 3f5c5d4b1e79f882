//! Seals: the commit points of an archive, and what follows from them at once or after a crash.

use super::disk;
use super::error::ArchiveError;
use super::staging::{self, StagedFile};
use crate::record::receipt::Checkpoint;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// The layout of seals that this version writes and reads.
pub(crate) const FORMAT: u32 = 1;

/// What one seal made durable: the files, and how far the sources have come with them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Seal {
    pub(crate) format: u32,
    /// From 1, without gaps.
    pub(crate) number: u64,
    pub(crate) pipeline: String,
    /// Which run of which daemon wrote it.
    pub(crate) writer: String,
    /// Event time in µs since 1970 up to which the pipeline had come.
    pub(crate) watermark_us: Option<i64>,
    pub(crate) checkpoint: Checkpoint,
    pub(crate) files: Vec<StagedFile>,
}

/// The folders of one pipeline in an archive.
#[derive(Debug, Clone)]
pub(crate) struct Folders {
    pub(crate) root: PathBuf,
    pub(crate) staging: PathBuf,
    pub(crate) seals: PathBuf,
    pub(crate) lock: PathBuf,
}

impl Folders {
    pub(crate) fn new(root: PathBuf, pipeline: &str) -> Self {
        let home = root.join("_headrig").join(super::partition::file_name(pipeline));
        Self { staging: home.join("staging"), seals: home.join("seals"), lock: home.join("lock"), root }
    }

    pub(crate) fn seal(&self, number: u64) -> PathBuf {
        self.seals.join(format!("{number:012}.json"))
    }
}

/// Commits `seal`: when this returns, its rows are in the archive whatever happens.
pub(crate) fn commit(folders: &Folders, seal: &Seal) -> Result<(), ArchiveError> {
    let path = folders.seal(seal.number);
    let text = serde_json::to_vec_pretty(seal).expect("a seal is JSON");
    if disk::put_if_absent(&path, &folders.staging.join("seal.json"), &text)? {
        return Ok(());
    }
    let there = read(&path)?;
    if there.writer == seal.writer { Ok(()) } else { Err(ArchiveError::Conflict { path, owner: there.writer }) }
}

/// The newest seal, `None` in a new archive. Lists names only and reads one file.
pub(crate) fn newest(folders: &Folders) -> Result<Option<Seal>, ArchiveError> {
    let mut newest = None;
    let listing = fs::read_dir(&folders.seals).map_err(ArchiveError::io("list", &folders.seals))?;
    for entry in listing {
        let name = entry.map_err(ArchiveError::io("list", &folders.seals))?.file_name();
        let number = name.to_str().and_then(|n| n.strip_suffix(".json")).and_then(|n| n.parse::<u64>().ok());
        newest = newest.max(number);
    }
    newest.map(|number| read(&folders.seal(number))).transpose()
}

fn read(path: &Path) -> Result<Seal, ArchiveError> {
    let corrupt = |detail: String| ArchiveError::Corrupt { path: path.to_owned(), detail };
    let text = fs::read(path).map_err(ArchiveError::io("read", path))?;
    let seal: Seal = serde_json::from_slice(&text).map_err(|error| corrupt(format!("is no seal: {error}")))?;
    if seal.format > FORMAT {
        return Err(corrupt(format!("is of format {}, this version knows {FORMAT}", seal.format)));
    }
    Ok(seal)
}

/// Moves the files of a committed seal to where readers find them. May be repeated, and goes on where a crash broke
/// it off.
pub(crate) fn place(folders: &Folders, seal: &Seal) -> Result<(), ArchiveError> {
    let mut touched = BTreeSet::new();
    for file in &seal.files {
        let outside = || ArchiveError::Corrupt {
            path: folders.seal(seal.number),
            detail: format!("names a file outside of the archive: {:?}", file.path),
        };
        let staged = disk::below(&folders.staging, &file.staged).ok_or_else(outside)?;
        let target = disk::below(&folders.root, &file.path).ok_or_else(outside)?;
        if is_in_place(&staged, &target, file.bytes)? {
            continue;
        }
        let folder = target.parent().expect("a file has a folder").to_owned();
        disk::make_folder(&folder)?;
        fs::rename(&staged, &target).map_err(ArchiveError::io("place", &target))?;
        touched.insert(folder);
    }
    for folder in &touched {
        disk::sync_folder(folder)?;
    }
    if touched.is_empty() { Ok(()) } else { disk::sync_folder(&folders.staging) }
}

/// Whether a sealed file has been moved already; an error when it is gone or not the one that was sealed.
fn is_in_place(staged: &Path, target: &Path, bytes: u64) -> Result<bool, ArchiveError> {
    let size = |path: &Path| match fs::metadata(path) {
        Ok(metadata) => Ok(Some(metadata.len())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(ArchiveError::io("look at", path)(error)),
    };
    let corrupt = |path: &Path, detail: String| Err(ArchiveError::Corrupt { path: path.to_owned(), detail });
    match (size(staged)?, size(target)?) {
        (None, None) => corrupt(target, "is missing, and so is its staged copy".to_owned()),
        (Some(found), None) if found == bytes => Ok(false),
        (_, Some(found)) if found == bytes => Ok(true),
        (_, Some(found)) => corrupt(target, format!("has {found} bytes, {bytes} were sealed")),
        (Some(found), None) => corrupt(staged, format!("has {found} bytes, {bytes} were sealed")),
    }
}

/// Brings an archive into the state that its newest seal describes, and returns that.
pub(crate) fn recover(folders: &Folders) -> Result<Option<Seal>, ArchiveError> {
    let newest = newest(folders)?;
    if let Some(seal) = &newest {
        place(folders, seal)?;
    }
    staging::clear(&folders.staging)?;
    Ok(newest)
}
