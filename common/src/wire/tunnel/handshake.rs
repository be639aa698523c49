//! The tunnel's part in the handshake: from the hello to the keys. Pure.

use super::{Error, State, Transport, Tunnel};
use crate::queue::Pool;
use crate::wire::frame::{BadFrame, Join};
use crate::wire::hello::{HELLO_LEN, check_hello, hello};
use crate::wire::inbox::Inbox;
use crate::wire::key::PublicKey;
use crate::wire::noise::{FIRST_LEN, Handshake, LENGTH_LEN, MAX_HANDSHAKE, Role, SECOND_LEN};

/// What a spoke brings into the handshake.
pub(super) struct Expect {
    pub(super) hub_key: Option<PublicKey>,
    pub(super) join: Vec<u8>,
}

/// What a handshake message led to.
pub(super) enum Step {
    /// Nothing yet: more bytes, please.
    Wait,
    /// The handshake went on.
    On,
    /// Hub: the spoke asks to join.
    Join { key: PublicKey, join: Result<Join, BadFrame> },
}

impl Tunnel {
    /// Takes one step of the handshake.
    pub(super) fn shake_hands(&mut self, inbox: &mut Inbox, pool: &mut Pool) -> Result<Step, Error> {
        let greeted = matches!(self.state, State::Third(_));
        let mut skip = 0;
        if !greeted {
            match check_hello(inbox.sealed()) {
                None => return Ok(Step::Wait),
                Some(Ok(())) => skip = HELLO_LEN,
                Some(Err(stranger)) => {
                    // A spoke of another version learns ours from it; to others it is eight odd bytes.
                    if self.role == Role::Hub {
                        self.unsent = Some(pool.copy(&hello()));
                    }
                    return Err(Error::UnknownProtocol(stranger));
                }
            }
        }
        let behind = &inbox.sealed()[skip..];
        let Some(&prefix) = behind.first_chunk::<LENGTH_LEN>() else { return Ok(Step::Wait) };
        let len = usize::from(u16::from_be_bytes(prefix));
        let longest = match (&self.state, self.role) {
            (State::Hello(..), Role::Hub) => FIRST_LEN,
            (State::Hello(..), Role::Spoke) => SECOND_LEN,
            _ => MAX_HANDSHAKE,
        };
        if len > longest {
            return Err(Error::Handshake);
        }
        let Some(message) = behind[LENGTH_LEN..].get(..len) else { return Ok(Step::Wait) };

        // `Closing` stands in while the handshake is taken apart; an error leaves it there.
        let step = match std::mem::replace(&mut self.state, State::Closing) {
            State::Hello(mut handshake, expect) => {
                let payload = handshake.read(message).map_err(|_| Error::Handshake)?;
                if !payload.is_empty() {
                    return Err(Error::Handshake);
                }
                let mut answer = Vec::new();
                match self.role {
                    Role::Hub => {
                        answer.extend_from_slice(&hello());
                        handshake.write(&[], &mut answer).map_err(|_| Error::Handshake)?;
                        self.state = State::Third(handshake);
                    }
                    Role::Spoke => {
                        let seen = handshake.remote().ok_or(Error::Handshake)?;
                        if expect.hub_key.is_some_and(|expected| expected != seen) {
                            return Err(Error::HubKey { seen });
                        }
                        handshake.write(&expect.join, &mut answer).map_err(|_| Error::Handshake)?;
                        self.finish(handshake, seen)?;
                    }
                }
                // The other end has not sent this message before it got our last one, so all of that is sent.
                debug_assert!(self.unsent.is_none());
                self.unsent = Some(pool.copy(&answer));
                Step::On
            }
            State::Third(mut handshake) => {
                let payload = handshake.read(message).map_err(|_| Error::Handshake)?;
                let key = handshake.remote().ok_or(Error::Handshake)?;
                self.finish(handshake, key)?;
                Step::Join { key, join: Join::decode(&payload) }
            }
            State::Joining | State::Open | State::Closing => return Err(Error::Handshake),
        };
        inbox.consume_sealed(skip + LENGTH_LEN + len);
        Ok(step)
    }

    fn finish(&mut self, handshake: Handshake, remote: PublicKey) -> Result<(), Error> {
        let (sealer, opener) = handshake.finish().map_err(|_| Error::Handshake)?;
        self.transport = Some(Box::new(Transport { sealer, opener, remote }));
        self.state = State::Joining;
        Ok(())
    }
}
