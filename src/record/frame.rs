//! Bytes that are kept or sent ⇄ bytes that can be trusted to be what was written.
//!
//! Four bytes that say what it is, one for the version, eight for the XXH64 of all that follows, and a zstd frame. The
//! checksum is looked at before anything else is, and what comes out of the frame is bounded.

use super::state::Damaged;
use std::io::Read;
use twox_hash::XxHash64;

/// What it is, version, checksum.
const HEAD: usize = 13;
/// zstd's fastest but for the negative ones: it is written once a minute and hardly ever read.
const LEVEL: i32 = 1;

/// One kind of bytes.
#[derive(Debug, Clone, Copy)]
pub struct Frame {
    /// What they begin with.
    pub magic: &'static [u8; 4],
    /// Changes with the form of anything that is in them; another one is refused.
    pub version: u8,
    /// Most bytes in a frame, before compression.
    pub most: usize,
}

/// Why bytes cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    #[error("{0}")]
    Damaged(&'static str),
    #[error("it is of version {found}, only {known} can be read")]
    Version { found: u8, known: u8 },
    #[error("it has {bytes} bytes, at most {most} are kept")]
    TooLarge { bytes: usize, most: usize },
    #[error("it cannot be compressed")]
    Compress(#[source] std::io::Error),
}

impl From<Damaged> for FrameError {
    fn from(Damaged(reason): Damaged) -> Self {
        Self::Damaged(reason)
    }
}

impl Frame {
    /// Writes `raw` down.
    ///
    /// # Errors
    /// When it is larger than it may be.
    pub fn pack(&self, raw: &[u8]) -> Result<Vec<u8>, FrameError> {
        if raw.len() > self.most {
            return Err(FrameError::TooLarge { bytes: raw.len(), most: self.most });
        }
        let packed = zstd::stream::encode_all(raw, LEVEL).map_err(FrameError::Compress)?;
        let mut bytes = Vec::with_capacity(HEAD + packed.len());
        bytes.extend_from_slice(self.magic);
        bytes.push(self.version);
        bytes.extend_from_slice(&checksum(&packed).to_le_bytes());
        bytes.extend(packed);
        Ok(bytes)
    }

    /// Reads what [`Self::pack`] wrote.
    ///
    /// # Errors
    /// When the bytes are damaged, or of another version.
    pub fn unpack(&self, bytes: &[u8]) -> Result<Vec<u8>, FrameError> {
        let Some((head, packed)) = bytes.split_at_checked(HEAD).filter(|(head, _)| head.starts_with(self.magic)) else {
            return Err(FrameError::Damaged("it doesn't begin as it should"));
        };
        let found = head[self.magic.len()];
        if found != self.version {
            return Err(FrameError::Version { found, known: self.version });
        }
        Damaged::unless(head[self.magic.len() + 1..] == checksum(packed).to_le_bytes(), "its checksum is another")?;
        let mut raw = Vec::new();
        let frame = Damaged("it cannot be decompressed");
        let decoder = zstd::stream::read::Decoder::new(packed).map_err(|_| frame)?;
        #[expect(clippy::disallowed_methods, reason = "taken up to the limit")]
        decoder.take(self.most as u64 + 1).read_to_end(&mut raw).map_err(|_| frame)?;
        Damaged::unless(raw.len() <= self.most, "it is larger than any that is written")?;
        Ok(raw)
    }
}

fn checksum(packed: &[u8]) -> u64 {
    XxHash64::oneshot(0, packed)
}
