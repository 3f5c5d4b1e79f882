//! The actions of a Delta log, as the protocol has them: one JSON object a line.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What [`Protocol`] says of a log that this version writes; it reads and goes on with no other.
pub(super) const READER_VERSION: u32 = 1;
pub(super) const WRITER_VERSION: u32 = 2;

/// One line. Kinds that aren't here are passed over when a log is read, as the protocol says.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Action {
    CommitInfo(CommitInfo),
    Protocol(Protocol),
    MetaData(MetaData),
    Add(Add),
    Remove(Remove),
    Txn(Txn),
}

/// Who has committed and why; for people.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct CommitInfo {
    /// In ms since 1970.
    pub(super) timestamp: i64,
    pub(super) operation: String,
    pub(super) operation_parameters: BTreeMap<String, String>,
    pub(super) engine_info: String,
    pub(super) is_blind_append: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Protocol {
    pub(super) min_reader_version: u32,
    pub(super) min_writer_version: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct MetaData {
    pub(super) id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) description: Option<String>,
    pub(super) format: Format,
    /// A struct of `schema.rs`, as JSON.
    pub(super) schema_string: String,
    pub(super) partition_columns: Vec<String>,
    /// In ms since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) created_time: Option<i64>,
    #[serde(default)]
    pub(super) configuration: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Format {
    pub(super) provider: String,
    #[serde(default)]
    pub(super) options: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Add {
    /// Below the root, percent-encoded once more.
    pub(super) path: String,
    pub(super) partition_values: BTreeMap<String, Option<String>>,
    pub(super) size: u64,
    /// In ms since 1970.
    pub(super) modification_time: i64,
    pub(super) data_change: bool,
    /// JSON text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) stats: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) tags: Option<BTreeMap<String, Option<String>>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Remove {
    pub(super) path: String,
    /// In ms since 1970.
    #[serde(default)]
    pub(super) deletion_timestamp: Option<i64>,
    pub(super) data_change: bool,
    /// Whether the two below are there.
    #[serde(default)]
    pub(super) extended_file_metadata: Option<bool>,
    #[serde(default)]
    pub(super) partition_values: Option<BTreeMap<String, Option<String>>>,
    #[serde(default)]
    pub(super) size: Option<u64>,
}

/// How far an application has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Txn {
    pub(super) app_id: String,
    pub(super) version: i64,
    /// In ms since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) last_updated: Option<i64>,
}

/// What a commit's object holds.
pub(super) fn text(actions: &[Action]) -> Vec<u8> {
    let mut text = Vec::new();
    for action in actions {
        serde_json::to_writer(&mut text, action).expect("an action is JSON");
        text.push(b'\n');
    }
    text
}

/// The actions of a commit, but for those that say nothing of what is in the table.
pub(super) fn parse(text: &[u8]) -> Result<Vec<Action>, serde_json::Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Line {
        protocol: Option<Protocol>,
        meta_data: Option<MetaData>,
        add: Option<Add>,
        remove: Option<Remove>,
        txn: Option<Txn>,
    }
    let mut actions = Vec::new();
    for line in text.split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii().is_empty()) {
        let Line { protocol, meta_data, add, remove, txn } = serde_json::from_slice(line)?;
        actions.extend(protocol.map(Action::Protocol));
        actions.extend(meta_data.map(Action::MetaData));
        actions.extend(add.map(Action::Add));
        actions.extend(remove.map(Action::Remove));
        actions.extend(txn.map(Action::Txn));
    }
    Ok(actions)
}
