//! Seals: the commit points of an archive, and what follows from them at once or after a crash.

use super::ArchiveError;
use super::chain::{self, Act, Entry, Keys, Seal, StateRef};
use super::store::{Placement, Store};
use crate::limits;

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
    let corrupt = |path: String, detail: &str| ArchiveError::Corrupt { path: path.into(), detail: detail.to_owned() };
    match &seal.state {
        None => Ok(Vec::new()),
        Some(StateRef::Inline(text)) => {
            let digits = text.as_bytes().chunks(2);
            let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
            let state: Option<Vec<u8>> = digits.map(byte).collect();
            state.ok_or_else(|| corrupt("a seal".to_owned(), "has a state that isn't hexadecimal"))
        }
        Some(StateRef::Object { path, bytes }) => {
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

/// Removes what other writers of the chain have left: staged files and states that no entry names and none will.
///
/// Only behind a seal of `writer`. Until then another writer who has gone quiet may still put the chain's next entry, and that would
/// name what it has staged. From then on its entry is refused, as this one's is there.
pub(crate) fn sweep(
    store: &dyn Store,
    keys: &Keys,
    chain: &str,
    writer: &str,
    state: Option<&StateRef>,
) -> Result<(), ArchiveError> {
    let kept = if let Some(StateRef::Object { path, .. }) = state { path.as_str() } else { "" };
    for (folder, own) in [(keys.staging(chain), format!("{writer}-")), (keys.state(chain), format!("-{writer}"))] {
        let mut swept = 0;
        for name in store.list(&folder)? {
            let key = format!("{folder}/{name}");
            if key != kept && !name.starts_with(&own) && !name.ends_with(&own) {
                store.remove(&key)?;
                swept += 1;
            }
        }
        if swept > 0 {
            tracing::info!(folder, objects = swept, "removed what earlier writers had left");
        }
    }
    Ok(())
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
