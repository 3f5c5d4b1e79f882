//! Receipts and checkpoints: how far which partition is safe.

use serde::{Deserialize, Serialize};

/// How far one source partition has been stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionPosition {
    /// The source's name in the pipeline file.
    pub source: String,
    /// The partition's name within the source (a path, `topic/3`, …).
    pub partition: String,
    /// What tells this partition from another one of the same name (for a file: a fingerprint of its head). Only
    /// the source understands it.
    pub identity: String,
    /// Where the first record that is not stored yet starts.
    pub position: u64,
}

/// What an archive holds of each source partition.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    pub partitions: Vec<PartitionPosition>,
}

impl Checkpoint {
    pub fn find(&self, source: &str, partition: &str) -> Option<&PartitionPosition> {
        self.partitions.iter().find(|p| p.source == source && p.partition == partition)
    }

    /// Sets the position of one partition, adding it where it is new.
    pub fn set(&mut self, entry: PartitionPosition) {
        match self.partitions.iter_mut().find(|p| p.source == entry.source && p.partition == entry.partition) {
            Some(known) => *known = entry,
            None => self.partitions.push(entry),
        }
    }

    /// Gives a partition that is known by `before` the identity `after`.
    pub fn identify(&mut self, source: &str, partition: &str, before: &str, after: &str) {
        let known = |p: &&mut PartitionPosition| p.source == source && p.partition == partition && p.identity == before;
        if let Some(known) = self.partitions.iter_mut().find(known) {
            after.clone_into(&mut known.identity);
        }
    }

    /// Drops a partition, if it is still the one of this identity.
    pub fn forget(&mut self, source: &str, partition: &str, identity: &str) {
        self.partitions.retain(|p| p.source != source || p.partition != partition || p.identity != identity);
    }
}

/// An output's word that everything up to the checkpoint is durable there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    pub checkpoint: Checkpoint,
    /// Rows that became durable with this receipt.
    pub rows: u64,
    /// Files that became visible with it.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The same by table: its name, rows and files.
    pub tables: Vec<(&'static str, u64, u64)>,
    /// Values that the archive found not to fit their columns' types; they are in `attributes`.
    pub type_clashes: u64,
    /// Commits to the Delta logs beside these files.
    pub logged: LogCommits,
}

/// Commits to Delta logs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LogCommits {
    /// That were put.
    pub put: u64,
    /// That had to be made anew, as another one had put that version; also where that was one's own, and the reply lost.
    pub conflicts: u64,
}
