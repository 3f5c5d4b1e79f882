//! Chains: the logs of what writers have done, one object an entry.
//!
//! A chain is `_headrig/{pipeline}/chains/{chain}/{number}.json`, numbered from 1 without gaps. An entry is put if it is
//! absent, never changed, and says all that the next one builds on; so of two writers one gets a number and the other
//! one learns of it, and a chain cannot fork. An entry is a *seal* (rows became visible, positions moved) or a *claim*
//! (another chain took partitions over). A pipeline whose sources nobody shares has one chain, `main`. Where daemons share
//! the partitions of a source (a Kafka group), each has a chain of its own.

use super::ArchiveError;
use super::audit;
use super::partition::file_name;
use super::staging::StagedFile;
use super::store::Store;
use super::table::Kind;
use crate::record::receipt::PartitionPosition;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The layout of entries that this version writes and reads.
pub(crate) const FORMAT: u32 = 2;

/// The chain of a pipeline that shares nothing.
pub(crate) const MAIN: &str = "main";

/// The chain that nobody writes: who reads a shared partition first claims it from here.
pub(crate) const ORIGIN: &str = "origin";

/// One entry of a chain.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) format: u32,
    pub(crate) pipeline: String,
    pub(crate) chain: String,
    /// From 1, without gaps.
    pub(crate) number: u64,
    /// Which run of which daemon put it.
    pub(crate) writer: String,
    /// What the chain holds behind this entry: how far each of its partitions is sealed.
    pub(crate) holds: Vec<Held>,
    /// What others have claimed from it and it hasn't claimed back.
    pub(crate) given: Vec<Given>,
    /// SHA-256 of the entry before, as it is stored, in hexadecimal digits; of an archive with `audit: true`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) before: Option<String>,
    pub(crate) act: Act,
    /// SHA-256 of this one as it was read; no part of it.
    #[serde(skip)]
    pub(crate) sha256: Option<String>,
}

/// What an entry does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Act {
    Seal(Seal),
    /// Its partitions are the entry's `given` with this chain and writer.
    Claim {
        by: String,
    },
}

/// A partition and where its first unsealed record starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Held {
    pub(crate) at: PartitionPosition,
    /// How often the partition was claimed; 0 of a source that nobody shares.
    pub(crate) epoch: u64,
    /// What was kept of the partition alone, for whoever goes on with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) state: Option<StateRef>,
}

/// A partition that went to another chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Given {
    pub(crate) source: String,
    pub(crate) partition: String,
    /// How far it was sealed; `None` when nobody had read it.
    pub(crate) at: Option<PartitionPosition>,
    /// What was kept with that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) state: Option<StateRef>,
    /// The epoch that began with this.
    pub(crate) epoch: u64,
    pub(crate) to: String,
}

/// What one seal made durable.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Seal {
    /// Event time in µs since 1970 up to which the pipeline had come.
    pub(crate) watermark_us: Option<i64>,
    /// Which positions became durable: of each partition that moved.
    pub(crate) spans: Vec<Stretch>,
    /// Records that these are, and those of them that a filter took out.
    pub(crate) records: u64,
    pub(crate) filtered: u64,
    pub(crate) files: Vec<StagedFile>,
    /// The tables that are written; rows of others are in no file.
    pub(crate) kept: Vec<Kind>,
    /// State of windows, alerts and event time behind these records, and the alert events that are still to be delivered.
    pub(crate) state: Option<StateRef>,
}

/// Positions `[start, end)` of one partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stretch {
    pub(crate) source: String,
    pub(crate) partition: String,
    pub(crate) identity: String,
    /// The identity that the partition had before `start`, where it was another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) was: Option<String>,
    /// `None`: the partition's beginning.
    pub(crate) start: Option<u64>,
    pub(crate) end: u64,
}

/// Where a seal's state is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum StateRef {
    /// Here, in hexadecimal digits; of a state so small that an object of its own would cost more.
    Inline(String),
    Object {
        /// Key in the archive.
        path: String,
        bytes: u64,
    },
}

/// The keys of one pipeline's chains.
#[derive(Debug, Clone)]
pub(crate) struct Keys {
    home: String,
}

impl Keys {
    pub(crate) fn new(pipeline: &str) -> Self {
        Self { home: format!("_headrig/{}", file_name(pipeline)) }
    }

    /// The keys of the pipeline whose folder under `_headrig` has this name.
    pub(crate) fn of_home(name: &str) -> Self {
        Self { home: format!("_headrig/{name}") }
    }

    /// The pipeline's folder.
    pub(crate) fn home(&self) -> &str {
        &self.home
    }

    /// Folder with a folder for each chain.
    pub(crate) fn chains(&self) -> String {
        format!("{}/chains", self.home)
    }

    pub(crate) fn chain(&self, chain: &str) -> String {
        format!("{}/chains/{chain}", self.home)
    }

