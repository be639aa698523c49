//! Streams over loopback.
#![expect(clippy::disallowed_methods, reason = "sockets need another end")]

use std::io::{Read as _, Write as _};
use std::net::TcpListener;

use mio::net::TcpStream;
use mio::{Events, Poll};

use super::*;
use crate::transport::layers::Plan;
use crate::transport::tls::files;
use crate::transport::tls::tests::Directory;
use crate::transport::websocket::Ask;
use crate::wire::hello::hello;

fn sockets() -> (std::net::TcpStream, std::net::TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    client.set_nodelay(true).unwrap();
    (client, listener.accept().unwrap().0)
}

fn link(socket: std::net::TcpStream) -> Link {
    socket.set_nonblocking(true).unwrap();
    Link::new(TcpStream::from_std(socket)).unwrap()
}

/// Streams that wait for events.
struct Waiting {
    poll: Poll,
    streams: Vec<Stream>,
}

impl Waiting {
    fn new(mut streams: Vec<Stream>) -> Waiting {
        let poll = Poll::new().unwrap();
        for (number, stream) in streams.iter_mut().enumerate() {
            stream.register(poll.registry(), Token(number)).unwrap();
        }
        Waiting { poll, streams }
    }

    fn wait(&mut self) {
        let mut events = Events::with_capacity(8);
        self.poll.poll(&mut events, None).unwrap();
        for event in &events {
            let stream = &mut self.streams[event.token().0];
            if event.is_writable() {
                stream.set_ready(true, false);
            }
            if event.is_read_closed() || event.is_error() {
                stream.set_ready(false, true);
            }
        }
    }

    /// Reads all that is there now.
    fn drain(&mut self, number: usize) -> Vec<u8> {
        let (mut all, mut space) = (Vec::new(), vec![0; 256 * 1024]);
        loop {
            let (len, filled) = self.streams[number].read(&mut space).unwrap();
            all.extend(&space[..len]);
            if filled != Filled::More {
                return all;
            }
        }
    }

    /// Reads until something comes.
    fn read(&mut self, number: usize) -> io::Result<Vec<u8>> {
        let mut space = vec![0; 256 * 1024];
        loop {
            match self.streams[number].read(&mut space)? {
                (0, Filled::Closed) => return Ok(Vec::new()),
                (0, Filled::More) => {}
                (0, _) => self.wait(),
                (len, _) => return Ok(space[..len].to_vec()),
            }
        }
    }
}

#[test]
fn our_own_protocol_comes_through_whole_though_it_comes_byte_by_byte() {
    let (mut client, server) = sockets();
    let mut waiting = Waiting::new(vec![Stream::server(link(server), None)]);
    let bytes = [&hello()[..], b"and more"].concat();
    let mut received = Vec::new();
    for (index, byte) in bytes.iter().enumerate() {
        client.write_all(&[*byte]).unwrap();
        if index + 1 < HELLO_LEN {
            assert_eq!(waiting.drain(0), b"", "it is not known yet");
            assert_eq!(waiting.streams[0].write(&hello()).unwrap(), 0, "it hears nothing yet");
        } else {
            received.extend(waiting.read(0).unwrap());
        }
    }
    assert_eq!(received, bytes);
    assert!(matches!(waiting.streams[0].around, Around::Nothing), "nothing is left around it");
}

#[test]
fn a_browser_reads_its_page_and_then_the_end() {
    let (mut client, server) = sockets();
    let mut waiting = Waiting::new(vec![Stream::server(link(server), None)]);
    client.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let error = waiting.read(0).unwrap_err();
    assert_eq!(error.to_string(), "it asked for a web page");
    drop(waiting);
    let mut page = String::new();
    client.read_to_string(&mut page).unwrap();
    assert!(page.starts_with("HTTP/1.1 404 ") && !page.contains("hub"), "{page}");
}

#[test]
fn tls_without_a_certificate_is_turned_away_with_a_reason() {
    let (mut client, server) = sockets();
    let mut waiting = Waiting::new(vec![Stream::server(link(server), None)]);
    client.write_all(&[0x16, 3, 1, 0, 5]).unwrap();
    assert_eq!(waiting.read(0).unwrap_err().to_string(), "it speaks TLS, for which no certificate was given");
}

#[test]
fn megabytes_come_through_tls_and_websocket_both_ways_at_once() {
    let directory = Directory::new("stream");
    let (certificate, key) = directory.certificate("hub", "DNS:hub.example.org", "CA:FALSE");
    let config = files::server(&certificate, &key).unwrap();
    let plan = Plan {
        proxy: None,
        tls: Some((files::client(Some(&certificate), None).unwrap(), "hub.example.org".to_owned())),
        web: Some(Ask { host: "hub".to_owned(), path: "/".to_owned(), key: [7; 16] }),
    };
    let (client, server) = sockets();
    let client = Stream::client(link(client), Layers::client(plan).unwrap());
    let mut waiting = Waiting::new(vec![client, Stream::server(link(server), Some(config))]);
    let bytes: Vec<u8> =
        hello().into_iter().chain((0..6_000_000u32).map(|n| n as u8 ^ (n >> 8) as u8)).collect();
    let (mut sent, mut received) = ([0, 0], [Vec::new(), Vec::new()]);
    let mut was_full = false;
    loop {
        let mut is_idle = true;
        for number in [0, 1] {
            let taken = waiting.streams[number].write(&bytes[sent[number]..]).unwrap();
            sent[number] += taken;
            let came = waiting.drain(number);
            was_full |= taken > 0 && sent[number] < bytes.len();
            is_idle &= taken == 0 && came.is_empty();
            received[number].extend(came);
        }
        if received.iter().all(|received| received.len() >= bytes.len()) {
            break;
        }
        if is_idle {
            waiting.wait();
        }
    }
    assert!(was_full, "the socket was never full: the test shows nothing");
    assert!(received[0] == bytes && received[1] == bytes);
    assert!(waiting.streams.iter().all(|stream| stream.stage() == Stage::Open));
}

#[test]
fn the_last_bytes_are_read_before_the_end_is_told() {
    let (client, server) = sockets();
    let plan = Plan {
        web: Some(Ask { host: "x".to_owned(), path: "/".to_owned(), key: [7; 16] }),
        ..Plan::default()
    };
    let client = Stream::client(link(client), Layers::client(plan).unwrap());
    let mut waiting = Waiting::new(vec![client]);
    waiting.drain(0);
    let mut server = Stream::server(link(server), None);
    let mut space = vec![0; 1_000];
    while server.stage() != Stage::Open {
        server.read(&mut space).unwrap();
    }
    // A message, and a close behind it, in one segment.
    server.link.write(&[0x82, 2, b'b', b'y', 0x88, 0]).unwrap();
    assert_eq!(waiting.read(0).unwrap(), b"by");
    assert_eq!(waiting.read(0).unwrap_err().to_string(), "it closed the WebSocket");
}
