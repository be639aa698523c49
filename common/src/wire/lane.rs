//! How a second connection proves that it belongs to a session. Pure.
//!
//! ```text
//! lane secret   HMAC-SHA256(keys of both directions of the session's link; label ‖ handshake hash)
//! proof         HMAC-SHA256(lane secret; label ‖ hash of the new handshake up to its second message)
//! request       u8 tag ‖ u16be length ‖ proof: the payload of the new handshake's third message
//! ```
//! Only the two ends of the session know its record keys, so nobody else can make the proof. Both ends' ephemeral keys are
//! in the new handshake's hash, so a proof is worth nothing in any other handshake. The third message is sealed by keys
//! that only the two ends of the new handshake have, whose static keys it proves.

use aws_lc_rs::hmac;

/// Length of a proof.
pub const PROOF_LEN: usize = 32;
/// Above those of a join request, and optional as all from 128 on.
const PROOF_TAG: u8 = 131;
const HEADER: [u8; 3] = [PROOF_TAG, 0, PROOF_LEN as u8];
const SECRET_LABEL: &[u8] = b"hub & spoke lane secret";
const PROOF_LABEL: &[u8] = b"hub & spoke lane proof";

/// The hash of a handshake up to its second message: both ends have it, and no two handshakes have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Binding(pub(super) [u8; 32]);

/// What only the two ends of one session know.
#[derive(Clone)]
pub struct LaneSecret([u8; 32]);

/// What a spoke shows to attach a lane to its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proof([u8; PROOF_LEN]);

impl LaneSecret {
    /// The secret of a session with these record keys, the spoke's first, and this handshake hash.
    pub(super) fn derive(keys: [&[u8; 32]; 2], hash: &[u8]) -> LaneSecret {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &[keys[0].as_slice(), keys[1]].concat());
        LaneSecret(digest(&key, SECRET_LABEL, hash))
    }

    /// The proof for a new handshake.
    pub fn prove(&self, binding: Binding) -> Proof {
        Proof(digest(&hmac::Key::new(hmac::HMAC_SHA256, &self.0), PROOF_LABEL, &binding.0))
    }

    /// Whether a proof is that of this session for this handshake; in constant time.
    pub fn verify(&self, binding: Binding, proof: Proof) -> bool {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.0);
        hmac::verify(&key, &[PROOF_LABEL, &binding.0].concat(), &proof.0).is_ok()
    }
}

impl std::fmt::Debug for LaneSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LaneSecret")
    }
}

impl Proof {
    /// The payload of the third handshake message.
    pub fn encode(self) -> Vec<u8> {
        [&HEADER[..], &self.0].concat()
    }

    /// Reads the payload of a third handshake message; `None` where it is a join request.
    pub fn decode(payload: &[u8]) -> Option<Proof> {
        payload.strip_prefix(&HEADER)?.try_into().ok().map(Proof)
    }
}

fn digest(key: &hmac::Key, label: &[u8], text: &[u8]) -> [u8; 32] {
    let tag = hmac::sign(key, &[label, text].concat());
    let mut digest = [0; 32];
    digest.copy_from_slice(tag.as_ref());
    digest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::frame::Join;

    fn secret(seed: u8) -> LaneSecret {
        LaneSecret::derive([&[seed; 32], &[2; 32]], b"hash")
    }

    #[test]
    fn a_proof_is_worth_nothing_in_another_session_or_handshake() {
        let (own, here) = (secret(1), Binding([7; 32]));
        let proof = own.prove(here);
        assert!(own.verify(here, proof));
        assert!(!own.verify(Binding([8; 32]), proof), "another handshake");
        assert!(!secret(3).verify(here, proof), "another session's keys");
        let other = LaneSecret::derive([&[1; 32], &[2; 32]], b"another hash");
        assert!(!other.verify(here, proof), "another session's handshake");
        let turned = LaneSecret::derive([&[2; 32], &[1; 32]], b"hash");
        assert!(!turned.verify(here, proof), "the keys the other way round");
        for bit in 0..PROOF_LEN * 8 {
            let mut forged = proof;
            forged.0[bit / 8] ^= 1 << (bit % 8);
            assert!(!own.verify(here, forged), "bit {bit}");
        }
    }

    #[test]
    fn a_request_is_no_join_and_a_join_is_no_request() {
        let proof = secret(1).prove(Binding([7; 32]));
        let request = proof.encode();
        assert_eq!(Proof::decode(&request), Some(proof));
        assert!(Join::decode(&request).is_err(), "an earlier hub refuses it");
        for len in 0..request.len() {
            assert_eq!(Proof::decode(&request[..len]), None);
        }
        assert_eq!(Proof::decode(&[&request[..], &[0]].concat()), None);
    }
}
