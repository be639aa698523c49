//! The tunnel's handshake: from the hello to the keys. Pure.

use std::ops::Range;

use super::error::Error;
use crate::wire::frame::{BadFrame, Join};
use crate::wire::hello::{HELLO_LEN, check_hello, hello};
use crate::wire::key::{PrivateKey, PublicKey};
use crate::wire::lane::{Binding, LaneSecret, Proof};
use crate::wire::noise::{FIRST_LEN, Handshake, LENGTH_LEN, MAX_HANDSHAKE, Opener, Role, SECOND_LEN, Sealer};

/// A handshake that is not finished.
pub(super) struct Greeting {
    handshake: Handshake,
    pub(super) stage: Stage,
}

/// Which message comes next.
pub(super) enum Stage {
    /// Hub: hello and first message.
    First,
    /// Spoke: hello and second message. The keys are those of which the hub has to prove one; any will do, without them.
    Second(Vec<PublicKey>),
    /// Spoke: the hub has proved this key, and is not asked to let this spoke in yet.
    Proved(PublicKey),
    /// Hub: the third message.
    Third,
}

/// What both ends have once the handshake is finished.
pub(super) struct Transport {
    pub(super) sealer: Sealer,
    pub(super) opener: Opener,
    /// The other end's key.
    pub(super) remote: PublicKey,
    /// What a lane beside this tunnel shows.
    pub(super) lane_secret: LaneSecret,
}

/// The outcome of a handshake message.
pub(super) enum Step {
    /// Hub: the handshake goes on, and this is sent.
    Second(Greeting, Vec<u8>),
    /// Spoke: the hub has proved its key.
    Proved(Greeting),
    /// Hub: it is finished, and the spoke asks to join.
    Join(Box<Transport>, Result<Join, BadFrame>),
    /// Hub: it is finished, and the spoke shows this proof that it is a lane.
    Attach(Box<Transport>, Proof, Binding),
}

impl Greeting {
    /// The hub's end. `ephemeral`: 32 fresh random bytes.
    pub(super) fn hub(key: &PrivateKey, ephemeral: [u8; 32]) -> Greeting {
        Greeting { handshake: Handshake::new(Role::Hub, key, ephemeral), stage: Stage::First }
    }

    /// A spoke's end, and what it sends first.
    pub(super) fn spoke(
        key: &PrivateKey,
        ephemeral: [u8; 32],
        hub_keys: &[PublicKey],
    ) -> (Greeting, Vec<u8>) {
        let mut handshake = Handshake::new(Role::Spoke, key, ephemeral);
        let mut first = hello().to_vec();
        handshake.write(&[], &mut first).expect("an initiator's first message cannot fail");
        (Greeting { handshake, stage: Stage::Second(hub_keys.to_vec()) }, first)
    }

    /// Hub: whether the first message was read.
    pub(super) fn has_greeted(&self) -> bool {
        matches!(self.stage, Stage::Third)
    }

    /// Spoke: the key that the hub has proved.
    pub(super) fn proved(&self) -> Option<PublicKey> {
        match self.stage {
            Stage::Proved(key) => Some(key),
            Stage::First | Stage::Second(_) | Stage::Third => None,
        }
    }

    /// Spoke: the proof that this is a lane of the session with this secret, encoded.
    pub(super) fn prove(&self, secret: &LaneSecret) -> Vec<u8> {
        secret.prove(self.handshake.binding()).encode()
    }

    /// Spoke: asks to join, or to attach. The handshake is finished, and this is sent.
    pub(super) fn ask(mut self, request: &[u8]) -> Result<(Box<Transport>, Vec<u8>), Error> {
        let Stage::Proved(seen) = self.stage else { return Err(Error::Handshake) };
        let mut third = Vec::new();
        self.handshake.write(request, &mut third).map_err(|_| Error::Handshake)?;
        Ok((finish(self.handshake, seen)?, third))
    }

    /// Where the next message is in what was received; `None` asks for more bytes.
    pub(super) fn next_message(&self, received: &[u8]) -> Result<Option<Range<usize>>, Error> {
        let (longest, skip) = match self.stage {
            Stage::First => (FIRST_LEN, HELLO_LEN),
            Stage::Second(_) => (SECOND_LEN, HELLO_LEN),
            Stage::Proved(_) => return Ok(None),
            Stage::Third => (MAX_HANDSHAKE, 0),
        };
        if skip > 0 {
            match check_hello(received) {
                None => return Ok(None),
                Some(Ok(())) => {}
                Some(Err(unknown)) => return Err(Error::UnknownProtocol(unknown)),
            }
        }
        let Some(&prefix) = received[skip..].first_chunk::<LENGTH_LEN>() else { return Ok(None) };
        let len = usize::from(u16::from_be_bytes(prefix));
        if len > longest {
            return Err(Error::Handshake);
        }
        let start = skip + LENGTH_LEN;
        Ok((received.len() >= start + len).then_some(start..start + len))
    }

    /// Takes the next message.
    pub(super) fn read(mut self, message: &[u8]) -> Result<Step, Error> {
        let binding = self.handshake.binding();
        let payload = self.handshake.read(message).map_err(|_| Error::Handshake)?;
        if !matches!(self.stage, Stage::Third) && !payload.is_empty() {
            return Err(Error::Handshake);
        }
        let mut answer = Vec::new();
        match self.stage {
            Stage::First => {
                answer.extend_from_slice(&hello());
                self.handshake.write(&[], &mut answer).map_err(|_| Error::Handshake)?;
                Ok(Step::Second(Greeting { stage: Stage::Third, ..self }, answer))
            }
            Stage::Second(keys) => {
                let seen = self.handshake.remote().ok_or(Error::Handshake)?;
                if !keys.is_empty() && !keys.contains(&seen) {
                    return Err(Error::HubKey { seen });
                }
                Ok(Step::Proved(Greeting { stage: Stage::Proved(seen), ..self }))
            }
            Stage::Proved(_) => Err(Error::Handshake),
            Stage::Third => {
                let key = self.handshake.remote().ok_or(Error::Handshake)?;
                let transport = finish(self.handshake, key)?;
                Ok(match Proof::decode(&payload) {
                    Some(proof) => Step::Attach(transport, proof, binding),
                    None => Step::Join(transport, Join::decode(&payload)),
                })
            }
        }
    }
}

fn finish(handshake: Handshake, remote: PublicKey) -> Result<Box<Transport>, Error> {
    let (sealer, opener, lane_secret) = handshake.finish_session().map_err(|_| Error::Handshake)?;
    Ok(Box::new(Transport { sealer, opener, remote, lane_secret }))
}
