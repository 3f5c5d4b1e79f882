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
        disk::sync_folder(parent(&to))?;
        disk::sync_folder(parent(&from))?;
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

#[cfg(test)]
mod tests {
    use super::*;

    fn placement(from: &str, to: &str) -> Placement {
        Placement { from: from.to_owned(), to: to.to_owned(), bytes: 3 }
    }

    fn write(root: &Path, keys: &[&str]) {
        for key in keys {
            let path = root.join(key);
            fs::create_dir_all(parent(&path)).unwrap();
            fs::write(path, b"row").unwrap();
        }
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> = entries(folder).unwrap().into_iter().map(|entry| entry.0).collect();
        names.sort();
        names
    }

    #[test]
    fn a_folder_changes_in_one_step_and_others_in_it_stay() {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), &["data/d/a", "data/d/b", "data/d/late", "_headrig/s/new"]);
        let added = [placement("_headrig/s/new", "data/d/new")];
        let removed = [placement("data/d/a", "_headrig/r/a"), placement("data/d/b", "_headrig/r/b")];
        assert_eq!(one_folder(&added, &removed), Some("data/d"));
        assert_eq!(one_folder(&added, &[placement("data/e/a", "x")]), None);
        // Who has opened the folder before goes on with what it was.
        let before = fs::read_dir(root.path().join("data/d")).unwrap();
        for _ in 0..2 {
            assert!(swap(root.path(), "data/d", &added, &removed).unwrap());
            assert_eq!(names(&root.path().join("data/d")), ["late", "new"]);
            assert_eq!(names(&root.path().join("_headrig")), ["r", "s"]);
            assert_eq!(names(&root.path().join("_headrig/r")), ["a", "b"]);
        }
        drop(before);
        assert!(works(&root.path().join("_headrig")));
        assert_eq!(names(&root.path().join("_headrig")), ["r", "s"], "the trial leaves nothing");
    }

    #[test]
    fn a_folder_with_folders_is_changed_file_by_file() {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), &["data/d/a", "data/d/path=x/c", "_headrig/s/new"]);
        let added = [placement("_headrig/s/new", "data/d/new")];
        let removed = [placement("data/d/a", "_headrig/r/a")];
        assert!(!swap(root.path(), "data/d", &added, &removed).unwrap());
        assert_eq!(names(&root.path().join("data/d")), ["a", "path=x"], "nothing has changed");
        for _ in 0..2 {
            one_by_one(root.path(), &added, &removed).unwrap();
            assert_eq!(names(&root.path().join("data/d")), ["new", "path=x"]);
        }
        assert_eq!(names(&root.path().join("_headrig/r")), ["a"]);
    }

    #[test]
    fn a_new_file_that_is_not_whole_is_not_put_in_place() {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), &["data/d/a"]);
        let added = [placement("_headrig/s/new", "data/d/new")];
        let removed = [placement("data/d/a", "_headrig/r/a")];
        assert!(matches!(swap(root.path(), "data/d", &added, &removed), Err(ArchiveError::Corrupt { .. })));
        assert_eq!(names(&root.path().join("data/d")), ["a"]);
    }
}
