//! What a log says: its commits, one after the other.

use super::action::{self, Action, Add, MetaData, Protocol, READER_VERSION, WRITER_VERSION};
use super::place::{commit, decode, log, version, wrong};
use crate::archive::ArchiveError;
use crate::archive::live::side_by_side;
use crate::archive::store::Store;
use crate::limits;
use std::collections::BTreeMap;

/// How often a log is listed again because it was removed or made anew meanwhile.
const LISTED_AGAIN: usize = 3;

/// A log up to one version, without its files: what a writer has to know.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Head {
    /// `None`: there is no log.
    pub(super) version: Option<u64>,
    pub(super) protocol: Option<Protocol>,
    pub(super) metadata: Option<MetaData>,
    /// How far each application has come.
    pub(super) txns: BTreeMap<String, i64>,
}

impl Head {
    /// The version that comes next.
    pub(super) fn next(&self) -> u64 {
        self.version.map_or(0, |version| version + 1)
    }

    /// Takes one commit in.
    pub(super) fn apply(&mut self, version: u64, actions: &[Action]) {
        for action in actions {
            match action {
                Action::Protocol(protocol) => self.protocol = Some(protocol.clone()),
                Action::MetaData(metadata) => self.metadata = Some(metadata.clone()),
                Action::Txn(txn) => drop(self.txns.insert(txn.app_id.clone(), txn.version)),
                Action::Add(_) | Action::Remove(_) | Action::CommitInfo(_) => {}
            }
        }
        self.version = Some(version);
    }

    /// Whether an application has come as far as `number`.
    pub(super) fn has(&self, application: &str, number: u64) -> bool {
        self.txns.get(application).is_some_and(|known| i64::try_from(number).is_ok_and(|number| *known >= number))
    }

    /// Whether this version may go on with the log.
    pub(super) fn check(&self) -> Result<(), String> {
        let Some(Protocol { min_reader_version, min_writer_version }) = &self.protocol else {
            return Err("it has no protocol".to_owned());
        };
        if *min_reader_version > READER_VERSION || *min_writer_version > WRITER_VERSION {
            return Err(format!(
                "somebody has raised its protocol to reader version {min_reader_version} and writer version {min_writer_version}, \
                 expected {READER_VERSION} and {WRITER_VERSION}"
            ));
        }
        match self.metadata {
            Some(_) => Ok(()),
            None => Err("it has no metadata".to_owned()),
        }
    }
}

/// All that a log says at one version.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Snapshot {
    pub(super) head: Head,
    /// Files that are in the table, by path below the root.
    pub(super) files: BTreeMap<String, Add>,
}

impl Snapshot {
    /// A root's whole log; without a version where there is none.
    ///
    /// # Errors
    /// When it cannot be read, or commits are missing.
    pub(super) fn read(store: &dyn Store, root: &str) -> Result<Self, ArchiveError> {
        let mut failed = None;
        for _ in 0..LISTED_AGAIN {
            match Self::read_once(store, root) {
                Err(error @ ArchiveError::Delta { .. }) => failed = Some(error),
                read => return read,
            }
        }
        Err(failed.unwrap_or_else(|| wrong(store, root, "it changes all the time")))
    }

    fn read_once(store: &dyn Store, root: &str) -> Result<Self, ArchiveError> {
        let mut snapshot = Self::default();
        let versions: Vec<u64> = store.list(&log(root))?.iter().filter_map(|name| version(name)).collect();
        if let Some((missing, _)) = (0u64..).zip(&versions).find(|(expected, there)| expected != *there) {
            return Err(wrong(store, root, format!("it has no version {missing}")));
        }
        for chunk in versions.chunks(limits::DELTA_READ_COMMITS) {
            let texts = side_by_side(chunk, |version| store.read(&commit(root, *version)))?;
            for (version, text) in chunk.iter().zip(texts) {
                let text =
                    text.ok_or_else(|| wrong(store, root, format!("version {version} was there and is gone")))?;
                snapshot.apply(*version, &parse(store, root, *version, &text)?);
            }
        }
        if snapshot.head.version.is_some() {
            snapshot.head.check().map_err(|detail| wrong(store, root, detail))?;
        }
        Ok(snapshot)
    }

    fn apply(&mut self, version: u64, actions: &[Action]) {
        for action in actions {
            match action {
                Action::Add(add) => drop(self.files.insert(decode(&add.path), add.clone())),
                Action::Remove(remove) => drop(self.files.remove(&decode(&remove.path))),
                _ => {}
            }
        }
        self.head.apply(version, actions);
    }
}

/// The commits from `first` on, as far as there are.
pub(super) fn since(store: &dyn Store, root: &str, first: u64) -> Result<Vec<(u64, Vec<Action>)>, ArchiveError> {
    let mut commits = Vec::new();
    let mut next = first;
    loop {
        // One by one, as mostly one is there. Who is far behind reads many at once.
        let wanted: Vec<u64> = match commits.len() {
            0..8 => vec![next],
            _ => (next..next + 64).collect(),
        };
        let texts = side_by_side(&wanted, |version| store.read(&commit(root, *version)))?;
        for text in texts {
            let Some(text) = text else { return Ok(commits) };
            commits.push((next, parse(store, root, next, &text)?));
            next += 1;
        }
    }
}

fn parse(store: &dyn Store, root: &str, version: u64, text: &[u8]) -> Result<Vec<Action>, ArchiveError> {
    action::parse(text).map_err(|error| wrong(store, root, format!("version {version} cannot be read: {error}")))
}
