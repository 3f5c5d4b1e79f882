//! Where Delta logs are, and how files are called in them.

use crate::archive::ArchiveError;
use crate::archive::partition::unescape;
use crate::archive::staging::StagedFile;
use crate::archive::store::Store;
use crate::archive::table::Kind;
use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::PathBuf;

/// The folder of a log, below its table's root.
const LOG: &str = "_delta_log";

/// The folder whose table a file belongs to. Windows have one each, as they have columns of their own.
pub(super) fn root_of(file: &StagedFile) -> &str {
    let parts = if file.kind == Kind::Windows { 2 } else { 1 };
    let end = file.path.match_indices('/').nth(parts - 1).map_or(0, |(at, _)| at);
    &file.path[..end]
}

/// A file's path below its root.
pub(super) fn below<'f>(root: &str, file: &'f StagedFile) -> &'f str {
    file.path.strip_prefix(root).and_then(|rest| rest.strip_prefix('/')).unwrap_or(&file.path)
}

/// All roots that the archive may have logs in.
pub(super) fn roots(store: &dyn Store) -> Result<BTreeSet<String>, ArchiveError> {
    let single = Kind::ALL.into_iter().filter(|kind| *kind != Kind::Windows).map(|kind| kind.as_str().to_owned());
    let mut roots: BTreeSet<String> = single.collect();
    let folder = Kind::Windows.as_str();
    let windows = store.list(folder)?.into_iter().filter(|name| name.contains('='));
    roots.extend(windows.map(|name| format!("{folder}/{name}")));
    Ok(roots)
}

/// The folder of a root's log.
pub(super) fn log(root: &str) -> String {
    format!("{root}/{LOG}")
}

/// The key of one commit.
pub(super) fn commit(root: &str, version: u64) -> String {
    format!("{root}/{LOG}/{version:020}.json")
}

/// The version of the commit whose object has this name; `None` for other objects.
pub(super) fn version(name: &str) -> Option<u64> {
    name.strip_suffix(".json").filter(|number| number.len() == 20)?.parse().ok()
}

/// Whether an object belongs to a log and is no file of rows.
pub(crate) fn is_log(key: &str) -> bool {
    key.split('/').any(|part| part == LOG)
}

/// A path as a log has it: a URI, so that a folder's `%2F` becomes `%252F`.
pub(super) fn encode(path: &str) -> String {
    path.bytes().fold(String::with_capacity(path.len()), |mut out, byte| {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'/' | b'=' => {
                out.push(char::from(byte));
            }
            byte => write!(out, "%{byte:02X}").expect("a text takes all"),
        }
        out
    })
}

/// What [`encode`] has encoded.
pub(super) fn decode(path: &str) -> String {
    unescape(path)
}

/// The application by which a chain's writer, or `upkeep`, says how far it has come.
pub(super) fn application(pipeline: &str, chain: &str) -> String {
    format!("headrig/{pipeline}/{chain}")
}

/// Something is wrong with a root's log.
pub(super) fn wrong(store: &dyn Store, root: &str, detail: impl Into<String>) -> ArchiveError {
    ArchiveError::Delta { path: PathBuf::from(store.show(&log(root))), detail: detail.into() }
}
