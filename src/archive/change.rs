//! Changes: what became of files after they were sealed, one entry each.
//!
//! A pipeline has one log of changes beside its chains, `_headrig/{pipeline}/changes/{number}.json`, put if absent and
//! numbered from 1 without gaps, whoever of several daemons puts them. Putting a change is its commit: from there on the
//! files in `removed` don't count any more and those in `added` do. Only then files are moved, which whoever comes next
//! finishes after a crash: a change is only put when the one before is finished, so the newest is all there is to look at.
//!
//! A *claim* changes nothing. It says who does the upkeep from here on: who finds that another number was taken meanwhile
//! throws its work away. So two never do the same, without a clock that both believe.

use super::ArchiveError;
use super::audit;
use super::chain::Keys;
use super::delta::Ledger;
use super::digest::Digest;
use super::staging::StagedFile;
use super::store::{Placement, Store, name_of};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::sync::Arc;

/// The layout of changes that this version writes and reads.
pub(crate) const FORMAT: u32 = 1;

/// One entry of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Change {
    pub(crate) format: u32,
    pub(crate) pipeline: String,
    /// From 1, without gaps.
    pub(crate) number: u64,
    /// Which run of which process put it.
    pub(crate) writer: String,
    /// Wall clock in µs since 1970; only the grace of replaced files goes by it.
    pub(crate) at_us: i64,
    /// SHA-256 of the change before, in hexadecimal digits, of an archive with `audit: true`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) before: Option<String>,
    pub(crate) act: Act,
    /// SHA-256 of this one as it was read; no part of it.
    #[serde(skip)]
    pub(crate) sha256: Option<String>,
}

/// What a change does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Act {
    /// Nothing but to say who goes on.
    Claim {},
    /// Files of one folder are now fewer, with the same rows.
    Compact(Exchange),
    /// Files are now in another place, with the same rows.
    Cool(Exchange),
    /// Rows are gone, as they were meant to be by now.
    Expire(Exchange),
}

/// Files that don't count any more, and those that count instead.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Exchange {
    pub(crate) removed: Vec<StagedFile>,
    pub(crate) added: Vec<StagedFile>,
}

impl Change {
    pub(crate) fn exchange(&self) -> Option<&Exchange> {
        match &self.act {
            Act::Claim {} => None,
            Act::Compact(exchange) | Act::Cool(exchange) | Act::Expire(exchange) => Some(exchange),
        }
    }

    /// Where a file that this change replaces lies for as long as somebody may still read it. The name says since when.
    pub(crate) fn kept(&self, keys: &Keys, file: &StagedFile) -> String {
        format!("{}/{:016}-{:012}/{}", keys.replaced(), self.at_us.max(0), self.number, name_of(&file.path))
    }
}

impl Exchange {
    /// How the rows of both sides differ; `None` when they don't.
    pub(crate) fn difference(&self) -> Option<String> {
        let rows = |files: &[StagedFile]| files.iter().map(|file| file.rows).sum::<u64>();
        let (before, after) = (rows(&self.removed), rows(&self.added));
        if before != after {
            return Some(format!("has replaced {before} rows by {after}"));
        }
        let digest = |files: &[StagedFile]| {
            let digests: Option<Vec<Digest>> =
                files.iter().map(|file| file.digest.as_deref().and_then(Digest::parse)).collect();
            digests.map(|digests| digests.into_iter().fold(Digest::default(), Digest::plus))
        };
        match (digest(&self.removed), digest(&self.added)) {
            (Some(before), Some(after)) if before == after => None,
            (Some(_), Some(_)) => Some("has replaced rows by others".to_owned()),
            _ => Some("doesn't say what its rows come to".to_owned()),
        }
    }
}

/// Numbers of all changes that are not folded away, in order.
pub(crate) fn numbers(store: &dyn Store, keys: &Keys) -> Result<Vec<u64>, ArchiveError> {
    let number = |name: String| name.strip_suffix(".json").and_then(|number| number.parse().ok());
    Ok(store.list(&keys.changes())?.into_iter().filter_map(number).collect())
}

/// The newest change. Lists names and reads one object.
pub(crate) fn newest(store: &dyn Store, keys: &Keys) -> Result<Option<Change>, ArchiveError> {
    let newest = numbers(store, keys)?.into_iter().next_back();
    Ok(newest.map(|number| read(store, keys, number)).transpose()?.flatten())
}

