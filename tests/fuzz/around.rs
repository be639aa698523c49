//! What is around a tunnel: proxies, WebSocket and pings.

use std::net::IpAddr;
use std::time::Duration;

use common::transport::http::HeadReader;
use common::transport::icmp::client::Client;
use common::transport::icmp::server::{Received, Request, Server};
use common::transport::proxy::{Destination, Negotiation, Progress, ProxyError, ProxyUrl, is_exempt};
use common::transport::websocket::{Ask, WebError, WebSocket};

use super::{Bytes, start};

/// A proxy's answers: the first byte says which proxy, the second where the answer is split; or a proxy's URL and a
/// list of hosts without one.
pub(crate) fn proxy(data: &[u8]) {
    let mut bytes = Bytes(data);
    let (choice, split) = (bytes.byte(), usize::from(bytes.byte()));
    let answer = bytes.0;
    if choice & 4 != 0 {
        let text = String::from_utf8_lossy(answer);
        let (url, list) = text.split_once('\n').unwrap_or((&text, ""));
        if let Ok(url) = url.parse::<ProxyUrl>() {
            let shown = url.to_string();
            let again: ProxyUrl = shown.parse().expect("what is shown can be read");
            assert_eq!((&again.host, again.port, again.protocol), (&url.host, url.port, url.protocol));
        }
        let _ = is_exempt(url, list);
        return;
    }
    let url =
        ["http://proxy", "http://a:b@proxy", "socks5://proxy", "socks5://a:b@proxy"][usize::from(choice & 3)];
    let converse = |pieces: &[&[u8]]| -> Result<Option<usize>, ProxyError> {
        let destination = Destination { host: "hub.example.org".to_owned(), port: 443 };
        let mut negotiation = Negotiation::new(&url.parse().expect("it is a URL"), destination)?;
        let mut taken = 0;
        for piece in pieces {
            if let Progress::Open(len) = negotiation.receive(piece)? {
                assert!(len <= piece.len());
                return Ok(Some(taken + len));
            }
            taken += piece.len();
            assert!(negotiation.unsent().len() < 1_024, "it has much to say");
        }
        Ok(None)
    };
    let whole = converse(&[answer]);
    let (first, second) = answer.split_at(split.min(answer.len()));
    assert_eq!(whole, converse(&[first, second]), "it matters where the answer is split");
    if let Err(error) = whole {
        let said = error.to_string();
        assert!(said.len() < 1_000 && !said.contains(['\n', '\r', '\x1b']), "{said:?}");
    }
}

/// What comes on a connection that carries HTTP: the first byte says whether it is a server's or a client's end, and
/// whether the handshake is behind it; the second where the bytes are split.
pub(crate) fn websocket(data: &[u8]) {
    let mut bytes = Bytes(data);
    let (choice, split) = (bytes.byte(), usize::from(bytes.byte()));
    let input = bytes.0;
    let ask = || Ask { host: "hub".to_owned(), path: "/".to_owned(), key: [7; 16] };
    let receive = |pieces: &[&[u8]]| -> (Result<(), WebError>, Vec<u8>, Vec<u8>) {
        let (mut plain, mut out, mut request) = (Vec::new(), Vec::new(), Vec::new());
        let mut end = WebSocket::client(ask(), &mut request);
        let mut server = WebSocket::server();
        if choice & 2 != 0 {
            let mut agreement = Vec::new();
            server.receive(&request, &mut plain, &mut agreement).expect("they agree");
            end.receive(&agreement, &mut plain, &mut out).expect("they agree");
            assert!(end.is_open() && server.is_open() && plain.is_empty());
        }
        if choice & 1 != 0 {
            end = server;
        }
        for piece in pieces {
            if let Err(error) = end.receive(piece, &mut plain, &mut out) {
                return (Err(error), plain, out);
            }
        }
        (Ok(()), plain, out)
    };
    let (whole, plain, out) = receive(&[input]);
    assert!(plain.len() <= input.len(), "bytes came out of nowhere");
    assert!(out.len() <= input.len() + 300, "it answers more than it hears");
    let (first, second) = input.split_at(split.min(input.len()));
    let (in_two, plain_in_two, _) = receive(&[first, second]);
    assert_eq!(
        (whole.is_ok(), &plain),
        (in_two.is_ok(), &plain_in_two),
        "it matters where the bytes are split"
    );
    let mut head = HeadReader::default();
    if head.receive(input).is_ok_and(|end| end.is_some()) {
        let _ = (head.request(), head.response());
    }
}

/// A tunnel in pings between real ends, of which the input changes, repeats and loses packets, and makes some up.
pub(crate) fn icmp(data: &[u8]) {
    let mut script = Bytes(data);
    let (address, mut now) = (IpAddr::from([192, 0, 2, 1]), start());
    let (mut client, mut server) = (Client::new([1; 8], 1, now), Server::new([2; 32], 2, now));
    let (mut echo, mut last, mut space, mut session) = (Vec::new(), Vec::new(), vec![0; 9_000], None);
    let request = |sequence| Request { source: address, to: address, identifier: 1, sequence };
    while !script.0.is_empty() {
        let step = script.byte();
        now += Duration::from_millis(u64::from(script.byte()));
        client.stack().send(&space[..usize::from(step) * 32]);
        client.poll(now);
        if let Some(number) = session {
            server.stack(number).expect("nobody ended it").send(&space[..usize::from(step) * 32]);
            server.touch(number, now);
        }
        server.handle_timeouts(now);
        if step & 1 != 0 {
            client.stack().read(&mut space);
            session.and_then(|number| server.stack(number)).map(|stack| stack.read(&mut space));
        }
        // The next packet of either end, the last one again, or one of the input's.
        let (mut to_server, mut sequence) = (step & 2 == 0, 7);
        match step >> 6 {
            0 | 1 if to_server => match client.poll_request(&mut echo, now) {
                Some(number) => sequence = number,
                None => continue,
            },
            0 | 1 if server.poll_reply(&mut echo).is_none() => continue,
            0 | 1 => {}
            2 => echo.clone_from(&last),
            _ => {
                to_server = step & 4 == 0;
                let len = script.word() % 1_300;
                echo = script.take(len).to_vec();
            }
        }
        last.clone_from(&echo);
        for _ in 0..(step >> 3) & 3 {
            let (at, value) = (script.word() % (echo.len() + 1), script.byte());
            echo.get_mut(at).into_iter().for_each(|byte| *byte = value);
        }
        if to_server {
            if let Received::Accepted(number) = server.receive(request(sequence), &echo, now) {
                session.get_or_insert(number);
            }
        } else if step & 32 == 0 && client.receive(&echo, now).is_err() {
            return;
        }
        let _ = (client.deadline(now), server.deadline());
    }
    assert!(server.len() <= 2);
}
