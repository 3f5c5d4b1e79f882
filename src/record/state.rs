//! What a stage hands to its successor after a restart: one [`SavedPart`] per window definition or alert rule.
//!
//! A part is for its own stage to read, and only under the definition under which it was written, which a
//! [`Fingerprint`] tells. The bytes are postcard's: no names, integers of variable length, floats as they are; what is
//! equal has equal bytes. They are read without trust: what doesn't fit is [`Damaged`], and nothing is allocated that the
//! bytes don't fill.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// What one window definition or alert rule holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedPart {
    /// The name in the pipeline file.
    pub name: String,
    /// The definition under which `body` was written.
    pub definition: Fingerprint,
    /// Only the stage that wrote it understands it.
    pub body: Vec<u8>,
}

/// Tells a definition from another one of the same name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint([u8; 16]);

impl Fingerprint {
    /// Of the parts that make up a definition, in their order.
    pub fn of<P: AsRef<[u8]>>(parts: impl IntoIterator<Item = P>) -> Self {
        let mut digest = Sha256::new();
        for part in parts {
            // Lengths keep neighbours apart.
            digest.update((part.as_ref().len() as u64).to_le_bytes());
            digest.update(part);
        }
        let mut own = [0; 16];
        own.copy_from_slice(&digest.finalize()[..16]);
        Self(own)
    }

    /// Of the same definition, used in another way.
    #[must_use]
    pub fn with(&self, way: &str) -> Self {
        Self::of([&self.0[..], way.as_bytes()])
    }
}

/// Why saved bytes cannot be what a stage wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("cannot read the saved state: {0}")]
pub struct Damaged(pub &'static str);

impl Damaged {
    /// An error with this reason where `sound` is false.
    ///
    /// # Errors
    /// Where `sound` is false.
    pub fn unless(sound: bool, reason: &'static str) -> Result<(), Self> {
        if sound { Ok(()) } else { Err(Self(reason)) }
    }
}

/// The bytes of `value`.
pub fn write<T: Serialize>(value: &T) -> Vec<u8> {
    postcard::to_allocvec(value).expect("memory is all that it takes, and lengths are known")
}

/// The value that `bytes` begin with, and the bytes behind it.
///
/// # Errors
/// When the bytes end early or are not those of a `T`.
pub fn read_first<T: DeserializeOwned>(bytes: &[u8]) -> Result<(T, &[u8]), Damaged> {
    postcard::take_from_bytes(bytes).map_err(|_| Damaged("its bytes are not in the form in which they are written"))
}

/// The value that `bytes` are.
///
/// # Errors
/// As [`read_first`], and when bytes are left over.
pub fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Damaged> {
    let (value, rest) = read_first(bytes)?;
    Damaged::unless(rest.is_empty(), "there are bytes behind its end")?;
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_nothing_else() {
        let value = (vec![Some(-7i128), None], "text".to_owned(), f64::MIN_POSITIVE);
        let bytes = write(&value);
        assert_eq!(read(&bytes), Ok(value));
        type Own = (Vec<Option<i128>>, String, f64);
        for end in 0..bytes.len() {
            assert!(read::<Own>(&bytes[..end]).is_err(), "cut at {end}");
        }
        assert!(read::<Own>(&[bytes.as_slice(), &[0]].concat()).is_err());
        // A length that nothing follows: an error before memory is taken for it.
        assert!(read::<Vec<u64>>(&write(&u64::MAX)).is_err());
    }

    #[test]
    fn fingerprints_tell_neighbours_apart() {
        assert_eq!(Fingerprint::of(["ab", "c"]), Fingerprint::of(["ab", "c"]));
        assert_ne!(Fingerprint::of(["ab", "c"]), Fingerprint::of(["a", "bc"]));
        assert_ne!(Fingerprint::of(["a"]), Fingerprint::of(["a", ""]));
    }
}
