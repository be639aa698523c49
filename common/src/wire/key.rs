//! X25519 keys and their text. Pure.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use snow::params::DHChoice;
use snow::resolvers::{CryptoResolver as _, DefaultResolver};

/// A private X25519 key, in the base64 form that `wg genkey` uses too.
#[derive(Clone)]
pub struct PrivateKey {
    secret: [u8; 32],
    /// Derived from the secret once, as that costs a scalar multiplication.
    public: PublicKey,
}

/// A public X25519 key. Its base64 form is the fingerprint that people compare.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PublicKey(pub(super) [u8; 32]);

/// A text that is no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadKey {
    /// Not 32 bytes in base64.
    Text,
    /// A public key that is not [usable](PublicKey::is_usable).
    Unusable,
}

impl fmt::Display for BadKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            BadKey::Text => "a key is 44 characters of base64",
            BadKey::Unusable => "this is nobody's key: anyone could use it",
        })
    }
}

impl std::error::Error for BadKey {}

/// The prime of the field, 2²⁵⁵ − 19, little-endian.
const PRIME: [u8; 32] = {
    let mut prime = [0xff; 32];
    (prime[0], prime[31]) = (0xed, 0x7f);
    prime
};

/// The u-coordinates of all points of order 1, 2, 4 and 8 on the curve and its twist, little-endian, below
/// [`PRIME`]: 0, 1, the two of order 8, and −1.
const LOW_ORDER: [[u8; 32]; 5] = {
    let mut one = [0; 32];
    one[0] = 1;
    let mut minus_one = PRIME;
    minus_one[0] -= 1;
    let order_8 = [
        [
            0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f, 0xc4, 0x6a,
            0xda, 0x09, 0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49, 0xb8, 0x00,
        ],
        [
            0x5f, 0x9c, 0x95, 0xbc, 0xa3, 0x50, 0x8c, 0x24, 0xb1, 0xd0, 0xb1, 0x55, 0x9c, 0x83, 0xef, 0x5b,
            0x04, 0x44, 0x5c, 0xc4, 0x58, 0x1c, 0x8e, 0x86, 0xd8, 0x22, 0x4e, 0xdd, 0xd0, 0x9f, 0x11, 0x57,
        ],
    ];
    [[0; 32], one, order_8[0], order_8[1], minus_one]
};

/// Whether a little-endian coordinate is below the prime.
fn is_canonical(bytes: &[u8; 32]) -> bool {
    bytes.iter().rev().lt(PRIME.iter().rev())
}

fn decode_key(text: &str) -> Result<[u8; 32], BadKey> {
    BASE64.decode(text).ok().and_then(|bytes| bytes.try_into().ok()).ok_or(BadKey::Text)
}

impl PrivateKey {
    /// The key of 32 random bytes.
    pub fn from_random(secret: [u8; 32]) -> PrivateKey {
        let mut dh = DefaultResolver.resolve_dh(&DHChoice::Curve25519).expect("snow is built with X25519");
        dh.set(&secret);
        let mut public = [0; 32];
        public.copy_from_slice(dh.pubkey());
        PrivateKey { secret, public: PublicKey(public) }
    }

    /// The public half.
    pub fn public(&self) -> PublicKey {
        self.public
    }

    /// The 32 secret bytes.
    pub(super) fn secret(&self) -> &[u8; 32] {
        &self.secret
    }

    /// The text for a key file. Not a `Display`, so that no log line prints it by accident.
    pub fn to_base64(&self) -> String {
        BASE64.encode(self.secret)
    }
}

impl FromStr for PrivateKey {
    type Err = BadKey;

    fn from_str(text: &str) -> Result<PrivateKey, BadKey> {
        decode_key(text).map(PrivateKey::from_random)
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(…)")
    }
}

impl PublicKey {
    /// The key of 32 bytes, if it is [usable](PublicKey::is_usable).
    pub fn from_bytes(bytes: [u8; 32]) -> Option<PublicKey> {
        Some(PublicKey(bytes)).filter(PublicKey::is_usable)
    }

    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Whether the key can be one machine's own: the one encoding of a point that is of no low order.
    ///
    /// With a point of low order every exchange comes to 0, whatever the private key (RFC 7748, section 6.1), so
    /// anyone can pass for its holder. A coordinate of 2²⁵⁵ − 19 or more, or with the highest bit set, means
    /// the same point as another one: no private key leads to it, and it would be a second identity.
    pub fn is_usable(&self) -> bool {
        is_canonical(&self.0) && !LOW_ORDER.contains(&self.0)
    }
}

impl FromStr for PublicKey {
    type Err = BadKey;

    fn from_str(text: &str) -> Result<PublicKey, BadKey> {
        let key = PublicKey(decode_key(text)?);
        if key.is_usable() { Ok(key) } else { Err(BadKey::Unusable) }
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

/// Every encoding of a point of low order: with and without the prime added where that fits, and the high bit.
#[cfg(test)]
pub(crate) fn every_unusable_encoding() -> Vec<[u8; 32]> {
    let mut all = LOW_ORDER.to_vec();
    // 0 and 1 fit below 2²⁵⁵ with the prime added to them.
    let mut prime_and_one = PRIME;
    prime_and_one[0] += 1;
    all.extend([PRIME, prime_and_one]);
    let with_high_bit: Vec<_> = all
        .iter()
        .map(|&(mut point)| {
            point[31] |= 0x80;
            point
        })
        .collect();
    all.extend(with_high_bit);
    all
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
            assert_eq!(bad.parse::<PublicKey>(), Err(BadKey::Text));
        }
        assert!(!format!("{:?}", key(9)).contains(&key(9).to_base64()));
    }

    #[test]
    fn low_order_is_what_comes_to_nothing_with_every_private_key() {
        let encodings = every_unusable_encoding();
        assert_eq!(encodings.len(), 14);
        for point in encodings {
            for seed in [1, 2, 77] {
                let mut dh = DefaultResolver.resolve_dh(&DHChoice::Curve25519).unwrap();
                dh.set(&[seed; 32]);
                let mut shared = [9; 32];
                dh.dh(&point, &mut shared).unwrap();
                assert_eq!(shared, [0; 32], "{point:x?}");
            }
            assert!(!PublicKey(point).is_usable());
            assert_eq!(BASE64.encode(point).parse::<PublicKey>(), Err(BadKey::Unusable));
        }
    }

    #[test]
    fn a_key_has_one_encoding() {
        for seed in 0..100 {
            let PublicKey(mut bytes) = key(seed).public();
            assert!(PublicKey(bytes).is_usable());
            bytes[31] |= 0x80;
            assert!(!PublicKey(bytes).is_usable());
        }
        for low in 0..19 {
            let mut bytes = PRIME;
            bytes[0] += low;
            assert!(!PublicKey(bytes).is_usable(), "{low} and the prime");
        }
    }
}
