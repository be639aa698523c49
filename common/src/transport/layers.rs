//! What is spoken on a TCP connection around the tunnel, one inside the other. Pure but for what TLS and WebSocket
//! draw by themselves.
//!
//! ```text
//! socket ─▶ receive: proxy ─▶ TLS ─▶ WebSocket ─▶ read ─▶ tunnel
//! tunnel ─▶ send:             TLS ◀─ WebSocket       ─▶ unsent ─▶ socket
//! ```
//! A client knows its layers; a server finds them by their first bytes. A tunnel on plain TCP has none of this.

#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use rustls::{ClientConfig, ServerConfig};

use super::proxy::{Negotiation, Progress, ProxyError};
use super::sniff::{Carries, sniff};
use super::tls::{Tls, TlsError};
use super::websocket::{Ask, WebError, WebSocket};

/// Most sealed bytes that wait for the socket because of what the other end sent: answers, not the tunnel's bytes.
const MAX_ANSWERS: usize = 64 * 1024;

/// Why the layers cannot go on. Its text is one sentence, for the person at this end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// The proxy does not let us through.
    Proxy(ProxyError),
    /// TLS failed.
    Tls(TlsError),
    /// The WebSocket failed.
    Web(WebError),
    /// The other end speaks TLS, and there is no certificate here.
    NoCertificate,
    /// The other end closed the connection during the TLS handshake, or before it answered the request.
    ClosedEarly(Stage),
    /// The other end asks for answers and does not read them.
    SendBufferFull,
}

impl std::error::Error for Error {}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Proxy(error) => error.fmt(f),
            Error::Tls(error) => error.fmt(f),
            Error::Web(error) => error.fmt(f),
            Error::NoCertificate => f.write_str("it speaks TLS, for which no certificate was given"),
            Error::ClosedEarly(stage) => write!(f, "it closed the connection during {stage}"),
            Error::SendBufferFull => f.write_str("it does not read"),
        }
    }
}

impl From<ProxyError> for Error {
    fn from(error: ProxyError) -> Error {
        Error::Proxy(error)
    }
}

impl From<TlsError> for Error {
    fn from(error: TlsError) -> Error {
        Error::Tls(error)
    }
}

impl From<WebError> for Error {
    fn from(error: WebError) -> Error {
        Error::Web(error)
    }
}

/// How far the layers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// A proxy has to open the way.
    Proxy,
    /// TLS is being set up.
    Tls,
    /// A server looks what comes.
    Sniff,
    /// A WebSocket is being set up.
    Upgrade,
    /// The tunnel's bytes flow.
    Open,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Stage::Proxy => "the talk with the proxy",
            Stage::Tls => "the TLS handshake",
            Stage::Sniff => "its first words",
            Stage::Upgrade => "the request for a WebSocket",
            Stage::Open => "the tunnel's life",
        })
    }
}

/// The layers of a client, from the outermost to the innermost.
#[derive(Debug, Default)]
pub struct Plan {
    /// Through a proxy.
    pub proxy: Option<Negotiation>,
    /// TLS, with the name or address that the certificate must have.
    pub tls: Option<(Arc<ClientConfig>, String)>,
    /// A WebSocket.
    pub web: Option<Ask>,
}

/// What goes on inside TLS, or without it.
#[derive(Debug)]
enum Inner {
    /// A client's WebSocket, which is asked for once what is around it is open.
    Planned(Option<Ask>),
    /// A server's first bytes, too few to tell what they are.
    Sniffing(Vec<u8>),
    Web(WebSocket),
    Plain,
}

/// The layers of one connection.
#[derive(Debug)]
pub struct Layers {
    proxy: Option<Negotiation>,
    /// TLS that begins once the proxy has opened the way.
    planned_tls: Option<(Arc<ClientConfig>, String)>,
    tls: Option<Tls>,
    inner: Inner,
    /// Sealed bytes for the socket.
    unsent: Vec<u8>,
    /// How many of the first of them are sent.
    sent: usize,
    /// Bytes for the tunnel.
    plain: Vec<u8>,
    /// How many of the first of them are read.
    read: usize,
}

