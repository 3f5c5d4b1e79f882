//! Which file is which: device, inode and a fingerprint of the first bytes.
//!
//! A log file only grows at its end, so its head stays what it was when it was first seen. The head is at most
//! [`HEAD_BYTES`] long and shorter when the file was; the length says how much to compare later. As text, in checkpoints:
//! `v2:DEVICE:INODE:LENGTH:HASH`, with `:end` behind it once a file that left its place was read to its end. Before,
//! it was `v1:LENGTH:HASH`, which still counts.

use sha2::{Digest, Sha256};
use std::fmt;
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};

/// Bytes of a head: enough for the first lines' time stamps and ids.
pub(super) const HEAD_BYTES: usize = 1_024;

/// Least bytes of a head that tell a file from others when its inode doesn't: a first line with its time stamp, not the
/// name of a column or a greeting.
const TELLING_BYTES: usize = 128;

/// Device and inode: the file itself, whatever it is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct FileId {
    pub device: u64,
    pub inode: u64,
}

impl FileId {
    pub(super) fn of(metadata: &Metadata) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino() }
    }
}

/// What tells a file from others, and it from itself before it was written anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Identity {
    /// Nothing in a checkpoint of an earlier version.
    pub file: Option<FileId>,
    /// Bytes of the head that the hash is of.
    pub length: usize,
    hash: u64,
    /// Whether it left its place and was read to its end, so that nobody misses it.
    pub ended: bool,
}

impl Identity {
    pub(super) fn new(file: FileId, head: &[u8]) -> Self {
        Self { file: Some(file), length: head.len(), hash: hash(head), ended: false }
    }

    /// Nothing for a text of another form.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(':');
        let file = match parts.next()? {
            "v1" => None,
            "v2" => Some(FileId { device: parts.next()?.parse().ok()?, inode: parts.next()?.parse().ok()? }),
            _ => return None,
        };
        let length = parts.next()?.parse().ok().filter(|length| *length <= HEAD_BYTES)?;
        let hash = u64::from_str_radix(parts.next()?, 16).ok()?;
        let ended = match parts.next() {
            None => false,
            Some("end") => true,
            Some(_) => return None,
        };
        Some(Self { file, length, hash, ended })
    }

    /// Whether a file that begins with `head` begins as this one did.
    pub(super) fn fits(&self, head: &[u8]) -> bool {
        head.get(..self.length).is_some_and(|head| hash(head) == self.hash)
    }

    /// The identity of a head without its file, by which copies are found.
    pub(super) fn of_head(head: &[u8]) -> Self {
        Self { file: None, length: head.len(), hash: hash(head), ended: false }
    }

    /// The same file, read to its end where no pattern finds it.
    pub(super) fn at_its_end(self) -> Self {
        Self { ended: true, ..self }
    }

    /// What a copy has in common with the file.
    pub(super) fn of_copy(&self) -> Self {
        Self { file: None, ended: false, ..*self }
    }

    /// What to look a head up by.
    pub(super) fn key(&self) -> (usize, u64) {
        (self.length, self.hash)
    }

    /// Whether the head alone says that a file holds what was read up to `position`: either it is whole, or all that was read
    /// lies in it.
    pub(super) fn tells_alone(&self, position: u64) -> bool {
        self.length == HEAD_BYTES || (self.length >= TELLING_BYTES && position <= self.length as u64)
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.file {
            Some(FileId { device, inode }) => write!(f, "v2:{device}:{inode}:")?,
            None => f.write_str("v1:")?,
        }
        write!(f, "{}:{:016x}{}", self.length, self.hash, if self.ended { ":end" } else { "" })
    }
}

/// The first bytes of `file`, [`HEAD_BYTES`] or as many as there are. Doesn't move its read position.
///
/// # Errors
/// When it cannot be read.
pub(super) fn head(file: &File) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; HEAD_BYTES];
    let mut filled = 0;
    while filled < HEAD_BYTES {
        match file.read_at(&mut bytes[filled..], filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

/// The first 8 bytes of SHA-256.
pub(super) fn hash(bytes: &[u8]) -> u64 {
    Sha256::digest(bytes).iter().take(8).fold(0, |hash, byte| hash << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: FileId = FileId { device: 7, inode: 9 };

    #[test]
    fn a_file_that_grew_is_the_same_and_another_one_is_not() {
        let short = Identity::new(FILE, b"one\n");
        assert!(short.fits(b"one\n") && short.fits(b"one\ntwo\n"));
        assert!(!short.fits(b"two\n") && !short.fits(b"one"));
        let long = Identity::new(FILE, &[b'x'; HEAD_BYTES]);
        assert!(long.fits(&[b'x'; HEAD_BYTES]) && !long.fits(&[b'x'; HEAD_BYTES - 1]));
        assert!(long.tells_alone(u64::MAX) && !short.tells_alone(4), "four bytes say little");
        let line = Identity::new(FILE, &[b'x'; 200]);
        assert!(line.tells_alone(200) && !line.tells_alone(201), "what was read behind the head was not compared");
    }

    #[test]
    fn texts_are_read_as_they_were_written() {
        let identity = Identity::new(FILE, b"one\n");
        assert!(identity.to_string().starts_with("v2:7:9:4:"));
        for identity in [identity, Identity { ended: true, ..identity }, Identity { file: None, ..identity }] {
            assert_eq!(Identity::parse(&identity.to_string()), Some(identity));
        }
        // What an earlier version wrote of a file that begins with "one\n".
        let before = Identity::parse("v1:4:2c8b08da5ce60398").unwrap();
        assert!(before.fits(b"one\nmore") && before.file.is_none());
        for other in ["", "v1:9999999:00", "v1:x:00", "v3:4:00", "v2:1:4:00", "v2:1:2:4:00:begin", "v1:4:xyz"] {
            assert_eq!(Identity::parse(other), None, "{other}");
        }
    }
}
