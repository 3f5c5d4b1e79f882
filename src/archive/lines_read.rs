//! Looking into files of JSON Lines: all of a file is unpacked and read, in pieces.

use super::ArchiveError;
use super::inspect::{compare, time_column};
use super::staging::StagedFile;
use super::store::Store;
use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use std::fmt;
use std::io::{self, BufRead, BufReader, Cursor, Read};

/// Bytes of an object that are asked for at once.
const PIECE: u64 = 4 << 20;
/// Unpacked bytes that wait to be cut into lines.
const UNPACKED: usize = 64 << 10;
/// Longest line that is read, in bytes: several times what the largest record can become.
pub const LINE_BYTES: u64 = 64 << 20;

/// What is different in a file from what was sealed, after reading all of its lines.
pub(super) fn rows(store: &dyn Store, file: &StagedFile) -> Result<Option<String>, ArchiveError> {
    let range = |start, length| store.range(&file.path, start, length).map(Bytes::from).map_err(io::Error::other);
    unpacked(&file.path, file.bytes, range).and_then(|lines| count(lines, file)).or_else(|error| {
        match error.downcast::<ArchiveError>() {
            Ok(error) => Err(error),
            Err(error) => Ok(Some(format!("cannot be unpacked: {error}"))),
        }
    })
}

/// The lines of the object `key`, which has `bytes` bytes, unpacked as its name says. `range` gives so many bytes from a place on; fewer only at
/// the object's end.
///
/// # Errors
/// When there is no memory to unpack it.
pub fn unpacked<'r>(
    key: &str,
    bytes: u64,
    range: impl FnMut(u64, u64) -> io::Result<Bytes> + Send + 'r,
) -> io::Result<Box<dyn BufRead + Send + 'r>> {
    let pieces = Pieces { range, at: 0, end: bytes, piece: Cursor::default() };
    Ok(match key.rsplit('.').next() {
        Some("gz") => Box::new(BufReader::with_capacity(UNPACKED, MultiGzDecoder::new(pieces))),
        Some("zst") => Box::new(BufReader::with_capacity(UNPACKED, zstd::Decoder::new(pieces)?)),
        _ => Box::new(BufReader::with_capacity(UNPACKED, pieces)),
    })
}

/// An object that is read from its start to its end.
struct Pieces<F> {
    range: F,
    /// Where the next piece begins.
    at: u64,
    end: u64,
    piece: Cursor<Bytes>,
}

impl<F: FnMut(u64, u64) -> io::Result<Bytes>> Read for Pieces<F> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.piece.position() == self.piece.get_ref().len() as u64 && self.at < self.end {
            let piece = (self.range)(self.at, PIECE.min(self.end - self.at))?;
            if piece.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.at += piece.len() as u64;
            self.piece = Cursor::new(piece);
        }
        self.piece.read(out)
    }
}

fn count(mut lines: impl BufRead, file: &StagedFile) -> io::Result<Option<String>> {
    let time = time_column(file.kind);
    let (mut found, mut least, mut largest) = (0, i64::MAX, i64::MIN);
    let mut line = Vec::new();
    while lines.by_ref().take(LINE_BYTES).read_until(b'\n', &mut line)? > 0 {
        found += 1;
        if line.pop() != Some(b'\n') {
            return Ok(Some(format!("line {found} has no end")));
        }
        let mut row = serde_json::Deserializer::from_slice(&line);
        let stamp = match ValueOf(time).deserialize(&mut row).and_then(|value| row.end().map(|()| value)) {
            Ok(value) => value.as_ref().and_then(super::lines::stamp),
            Err(error) => return Ok(Some(format!("line {found} is no row: {error}"))),
        };
        let Some(stamp) = stamp else { return Ok(Some(format!("line {found} has no {time}"))) };
        (least, largest) = (least.min(stamp), largest.max(stamp));
        line.clear();
    }
    Ok(compare(file, found, least, largest))
}

/// One value of a JSON object; all others are passed over.
struct ValueOf<'n>(&'n str);

impl<'de> DeserializeSeed<'de> for ValueOf<'_> {
    type Value = Option<serde_json::Value>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for ValueOf<'_> {
    type Value = Option<serde_json::Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(key) = map.next_key::<String>()? {
            if key == self.0 {
                found = Some(map.next_value()?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }
}
