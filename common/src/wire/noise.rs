//! The Noise handshake, and records. Pure: ephemeral randomness is handed in.
//!
//! `Noise_XX_25519_AESGCM_SHA256` runs in `snow`. The two transport keys then go to AES-GCM directly; on the
//! wire, records are Noise transport messages (Noise specification, revision 34, sections 5.2 and 12.2).
//!
//! Two libraries implement AES-GCM. `aws-lc-rs` is by far the faster one, and works from one buffer into another,
//! which saves a copy of each packet. The first small record after a pause, however, costs mostly the cache misses
//! of code and tables, and `aes-gcm` has less of both.

use aes_gcm::{AeadInPlace, Aes256Gcm, KeyInit};
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use snow::params::{CipherChoice, DHChoice, HashChoice};
use snow::resolvers::{BoxedCryptoResolver, CryptoResolver, DefaultResolver, FallbackResolver};
use snow::types::{Cipher, Dh, Hash, Random};

use crate::queue::Buf;
use crate::wire::hello::hello;
use crate::wire::key::{PrivateKey, PublicKey};
use crate::wire::lane::{Binding, LaneSecret};

/// Length of the tag behind each ciphertext.
pub const TAG_LEN: usize = 16;
/// Length of the `u16be` in front of a handshake message or record.
pub const LENGTH_LEN: usize = 2;
/// Most ciphertext bytes in one record: a Noise message (Noise specification, section 3).
pub const MAX_RECORD: usize = 65_535;
/// Most plaintext bytes in one record.
pub const MAX_RECORD_PLAIN: usize = MAX_RECORD - TAG_LEN;
/// Length of the first handshake message: a key (`e`).
pub const FIRST_LEN: usize = 32;
/// Length of the second one: two keys (`e`, `s`) and two tags, as its payload is empty.
pub const SECOND_LEN: usize = 2 * 32 + 2 * TAG_LEN;
/// Longest handshake message that is accepted: two keys, two tags and a join request.
pub const MAX_HANDSHAKE: usize = 4_096;
/// Most payload bytes in the third handshake message.
pub const MAX_JOIN: usize = MAX_HANDSHAKE - 64;

const PATTERN: &str = "Noise_XX_25519_AESGCM_SHA256";
/// The handshake or a record failed: forged, damaged, replayed or out of order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failed;

/// Which end of a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Accepts tunnels: the Noise responder.
    Hub,
    /// Opens its tunnel: the Noise initiator.
    Spoke,
}

/// The handshake of one tunnel: three messages, the spoke's first.
pub struct Handshake {
    state: Box<snow::HandshakeState>,
    role: Role,
}

impl Handshake {
    /// Starts a handshake; `ephemeral` must be 32 fresh random bytes.
    pub fn new(role: Role, key: &PrivateKey, ephemeral: [u8; 32]) -> Handshake {
        let prologue = [hello(), hello()].concat();
        let builder = snow::Builder::with_resolver(
            PATTERN.parse().expect("the pattern is well-formed"),
            resolver(ephemeral),
        )
        .local_private_key(key.secret())
        .and_then(|builder| builder.prologue(&prologue));
        let state = builder
            .and_then(|builder| match role {
                Role::Hub => builder.build_responder(),
                Role::Spoke => builder.build_initiator(),
            })
            .expect("key and prologue are set once, and every primitive is built in");
        Handshake { state: Box::new(state), role }
    }

    /// Appends the next message of this end, with its length in front. `payload` is at most [`MAX_JOIN`] bytes.
    pub fn write(&mut self, payload: &[u8], out: &mut Vec<u8>) -> Result<(), Failed> {
        let mut message = [0; MAX_HANDSHAKE];
        let len = self.state.write_message(payload, &mut message).map_err(|_| Failed)?;
        let prefix = u16::try_from(len).map_err(|_| Failed)?;
        out.extend_from_slice(&prefix.to_be_bytes());
        out.extend_from_slice(&message[..len]);
        Ok(())
    }

    /// Reads the other end's next message (without its length) and returns its payload.
    pub fn read(&mut self, message: &[u8]) -> Result<Vec<u8>, Failed> {
        let mut payload = vec![0; message.len()];
        let len = self.state.read_message(message, &mut payload).map_err(|_| Failed)?;
        payload.truncate(len);
        Ok(payload)
    }

    /// The other end's key, once the handshake has proved it.
    pub fn remote(&self) -> Option<PublicKey> {
        self.state.get_remote_static().and_then(|key| key.try_into().ok()).map(PublicKey)
    }

