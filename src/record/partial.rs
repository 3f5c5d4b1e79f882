//! Partial aggregates: what a daemon has gathered of windows between two of its seals, for one partition of the topic through
//! which daemons share windows.
//!
//! What is in it is named by positions: for each partition of the source the stretch that the seal has made durable. No record
//! is in two seals, so a stretch that was merged is never merged again, whoever sends it, and however often.

use super::frame::{Frame, FrameError};
use super::state::{Damaged, SavedPart, read, write};
use crate::limits;
use serde::{Deserialize, Serialize};

const FRAME: Frame = Frame { magic: b"hrpa", version: 1, most: limits::PARTIAL_MESSAGE_BYTES };

/// One message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partials {
    /// The source partitions of which it holds something, or of which something is to be said.
    pub inputs: Vec<Input>,
    /// Which message of those for this seal and partition it is, from 0, and how many there are. What `inputs` say of event time
    /// holds behind the last one.
    pub chunk: u32,
    pub chunks: u32,
    /// What was gathered, for the window stage; of each definition at least one part.
    pub windows: Vec<SavedPart>,
}

/// One source partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Input {
    /// The source's name in the pipeline file.
    pub source: String,
    pub partition: String,
    /// Where the stretch begins; `None`: where the partition does.
    pub start: Option<u64>,
    /// Where it ends, exclusive. As `start` when there is nothing of it.
    pub end: Option<u64>,
    /// The largest event time in the stretch, in µs.
    pub largest: Option<i64>,
    /// Whether it has been silent for so long behind `end` that nobody should wait for it.
    pub idle: bool,
}

impl Input {
    /// The stretch, unless it is empty: where it begins (`None`: with the partition) and ends.
    pub fn stretch(&self) -> Option<(Option<u64>, u64)> {
        self.end.filter(|_| self.start != self.end).map(|end| (self.start, end))
    }
}

/// Bytes for one partition of the topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    pub partition: u32,
    pub bytes: Vec<u8>,
}

impl Partials {
    /// As the bytes of a message.
    ///
    /// # Errors
    /// When it is larger than [`limits::PARTIAL_MESSAGE_BYTES`], or cannot be compressed.
    pub fn encode(&self) -> Result<Vec<u8>, FrameError> {
        FRAME.pack(&write(self))
    }

    /// Reads a message.
    ///
    /// # Errors
    /// When it is none, is damaged or of another version.
    pub fn decode(bytes: &[u8]) -> Result<Self, FrameError> {
        let partials: Self = read(&FRAME.unpack(bytes)?)?;
        Damaged::unless(partials.chunk < partials.chunks, "it is behind the last message of its seal")?;
        let stretches = partials.inputs.iter().filter_map(Input::stretch);
        let sound = stretches.clone().all(|(start, end)| start.is_none_or(|start| start < end));
        Damaged::unless(sound, "a stretch ends before it begins")?;
        let told = stretches.count() > 0 || (partials.windows.is_empty() && partials.chunks == 1);
        Damaged::unless(told, "it doesn't say which records it is of")?;
        let near = |time: Option<i64>| time.is_none_or(|time| time.unsigned_abs() <= 1 << 62);
        Damaged::unless(
            partials.inputs.iter().all(|input| near(input.largest)),
            "it has a time that no clock comes to",
        )?;
        Ok(partials)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::state::Fingerprint;

    fn partials() -> Partials {
        let input = Input {
            source: "k".to_owned(),
            partition: "t/0".to_owned(),
            start: None,
            end: Some(9),
            largest: Some(-5),
            idle: false,
        };
        let part = SavedPart { name: "w".to_owned(), definition: Fingerprint::of(["d"]), body: vec![1, 2, 3] };
        Partials { inputs: vec![input], chunk: 0, chunks: 2, windows: vec![part] }
    }

    #[test]
    fn what_was_written_is_read_and_nothing_else() {
        let bytes = partials().encode().unwrap();
        assert_eq!(Partials::decode(&bytes).unwrap(), partials());
        for end in 0..bytes.len() {
            assert!(Partials::decode(&bytes[..end]).is_err(), "cut at {end}");
        }
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 4;
            assert!(Partials::decode(&damaged).is_err(), "damaged at {at}");
        }
        let mut newer = bytes;
        newer[4] += 1;
        assert!(matches!(Partials::decode(&newer), Err(FrameError::Version { found: 2, known: 1 })));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let with = |change: fn(&mut Partials)| {
            let mut partials = partials();
            change(&mut partials);
            Partials::decode(&partials.encode().unwrap())
        };
        assert!(with(|partials| partials.chunk = 2).is_err());
        assert!(with(|partials| partials.inputs[0].start = Some(10)).is_err());
        assert!(with(|partials| partials.inputs[0].largest = Some(i64::MAX)).is_err());
        assert!(with(|partials| partials.inputs.clear()).is_err());
    }
}