impl Layers {
    /// A client's end; the first words are ready to be sent.
    pub fn client(plan: Plan) -> Result<Layers, Error> {
        let mut layers = Layers::new(Inner::Planned(plan.web));
        layers.planned_tls = plan.tls;
        match plan.proxy {
            Some(mut negotiation) => {
                layers.unsent.extend(negotiation.unsent());
                negotiation.sent(usize::MAX);
                layers.proxy = Some(negotiation);
            }
            None => layers.begin()?,
        }
        Ok(layers)
    }

    /// A server's end of a connection that carries TLS or HTTP; `config` is its certificate, if it has one. All bytes
    /// of the connection go to `receive`, those by which it was known as well.
    pub fn server(carries: Carries, config: Option<&Arc<ServerConfig>>) -> Result<Layers, Error> {
        Ok(match carries {
            Carries::Tunnel => Layers::new(Inner::Plain),
            Carries::Http => Layers::new(Inner::Web(WebSocket::server())),
            Carries::Tls => {
                let tls = Tls::server(Arc::clone(config.ok_or(Error::NoCertificate)?))?;
                Layers { tls: Some(tls), ..Layers::new(Inner::Sniffing(Vec::new())) }
            }
        })
    }

    fn new(inner: Inner) -> Layers {
        Layers {
            proxy: None,
            planned_tls: None,
            tls: None,
            inner,
            unsent: Vec::new(),
            sent: 0,
            plain: Vec::new(),
            read: 0,
        }
    }

    /// How far they are.
    pub fn stage(&self) -> Stage {
        if self.proxy.is_some() {
            return Stage::Proxy;
        }
        if self.planned_tls.is_some() || self.tls.as_ref().is_some_and(|tls| !tls.is_open()) {
            return Stage::Tls;
        }
        match &self.inner {
            Inner::Sniffing(_) => Stage::Sniff,
            Inner::Planned(_) => Stage::Upgrade,
            Inner::Web(web) if !web.is_open() => Stage::Upgrade,
            Inner::Web(_) | Inner::Plain => Stage::Open,
        }
    }

    /// Whether the tunnel's bytes may flow.
    pub fn is_open(&self) -> bool {
        self.stage() == Stage::Open
    }

    /// What it means that the other end closed the connection now; `None` is for the tunnel to judge.
    pub fn closed(&self) -> Option<Error> {
        match (self.stage(), &self.proxy) {
            (Stage::Open, _) => None,
            (_, Some(negotiation)) => Some(Error::Proxy(negotiation.closed())),
            (stage, None) => Some(Error::ClosedEarly(stage)),
        }
    }

    // ---- receiving

    /// Takes what the socket brought; what of it is the tunnel's is then read with `read`, all of it before the next
    /// call. With an error, that is still so, and `unsent` may hold the last words.
    pub fn receive(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let unsent = self.unsent().len();
        self.receive_outer(bytes)?;
        if self.unsent().len() > unsent + bytes.len() + MAX_ANSWERS || unsent > MAX_ANSWERS + MAX_SEALED {
            return Err(Error::SendBufferFull);
        }
        Ok(())
    }

    fn receive_outer(&mut self, mut bytes: &[u8]) -> Result<(), Error> {
        if let Some(negotiation) = &mut self.proxy {
            let progress = negotiation.receive(bytes)?;
            self.unsent.extend(negotiation.unsent());
            negotiation.sent(usize::MAX);
            let Progress::Open(len) = progress else { return Ok(()) };
            bytes = &bytes[len..];
            self.proxy = None;
            self.begin()?;
        }
        let Some(tls) = &mut self.tls else { return self.receive_inner(bytes) };
        let mut opened = Vec::new();
        let received = tls.receive(bytes, &mut opened, &mut self.unsent);
        if tls.is_open() && matches!(self.inner, Inner::Planned(_)) {
            self.begin_inner()?;
        }
        self.receive_inner(&opened)?;
        received.map_err(Error::Tls)
    }