    /// The hash so far; after the second message, what a lane is bound to.
    pub fn binding(&self) -> Binding {
        let mut hash = [0; 32];
        hash.copy_from_slice(self.state.get_handshake_hash());
        Binding(hash)
    }

    /// After the third message: the keys of both directions.
    pub fn finish(self) -> Result<(Sealer, Opener), Failed> {
        let (sealer, opener, _) = self.finish_session()?;
        Ok((sealer, opener))
    }

    /// The same, and the secret that lanes of this session show.
    pub fn finish_session(mut self) -> Result<(Sealer, Opener, LaneSecret), Failed> {
        if !self.state.is_handshake_finished() {
            return Err(Failed);
        }
        let (spoke, hub) = self.state.dangerously_get_raw_split();
        let secret = LaneSecret::derive([&spoke, &hub], self.state.get_handshake_hash());
        let (ours, theirs) = match self.role {
            Role::Hub => (hub, spoke),
            Role::Spoke => (spoke, hub),
        };
        Ok((Sealer(Direction::new(ours)), Opener(Direction::new(theirs)), secret))
    }
}

/// snow's own primitives, one ephemeral key that was handed in, and no exchange with an unusable key.
fn resolver(ephemeral: [u8; 32]) -> BoxedCryptoResolver {
    struct Once([u8; 32]);
    struct OnceRandom(Option<[u8; 32]>);
    impl Random for OnceRandom {
        // An ephemeral key must never be used twice, so a second call fails.
        fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), snow::Error> {
            let bytes = self.0.take().filter(|bytes| bytes.len() == out.len()).ok_or(snow::Error::Rng)?;
            out.copy_from_slice(&bytes);
            Ok(())
        }
    }
    impl CryptoResolver for Once {
        fn resolve_rng(&self) -> Option<Box<dyn Random>> {
            Some(Box::new(OnceRandom(Some(self.0))))
        }
        fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
            DefaultResolver.resolve_dh(choice).map(|dh| Box::new(Contributory(dh)) as Box<dyn Dh>)
        }
        fn resolve_hash(&self, _: &HashChoice) -> Option<Box<dyn Hash>> {
            None
        }
        fn resolve_cipher(&self, _: &CipherChoice) -> Option<Box<dyn Cipher>> {
            None
        }
    }
    Box::new(FallbackResolver::new(Box::new(Once(ephemeral)), Box::new(DefaultResolver)))
}

/// X25519 that fails for keys that are not [usable](PublicKey::is_usable), ephemeral ones too: with those, the outcome
/// is known to all, which snow's own does not look at (Noise specification, section 12.1, leaves it open).
struct Contributory(Box<dyn Dh>);

impl Dh for Contributory {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn pub_len(&self) -> usize {
        self.0.pub_len()
    }

    fn priv_len(&self) -> usize {
        self.0.priv_len()
    }

    fn set(&mut self, private: &[u8]) {
        self.0.set(private);
    }

    fn generate(&mut self, random: &mut dyn Random) -> Result<(), snow::Error> {
        self.0.generate(random)
    }

    fn pubkey(&self) -> &[u8] {
        self.0.pubkey()
    }

    fn privkey(&self) -> &[u8] {
        self.0.privkey()
    }

    fn dh(&self, public: &[u8], out: &mut [u8]) -> Result<(), snow::Error> {
        let key = public.first_chunk().copied().map(PublicKey);
        if !key.is_some_and(|key| key.is_usable()) {
            return Err(snow::Error::Dh);
        }
        self.0.dh(public, out)
    }
}

/// Most plaintext bytes in a record that counts as small.
const SMALL: usize = 256;

/// One direction's key and the number of its next record.
///
/// An expanded key has thirty times the size of the key. A tunnel that is idle has none: the one small record that it has
/// now and then expands the key for itself, which takes no longer than to fetch an expanded one from memory.
struct Direction {
    key: [u8; 32],
    /// Whether no record came since the expanded keys were dropped.
    is_resting: bool,
    /// For small records, from the second one on.
    small: Option<Box<Aes256Gcm>>,
    /// For records that are not small, once there are any.
    large: Option<LessSafeKey>,
    next: u64,
}

impl Direction {
    fn new(key: [u8; 32]) -> Direction {
        Direction { key, is_resting: true, small: None, large: None, next: 0 }
    }

