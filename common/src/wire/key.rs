//! X25519 keys and their text. Pure.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use snow::params::DHChoice;
use snow::resolvers::{CryptoResolver as _, DefaultResolver};

/// A private X25519 key, in the base64 form that `wg genkey` uses too.
#[derive(Clone)]
pub struct PrivateKey(pub(super) [u8; 32]);

/// A public X25519 key. Its base64 form is the fingerprint that people compare.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PublicKey(pub(super) [u8; 32]);

/// A text that is no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadKey;

impl fmt::Display for BadKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key is 44 characters of base64")
    }
}

impl std::error::Error for BadKey {}

fn decode_key(text: &str) -> Result<[u8; 32], BadKey> {
    BASE64.decode(text).ok().and_then(|bytes| bytes.try_into().ok()).ok_or(BadKey)
}

impl PrivateKey {
    /// The key of 32 random bytes.
    pub fn from_random(bytes: [u8; 32]) -> PrivateKey {
        PrivateKey(bytes)
    }

    /// The public half.
    pub fn public(&self) -> PublicKey {
        let mut dh = DefaultResolver.resolve_dh(&DHChoice::Curve25519).expect("snow is built with X25519");
        dh.set(&self.0);
        let mut public = [0; 32];
        public.copy_from_slice(dh.pubkey());
        PublicKey(public)
    }

    /// The text for a key file. Not a `Display`, so that no log line prints it by accident.
    pub fn to_base64(&self) -> String {
        BASE64.encode(self.0)
    }
}

impl FromStr for PrivateKey {
    type Err = BadKey;

    fn from_str(text: &str) -> Result<PrivateKey, BadKey> {
        decode_key(text).map(PrivateKey)
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(…)")
    }
}

impl PublicKey {
    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl FromStr for PublicKey {
    type Err = BadKey;

    fn from_str(text: &str) -> Result<PublicKey, BadKey> {
        decode_key(text).map(PublicKey)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&BASE64.encode(self.0))
    }
}

impl serde::Serialize for PublicKey {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for PublicKey {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<PublicKey, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(seed: u8) -> PrivateKey {
        PrivateKey::from_random([seed; 32])
    }

    #[test]
    fn public_key_agrees_with_rfc_7748() {
        // RFC 7748, 6.1: Alice's key pair.
        let private = "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=".parse::<PrivateKey>().unwrap();
        assert_eq!(private.public().to_string(), "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=");
    }

    #[test]
    fn keys_survive_text_and_bad_texts_are_refused() {
        let public = key(9).public();
        assert_eq!(public.to_string().parse(), Ok(public));
        for bad in ["", "abc", "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo", "!!!!"] {
            assert_eq!(bad.parse::<PublicKey>(), Err(BadKey));
        }
        assert!(!format!("{:?}", key(9)).contains(&key(9).to_base64()));
    }
}
