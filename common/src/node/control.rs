//! The control socket of a running program, `STATE/control`: both its ends. IO.
//!
//! A connection carries one request, a line of JSON of at most [`MAX_REQUEST`] bytes, and one answer, JSON up to
//! the end of the stream: `{"ok": …}` or `{"error": "…"}`. What they mean is the program's own matter.
//!
//! Nothing here waits for the other end: reads and writes take what there is, a connection has a deadline, and
//! while [`MAX_CONNECTIONS`] are open the next ones stay in the backlog.
#![expect(clippy::disallowed_methods, reason = "an IO file: it owns the control socket")]

use std::fmt;
use std::fs::{self, File, Permissions};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use log::warn;
use mio::net::{UnixListener, UnixStream};
use mio::{Interest, Registry};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::{Pid, Uid};
use serde::Serialize;
use serde::de::DeserializeOwned;
use slab::Slab;
use socket2::{Domain, SockAddr, Socket, Type};

use crate::node::event_loop::Source;
use crate::node::request::{
    Answer, By, Caller, MAX_CONNECTIONS, MAX_REQUEST, Ticket, encode, encode_request,
};
use crate::node::state;

/// The socket's name in the state directory.
pub const SOCKET: &str = "control";
/// How long a connection may live.
pub const DEADLINE: Duration = Duration::from_secs(5);
/// How long to wait after an accept that failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Longest answer that [`ask`] reads, in bytes: programs answer in pages.
const MAX_ANSWER: u64 = 16 * 1024 * 1024;
/// How long [`ask`] waits for each step; longer than [`DEADLINE`], so that it hears why.
const PATIENCE: Duration = Duration::from_secs(8);

/// The program's end.
pub struct ControlSocket {
    listener: UnixListener,
    connections: Slab<Connection>,
    serial: u64,
    /// Whether more may wait in the backlog than was taken in: edge-triggered, it is not reported again.
    backlog: bool,
    /// When to look at the backlog.
    accept_at: Option<Instant>,
}

struct Connection {
    stream: UnixStream,
    serial: u64,
    /// What came so far, until the request is whole.
    request: Vec<u8>,
    /// What has to be sent, once it is known.
    answer: Option<Vec<u8>>,
    sent: usize,
    deadline: Instant,
}

impl ControlSocket {
    /// Opens the socket in a state directory; events of [`Source::ControlListener`] and [`Source::Control`] are for
    /// `serve`.
    /// If it cannot be opened, as on a read-only file system, a warning says that `commands` will not work, and the program
    /// runs without it.
    pub fn open(state: &Path, registry: &Registry, commands: &str) -> Option<ControlSocket> {
        let opened = ControlSocket::bind(state).and_then(|mut control| {
            registry.register(&mut control.listener, Source::ControlListener.token(), Interest::READABLE)?;
            Ok(control)
        });
        let path = state.join(SOCKET);
        opened
            .inspect_err(|error| warn!("cannot make {}: {error}; {commands} will not work", path.display()))
            .ok()
    }

    /// Binds the socket (mode 0600) in the place of one that a killed process left: the directory's lock, which
    /// the caller holds, says that nobody serves it any more.
    fn bind(state: &Path) -> io::Result<ControlSocket> {
        let path = state.join(SOCKET);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
        // Linux makes the file with the mode of the socket: there is no moment at which others may connect.
        let socket = File::from(OwnedFd::from(socket));
        socket.set_permissions(Permissions::from_mode(0o600))?;
        let socket = Socket::from(OwnedFd::from(socket));
        socket.bind(&SockAddr::unix(&path)?)?;
        socket.listen(MAX_CONNECTIONS as i32)?;
        Ok(ControlSocket {
            listener: UnixListener::from_std(OwnedFd::from(socket).into()),
            connections: Slab::new(),
            serial: 0,
            backlog: false,
            accept_at: None,
        })
    }