    /// Has this done with the key for small records.
    fn with_small<T>(&mut self, work: impl FnOnce(&Aes256Gcm) -> T) -> T {
        let expand = || Aes256Gcm::new(&self.key.into());
        if std::mem::take(&mut self.is_resting) && self.small.is_none() {
            return work(&expand());
        }
        work(self.small.get_or_insert_with(|| Box::new(expand())))
    }

    fn rest(&mut self) {
        (self.is_resting, self.small, self.large) = (true, None, None);
    }

    fn large(&mut self) -> Result<&LessSafeKey, Failed> {
        if self.large.is_none() {
            let key = UnboundKey::new(&AES_256_GCM, &self.key).map_err(|_| Failed)?;
            self.large = Some(LessSafeKey::new(key));
        }
        self.large.as_ref().ok_or(Failed)
    }

    /// The nonce of the next record: 32 zero bits, then the count, big-endian (Noise, 12.3).
    fn nonce(&mut self) -> Result<[u8; NONCE_LEN], Failed> {
        let mut nonce = [0; NONCE_LEN];
        nonce[4..].copy_from_slice(&self.next.to_be_bytes());
        // The last value is reserved for rekeying (Noise, 5.1).
        self.next = self.next.checked_add(1).filter(|&next| next < u64::MAX).ok_or(Failed)?;
        Ok(nonce)
    }
}

/// Seals the records of one direction.
pub struct Sealer(Direction);

impl Sealer {
    /// Appends `plain`, at most [`MAX_RECORD_PLAIN`] bytes, to `records` as one record.
    ///
    /// # Panics
    ///
    /// If the capacity of `records` does not hold it.
    pub fn seal(&mut self, plain: &[u8], records: &mut Buf) -> Result<(), Failed> {
        let len = u16::try_from(plain.len() + TAG_LEN).map_err(|_| Failed)?;
        let nonce = self.0.nonce()?;
        records.append(&len.to_be_bytes());
        let (sealed, tag) = records.spare()[..usize::from(len)].split_at_mut(plain.len());
        if plain.len() <= SMALL {
            sealed.copy_from_slice(plain);
            let made = self.0.with_small(|key| key.encrypt_in_place_detached(&nonce.into(), &[], sealed));
            tag.copy_from_slice(&made.map_err(|_| Failed)?);
        } else {
            let nonce = Nonce::assume_unique_for_key(nonce);
            self.0
                .large()?
                .seal_out_of_place_scatter(nonce, Aad::empty(), plain, sealed, &[], tag)
                .map_err(|_| Failed)?;
        }
        records.set_len(records.len() + usize::from(len));
        Ok(())
    }

    /// Frees the expanded keys.
    pub fn drop_cached_key(&mut self) {
        self.0.rest();
    }

    #[cfg(test)]
    pub(crate) fn has_cached_key(&self) -> bool {
        self.0.large.is_some() || self.0.small.is_some()
    }
}

/// Opens the records of one direction.
pub struct Opener(Direction);

impl Opener {
    /// Opens a record's body into `plain`, which is shorter by the tag. After a failure the contents of `plain` must
    /// not be used.
    pub fn open(&mut self, body: &[u8], plain: &mut [u8]) -> Result<(), Failed> {
        let nonce = self.0.nonce()?;
        let (sealed, tag) = body.split_last_chunk::<TAG_LEN>().ok_or(Failed)?;
        if sealed.len() <= SMALL {
            plain.copy_from_slice(sealed);
            let opened =
                self.0.with_small(|key| key.decrypt_in_place_detached(&nonce.into(), &[], plain, tag.into()));
            return opened.map_err(|_| Failed);
        }
        let nonce = Nonce::assume_unique_for_key(nonce);
        self.0.large()?.open_separate_gather(nonce, Aad::empty(), sealed, tag, plain).map_err(|_| Failed)
    }

    /// Frees the expanded keys.
    pub fn drop_cached_key(&mut self) {
        self.0.rest();
    }

