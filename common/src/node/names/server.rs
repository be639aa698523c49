//! The sockets of the name server: UDP and TCP port 53 of the machine's addresses on the LAN. IO.
//!
//! Only machines of the LAN are answered: they hold the addresses that they ask from, so that nobody else is sent what
//! they asked for. All that others can cause has a bound: questions by source, bytes of a question, connections.
#![expect(clippy::disallowed_methods, reason = "an IO file: it owns the name server's sockets")]

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use ipnetwork::IpNetwork;
use log::{info, warn};
use mio::net::{TcpListener, TcpStream, UdpSocket};
use mio::{Interest, Registry};
use socket2::{Domain, Protocol, Socket, Type};

use super::answer::{Carrier, Scope, UDP_LEN, answer};
use super::limit::SourceLimit;
use super::zone::{Directory, Zone};
use crate::node::event_loop::{EventLoop, NameSocket, Source};

/// The port (RFC 1035).
pub const PORT: u16 = 53;
/// Longest question; none that can be answered is as long.
const MAX_QUERY: usize = UDP_LEN;
/// Questions of one socket in one turn.
const TURN_QUERIES: usize = 64;
/// Most connections: the one that has been silent for the longest makes room for a new one.
const MAX_CONNECTIONS: usize = 32;
/// How long a connection may be silent.
const IDLE: Duration = Duration::from_secs(5);
/// How often it is tried to listen where that failed.
const RETRY: Duration = Duration::from_secs(10);

/// Answers questions about names.
pub struct NameServer {
    zone: Zone,
    /// The machine's addresses on the LAN, with its prefixes.
    lan: Vec<IpNetwork>,
    /// Of IPv4 and of IPv6.
    endpoints: [Option<Endpoint>; 2],
    connections: Vec<Option<Connection>>,
    limit: SourceLimit,
    /// Why there is no endpoint for an address.
    failures: Vec<String>,
    retry_at: Option<Instant>,
}

struct Endpoint {
    address: IpAddr,
    udp: UdpSocket,
    tcp: TcpListener,
}

struct Connection {
    stream: TcpStream,
    source: IpAddr,
    /// What came and is not answered: less than a question.
    read: Vec<u8>,
    heard_at: Instant,
}

impl NameServer {
    /// A server that does not listen yet. `seed`: random.
    pub fn new(zone: Zone, seed: u64) -> NameServer {
        NameServer {
            zone,
            lan: Vec::new(),
            endpoints: [None, None],
            connections: (0..MAX_CONNECTIONS).map(|_| None).collect(),
            limit: SourceLimit::new(seed),
            failures: Vec::new(),
            retry_at: None,
        }
    }

    /// Listens on these addresses, which have the LAN's prefixes, and no others. Where that fails, it is tried again.
    pub fn listen(&mut self, lan: &[IpNetwork], registry: &Registry, now: Instant) {
        self.lan = lan.to_vec();
        let before = std::mem::take(&mut self.failures);
        for (slot, endpoint) in (0..).zip(&mut self.endpoints) {
            let own = lan.iter().map(IpNetwork::ip).find(|address| address.is_ipv4() == (slot == 0));
            if endpoint.as_ref().map(|endpoint| endpoint.address) == own {
                continue;
            }
            *endpoint = None;
            let Some(address) = own else { continue };
            match Endpoint::open(address, slot, registry) {
                Ok(opened) => {
                    info!("answering for names in {} on {address}, port {PORT}", self.zone);
                    *endpoint = Some(opened);
                }
                Err(error) => {
                    let why = failure(address, &error);
                    if !before.contains(&why) {
                        warn!("{why}");
                    }
                    self.failures.push(why);
                }
            }
        }
        self.retry_at = (!self.failures.is_empty()).then(|| now + RETRY);
    }

    /// The zone that it answers for.
    pub fn zone(&self) -> &Zone {
        &self.zone
    }

    /// Why it does not listen where it should, one line each.
    pub fn problems(&self) -> &[String] {
        &self.failures
    }

    /// When [`NameServer::handle_timeout`] has something to do.
    pub fn deadline(&self) -> Option<Instant> {
        let idle = self.connections.iter().flatten().map(|connection| connection.heard_at + IDLE);
        idle.chain(self.retry_at).min()
    }

    /// Closes silent connections, and tries again to listen.
    pub fn handle_timeout(&mut self, registry: &Registry, now: Instant) {
        for connection in &mut self.connections {
            connection.take_if(|connection| connection.heard_at + IDLE <= now);
        }
        if self.retry_at.take_if(|at| *at <= now).is_some() {
            let lan = std::mem::take(&mut self.lan);
            self.listen(&lan, registry, now);
        }
    }

    /// Serves one of its sockets that is ready.
    pub fn serve(
        &mut self,
        socket: NameSocket,
        directory: &impl Directory,
        events: &mut EventLoop,
        now: Instant,
    ) {
        let has_more = match socket {
            NameSocket::Datagram(slot) => self.serve_datagrams(slot, directory, now),
            NameSocket::Listener(slot) => self.accept(slot, events.registry(), now),
            NameSocket::Connection(slot) => self.serve_connection(slot, directory, now),
        };
        if has_more {
            events.again(Source::Names(socket));
        }
    }

    fn serve_datagrams(&mut self, slot: u16, directory: &impl Directory, now: Instant) -> bool {
        let NameServer { zone, lan, endpoints, limit, .. } = self;
        let Some(Some(endpoint)) = endpoints.get(usize::from(slot)) else { return false };
        let scope = Scope { zone, lan };
        let mut query = [0; MAX_QUERY];
        for _ in 0..TURN_QUERIES {
            let (len, source) = match endpoint.udp.recv_from(&mut query) {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => return false,
            };
            if is_from(lan, source.ip())
                && limit.allow(source.ip(), now)
                && let Some(answer) = answer(&query[..len], scope, directory, Carrier::Udp)
            {
                // One that is lost is asked for again.
                let _ = endpoint.udp.send_to(&answer, source);
            }
        }
        true
    }

