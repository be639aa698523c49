//! Serves the metrics by HTTP: `GET /metrics`, and nothing else. IO.
//!
//! What others can cause has a bound: connections, the bytes of a request, and how long one may take.

use std::io::{self, Read as _, Write as _};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use common::node::event_loop::Source;
use common::node::metrics::MEDIA_TYPE;
use common::transport::http::{BadHead, HeadReader, Request, phrase};
use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Registry};

use super::listener;

/// Most connections: the oldest makes room for a new one.
const MAX_CONNECTIONS: usize = 8;
/// Connections that are taken in one turn.
const TURN_ACCEPTS: usize = 16;
/// How long a connection may live.
const DEADLINE: Duration = Duration::from_secs(5);
/// The listener's number; the connections' follow.
const LISTENER: u16 = 0;

/// The listening socket, and the connections.
pub(super) struct Scrapes {
    listener: TcpListener,
    connections: [Option<Connection>; MAX_CONNECTIONS],
}

struct Connection {
    stream: TcpStream,
    head: HeadReader,
    /// What is to be sent, once the request is there.
    answer: Option<Vec<u8>>,
    sent: usize,
    until: Instant,
}

impl Scrapes {
    /// Listens there.
    ///
    /// # Errors
    /// As the kernel has it.
    pub(super) fn open(at: SocketAddr, registry: &Registry) -> io::Result<Scrapes> {
        let mut listener = listener::bind(at)?;
        registry.register(&mut listener, Source::Metrics(LISTENER).token(), Interest::READABLE)?;
        Ok(Scrapes { listener, connections: Default::default() })
    }

    /// Where it listens.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        self.listener.local_addr().ok()
    }

    /// Serves one of the sockets. `page`: the text of the metrics at this moment. Whether there is more to do.
    pub(super) fn serve(
        &mut self,
        number: u16,
        registry: &Registry,
        now: Instant,
        page: impl FnOnce() -> String,
    ) -> bool {
        if number == LISTENER {
            return self.accept(registry, now);
        }
        let Some(place) = self.connections.get_mut(usize::from(number - 1)) else { return false };
        if place.as_mut().is_some_and(|connection| connection.serve(page).unwrap_or(true)) {
            *place = None;
        }
        false
    }

    /// When `handle_timeout` has something to do.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.connections.iter().flatten().map(|connection| connection.until).min()
    }

    /// Closes connections that take too long.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        for connection in &mut self.connections {
            connection.take_if(|connection| connection.until <= now);
        }
    }

    /// Takes in what waits; whether there may be more.
    fn accept(&mut self, registry: &Registry, now: Instant) -> bool {
        for _ in 0..TURN_ACCEPTS {
            match self.listener.accept() {
                Ok((stream, _)) => self.take_in(stream, registry, now),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                // None waits; or descriptors are used up, and what waits is reported with the next connection.
                Err(_) => return false,
            }
        }
        true
    }

    fn take_in(&mut self, mut stream: TcpStream, registry: &Registry, now: Instant) {
        let oldest = |slot: &usize| self.connections[*slot].as_ref().map(|connection| connection.until);
        // Free places come first.
        let Some(slot) = (0..MAX_CONNECTIONS).min_by_key(oldest) else { return };
        let interest = Interest::READABLE | Interest::WRITABLE;
        if registry.register(&mut stream, Source::Metrics(slot as u16 + 1).token(), interest).is_ok() {
            let (head, until) = (HeadReader::default(), now + DEADLINE);
            self.connections[slot] = Some(Connection { stream, head, answer: None, sent: 0, until });
        }
    }
}

impl Connection {
    /// Reads and writes what there is; whether all is done.
    fn serve(&mut self, page: impl FnOnce() -> String) -> io::Result<bool> {
        if self.answer.is_none() {
            let Some(request) = self.receive()? else { return Ok(false) };
            self.answer = Some(answer(request, page));
        }
        self.send()
    }

    /// The request, once all of it is there.
    fn receive(&mut self) -> io::Result<Option<Result<Request, BadHead>>> {
        let mut part = [0; 1_024];
        loop {
            match self.stream.read(&mut part) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(len) => match self.head.receive(&part[..len]) {
                    Ok(None) => {}
                    Ok(Some(_)) => return Ok(Some(self.head.request())),
                    Err(bad) => return Ok(Some(Err(bad))),
                },
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn send(&mut self) -> io::Result<bool> {
        let answer = self.answer.as_deref().unwrap_or_default();
        while let Some(rest) = answer.get(self.sent..).filter(|rest| !rest.is_empty()) {
            match self.stream.write(rest) {
                Ok(len) => self.sent += len,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}

/// The answer to a request. `page` is called where it asks for the metrics.
fn answer(request: Result<Request, BadHead>, page: impl FnOnce() -> String) -> Vec<u8> {
    let Ok(request) = request else { return message(400, "text/plain", "", "this is no HTTP request\n") };
    let path = request.target.split('?').next().unwrap_or_default();
    match (request.method.as_str(), path) {
        (_, path) if path != "/metrics" => message(404, "text/plain", "", "the metrics are at /metrics\n"),
        ("GET", _) => message(200, MEDIA_TYPE, "", &page()),
        (_, _) => message(405, "text/plain", "Allow: GET\r\n", "the metrics can be read with GET\n"),
    }
}

fn message(status: u16, media_type: &str, field: &str, body: &str) -> Vec<u8> {
    let (phrase, len) = (phrase(status), body.len());
    format!(
        "HTTP/1.1 {status} {phrase}\r\nContent-Type: {media_type}\r\nContent-Length: {len}\r\n{field}Connection: \
         close\r\n\r\n{body}"
    )
    .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(request: &str) -> String {
        let mut head = HeadReader::default();
        let request = head.receive(request.as_bytes()).and_then(|_| head.request());
        String::from_utf8(answer(request, || "hub_joins_total 1\n".to_owned())).unwrap()
    }

    #[test]
    fn only_the_metrics_are_served() {
        for path in ["/metrics", "/metrics?x=1"] {
            assert_eq!(
                answered(&format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")),
                "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n\
                 Content-Length: 18\r\nConnection: close\r\n\r\nhub_joins_total 1\n"
            );
        }
        for (request, head) in [
            ("GET / HTTP/1.1\r\n\r\n", "HTTP/1.1 404 Not Found\r\n"),
            ("GET /metrics/x HTTP/1.1\r\n\r\n", "HTTP/1.1 404 Not Found\r\n"),
            ("POST /metrics HTTP/1.1\r\n\r\n", "HTTP/1.1 405 Method Not Allowed\r\n"),
            ("\x16\x03\x01\r\n\r\n", "HTTP/1.1 400 Bad Request\r\n"),
        ] {
            let answer = answered(request);
            assert!(answer.starts_with(head) && !answer.contains("joins"), "{request:?}: {answer}");
        }
    }
}