    #[cfg(test)]
    pub(crate) fn has_cached_key(&self) -> bool {
        self.0.large.is_some() || self.0.small.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(seed: u8) -> PrivateKey {
        PrivateKey::from_random([seed; 32])
    }

    fn pair() -> (Handshake, Handshake) {
        (Handshake::new(Role::Spoke, &key(1), [3; 32]), Handshake::new(Role::Hub, &key(2), [4; 32]))
    }

    fn carry(from: &mut Handshake, to: &mut Handshake, payload: &[u8]) -> Vec<u8> {
        let mut message = Vec::new();
        from.write(payload, &mut message).unwrap();
        to.read(&message[LENGTH_LEN..]).unwrap()
    }

    fn transport() -> ((Sealer, Opener), (Sealer, Opener)) {
        let (mut spoke, mut hub) = pair();
        carry(&mut spoke, &mut hub, b"");
        carry(&mut hub, &mut spoke, b"");
        assert_eq!(carry(&mut spoke, &mut hub, b"join"), b"join");
        assert_eq!(spoke.remote(), Some(key(2).public()));
        assert_eq!(hub.remote(), Some(key(1).public()));
        (spoke.finish().unwrap(), hub.finish().unwrap())
    }

    fn sealed(sealer: &mut Sealer, plain: &[u8]) -> Buf {
        let mut record = Buf::with_capacity(LENGTH_LEN + MAX_RECORD);
        sealer.seal(plain, &mut record).unwrap();
        record
    }

    fn opened(opener: &mut Opener, body: &[u8]) -> Result<Vec<u8>, Failed> {
        let mut plain = vec![0; body.len() - TAG_LEN];
        opener.open(body, &mut plain)?;
        Ok(plain)
    }

    #[test]
    fn records_agree_with_snows_own_transport() {
        let (mut spoke, mut hub) = pair();
        carry(&mut spoke, &mut hub, b"");
        carry(&mut hub, &mut spoke, b"");
        carry(&mut spoke, &mut hub, b"");
        let mut snow = spoke.state.into_transport_mode().unwrap();
        let (mut sealer, mut opener) = hub.finish().unwrap();
        let longest: Vec<u8> = (0..MAX_RECORD_PLAIN).map(|i| i as u8).collect();
        let mut message = [0; MAX_RECORD];
        let (small, medium) = (&longest[..SMALL], &longest[..=SMALL]);
        for text in [&b"first"[..], b"", small, medium, b"fifth", &longest] {
            let len = snow.write_message(text, &mut message).unwrap();
            assert_eq!(opened(&mut opener, &message[..len]).as_deref(), Ok(text));

            let record = sealed(&mut sealer, text);
            let (len, body) = record.split_first_chunk().unwrap();
            assert_eq!(usize::from(u16::from_be_bytes(*len)), body.len());
            let len = snow.read_message(body, &mut message).unwrap();
            assert_eq!(&message[..len], text);
        }
        let mut record = Buf::with_capacity(2 * MAX_RECORD);
        assert_eq!(sealer.seal(&[&longest[..], b"1"].concat(), &mut record), Err(Failed), "too long");
        assert!(record.is_empty());
    }

    #[test]
    fn opens_in_order_and_only_once_and_only_the_other_ends() {
        let ((mut seal, mut own), (_, mut open)) = transport();
        let records = [sealed(&mut seal, b"one"), sealed(&mut seal, b"two")];
        let body = |at: usize| &records[at][LENGTH_LEN..];
        assert_eq!(opened(&mut own, body(0)), Err(Failed), "reflected");
        assert_eq!(opened(&mut open, body(0)).as_deref(), Ok(&b"one"[..]));
        assert_eq!(opened(&mut open, body(0)), Err(Failed), "replayed");
        let ((mut seal, _), (_, mut open)) = transport();
        let records = [sealed(&mut seal, &[7]), sealed(&mut seal, &[7])];
        assert_eq!(opened(&mut open, &records[1][LENGTH_LEN..]), Err(Failed), "reordered");
    }

    #[test]
    fn refuses_every_flipped_bit_of_the_handshake() {
        for message_number in 0..3 {
            for bit in 0.. {
                let (mut spoke, mut hub) = pair();
                let mut flipped = false;
                let mut failed = false;
                for number in 0..3 {
                    let (from, to) =
                        if number == 1 { (&mut hub, &mut spoke) } else { (&mut spoke, &mut hub) };
                    let mut message = Vec::new();
                    // A key that was changed to an unusable one shows when the answer to it is written.
                    if from.write(if number == 2 { b"join" } else { b"" }, &mut message).is_err() {
                        failed = true;
                        break;
                    }
                    let body = &mut message[LENGTH_LEN..];
                    if number == message_number && bit < body.len() * 8 {
                        body[bit / 8] ^= 1 << (bit % 8);
                        flipped = true;
                    }
                    if to.read(body).is_err() {
                        failed = true;
                        break;
                    }
                }
                if !flipped {
                    break;
                }
                // X25519 ignores the top bit of a public key (RFC 7748, 5); such an encoding is refused.
                assert!(failed, "message {message_number}, bit {bit}");
            }
        }
    }
}
