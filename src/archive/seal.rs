//! Seals: the commit points of an archive, and what follows from them at once or after a crash.

use super::ArchiveError;
use super::catalogue::Catalogue;
use super::chain::{self, Act, Entry, Keys, Seal, StateRef};
use super::change;
use super::staging::seal_number;
use super::store::{Placement, Store};
use crate::limits;
use std::collections::BTreeSet;

/// As [`place`], of an entry that may have been put long ago: files that upkeep has replaced since stay replaced.
pub(crate) fn place_again(store: &dyn Store, keys: &Keys, entry: &Entry) -> Result<(), ArchiveError> {
    // A folder that is being replaced may hide files that are looked for below.
    if !change::settle(store, keys)? {
        return place(store, entry);
    }
    let catalogue = Catalogue::read(store, keys)?;
    let mut entry = entry.clone();
    if let Act::Seal(seal) = &mut entry.act {
        seal.files.retain(|file| catalogue.files.contains_key(&file.path));
    }
    place(store, &entry)
}

/// Moves the files of a committed seal to where readers find them. May be repeated, and goes on where a crash broke it
/// off. Nothing for an entry that is no seal.
pub(crate) fn place(store: &dyn Store, entry: &Entry) -> Result<(), ArchiveError> {
    let Act::Seal(seal) = &entry.act else { return Ok(()) };
    let placement = |file: &super::staging::StagedFile| Placement {
        from: file.staged.clone(),
        to: file.path.clone(),
        bytes: file.bytes,
    };
    store.place(&seal.files.iter().map(placement).collect::<Vec<_>>())
}

/// Stores a seal's state before the seal: small ones go into the entry itself.
pub(crate) fn put_state(
    store: &dyn Store,
    folder: &str,
    name: &str,
    state: &[u8],
) -> Result<Option<StateRef>, ArchiveError> {
    if state.is_empty() {
        return Ok(None);
    }
    if state.len() <= limits::STATE_INLINE_BYTES {
        return Ok(Some(StateRef::Inline(state.iter().map(|byte| format!("{byte:02x}")).collect())));
    }
    let path = format!("{folder}/{name}");
    store.put(&path, state)?;
    Ok(Some(StateRef::Object { path, bytes: state.len() as u64 }))
}

/// The state that a seal has kept; empty when none.
pub(crate) fn state(store: &dyn Store, seal: &Seal) -> Result<Vec<u8>, ArchiveError> {
    seal.state.as_ref().map_or_else(|| Ok(Vec::new()), |at| stored(store, at))
}

/// A state that was kept.
pub(crate) fn stored(store: &dyn Store, at: &StateRef) -> Result<Vec<u8>, ArchiveError> {
    let corrupt = |path: String, detail: &str| ArchiveError::Corrupt { path: path.into(), detail: detail.to_owned() };
    match at {
        StateRef::Inline(text) => {
            let digits = text.as_bytes().chunks(2);
            let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
            let state: Option<Vec<u8>> = digits.map(byte).collect();
            state.ok_or_else(|| corrupt("a seal".to_owned(), "has a state that isn't hexadecimal"))
        }
        StateRef::Object { path, bytes } => {
            let state =
                store.read(path)?.ok_or_else(|| corrupt(store.show(path), "is missing, and a seal names it"))?;
            if state.len() as u64 == *bytes {
                Ok(state)
            } else {
                Err(corrupt(store.show(path), "is not as long as when it was sealed"))
            }
        }
    }
}

/// Removes what dead writers of the chain have staged in a bucket and never sealed; returns how many objects.
///
/// Only behind the seal `number` of the writer whose files' names begin with `tag`. A file goes when it was staged for that
/// number or one before it, by somebody else, and counts nowhere. Whoever staged it can't seal any more: its entry would need a
/// number that is taken, and until this one was, it may only have been silent. Files for later numbers are those of a writer that
/// came since. States are left alone: those of single partitions go from chain to chain, and any entry may name one.
pub(crate) fn sweep(
    store: &dyn Store,
    keys: &Keys,
    chain: &str,
    (tag, number): (&str, u64),
) -> Result<usize, ArchiveError> {
    let folder = keys.staging(chain);
    let is_left = |name: &String| {
        !name.starts_with(tag) && seal_number(name).is_some_and(|staged_for| (1..=number).contains(&staged_for))
    };
    let mut left: Vec<String> =
        store.list(&folder)?.into_iter().filter(is_left).map(|name| format!("{folder}/{name}")).collect();
    if left.is_empty() {
        return Ok(0);
    }
    // What was sealed and is not placed yet counts, whoever is to place it.
    let catalogue = Catalogue::read(store, keys)?;
    let counts: BTreeSet<&str> = catalogue.files.values().map(|file| file.staged.as_str()).collect();
    left.retain(|key| !counts.contains(key.as_str()));
    store.remove_all(&left)?;
    Ok(left.len())
}

/// The state of the newest seal of another writer's chain, which may seal again meanwhile and remove the older state.
pub(crate) fn newest_state(store: &dyn Store, keys: &Keys, chain: &str) -> Result<Vec<u8>, ArchiveError> {
    let mut looked_at = None;
    loop {
        let Some(seal) = newest(store, keys, chain)?.0 else { return Ok(Vec::new()) };
        match state(store, &seal) {
            Err(ArchiveError::Corrupt { .. }) if looked_at != seal.state => looked_at = seal.state,
            done => return done,
        }
    }
}

/// The newest seal of a chain, and behind it the entry that is newest. Claims may have come since.
pub(crate) fn newest(
    store: &dyn Store,
    keys: &Keys,
    chain: &str,
) -> Result<(Option<Seal>, Option<Entry>), ArchiveError> {
    let newest = chain::newest(store, keys, chain)?;
    let mut looked_at = newest.clone();
    while let Some(entry) = looked_at {
        match entry.act {
            Act::Seal(seal) => return Ok((Some(seal), newest)),
            Act::Claim { .. } => {
                let before = entry.number.checked_sub(1).filter(|number| *number > 0);
                looked_at = before.map(|number| chain::entry(store, keys, chain, number)).transpose()?.flatten();
            }
        }
    }
    Ok((None, newest))
}
