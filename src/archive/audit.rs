//! Proof that nobody has changed an archive with `audit: true` since it was sealed.
//!
//! Each seal names the SHA-256 of its files, and each entry of a chain that of the entry before as it is stored: claims and
//! changes alike. Entries that were folded together are kept as they were. So whoever changes a byte of a file, an entry, or
//! their order changes a hash that the next one carries. What can't be seen is an end that was cut off with its files;
//! who has noted the newest hash, which `headrig verify --audit` prints, sees that, too.

use super::ArchiveError;
use super::catalogue::Catalogue;
use super::chain::{self, Act, Entry, Keys};
use super::change::Change;
use super::fold::Summary;
use super::staging::StagedFile;
use super::store::Store;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// What the first entry carries, before which there is none.
const NONE: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// Bytes that are hashed at once.
const PART_BYTES: u64 = 8 << 20;

/// SHA-256 in hexadecimal digits.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    digits(Sha256::new_with_prefix(bytes))
}

fn digits(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What an entry carries of the one before.
pub(crate) fn link(audit: bool, before: Option<String>) -> Option<String> {
    audit.then(|| before.unwrap_or_else(|| NONE.to_owned()))
}

/// Of a local file.
pub(crate) fn sha256_of_local(path: &Path) -> Result<String, ArchiveError> {
    let read = || {
        let mut file = File::open(path)?;
        let (mut hash, mut part) = (Sha256::new(), vec![0; 1 << 20]);
        loop {
            match file.read(&mut part)? {
                0 => return Ok(digits(hash)),
                length => hash.update(&part[..length]),
            }
        }
    };
    read().map_err(ArchiveError::io("read", path))
}

/// Of an object of so many bytes.
fn sha256_of(store: &dyn Store, key: &str, bytes: u64) -> Result<String, ArchiveError> {
    let mut hash = Sha256::new();
    let mut start = 0;
    while start < bytes {
        let part = store.range(key, start, PART_BYTES.min(bytes - start))?;
        if part.is_empty() {
            break;
        }
        start += part.len() as u64;
        hash.update(part);
    }
    Ok(digits(hash))
}

/// Whether a file is the one that was sealed; also when nobody has noted what that is.
pub(crate) fn is_sealed(store: &dyn Store, file: &StagedFile) -> Result<bool, ArchiveError> {
    let Some(expected) = &file.sha256 else { return Ok(true) };
    Ok(sha256_of(store, &file.path, file.bytes)? == *expected)
}

/// As [`is_sealed`], as an error.
pub(crate) fn check(store: &dyn Store, file: &StagedFile) -> Result<(), ArchiveError> {
    if is_sealed(store, file)? {
        return Ok(());
    }
    let detail = "its bytes are not those that were sealed".to_owned();
    Err(ArchiveError::Rewrite { path: PathBuf::from(store.show(&file.path)), detail })
}

/// What the log of one pipeline proves.
#[derive(Debug, Default)]
pub(super) struct Proof {
    /// The first break of each chain, and whatever contradicts the chains.
    pub(super) breaks: Vec<String>,
    /// Where each chain ends.
    pub(super) ends: Vec<String>,
    /// What was stored before hashes were noted.
    pub(super) unproven: Vec<String>,
    /// Whether an entry carries no hash: what is gone by now may have been named by it.
    bare: bool,
    /// Files that count by the entries alone.
    live: BTreeMap<String, StagedFile>,
}

/// One entry as it is stored.
struct Stored {
    /// What holds it.
    shown: String,
    /// The number that it has by its place.
    number: Option<u64>,
    text: Vec<u8>,
}

/// What an entry says of itself.
struct Said {
    number: u64,
    before: Option<String>,
}

/// Follows all chains of one pipeline, and its changes.
pub(super) fn prove(store: &dyn Store, keys: &Keys) -> Result<Proof, ArchiveError> {
    let mut proof = Proof::default();
    let chains: BTreeSet<String> =
        store.list(&keys.chains())?.into_iter().chain(store.list(&keys.all_summaries())?).collect();
    for chain in &chains {
        let stored = entries(store, keys, chain, &mut proof)?;
        let mut files = Vec::new();
        let late = !proof.unproven.is_empty();
        proof.follow(&format!("chain {chain}"), late, &stored, |text| {
            let entry: Entry = serde_json::from_slice(text).ok()?;
            if let Act::Seal(seal) = entry.act {
                files.extend(seal.files);
            }
            Some(Said { number: entry.number, before: entry.before })
        });
        proof.live.extend(files.into_iter().map(|file| (file.path.clone(), file)));
    }
    let changes = Catalogue::changes(store, keys)?;
    let stored = changes.into_iter().map(|(shown, number, text)| Stored { shown, number, text: text.into_bytes() });
    let mut exchanged = Vec::new();
    proof.follow("the log of changes", false, &stored.collect::<Vec<_>>(), |text| {
        let change: Change = serde_json::from_slice(text).ok()?;
        let said = Said { number: change.number, before: change.before.clone() };
        exchanged.extend(change.exchange().cloned());
        Some(said)
    });
    for exchange in exchanged {
        for file in exchange.removed {
            proof.live.remove(&file.path);
        }
        proof.live.extend(exchange.added.into_iter().map(|file| (file.path.clone(), file)));
    }
    Ok(proof)
}

/// The entries of a chain in order, those that were folded first.
fn entries(store: &dyn Store, keys: &Keys, chain: &str, proof: &mut Proof) -> Result<Vec<Stored>, ArchiveError> {
    let mut stored = Vec::new();
    let mut through = 0;
    for name in store.list(&keys.summaries(chain))? {
        let key = format!("{}/{name}", keys.summaries(chain));
        let text = store.read(&key)?.unwrap_or_default();
        // One that can't be read is named by what `verify` does without this.
        let Ok(summary) = serde_json::from_slice::<Summary>(&text) else { continue };
        let shown = store.show(&key);
        let mut files = Vec::new();
        for text in &summary.entries {
            if let Ok(Entry { act: Act::Seal(seal), .. }) = serde_json::from_str(text) {
                files.extend(seal.files);
            }
        }
        through = summary.through;
        let whole = summary.entries.len() as u64 == summary.through + 1 - summary.from;
        if whole && files != summary.files {
            proof.breaks.push(format!("{shown} names other files than the seals in it"));
        }
        if !whole {
            // From before `audit: true`: what is in it isn't proven.
            let end = summary.through - summary.entries.len() as u64;
            proof.unproven.push(format!("chain {chain}: entries {} to {end} carry no hashes", summary.from));
            proof.live.extend(summary.files.into_iter().map(|file| (file.path.clone(), file)));
        }
        let first = summary.through + 1 - summary.entries.len() as u64;
        let entry = |(number, text): (u64, String)| Stored {
            shown: format!("entry {number} in {shown}"),
            number: Some(number),
            text: text.into_bytes(),
        };
        stored.extend((first..).zip(summary.entries).map(entry));
    }
    for number in chain::numbers(store, keys, chain)?.into_iter().filter(|number| *number > through) {
        let key = keys.entry(chain, number);
        if let Some(text) = store.read(&key)? {
            stored.push(Stored { shown: store.show(&key), number: Some(number), text });
        }
    }
    Ok(stored)
}

impl Proof {
    /// Follows entries from each to the next; notes the first that doesn't follow, and where they end.
    /// `late`: there may be more before the first.
    fn follow(&mut self, log: &str, late: bool, stored: &[Stored], mut read: impl FnMut(&[u8]) -> Option<Said>) {
        let mut before: Option<(&Stored, u64, String)> = None;
        let (mut audited, mut broken) = (false, false);
        for this in stored {
            let shown = &this.shown;
            let Some(said) = read(&this.text) else {
                self.breaks.push(format!("{shown} cannot be read"));
                return;
            };
            let flaw = match (&before, &said.before) {
                _ if this.number.is_some_and(|number| number != said.number) => {
                    Some(format!("{shown} holds entry {}: it was put there in another's place", said.number))
                }
                (Some((_, number, _)), _) if audited && said.number != number + 1 => {
                    Some(format!("entries {} to {} before {shown} are gone", number + 1, said.number.saturating_sub(1)))
                }
                (Some((last, _, hash)), Some(link)) if link != hash => {
                    Some(format!("{} was changed, or what stood between it and {shown} was taken out", last.shown))
                }
                (_, None) if audited => Some(format!("{shown} carries no hash of the one before it")),
                (None, Some(link)) if said.number == 1 && link != NONE => {
                    Some(format!("{shown} is the first, and there was one before it"))
                }
                (None, Some(_)) if said.number > 1 && !late => Some(format!("the entries before {shown} are gone")),
                _ => None,
            };
            if let Some(flaw) = flaw.filter(|_| !broken) {
                broken = true;
                self.breaks.push(flaw);
            }
            audited |= said.before.is_some();
            self.bare |= said.before.is_none();
            before = Some((this, said.number, sha256(&this.text)));
        }
        if let Some((_, number, hash)) = before.filter(|_| audited) {
            self.ends.push(format!("{log} ends with entry {number}, SHA-256 {hash}"));
        }
    }

    /// How the files that count, as they were found otherwise, contradict the entries. Nothing where these don't prove anything.
    pub(super) fn contradictions(&self, live: &BTreeMap<String, StagedFile>) -> Vec<String> {
        if self.bare || !self.breaks.is_empty() || !self.unproven.is_empty() {
            return Vec::new();
        }
        let of_entries = |path: &String| self.live.get(path).map(|file| (&file.sha256, file.rows, file.bytes));
        let other = |(path, file): (&String, &StagedFile)| {
            (of_entries(path) != Some((&file.sha256, file.rows, file.bytes))).then(|| path.clone())
        };
        let mut paths: BTreeSet<String> = live.iter().filter_map(other).collect();
        paths.extend(self.live.keys().filter(|path| !live.contains_key(*path)).cloned());
        paths.into_iter().map(|path| format!("the list of files says of {path} what no entry says")).collect()
    }
}
