//! The negotiation with a proxy, before it relays bytes. Pure.
//!
//! ```text
//! unsent ─▶ socket ─▶ proxy ─▶ socket ─▶ receive: more, or open and how many of the bytes were the proxy's
//! ```
//! Once it is open, every further byte comes from the destination.

mod connect;
mod environment;
mod error;
mod socks;
#[cfg(test)]
mod tests;
mod url;

pub use environment::{from_environment, is_exempt};
pub use error::{Cause, Destination, Progress, ProxyError};
pub use url::{Credentials, Protocol, ProxyUrl};

/// One conversation with a proxy.
#[derive(Debug)]
pub struct Negotiation {
    proxy: String,
    destination: Destination,
    /// Bytes that are not sent yet.
    unsent: Vec<u8>,
    state: State,
}

#[derive(Debug)]
enum State {
    Connect(connect::Connect),
    Socks(socks::Socks),
}

impl Negotiation {
    /// Begins: what to say first is in `unsent`.
    pub fn new(proxy: &ProxyUrl, destination: Destination) -> Result<Negotiation, ProxyError> {
        let (unsent, state) = match proxy.protocol {
            Protocol::Http => {
                let (request, connect) = connect::Connect::new(&destination, proxy.credentials.as_ref());
                (request, Ok(State::Connect(connect)))
            }
            Protocol::Socks5 => {
                let (greeting, socks) = socks::Socks::new(&destination, proxy.credentials.as_ref());
                (greeting, socks.map(State::Socks))
            }
        };
        let proxy = proxy.to_string();
        match state {
            Ok(state) => Ok(Negotiation { proxy, destination, unsent, state }),
            Err(cause) => Err(ProxyError { proxy, destination, cause }),
        }
    }

    /// Bytes to send.
    pub fn unsent(&self) -> &[u8] {
        &self.unsent
    }

    /// Tells that `len` bytes of `unsent` are on their way.
    pub fn sent(&mut self, len: usize) {
        self.unsent.drain(..len.min(self.unsent.len()));
    }

    /// Takes what the proxy sent.
    pub fn receive(&mut self, bytes: &[u8]) -> Result<Progress, ProxyError> {
        let progress = match &mut self.state {
            State::Connect(connect) => connect.receive(bytes),
            State::Socks(socks) => socks.receive(bytes, &mut self.unsent),
        };
        progress.map_err(|cause| self.error(cause))
    }

    /// The error of a connection that the proxy closes now.
    pub fn closed(&self) -> ProxyError {
        self.error(Cause::Closed)
    }

    fn error(&self, cause: Cause) -> ProxyError {
        ProxyError { proxy: self.proxy.clone(), destination: self.destination.clone(), cause }
    }
}