/// Change `number`; `None` where there is none.
pub(crate) fn read(store: &dyn Store, keys: &Keys, number: u64) -> Result<Option<Change>, ArchiveError> {
    let key = keys.change(number);
    let Some(text) = store.read(&key)? else { return Ok(None) };
    let corrupt = |detail: String| ArchiveError::Corrupt { path: PathBuf::from(store.show(&key)), detail };
    let change: Change = serde_json::from_slice(&text).map_err(|error| corrupt(format!("is no change: {error}")))?;
    if change.format != FORMAT {
        return Err(corrupt(format!("is of format {}, this version knows {FORMAT}", change.format)));
    }
    Ok(Some(Change { sha256: Some(audit::sha256(&text)), ..change }))
}

/// What is stored of a change.
pub(crate) fn text(change: &Change) -> Vec<u8> {
    serde_json::to_vec(change).expect("a change is JSON")
}

/// Puts `change` at the end of the log; false when another one is there. An answer that there is one may tell of our own.
pub(crate) fn append(store: &dyn Store, keys: &Keys, change: &Change) -> Result<bool, ArchiveError> {
    if store.put_if_absent(&keys.change(change.number), &text(change))? {
        return Ok(true);
    }
    let there = read(store, keys, change.number)?.map(|there| Change { sha256: change.sha256.clone(), ..there });
    Ok(there.as_ref() == Some(change))
}

/// Gives the archive at a URL.
pub(crate) type Elsewhere<'e> = dyn FnMut(&str) -> Result<Arc<dyn Store>, ArchiveError> + 'e;

/// As [`finish`], and says so in the Delta logs: before files go, and when those that come are there.
pub(crate) fn finish_with(
    store: &dyn Store,
    keys: &Keys,
    change: &Change,
    ledger: Option<&mut Ledger>,
    cold: &mut Elsewhere<'_>,
) -> Result<(), ArchiveError> {
    let Some(ledger) = ledger else { return finish(store, keys, change, cold) };
    match &change.act {
        Act::Claim {} => Ok(()),
        // Whoever lists the folder has the old files or the new one, so there is no moment at which both are there.
        Act::Compact(_) if store.swaps() => {
            finish(store, keys, change, cold)?;
            ledger.change(store, change)
        }
        Act::Compact(Exchange { added, .. }) => {
            store.place(&added.iter().map(placement).collect::<Vec<_>>())?;
            ledger.change(store, change)?;
            finish(store, keys, change, cold)
        }
        Act::Cool(_) | Act::Expire(_) => {
            ledger.change(store, change)?;
            finish(store, keys, change, cold)
        }
    }
}

fn placement(file: &StagedFile) -> Placement {
    Placement { from: file.staged.clone(), to: file.path.clone(), bytes: file.bytes }
}

/// Moves files as `change` says; `cold` gives the archive at a URL. May be repeated, and goes on where a crash broke it off.
pub(crate) fn finish(
    store: &dyn Store,
    keys: &Keys,
    change: &Change,
    cold: &mut Elsewhere<'_>,
) -> Result<(), ArchiveError> {
    let Some(Exchange { removed, added }) = change.exchange() else { return Ok(()) };
    let kept =
        |file: &StagedFile| Placement { from: file.path.clone(), to: change.kept(keys, file), bytes: file.bytes };
    let removed: Vec<&StagedFile> = removed.iter().collect();
    match &change.act {
        Act::Claim {} => {}
        Act::Compact(_) => {
            let added: Vec<Placement> = added.iter().map(placement).collect();
            store.replace(&added, &removed.into_iter().map(kept).collect::<Vec<_>>())?;
        }
        Act::Cool(_) => {
            for file in added {
                let url = file.cold.as_deref().unwrap_or_default();
                cold(url)?.place(&[placement(file)])?;
            }
            store.replace(&[], &removed.into_iter().map(kept).collect::<Vec<_>>())?;
        }
        Act::Expire(_) => {
            let (far, near): (Vec<&StagedFile>, Vec<&StagedFile>) =
                removed.into_iter().partition(|file| file.cold.is_some());
            store.remove_all(&near.iter().map(|file| file.path.clone()).collect::<Vec<_>>())?;
            for file in far {
                cold(file.cold.as_deref().unwrap_or_default())?.remove_all(std::slice::from_ref(&file.path))?;
            }
        }
    }
    Ok(())
}

/// Finishes a compaction that a crash has left unfinished, before anybody looks for sealed files in its folder. Tells whether
/// there are changes.
pub(crate) fn settle(store: &dyn Store, keys: &Keys) -> Result<bool, ArchiveError> {
    let Some(change) = newest(store, keys)? else { return Ok(false) };
    if matches!(change.act, Act::Compact(_)) {
        let mut nowhere =
            |url: &str| Err(ArchiveError::Url { url: url.to_owned(), detail: "it isn't needed here".to_owned() });
        finish(store, keys, &change, &mut nowhere)?;
    }
    Ok(true)
}