    /// Serves an event; returns a request that has come whole. Its JSON is not looked at.
    pub fn serve(&mut self, source: Source, registry: &Registry, now: Instant) -> Option<(Ticket, Vec<u8>)> {
        let Source::Control(slot) = source else {
            self.accept(registry, now);
            return None;
        };
        let slot = usize::from(slot);
        let connection = self.connections.get_mut(slot)?;
        let ticket = Ticket { slot, serial: connection.serial };
        if connection.answer.is_some() {
            if connection.send() {
                self.close(slot, now);
            }
            return None;
        }
        match connection.receive() {
            Ok(request) => Some((ticket, request?)),
            Err(error) if error.kind() == ErrorKind::InvalidData => {
                let text = format!("a request is at most {MAX_REQUEST} bytes");
                self.answer(ticket, encode::<()>(Err(text)), now);
                None
            }
            Err(_) => {
                self.close(slot, now);
                None
            }
        }
    }

    /// Who made a request, by what the kernel knows of its connection and by what the request says.
    pub fn caller(&self, ticket: Ticket, by: By) -> Caller {
        let connection = self.connections.get(ticket.slot).filter(|one| one.serial == ticket.serial);
        let peer = connection.and_then(|one| getsockopt(&one.stream, PeerCredentials).ok());
        let (uid, pid) = peer.map_or((u32::MAX, 0), |peer| (peer.uid(), peer.pid()));
        Caller { uid, pid, sudo_user: by.sudo_user, from: by.from }
    }

    /// Answers a request, if its connection is still open.
    pub fn answer(&mut self, ticket: Ticket, answer: Vec<u8>, now: Instant) {
        let connection = self.connections.get_mut(ticket.slot);
        let Some(connection) = connection.filter(|connection| connection.serial == ticket.serial) else {
            return;
        };
        connection.answer = Some(answer);
        if connection.send() {
            self.close(ticket.slot, now);
        }
    }

    /// When `handle_timeout` has something to do next.
    pub fn deadline(&self) -> Option<Instant> {
        let deadlines = self.connections.iter().map(|(_, connection)| connection.deadline);
        deadlines.chain(self.accept_at).min()
    }

    /// Closes what took too long, and takes in what waited for that.
    pub fn handle_timeout(&mut self, registry: &Registry, now: Instant) {
        while let Some((slot, _)) = self.connections.iter().find(|(_, connection)| connection.deadline <= now)
        {
            self.close(slot, now);
        }
        if self.accept_at.is_some_and(|at| at <= now) {
            self.accept(registry, now);
        }
    }