    fn receive_inner(&mut self, bytes: &[u8]) -> Result<(), Error> {
        if bytes.is_empty() {
            return Ok(());
        }
        match &mut self.inner {
            Inner::Plain => self.plain.extend(bytes),
            Inner::Web(web) => {
                let mut answers = Vec::new();
                let received = web.receive(bytes, &mut self.plain, &mut answers);
                self.seal(&answers)?;
                received?;
            }
            Inner::Sniffing(first) => {
                first.extend(bytes);
                let Some(carries) = sniff(first) else { return Ok(()) };
                let first = std::mem::take(first);
                self.inner = match carries {
                    Carries::Http => Inner::Web(WebSocket::server()),
                    // The tunnel tells what TLS in TLS is.
                    Carries::Tunnel | Carries::Tls => Inner::Plain,
                };
                return self.receive_inner(&first);
            }
            // TLS that is not open yet brings nothing.
            Inner::Planned(_) => debug_assert!(false, "{} bytes came too early", bytes.len()),
        }
        Ok(())
    }

    /// Begins what is inside the proxy.
    fn begin(&mut self) -> Result<(), Error> {
        let Some((config, host)) = self.planned_tls.take() else { return self.begin_inner() };
        self.tls = Some(Tls::client(config, &host, &mut self.unsent)?);
        Ok(())
    }

    /// Begins what is inside TLS.
    fn begin_inner(&mut self) -> Result<(), Error> {
        let Inner::Planned(ask) = &mut self.inner else { return Ok(()) };
        let mut request = Vec::new();
        self.inner = match ask.take() {
            Some(ask) => Inner::Web(WebSocket::client(ask, &mut request)),
            None => Inner::Plain,
        };
        self.seal(&request)
    }

    /// Reads what came for the tunnel: how many bytes of `space` it fills.
    pub fn read(&mut self, space: &mut [u8]) -> usize {
        let left = &self.plain[self.read..];
        let len = left.len().min(space.len());
        space[..len].copy_from_slice(&left[..len]);
        advance(&mut self.plain, &mut self.read, len);
        len
    }

    /// Whether `read` would bring something.
    pub fn has_plain(&self) -> bool {
        !self.plain.is_empty()
    }

    // ---- sending

    /// Takes the first bytes of what the tunnel sends, as many as are sealed at once: none before the layers are open,
    /// or while some are unsent.
    pub fn send(&mut self, plain: &[u8]) -> Result<usize, Error> {
        if !self.unsent.is_empty() || !self.is_open() {
            return Ok(0);
        }
        let piece = &plain[..plain.len().min(MAX_PIECE)];
        if let Inner::Web(web) = &mut self.inner {
            let mut framed = Vec::with_capacity(piece.len() + MAX_OVERHEAD);
            web.send(piece, &mut framed)?;
            self.seal(&framed)?;
        } else {
            self.seal(piece)?;
        }
        Ok(piece.len())
    }

    fn seal(&mut self, bytes: &[u8]) -> Result<(), Error> {
        match &mut self.tls {
            _ if bytes.is_empty() => {}
            Some(tls) => tls.send(bytes, &mut self.unsent)?,
            None => self.unsent.extend(bytes),
        }
        Ok(())
    }

    /// What the socket is to send.
    pub fn unsent(&self) -> &[u8] {
        &self.unsent[self.sent..]
    }

    /// Tells that the socket took `len` bytes of `unsent`.
    pub fn sent(&mut self, len: usize) {
        advance(&mut self.unsent, &mut self.sent, len);
    }
}

/// Most bytes of the tunnel that are sealed at once: where the socket is full, so much is committed to go first.
const MAX_PIECE: usize = 64 * 1024;
/// What WebSocket adds to a piece.
const MAX_OVERHEAD: usize = 128;
/// Most bytes that a piece is sealed to, and to spare.
const MAX_SEALED: usize = MAX_PIECE + 4 * 1024;

/// Counts `len` more bytes of the front of `bytes` as done, and frees the memory once all are.
fn advance(bytes: &mut Vec<u8>, done: &mut usize, len: usize) {
    debug_assert!(*done + len <= bytes.len());
    *done += len;
    if *done >= bytes.len() {
        (*bytes, *done) = (Vec::new(), 0);
    }
}
