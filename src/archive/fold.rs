//! Old entries of a chain, folded into one object, so that neither a start nor a listing grows with the archive's age.
//!
//! Whenever [`limits::FOLD_ENTRIES`] seals have been put, those before the newest are read, put together as a summary and
//! removed. A crash in between leaves entries that a summary holds already; the next fold removes them, and
//! whoever reads both passes them over by their numbers.

use super::ArchiveError;
use super::chain::{self, Act, Keys, Stretch};
use super::staging::StagedFile;
use super::store::Store;
use crate::limits;
use serde::{Deserialize, Serialize};

/// What was sealed with the entries `from` to `through` of a chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Summary {
    pub(crate) format: u32,
    pub(crate) chain: String,
    pub(crate) from: u64,
    pub(crate) through: u64,
    /// In the order of the seals; those that follow each other are one.
    pub(crate) spans: Vec<Stretch>,
    pub(crate) records: u64,
    pub(crate) filtered: u64,
    pub(crate) files: Vec<StagedFile>,
    /// The entries as they were, of an archive with `audit: true`: they prove that nothing was changed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) entries: Vec<String>,
}

impl Summary {
    fn add(&mut self, act: Act) {
        let Act::Seal(seal) = act else { return };
        for span in seal.spans {
            append(&mut self.spans, span);
        }
        self.records += seal.records;
        self.filtered += seal.filtered;
        self.files.extend(seal.files);
    }
}

/// Adds positions behind those that are there.
pub(crate) fn append(spans: &mut Vec<Stretch>, span: Stretch) {
    let same = |known: &&mut Stretch| {
        known.source == span.source && known.partition == span.partition && known.identity == span.identity
    };
    match spans.iter_mut().rev().find(same) {
        Some(last) if span.start == Some(last.end) && span.was.is_none() => last.end = span.end,
        _ => spans.push(span),
    }
}

/// Folds what lies before seal `newest`, when it is time.
pub(crate) fn fold_when_due(store: &dyn Store, keys: &Keys, chain: &str, newest: u64) -> Result<(), ArchiveError> {
    if !newest.is_multiple_of(limits::FOLD_ENTRIES) {
        return Ok(());
    }
    let summarised = last_summary(store, keys, chain)?;
    let all = chain::numbers(store, keys, chain)?;
    let (old, fresh): (Vec<u64>, Vec<u64>) =
        all.into_iter().filter(|number| *number < newest).partition(|number| *number <= summarised);
    if let (Some(from), Some(through)) = (fresh.first().copied(), fresh.last().copied()) {
        let (spans, files) = (Vec::new(), Vec::new());
        let format = chain::FORMAT;
        let mut summary = Summary {
            format,
            chain: chain.to_owned(),
            from,
            through,
            spans,
            records: 0,
            filtered: 0,
            files,
            entries: Vec::new(),
        };
        for number in &fresh {
            let Some(entry) = chain::entry(store, keys, chain, *number)? else { continue };
            if entry.before.is_some() || !summary.entries.is_empty() {
                let text = store.read(&keys.entry(chain, *number))?.unwrap_or_default();
                summary.entries.push(String::from_utf8_lossy(&text).into_owned());
            }
            summary.add(entry.act);
        }
        let text = serde_json::to_vec(&summary).expect("a summary is JSON");
        // Entries never change, so a summary that is there already says the same.
        store.put_if_absent(&keys.summary(chain, through), &text)?;
    }
    old.iter().chain(&fresh).try_for_each(|number| store.remove(&keys.entry(chain, *number)))
}

/// Number of the last entry of a chain that is in a summary; 0 when none is.
pub(crate) fn last_summary(store: &dyn Store, keys: &Keys, chain: &str) -> Result<u64, ArchiveError> {
    let names = store.list(&keys.summaries(chain))?;
    let last = names.last().and_then(|name| name.strip_suffix(".json")).and_then(|number| number.parse().ok());
    Ok(last.unwrap_or(0))
}
