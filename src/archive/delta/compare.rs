//! Whether logs say what counts.

use super::place::{application, log, root_of, roots};
use super::snapshot::Snapshot;
use crate::archive::ArchiveError;
use crate::archive::catalogue::Catalogue;
use crate::archive::chain::Keys;
use crate::archive::store::Store;
use std::collections::BTreeSet;
use std::time::Duration;

/// How often is looked, and how long apart, before something counts as wrong: a daemon may be between a seal and its commit.
const LOOKS: usize = 5;
const APART: Duration = Duration::from_millis(200);

/// What the Delta logs of an archive say wrongly; nothing where it has none.
///
/// # Errors
/// When the archive cannot be read.
pub(crate) fn compare(store: &dyn Store) -> Result<Vec<String>, ArchiveError> {
    let mut found = look(store)?;
    for _ in 1..LOOKS {
        if found.is_empty() {
            break;
        }
        std::thread::sleep(APART);
        let again = look(store)?;
        found.retain(|known| again.contains(known));
    }
    Ok(found.into_iter().collect())
}

fn look(store: &dyn Store) -> Result<BTreeSet<String>, ArchiveError> {
    let mut found = BTreeSet::new();
    let mut snapshots = Vec::new();
    for root in roots(store)? {
        match Snapshot::read(store, &root) {
            Ok(snapshot) if snapshot.head.version.is_some() => snapshots.push((root, snapshot)),
            Ok(_) => {}
            Err(error @ ArchiveError::Delta { .. }) => drop(found.insert(error.to_string())),
            Err(error) => return Err(error),
        }
    }
    if snapshots.is_empty() {
        return Ok(found);
    }
    let mut counts = Vec::new();
    for home in store.list("_headrig")?.into_iter().filter(|name| !name.starts_with('.')) {
        let catalogue = Catalogue::read(store, &Keys::of_home(&home))?;
        counts
            .extend(catalogue.files.into_values().filter(|file| file.cold.is_none()).map(|file| (home.clone(), file)));
    }
    for (root, snapshot) in &snapshots {
        let shown = store.show(&log(root));
        // A pipeline that keeps no log may write to the same folder.
        let keeps = |pipeline: &str| {
            let its = application(pipeline, "");
            snapshot.head.txns.keys().any(|application| application.starts_with(&its))
        };
        let of_root: Vec<_> = counts.iter().filter(|(_, file)| root_of(file) == root).collect();
        let paths: BTreeSet<&str> = of_root.iter().map(|(_, file)| file.path.as_str()).collect();
        for path in snapshot.files.keys().map(|path| format!("{root}/{path}")) {
            if !paths.contains(path.as_str()) {
                found.insert(format!("{shown} names {}, which doesn't count", store.show(&path)));
            }
        }
        for (_, file) in of_root.iter().filter(|(pipeline, _)| keeps(pipeline)) {
            let below = &file.path[root.len() + 1..];
            if !snapshot.files.contains_key(below) && store.size(&file.path)?.is_some() {
                found.insert(format!("{shown} doesn't name {}, which counts", store.show(&file.path)));
            }
        }
    }
    Ok(found)
}
