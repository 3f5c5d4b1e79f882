//! Looking into files of JSON Lines: all of a file is unpacked and read, in pieces.

use super::ArchiveError;
use super::inspect::{compare, time_column};
use super::staging::StagedFile;
use super::store::Store;
use flate2::read::MultiGzDecoder;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use std::fmt;
use std::io::{self, BufRead, BufReader, Cursor, Read};

/// Bytes of an object that are asked for at once.
const PIECE: u64 = 4 << 20;
/// Longest line that is read, in bytes: several times what the largest record can become.
const LINE_BYTES: u64 = 64 << 20;

/// What is different in a file from what was sealed, after reading all of its lines.
pub(super) fn rows(store: &dyn Store, file: &StagedFile) -> Result<Option<String>, ArchiveError> {
    let pieces = Pieces { store, key: &file.path, at: 0, end: file.bytes, piece: Cursor::default() };
    let counted = match file.path.rsplit('.').next() {
        Some("gz") => count(BufReader::new(MultiGzDecoder::new(pieces)), file),
        Some("zst") => zstd::Decoder::new(pieces).and_then(|unpacked| count(BufReader::new(unpacked), file)),
        _ => count(BufReader::new(pieces), file),
    };
    counted.or_else(|error| match error.downcast::<ArchiveError>() {
        Ok(error) => Err(error),
        Err(error) => Ok(Some(format!("cannot be unpacked: {error}"))),
    })
}

/// An object that is read from its start to its end.
struct Pieces<'s> {
    store: &'s dyn Store,
    key: &'s str,
    /// Where the next piece begins.
    at: u64,
    end: u64,
    piece: Cursor<Vec<u8>>,
}

impl Read for Pieces<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.piece.position() == self.piece.get_ref().len() as u64 && self.at < self.end {
            let piece = self.store.range(self.key, self.at, PIECE).map_err(io::Error::other)?;
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
