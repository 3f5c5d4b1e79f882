//! The state of a [`Flow`](super::Flow) ⇄ the bytes that are kept with each seal.
//!
//! `hrst`, a byte for the version, eight for the XXH64 of all that follows, and a zstd frame of postcard's bytes. The
//! checksum is looked at before anything else is, and what comes out of the frame is bounded by [`limits::STATE_BYTES`].

use super::roster::SavedClock;
use crate::alert::Abandoned;
use crate::limits;
use crate::record::state::{Damaged, SavedPart, read, write};
use crate::{alert, window};
use serde::{Deserialize, Serialize};
use std::io::Read;
use twox_hash::XxHash64;

const MAGIC: &[u8; 4] = b"hrst";
/// Changes with the form of anything that is saved; another one is refused.
const VERSION: u8 = 1;
/// Magic, version, checksum.
const HEAD: usize = 13;
/// zstd's fastest but for the negative ones: state is written once a minute and hardly ever read.
const LEVEL: i32 = 1;

/// What is saved.
#[derive(Serialize, Deserialize)]
pub(super) struct State {
    pub(super) clock: SavedClock,
    pub(super) windows: Vec<SavedPart>,
    pub(super) alerts: Vec<SavedPart>,
}

/// What became of the state of an earlier run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Restored {
    /// Windows that go on where they were.
    pub windows_kept: Vec<String>,
    /// Windows that begin anew, as they are new or not defined as they were. Their rows are `provisional` up to the first
    /// window that starts behind all that was read before.
    pub windows_anew: Vec<String>,
    /// Windows that are gone, or not defined as they were: what they held open is lost.
    pub windows_dropped: Vec<String>,
    /// Alert rules that are gone, or not defined as they were, and had groups pending or firing.
    pub alerts_dropped: Vec<String>,
    /// Their firing alerts, which nothing will ever resolve.
    pub abandoned: Vec<Abandoned>,
}

impl Restored {
    pub(super) fn of(windows: window::Resumed, alerts: alert::Resumed) -> Self {
        Self {
            windows_kept: windows.kept,
            windows_anew: windows.anew,
            windows_dropped: windows.dropped,
            alerts_dropped: alerts.dropped,
            abandoned: alerts.abandoned,
        }
    }
}

/// Why a state cannot be kept or taken up.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error("cannot read the saved state: {0}")]
    Damaged(&'static str),
    #[error("cannot read a saved state of version {0}, only of version {VERSION}")]
    Version(u8),
    #[error("cannot keep a state of {bytes} bytes, at most {}", limits::STATE_BYTES)]
    TooLarge { bytes: usize },
    #[error("cannot compress the state")]
    Compress(#[source] std::io::Error),
}

impl From<Damaged> for StateError {
    fn from(Damaged(reason): Damaged) -> Self {
        Self::Damaged(reason)
    }
}

/// Writes `state` down.
pub(super) fn pack(state: &State) -> Result<Vec<u8>, StateError> {
    frame(&write(state))
}

/// Puts what is in front of postcard's bytes.
pub(super) fn frame(raw: &[u8]) -> Result<Vec<u8>, StateError> {
    if raw.len() > limits::STATE_BYTES {
        return Err(StateError::TooLarge { bytes: raw.len() });
    }
    let packed = zstd::stream::encode_all(raw, LEVEL).map_err(StateError::Compress)?;
    let mut bytes = Vec::with_capacity(HEAD + packed.len());
    bytes.extend_from_slice(MAGIC);
    bytes.push(VERSION);
    bytes.extend_from_slice(&checksum(&packed).to_le_bytes());
    bytes.extend(packed);
    Ok(bytes)
}

/// Reads what [`pack`] wrote.
pub(super) fn unpack(bytes: &[u8]) -> Result<State, StateError> {
    let Some((head, packed)) = bytes.split_at_checked(HEAD).filter(|(head, _)| head.starts_with(MAGIC)) else {
        return Err(StateError::Damaged("it doesn't begin as a state does"));
    };
    if head[MAGIC.len()] != VERSION {
        return Err(StateError::Version(head[MAGIC.len()]));
    }
    Damaged::unless(head[MAGIC.len() + 1..] == checksum(packed).to_le_bytes(), "its checksum is another")?;
    let mut raw = Vec::new();
    let frame = Damaged("it cannot be decompressed");
    let decoder = zstd::stream::read::Decoder::new(packed).map_err(|_| frame)?;
    #[expect(clippy::disallowed_methods, reason = "taken up to the limit")]
    decoder.take(limits::STATE_BYTES as u64 + 1).read_to_end(&mut raw).map_err(|_| frame)?;
    Damaged::unless(raw.len() <= limits::STATE_BYTES, "it is larger than any that is saved")?;
    Ok(read(&raw)?)
}

fn checksum(packed: &[u8]) -> u64 {
    XxHash64::oneshot(0, packed)
}