    fn accept(&mut self, registry: &Registry, now: Instant) {
        self.backlog = true;
        self.accept_at = None;
        while self.connections.len() < MAX_CONNECTIONS {
            match self.listener.accept() {
                Ok((mut stream, _)) => {
                    let entry = self.connections.vacant_entry();
                    let token = Source::Control(entry.key() as u16).token();
                    let interest = Interest::READABLE | Interest::WRITABLE;
                    if !is_ours(&stream) || registry.register(&mut stream, token, interest).is_err() {
                        continue;
                    }
                    self.serial += 1;
                    entry.insert(Connection {
                        stream,
                        serial: self.serial,
                        request: Vec::new(),
                        answer: None,
                        sent: 0,
                        deadline: now + DEADLINE,
                    });
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.backlog = false;
                    return;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Out of descriptors or memory.
                Err(_) => {
                    self.accept_at = Some(now + ACCEPT_PAUSE);
                    return;
                }
            }
        }
    }

    fn close(&mut self, slot: usize, now: Instant) {
        self.connections.try_remove(slot);
        if self.backlog {
            self.accept_at = Some(now);
        }
    }
}

/// The mode of the socket keeps others out; this holds where a directory's rights were changed since, too.
fn is_ours(stream: &UnixStream) -> bool {
    getsockopt(stream, PeerCredentials).is_ok_and(|peer| {
        let user = Uid::from_raw(peer.uid());
        user.is_root() || user == Uid::effective()
    })
}

impl Connection {
    /// Reads what there is; returns the request once it is whole.
    fn receive(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut part = [0; MAX_REQUEST];
        loop {
            match self.stream.read(&mut part) {
                // It left without a request.
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(len) => {
                    let part = part.get(..len).unwrap_or_default();
                    self.request.extend_from_slice(part);
                    if self.request.len() > MAX_REQUEST {
                        return Err(ErrorKind::InvalidData.into());
                    }
                    if let Some(end) = self.request.iter().position(|&byte| byte == b'\n') {
                        self.request.truncate(end);
                        return Ok(Some(std::mem::take(&mut self.request)));
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Writes what the socket takes; true when the connection has done its work, or is broken.
    fn send(&mut self) -> bool {
        let Some(answer) = &self.answer else { return false };
        while let Some(rest) = answer.get(self.sent..).filter(|rest| !rest.is_empty()) {
            match self.stream.write(rest) {
                Ok(len) => self.sent += len,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return true,
            }
        }
        true
    }
}

/// Why a command has no answer. Its text says what to do.
#[derive(Debug)]
pub enum AskError {
    /// Nothing serves this state directory.
    Nobody(PathBuf),
    /// The system refused.
    Io(PathBuf, io::Error),
    /// The program refused: its sentence.
    Refused(String),
    /// The program said what this one does not understand.
    Garbled(PathBuf),
    /// What it said cannot be printed.
    Print(io::Error),
}

impl fmt::Display for AskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AskError::Nobody(state) => {
                write!(
                    f,
                    "nothing runs with the state directory {} (--state DIR names another)",
                    state.display()
                )
            }
            AskError::Io(path, error) if error.kind() == ErrorKind::PermissionDenied => {
                write!(f, "{}: {error}: try it with sudo", path.display())
            }
            AskError::Io(path, error) if error.kind() == ErrorKind::WouldBlock => {
                write!(f, "{}: no answer within {} s", path.display(), PATIENCE.as_secs())
            }
            AskError::Io(path, error) => write!(f, "{}: {error}", path.display()),
            AskError::Refused(text) => f.write_str(text),
            AskError::Print(error) => write!(f, "cannot print the answer: {error}"),
            AskError::Garbled(path) => {
                write!(f, "{}: the answer is invalid: is another version running?", path.display())
            }
        }
    }
}

impl std::error::Error for AskError {}

/// The command's end: asks the program that runs with this state directory.
pub fn ask<T: DeserializeOwned>(state: &Path, request: &impl Serialize) -> Result<T, AskError> {
    let path = state::inner(state).join(SOCKET);
    let bytes = match exchange(&path, request) {
        Ok(bytes) => bytes,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {
            return Err(AskError::Nobody(state.to_owned()));
        }
        Err(error) => return Err(AskError::Io(path, error)),
    };
    match serde_json::from_slice(&bytes) {
        Ok(Answer::Ok(value)) => Ok(value),
        Ok(Answer::Error(text)) => Err(AskError::Refused(text)),
        Err(_) => Err(AskError::Garbled(path)),
    }
}

/// Who runs this command, for one that does without a running program.
pub fn this_caller() -> Caller {
    let By { sudo_user, from } = by();
    Caller { uid: Uid::current().as_raw(), pid: Pid::this().as_raw(), sudo_user, from }
}

/// Who runs this command, as far as its environment says.
fn by() -> By {
    let variable = |name| std::env::var(name).ok();
    let from = variable("SSH_CONNECTION").and_then(|text| Some(text.split_whitespace().next()?.to_owned()));
    By { sudo_user: variable("SUDO_USER"), from }
}

fn exchange(path: &Path, request: &impl Serialize) -> io::Result<Vec<u8>> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_write_timeout(Some(PATIENCE))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect(&SockAddr::unix(path)?)?;
    let mut line = encode_request(request, &by())?;
    line.push(b'\n');
    (&socket).write_all(&line)?;
    let mut answer = Vec::new();
    (&socket).take(MAX_ANSWER).read_to_end(&mut answer)?;
    Ok(answer)
}

#[cfg(test)]
mod tests;