    fn accept(&mut self, slot: u16, registry: &Registry, now: Instant) -> bool {
        for _ in 0..TURN_QUERIES {
            let Some(Some(endpoint)) = self.endpoints.get(usize::from(slot)) else { return false };
            match endpoint.tcp.accept() {
                Ok((stream, source)) if is_from(&self.lan, source.ip()) => {
                    self.take_in(stream, source, registry, now);
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                // Descriptors are used up: what waits is reported with the next connection.
                Err(_) => return false,
            }
        }
        true
    }

    fn take_in(&mut self, mut stream: TcpStream, source: SocketAddr, registry: &Registry, now: Instant) {
        let longest_silent = |connection: &Option<Connection>| connection.as_ref().map(|one| one.heard_at);
        // Free places come first.
        let Some(slot) = (0..MAX_CONNECTIONS).min_by_key(|&slot| longest_silent(&self.connections[slot]))
        else {
            return;
        };
        let token = Source::Names(NameSocket::Connection(slot as u16)).token();
        if registry.register(&mut stream, token, Interest::READABLE).is_ok() {
            let (source, read) = (source.ip(), Vec::new());
            self.connections[slot] = Some(Connection { stream, source, read, heard_at: now });
        }
    }

    fn serve_connection(&mut self, slot: u16, directory: &impl Directory, now: Instant) -> bool {
        let NameServer { zone, lan, connections, limit, .. } = self;
        let Some(place) = connections.get_mut(usize::from(slot)) else { return false };
        let Some(connection) = place else { return false };
        let scope = Scope { zone, lan };
        match connection.serve(scope, directory, limit, now) {
            Ok(has_more) => has_more,
            Err(_) => {
                *place = None;
                false
            }
        }
    }
}

impl Connection {
    /// Answers what has come whole; whether there may be more. An error closes the connection.
    fn serve(
        &mut self,
        scope: Scope<'_>,
        directory: &impl Directory,
        limit: &mut SourceLimit,
        now: Instant,
    ) -> io::Result<bool> {
        let mut space = [0; MAX_QUERY];
        for _ in 0..TURN_QUERIES {
            let len = match self.stream.read(&mut space) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(len) => len,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            self.read.extend_from_slice(&space[..len]);
            while let Some(query) = self.next_query()? {
                if !limit.allow(self.source, now) {
                    return Err(io::ErrorKind::QuotaExceeded.into());
                }
                let answer =
                    answer(&query, scope, directory, Carrier::Tcp).ok_or(io::ErrorKind::InvalidData)?;
                // An answer fits into an empty socket buffer; who does not read them is left.
                let len = u16::try_from(answer.len()).map_err(|_| io::ErrorKind::InvalidData)?;
                let framed = [&len.to_be_bytes()[..], &answer].concat();
                if self.stream.write(&framed)? < framed.len() {
                    return Err(io::ErrorKind::WriteZero.into());
                }
                self.heard_at = now;
            }
        }
        Ok(true)
    }

    /// Takes a question out of what was read, if it is there whole.
    fn next_query(&mut self) -> io::Result<Option<Vec<u8>>> {
        let Some((head, behind)) = self.read.split_first_chunk() else { return Ok(None) };
        let len = usize::from(u16::from_be_bytes(*head));
        if len > MAX_QUERY {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let Some(query) = behind.get(..len).map(<[u8]>::to_vec) else { return Ok(None) };
        self.read.drain(..head.len() + len);
        Ok(Some(query))
    }
}

impl Endpoint {
    fn open(address: IpAddr, slot: u16, registry: &Registry) -> io::Result<Endpoint> {
        let at = SocketAddr::new(address, PORT);
        let mut udp = UdpSocket::from_std(bind(at, Type::DGRAM, Protocol::UDP)?.into());
        let tcp = bind(at, Type::STREAM, Protocol::TCP)?;
        tcp.listen(MAX_CONNECTIONS as i32)?;
        let mut tcp = TcpListener::from_std(tcp.into());
        registry.register(&mut udp, Source::Names(NameSocket::Datagram(slot)).token(), Interest::READABLE)?;
        registry.register(&mut tcp, Source::Names(NameSocket::Listener(slot)).token(), Interest::READABLE)?;
        Ok(Endpoint { address, udp, tcp })
    }
}

fn bind(at: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(at), kind.nonblocking(), Some(protocol))?;
    // The address may be gone for a moment, when someone else changes the device.
    if at.is_ipv6() {
        socket.set_only_v6(true)?;
        socket.set_freebind_v6(true)?;
    } else {
        socket.set_freebind_v4(true)?;
    }
    if kind == Type::STREAM {
        socket.set_reuse_address(true)?;
    }
    socket.bind(&at.into())?;
    Ok(socket)
}

fn is_from(lan: &[IpNetwork], source: IpAddr) -> bool {
    lan.iter().any(|subnet| subnet.contains(source))
}

fn failure(address: IpAddr, error: &io::Error) -> String {
    let is = |kind| error.kind() == kind;
    let remedy = if is(io::ErrorKind::AddrInUse) {
        "another name server listens there, or on all addresses: bind that one to its own (dnsmasq: bind-dynamic; \
         unbound, bind9: interface)"
    } else if is(io::ErrorKind::PermissionDenied) {
        "start as root, or with CAP_NET_BIND_SERVICE too"
    } else {
        "it is tried again"
    };
    format!("cannot answer for names on {address}, port {PORT}: {error}: {remedy}")
}
