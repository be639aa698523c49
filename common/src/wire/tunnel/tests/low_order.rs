//! Keys that anybody can have: points of low order, and other encodings of a good one.

use snow::params::{CipherChoice, DHChoice, HashChoice};
use snow::resolvers::{CryptoResolver, DefaultResolver};
use snow::types::{Cipher, Dh, Hash, Random};

use super::*;
use crate::wire::hello::{HELLO_LEN, hello};
use crate::wire::key::every_unusable_encoding;

/// Which of its keys an end forges, and how it looks then.
#[derive(Clone, Copy)]
struct Forgery {
    is_static: bool,
    point: [u8; 32],
    /// Every exchange with it comes to 0, as its forger knows.
    is_low: bool,
}

struct Forged {
    inner: Box<dyn Dh>,
    forgery: Option<Forgery>,
    shown: Option<[u8; 32]>,
}

impl Forged {
    fn show(&mut self, is_static: bool) {
        self.shown =
            self.forgery.filter(|forgery| forgery.is_static == is_static).map(|forgery| forgery.point);
    }
}

impl Dh for Forged {
    fn name(&self) -> &'static str {
        self.inner.name()
    }
    fn pub_len(&self) -> usize {
        self.inner.pub_len()
    }
    fn priv_len(&self) -> usize {
        self.inner.priv_len()
    }
    fn set(&mut self, private: &[u8]) {
        self.inner.set(private);
        self.show(true);
    }
    fn generate(&mut self, random: &mut dyn Random) -> Result<(), snow::Error> {
        self.inner.generate(random)?;
        self.show(false);
        Ok(())
    }
    fn pubkey(&self) -> &[u8] {
        self.shown.as_ref().map_or(self.inner.pubkey(), |point| &point[..])
    }
    fn privkey(&self) -> &[u8] {
        self.inner.privkey()
    }
    fn dh(&self, public: &[u8], out: &mut [u8]) -> Result<(), snow::Error> {
        if self.shown.is_some() && self.forgery.is_some_and(|forgery| forgery.is_low) {
            out[..32].fill(0);
            return Ok(());
        }
        self.inner.dh(public, out)
    }
}

struct Forger(Option<Forgery>);

struct Fixed;

impl Random for Fixed {
    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), snow::Error> {
        out.fill(0x5a);
        Ok(())
    }
}

impl CryptoResolver for Forger {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(Fixed))
    }
    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        let inner = DefaultResolver.resolve_dh(choice)?;
        Some(Box::new(Forged { inner, forgery: self.0, shown: None }))
    }
    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        DefaultResolver.resolve_hash(choice)
    }
    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        DefaultResolver.resolve_cipher(choice)
    }
}

/// A handshake of snow's own with a forged key, or none.
fn forger(role: Role, forgery: Option<Forgery>) -> snow::HandshakeState {
    let prologue = [hello(), hello()].concat();
    let pattern = "Noise_XX_25519_AESGCM_SHA256".parse().unwrap();
    let builder = snow::Builder::with_resolver(pattern, Box::new(Forger(forgery)));
    let builder = builder.local_private_key(&[9; 32]).unwrap().prologue(&prologue).unwrap();
    match role {
        Role::Spoke => builder.build_initiator().unwrap(),
        Role::Hub => builder.build_responder().unwrap(),
    }
}

fn message(state: &mut snow::HandshakeState, payload: &[u8]) -> Vec<u8> {
    let mut message = vec![0; 4_096];
    let len = state.write_message(payload, &mut message).unwrap();
    [&(len as u16).to_be_bytes(), &message[..len]].concat()
}

/// What a hub says to a spoke with this forgery, and whom it takes it for.
fn knock(forgery: Option<Forgery>) -> Result<PublicKey, Error> {
    let now = Instant::now();
    let mut hub = End::new(|_| Tunnel::hub(&key(2), [4; 32], now));
    let mut spoke = forger(Role::Spoke, forgery);
    let first = [&hello()[..], &message(&mut spoke, &[])].concat();
    hub.read(&first, usize::MAX, now)?;
    let answer = hub.write(usize::MAX, now);
    let len = spoke.read_message(&answer[HELLO_LEN + LENGTH_LEN..], &mut [0; 4_096]).unwrap();
    assert_eq!(len, 0);
    let third = message(&mut spoke, &join().encode());
    hub.read(&third, usize::MAX, now)?;
    match &hub.got[..] {
        [Got::Join(key, Ok(_))] => Ok(*key),
        got => panic!("{got:?}"),
    }
}

/// What a spoke says to a hub with this forgery.
fn welcome_by(forgery: Option<Forgery>) -> Result<(), Error> {
    let now = Instant::now();
    let mut spoke = End::new(|pool| Tunnel::spoke(&key(1), [3; 32], None, &join(), pool, now));
    let mut hub = forger(Role::Hub, forgery);
    let first = spoke.write(usize::MAX, now);
    hub.read_message(&first[HELLO_LEN + LENGTH_LEN..], &mut [0; 4_096]).unwrap();
    let answer = [&hello()[..], &message(&mut hub, &[])].concat();
    spoke.read(&answer, usize::MAX, now)
}

#[test]
fn an_honest_handshake_of_the_same_making_is_taken() {
    assert_eq!(knock(None), Ok(key(9).public()));
    assert_eq!(welcome_by(None), Ok(()));
}

#[test]
fn no_encoding_of_a_point_of_low_order_joins_or_passes_for_a_hub() {
    for point in every_unusable_encoding() {
        for is_static in [true, false] {
            let forgery = Some(Forgery { is_static, point, is_low: true });
            assert_eq!(knock(forgery), Err(Error::Handshake), "{point:x?}, static {is_static}");
            assert_eq!(welcome_by(forgery), Err(Error::Handshake), "{point:x?}, static {is_static}");
        }
    }
}

#[test]
fn a_second_encoding_of_a_good_key_is_no_second_member() {
    let mut point = *key(9).public().as_bytes();
    point[31] |= 0x80;
    let forgery = Some(Forgery { is_static: true, point, is_low: false });
    assert_eq!(knock(forgery), Err(Error::Handshake));
    assert_eq!(welcome_by(forgery), Err(Error::Handshake));
}