    pub(crate) fn entry(&self, chain: &str, number: u64) -> String {
        format!("{}/chains/{chain}/{number:012}.json", self.home)
    }

    /// Entries that were folded together, by the number of the last.
    pub(crate) fn summary(&self, chain: &str, through: u64) -> String {
        format!("{}/summaries/{chain}/{through:012}.json", self.home)
    }

    pub(crate) fn all_summaries(&self) -> String {
        format!("{}/summaries", self.home)
    }

    pub(crate) fn summaries(&self, chain: &str) -> String {
        format!("{}/summaries/{chain}", self.home)
    }

    pub(crate) fn staging(&self, chain: &str) -> String {
        format!("{}/staging/{chain}", self.home)
    }

    pub(crate) fn state(&self, chain: &str) -> String {
        format!("{}/state/{chain}", self.home)
    }

    /// What became of sealed files, by number.
    pub(crate) fn changes(&self) -> String {
        format!("{}/changes", self.home)
    }

    pub(crate) fn change(&self, number: u64) -> String {
        format!("{}/changes/{number:012}.json", self.home)
    }

    /// Lists of files as they were behind changes, by the number of the last.
    pub(crate) fn catalogues(&self) -> String {
        format!("{}/catalogues", self.home)
    }

    pub(crate) fn catalogue(&self, number: u64) -> String {
        format!("{}/catalogues/{number:012}.json", self.home)
    }

    /// Files that others have replaced, for as long as somebody may still read them.
    pub(crate) fn replaced(&self) -> String {
        format!("{}/replaced", self.home)
    }

    /// Objects that say what columns files of JSON Lines have.
    pub(crate) fn columns(&self) -> String {
        format!("{}/columns", self.home)
    }

    pub(crate) fn lock(&self, chain: &str) -> String {
        format!("{}/locks/{chain}", self.home)
    }
}

/// Puts `entry` at the end of its chain. `None` when it is there now; otherwise the one that is there instead.
///
/// An answer that there is one already may tell of our own: the reply to an earlier try was lost.
pub(crate) fn append(store: &dyn Store, keys: &Keys, entry: &Entry) -> Result<Option<Entry>, ArchiveError> {
    let key = keys.entry(&entry.chain, entry.number);
    if store.put_if_absent(&key, &text(entry))? {
        return Ok(None);
    }
    let there = read(store, &key)?.ok_or_else(|| corrupt(store, &key, "was there and is gone".to_owned()))?;
    let same = Entry { sha256: entry.sha256.clone(), ..there.clone() } == *entry;
    Ok((!same).then_some(there))
}

/// What is stored of an entry.
pub(crate) fn text(entry: &Entry) -> Vec<u8> {
    serde_json::to_vec_pretty(entry).expect("an entry is JSON")
}

/// Entry `number` of a chain.
pub(crate) fn entry(store: &dyn Store, keys: &Keys, chain: &str, number: u64) -> Result<Option<Entry>, ArchiveError> {
    read(store, &keys.entry(chain, number))
}

/// The newest entry of a chain. Lists names and reads one object.
pub(crate) fn newest(store: &dyn Store, keys: &Keys, chain: &str) -> Result<Option<Entry>, ArchiveError> {
    let newest = numbers(store, keys, chain)?.into_iter().next_back();
    Ok(newest.map(|number| entry(store, keys, chain, number)).transpose()?.flatten())
}

/// Numbers of a chain's entries that are not folded away, in order.
pub(crate) fn numbers(store: &dyn Store, keys: &Keys, chain: &str) -> Result<Vec<u64>, ArchiveError> {
    let number = |name: String| name.strip_suffix(".json").and_then(|number| number.parse().ok());
    Ok(store.list(&keys.chain(chain))?.into_iter().filter_map(number).collect())
}

/// The newest entries of all chains of the pipeline.
pub(crate) fn heads(store: &dyn Store, keys: &Keys) -> Result<Vec<Entry>, ArchiveError> {
    let mut heads = Vec::new();
    for chain in store.list(&keys.chains())? {
        heads.extend(newest(store, keys, &chain)?);
    }
    Ok(heads)
}

pub(crate) fn corrupt(store: &dyn Store, key: &str, detail: String) -> ArchiveError {
    ArchiveError::Corrupt { path: PathBuf::from(store.show(key)), detail }
}

fn read(store: &dyn Store, key: &str) -> Result<Option<Entry>, ArchiveError> {
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    let Some(text) = store.read(key)? else { return Ok(None) };
    let no_entry = |error: serde_json::Error| corrupt(store, key, format!("is no entry of a chain: {error}"));
    let Format { format } = serde_json::from_slice(&text).map_err(no_entry)?;
    if format != FORMAT {
        return Err(corrupt(store, key, format!("is of format {format}, this version knows {FORMAT}")));
    }
    let entry: Entry = serde_json::from_slice(&text).map_err(no_entry)?;
    Ok(Some(Entry { sha256: Some(audit::sha256(&text)), ..entry }))
}
