//! Who a client says it is: the `CONNECT` line, and the signature for keys. Pure.
//!
//! A creds file holds a JWT and the seed of an Ed25519 key between `-----BEGIN …-----` lines; the server's nonce is signed
//! with it. A seed is base32 of two bytes that say what it is for, 32 bytes of seed and a CRC-16.

use ring::signature::Ed25519KeyPair;
use serde_json::{Map, Value, json};
use std::fmt;

/// What a server may ask for.
#[derive(Clone, Default)]
pub struct Identity {
    pub user: Option<String>,
    pub password: Option<String>,
    pub token: Option<String>,
    /// JWT and seed, as in a creds file.
    pub creds: Option<Creds>,
}

/// Without what is secret.
impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("user", &self.user).finish_non_exhaustive()
    }
}

/// A creds file taken apart.
#[derive(Clone)]
pub struct Creds {
    jwt: String,
    seed: [u8; 32],
}

impl Creds {
    /// `None` when `text` is no creds file.
    pub fn parse(text: &str) -> Option<Self> {
        let jwt = between(text, "NATS USER JWT")?;
        let seed = decode_seed(between(text, "USER NKEY SEED")?)?;
        Some(Self { jwt: jwt.to_owned(), seed })
    }
}

/// The first line behind `-----BEGIN what-----` that isn't empty.
fn between<'t>(text: &'t str, what: &str) -> Option<&'t str> {
    let (_, after) = text.split_once(&format!("BEGIN {what}"))?;
    after.lines().skip(1).map(str::trim).find(|line| !line.is_empty()).filter(|line| !line.starts_with('-'))
}

const BASE32: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

fn decode_base32(text: &str) -> Option<Vec<u8>> {
    let (mut bits, mut count, mut out) = (0u32, 0, Vec::new());
    for letter in text.trim_end_matches('=').bytes() {
        let value = BASE32.iter().position(|known| *known == letter)?;
        bits = (bits << 5 | value as u32) & 0xfff;
        count += 5;
        if count >= 8 {
            count -= 8;
            out.push((bits >> count) as u8);
        }
    }
    Some(out)
}

/// CRC-16/XMODEM, as the keys have it.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(crc ^ u16::from(*byte) << 8, |crc, _| if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x1021 })
    })
}

fn decode_seed(text: &str) -> Option<[u8; 32]> {
    let bytes = decode_base32(text)?;
    let (body, check) = bytes.split_at_checked(34)?;
    // The first five bits say `S`: a seed.
    let is_seed = body[0] & 0xf8 == 18 << 3 && check == crc16(body).to_le_bytes();
    body[2..].try_into().ok().filter(|_| is_seed)
}

fn base64_url(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let bits = chunk.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        (0..=chunk.len()).for_each(|at| out.push(char::from(LETTERS[(bits >> (18 - 6 * at)) as usize & 63])));
    }
    out
}

/// The `CONNECT` line. `nonce` is the server's.
pub fn connect_line(identity: &Identity, name: &str, nonce: &str, tls: bool) -> String {
    let mut options = Map::new();
    options.insert("name".to_owned(), json!(name));
    for (key, value) in [("verbose", false), ("pedantic", false), ("headers", true), ("no_responders", true)] {
        options.insert(key.to_owned(), json!(value));
    }
    options.insert("tls_required".to_owned(), json!(tls));
    options.insert("lang".to_owned(), json!("rust-headrig"));
    options.insert("version".to_owned(), json!(env!("CARGO_PKG_VERSION")));
    options.insert("protocol".to_owned(), json!(1));
    for (key, value) in [("user", &identity.user), ("pass", &identity.password), ("auth_token", &identity.token)] {
        if let Some(value) = value {
            options.insert(key.to_owned(), json!(value));
        }
    }
    if let Some(creds) = &identity.creds {
        options.insert("jwt".to_owned(), json!(creds.jwt));
        if let Ok(key) = Ed25519KeyPair::from_seed_unchecked(&creds.seed) {
            options.insert("sig".to_owned(), json!(base64_url(key.sign(nonce.as_bytes()).as_ref())));
        }
    }
    format!("CONNECT {}\r\n", Value::Object(options))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_creds_file_is_read_and_its_seed_checked() {
        // The example seed of NATS' own documentation.
        let seed = "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY";
        let file = |seed: &str| {
            format!(
                "-----BEGIN NATS USER JWT-----\neyJ0.x.y\n------END NATS USER JWT------\n\n\
                 -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
            )
        };
        let creds = Creds::parse(&file(seed)).unwrap();
        assert_eq!(creds.jwt, "eyJ0.x.y");
        let identity = Identity { creds: Some(creds), ..Identity::default() };
        let line = connect_line(&identity, "n", "abc", false);
        assert!(line.contains("\"jwt\":\"eyJ0.x.y\"") && line.contains("\"sig\":\""), "{line}");
        assert!(Creds::parse(&file(&seed.replace("SUAC", "SUAD"))).is_none());
        assert!(Creds::parse("nothing").is_none());
    }

    #[test]
    fn a_seed_gives_the_public_key_that_belongs_to_it() {
        use ring::signature::KeyPair;
        // From the same page. Public keys have one byte that says what they are for, and the CRC.
        let public = decode_base32("UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4").unwrap();
        let seed = decode_seed("SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY").unwrap();
        let key = Ed25519KeyPair::from_seed_unchecked(&seed).unwrap();
        assert_eq!(key.public_key().as_ref(), &public[1..33]);
    }

    #[test]
    fn base64_without_padding() {
        for (bytes, text) in [("", ""), ("f", "Zg"), ("fo", "Zm8"), ("foo", "Zm9v"), ("foob", "Zm9vYg")] {
            assert_eq!(base64_url(bytes.as_bytes()), text);
        }
        assert_eq!(base64_url(&[0xfb, 0xff]), "-_8");
    }

    #[test]
    fn secrets_are_not_shown() {
        let identity =
            Identity { password: Some("secret".to_owned()), token: Some("secret".to_owned()), ..Identity::default() };
        assert!(!format!("{identity:?}").contains("secret"));
        let line = connect_line(&identity, "n", "", true);
        assert!(line.contains("\"pass\":\"secret\"") && line.contains("\"auth_token\":\"secret\""));
    }
}
