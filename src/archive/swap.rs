//! Replacing files of a local folder so that who lists it sees the old ones or the new ones, never both and never neither.
//!
//! A second folder is made beside, with links to the files that stay and to those that are new, and then the two folders
//! change places in one step (`RENAME_EXCHANGE`). What is in the old one goes to where replaced files are kept. Where the
//! file system can't do that (NFS), new files are placed first and old ones taken away at once.
//!
//! Whoever calls holds the archive's gate alone, so no file comes into the folder meanwhile.

use super::ArchiveError;
use super::disk;
use super::folder::{is_in_place, parent};
use super::partition::file_name;
use super::store::{Placement, name_of};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// The folder in which all these files are or shall be, when it is one.
pub(super) fn one_folder<'f>(added: &'f [Placement], removed: &'f [Placement]) -> Option<&'f str> {
    let mut keys = added.iter().map(|file| &file.to).chain(removed.iter().map(|file| &file.from));
    let folder = keys.next()?.rsplit_once('/')?.0;
    keys.all(|key| key.rsplit_once('/').is_some_and(|(other, _)| other == folder)).then_some(folder)
}

/// Whether two folders below `folder` can change places.
pub(super) fn works(folder: &Path) -> bool {
    let pair = [
        folder.join(format!(".swap-{}-a", std::process::id())),
        folder.join(format!(".swap-{}-b", std::process::id())),
    ];
    let tried = disk::make_folder(&pair[0]).is_ok()
        && disk::make_folder(&pair[1]).is_ok()
        && exchange(&pair[0], &pair[1]).is_ok();
    for folder in &pair {
        // Empty, and nobody looks there.
        let _ = fs::remove_dir(folder);
    }
    tried
}

fn exchange(one: &Path, other: &Path) -> Result<(), rustix::io::Errno> {
    renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE)
}

/// Swaps the files of `folder`; false where that cannot be done, and nothing has changed then.
pub(super) fn swap(
    root: &Path,
    folder: &str,
    added: &[Placement],
    removed: &[Placement],
) -> Result<bool, ArchiveError> {
    let path = |key: &str| root.join(key);
    let target = path(folder);
    let aside = root.join("_headrig").join(format!(".swap-{}", file_name(folder)));
    let exists = |path: &Path| disk::size(path).map(|size| size.is_some());
    // While one of the old files is there, the folders have not changed places.
    let mut before = false;
    for file in removed {
        before |= exists(&path(&file.from))?;
    }
    if before {
        discard(&aside)?;
        if !build(&aside, &target, root, added, removed)? {
            return Ok(false);
        }
        match exchange(&aside, &target) {
            Ok(()) => {}
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS | rustix::io::Errno::OPNOTSUPP) => {
                discard(&aside)?;
                return Ok(false);
            }
            Err(error) => return Err(ArchiveError::io("replace", &target)(error.into())),
        }
        disk::sync_folder(parent(&target))?;
        disk::sync_folder(parent(&aside))?;
    } else {
        for file in added {
            // Not there, and not to be swapped in: then a file is missing, which has to be said.
            if !is_in_place(&path(&file.from), &path(&file.to), file.bytes)? {
                disk::make_folder(&target)?;
                fs::rename(path(&file.from), path(&file.to)).map_err(ArchiveError::io("place", &target))?;
            }
        }
    }
    settle(&aside, &target, root, removed)?;
    for file in added {
        remove(&path(&file.from))?;
    }
    Ok(true)
}

/// Removes the links of an attempt that came to nothing.
fn discard(aside: &Path) -> Result<(), ArchiveError> {
    match fs::remove_dir_all(aside) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        removed => removed.map_err(ArchiveError::io("remove", aside)),
    }
}

/// Makes `aside` what `target` shall be; false when there are folders in it, which cannot be linked.
fn build(
    aside: &Path,
    target: &Path,
    root: &Path,
    added: &[Placement],
    removed: &[Placement],
) -> Result<bool, ArchiveError> {
    disk::make_folder(aside)?;
    let goes = |name: &str| removed.iter().any(|file| name_of(&file.from) == name);
    for (name, entry) in entries(target)? {
        if entry.is_dir() {
            discard(aside)?;
            return Ok(false);
        }
        if !goes(&name) {
            fs::hard_link(&entry, aside.join(&name)).map_err(ArchiveError::io("link", &entry))?;
        }
    }
    for file in added {
        let (staged, to) = (root.join(&file.from), aside.join(name_of(&file.to)));
        let size = disk::size(&staged)?;
        if size != Some(file.bytes) {
            let detail = format!("has {} bytes, {} were written", size.unwrap_or(0), file.bytes);
            return Err(ArchiveError::Corrupt { path: staged, detail });
        }
        fs::hard_link(&staged, &to).map_err(ArchiveError::io("link", &to))?;
    }
    disk::sync_folder(aside)?;
    Ok(true)
}

/// Takes what is in the old folder, which is `aside` now, to where replaced files are kept.
fn settle(aside: &Path, target: &Path, root: &Path, removed: &[Placement]) -> Result<(), ArchiveError> {
    if !aside.is_dir() {
        return Ok(());
    }
    let kept: BTreeMap<&str, PathBuf> = removed.iter().map(|file| (name_of(&file.from), root.join(&file.to))).collect();
    for (name, entry) in entries(aside)? {
        match kept.get(name.as_str()) {
            Some(to) => {
                disk::make_folder(parent(to))?;
                fs::rename(&entry, to).map_err(ArchiveError::io("place", to))?;
            }
            None if target.join(&name).exists() => remove(&entry)?,
            // Somebody who knows nothing of the gate has put it there meanwhile.
            None => fs::rename(&entry, target.join(&name)).map_err(ArchiveError::io("place", target))?,
        }
    }
    fs::remove_dir(aside).map_err(ArchiveError::io("remove", aside))
}

/// New files first, then the old ones away.
pub(super) fn one_by_one(root: &Path, added: &[Placement], removed: &[Placement]) -> Result<(), ArchiveError> {
    for file in added {
        let (staged, target) = (root.join(&file.from), root.join(&file.to));
        if !is_in_place(&staged, &target, file.bytes)? {
            disk::make_folder(parent(&target))?;
            fs::rename(&staged, &target).map_err(ArchiveError::io("place", &target))?;
            disk::sync_folder(parent(&target))?;
        }
    }
    for file in removed {
        let (from, to) = (root.join(&file.from), root.join(&file.to));
        disk::make_folder(parent(&to))?;
        match fs::rename(&from, &to) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            renamed => renamed.map_err(ArchiveError::io("place", &to))?,
        }
    }
    Ok(())
}

fn remove(path: &Path) -> Result<(), ArchiveError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        removed => removed.map_err(ArchiveError::io("remove", path)),
    }
}

fn entries(folder: &Path) -> Result<Vec<(String, PathBuf)>, ArchiveError> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(ArchiveError::io("list", folder))? {
        let entry = entry.map_err(ArchiveError::io("list", folder))?;
        found.push((entry.file_name().to_string_lossy().into_owned(), entry.path()));
    }
    Ok(found)
}
