//! The state of a [`Flow`](super::Flow) ⇄ the bytes that are kept with each seal.

use super::producers::SavedProducer;
use super::roster::SavedClock;
use crate::alert::Abandoned;
use crate::limits;
use crate::record::frame::{Frame, FrameError};
use crate::record::state::{Damaged, SavedPart, read, read_first, write};
use crate::{alert, window};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The state of a flow, as postcard's bytes.
const STATE: Frame = Frame { magic: b"hrst", version: 1, most: limits::STATE_BYTES };

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
    Read(FrameError),
    #[error("cannot keep the state: {0}")]
    Keep(FrameError),
}

impl From<Damaged> for StateError {
    fn from(damaged: Damaged) -> Self {
        Self::Read(damaged.into())
    }
}

/// Writes `state` down.
pub(super) fn pack(state: &impl Serialize) -> Result<Vec<u8>, StateError> {
    frame(&write(state))
}

/// Puts what is in front of postcard's bytes.
pub(super) fn frame(raw: &[u8]) -> Result<Vec<u8>, StateError> {
    STATE.pack(raw).map_err(StateError::Keep)
}

/// As [`pack`], with producers behind it where there are any: without them it is what it was before there were producers.
pub(super) fn pack_all(state: &State, producers: &[SavedProducer]) -> Result<Vec<u8>, StateError> {
    let mut bytes = write(state);
    if !producers.is_empty() {
        bytes.extend(write(&producers));
    }
    frame(&bytes)
}

/// Reads what [`pack_all`] wrote.
pub(super) fn unpack_all(bytes: &[u8]) -> Result<(State, Vec<SavedProducer>), StateError> {
    let bytes = STATE.unpack(bytes).map_err(StateError::Read)?;
    let (state, rest) = read_first(&bytes)?;
    Ok((state, if rest.is_empty() { Vec::new() } else { read(rest)? }))
}

/// Reads what [`pack`] wrote.
pub(super) fn unpack<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, StateError> {
    Ok(read(&STATE.unpack(bytes).map_err(StateError::Read)?)?)
}
