//! The secret of an invite, as it is printed and typed, and its hash, as it is kept. Pure.

use std::fmt;
use std::str::FromStr;

use crate::wire::frame::INVITE_LEN;

/// An invite's secret: 32 hexadecimal digits, which a double click selects and no shell takes apart.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub [u8; INVITE_LEN]);

/// The SHA-256 hash of a secret: 64 hexadecimal digits. A secret has 128 random bits, so neither salt nor a slow
/// hash is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SecretHash(pub [u8; 32]);

/// A text that is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadSecret;

impl fmt::Display for BadSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = 2 * INVITE_LEN;
        write!(f, "an invite is {digits} hexadecimal digits: copy the whole line that `hub invite` printed")
    }
}

impl std::error::Error for BadSecret {}

impl Secret {
    /// What the hub keeps of it.
    pub fn hash(&self) -> SecretHash {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &self.0);
        let mut hash = [0; 32];
        hash.copy_from_slice(digest.as_ref());
        SecretHash(hash)
    }

    /// The text to print. Not a `Display`, so that no log line prints it by accident.
    pub fn to_hex(&self) -> String {
        to_hex(&self.0)
    }
}

impl FromStr for Secret {
    type Err = BadSecret;

    fn from_str(text: &str) -> Result<Secret, BadSecret> {
        from_hex(text).map(Secret)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl FromStr for SecretHash {
    type Err = BadSecret;

    fn from_str(text: &str) -> Result<SecretHash, BadSecret> {
        from_hex(text).map(SecretHash)
    }
}

impl fmt::Display for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&to_hex(&self.0))
    }
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex<const N: usize>(text: &str) -> Result<[u8; N], BadSecret> {
    if text.len() != 2 * N || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(BadSecret);
    }
    let mut bytes = [0; N];
    for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let digits = std::str::from_utf8(digits).map_err(|_| BadSecret)?;
        *byte = u8::from_str_radix(digits, 16).map_err(|_| BadSecret)?;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_survives_being_printed_and_typed() {
        let secret = Secret(std::array::from_fn(|i| 16 * i as u8));
        assert_eq!(secret.to_hex(), "00102030405060708090a0b0c0d0e0f0");
        assert_eq!(secret.to_hex().parse(), Ok(secret.clone()));
        assert_eq!(format!("{secret:?}"), "Secret(…)");
    }

    #[test]
    fn the_hash_is_sha_256() {
        // printf '0123456789abcdef' | sha256sum
        let hash = "9f9f5111f7b27a781f1f1ddde5ebc2dd2b796bfc7365c9c28b548e564176929f";
        assert_eq!(Secret(*b"0123456789abcdef").hash().to_string(), hash);
        assert_eq!(hash.parse(), Ok(Secret(*b"0123456789abcdef").hash()));
    }

    #[test]
    fn other_texts_are_none() {
        let long = "0".repeat(33);
        let signed = "+f102030405060708090a0b0c0d0e0f0";
        let foreign = "g0102030405060708090a0b0c0d0e0f0";
        for bad in ["", "00", signed, foreign, &long, "üüüüüüüüüüüüüüüü"] {
            assert_eq!(bad.parse::<Secret>(), Err(BadSecret), "{bad}");
        }
    }
}
