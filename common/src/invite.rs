//! The secret of an invite, as it is printed and typed. Pure.

use std::fmt;
use std::str::FromStr;

use crate::frame::INVITE_LEN;

/// An invite's secret: 32 hexadecimal digits, which a double click selects and no shell takes apart.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub [u8; INVITE_LEN]);

/// A text that is no secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadSecret;

impl fmt::Display for BadSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "an invite is {} hexadecimal digits: copy the whole line that `hub invite` printed",
            2 * INVITE_LEN
        )
    }
}

impl std::error::Error for BadSecret {}

impl Secret {
    /// What the hub keeps of it. The secret has 128 random bits, so no salt and no slow hash are needed.
    pub fn hash(&self) -> [u8; 32] {
        let digest = ring::digest::digest(&ring::digest::SHA256, &self.0);
        let mut hash = [0; 32];
        hash.copy_from_slice(digest.as_ref());
        hash
    }

    /// The text to print. Not a `Display`, so that no log line prints it by accident.
    pub fn to_hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl FromStr for Secret {
    type Err = BadSecret;

    fn from_str(text: &str) -> Result<Secret, BadSecret> {
        if text.len() != 2 * INVITE_LEN || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(BadSecret);
        }
        let mut secret = [0; INVITE_LEN];
        for (byte, digits) in secret.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            let digits = std::str::from_utf8(digits).map_err(|_| BadSecret)?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| BadSecret)?;
        }
        Ok(Secret(secret))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
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
    fn other_texts_are_none() {
        let long = "0".repeat(33);
        for bad in [
            "",
            "00",
            "+f102030405060708090a0b0c0d0e0f0",
            "g0102030405060708090a0b0c0d0e0f0",
            &long,
            "üüüüüüüüüüüüüüüü",
        ] {
            assert_eq!(bad.parse::<Secret>(), Err(BadSecret), "{bad}");
        }
    }
}
