//! Conversations with proxies, split at every byte and ended at every length.

use super::*;
use crate::transport::http;

fn destination(host: &str) -> Destination {
    Destination { host: host.to_owned(), port: 5678 }
}

fn begin(url: &str, host: &str) -> Negotiation {
    Negotiation::new(&url.parse().unwrap(), destination(host)).unwrap()
}

/// What the negotiation has to send, sent in two pieces.
fn sent(negotiation: &mut Negotiation) -> Vec<u8> {
    let first = negotiation.unsent()[..1].to_vec();
    negotiation.sent(1);
    let all = [&first, negotiation.unsent()].concat();
    negotiation.sent(usize::MAX);
    assert_eq!(negotiation.unsent(), b"");
    all
}

/// Holds a conversation: what is expected from us, and what the proxy answers to it. Each answer comes whole, in two
/// pieces split at every byte, and byte by byte; nothing but the last byte of the last answer opens the way, and
/// what follows it is left.
fn converses(url: &str, host: &str, script: &[(&[u8], &[u8])]) {
    let longest = script.iter().map(|(_, answer)| answer.len()).max().unwrap();
    for split in 0..=longest {
        let mut negotiation = begin(url, host);
        for (turn, (said, answer)) in script.iter().enumerate() {
            assert_eq!(sent(&mut negotiation), *said, "turn {turn}");
            let is_last = turn + 1 == script.len();
            let answer = if is_last { [answer, &b"behind"[..]].concat() } else { answer.to_vec() };
            let end = script[turn].1.len();
            let (first, second) = answer.split_at(split.min(end - 1));
            let pieces: Vec<&[u8]> =
                if split == longest { answer.chunks(1).collect() } else { vec![first, second] };
            let mut taken = 0;
            for piece in pieces {
                match negotiation.receive(piece).unwrap() {
                    Progress::More => {
                        taken += piece.len();
                        assert!(!is_last || taken < end, "the end was missed");
                    }
                    Progress::Open(len) => {
                        assert!(is_last);
                        assert_eq!(taken + len, end);
                        break;
                    }
                }
            }
        }
        assert_eq!(negotiation.unsent(), b"");
    }
}

/// The sentence about a proxy that gives these answers, each to one of our messages. Every shorter answer asks for
/// more, or says the same.
fn refused(url: &str, answers: &[&[u8]]) -> ProxyError {
    let converse = |last: &[u8], split: bool| {
        let mut negotiation = begin(url, "hub.example.org");
        for answer in &answers[..answers.len() - 1] {
            assert_eq!(negotiation.receive(answer), Ok(Progress::More));
        }
        if !split {
            return negotiation.receive(last);
        }
        let mut progress = Ok(Progress::More);
        for byte in last {
            progress = negotiation.receive(&[*byte]);
            if progress.is_err() {
                break;
            }
        }
        progress
    };
    let last = answers[answers.len() - 1];
    let error = converse(last, false).expect_err("it was accepted");
    assert_eq!(converse(last, true), Err(error.clone()));
    for len in 0..last.len() {
        let progress = converse(&last[..len], false);
        assert!(progress == Ok(Progress::More) || progress == Err(error.clone()), "{len}: {progress:?}");
    }
    error
}

#[test]
fn connect_opens_the_way() {
    let request = b"CONNECT hub.example.org:5678 HTTP/1.1\r\nHost: hub.example.org:5678\r\n\r\n";
    converses(
        "http://proxy",
        "hub.example.org",
        &[(request, b"HTTP/1.1 200 Connection established\r\n\r\n")],
    );
    converses(
        "http://proxy",
        "hub.example.org",
        &[(request, b"HTTP/1.0 200 OK\r\nVia: x\r\nContent-Type: text/html\r\nContent-Length: 0\r\n\r\n")],
    );
    converses(
        "http://proxy",
        "hub.example.org",
        &[(request, b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 \nA: b\n\n")],
    );
    // "ann:p@ss" in Base64.
    converses(
        "http://ann:p%40ss@proxy",
        "2001:db8::1",
        &[(
            b"CONNECT [2001:db8::1]:5678 HTTP/1.1\r\nHost: [2001:db8::1]:5678\r\n\
          Proxy-Authorization: Basic YW5uOnBAc3M=\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n\r\n",
        )],
    );
}

#[test]
fn connect_refusals_say_what_to_do() {
    for (answer, cause, says) in [
        ("403 Forbidden\r\n", Cause::Status(403), "does not allow connections to hub.example.org:5678"),
        ("407 No\r\nProxy-Authenticate: Basic\r\n", Cause::WantsPassword, "give them as USER:PASSWORD@"),
        ("407 No\r\n", Cause::WantsPassword, "give them as USER:PASSWORD@"),
        (
            "407 No\r\nProxy-Authenticate: Negotiate\r\nProxy-Authenticate: NTLM x\r\n",
            Cause::UnknownLogin("Negotiate, NTLM".to_owned()),
            "wants the log-in Negotiate, NTLM",
        ),
        ("502 \r\n", Cause::Status(502), "answered 502 Bad Gateway: it cannot reach hub.example.org:5678"),
        ("503 \r\n", Cause::Status(503), "cannot reach"),
        ("504 \r\n", Cause::Status(504), "cannot reach"),
        ("405 \r\n", Cause::Status(405), "a proxy without CONNECT"),
        ("599 \r\n", Cause::Status(599), "answered 599: it does not connect"),
        ("302 Found\r\nLocation: http://portal.example/\x07\r\n", Cause::Garbage, "no answer of a proxy"),
        (
            "302 Found\r\nLocation: http://portal.example/\u{e4}\r\n",
            Cause::Portal(Some("http://portal.example/??".to_owned())),
            "captive portals do: log in there first, at http://portal.example/??",
        ),
        ("200 OK\r\nContent-Type: text/html\r\n", Cause::Portal(None), "log in there first, with a browser"),
    ] {
        let answer = format!("HTTP/1.1 {answer}\r\n");
        let error = refused("http://proxy:80", &[answer.as_bytes()]);
        assert_eq!(error.cause, cause, "{answer}");
        let said = error.to_string();
        assert!(said.contains("http://proxy:80") || said.starts_with("what http"), "{said}");
        assert!(said.contains(says), "{said}");
        assert!(!said.contains('\n') && said.is_ascii(), "{said}");
    }
    let wrong = refused("http://a:secret@proxy", &[b"HTTP/1.1 407 No\r\nProxy-Authenticate: basic\r\n\r\n"]);
    assert_eq!(wrong.cause, Cause::RejectedPassword);
    assert!(!wrong.to_string().contains("secret"));
}

#[test]
fn what_is_no_http_proxy_is_known_by_its_first_bytes() {
    for (answer, cause) in [
        (&b"\x05\x00"[..], Cause::IsSocks),
        (b"SSH-2.0-x\r\n", Cause::Garbage),
        (b"\x15\x03\x01", Cause::Garbage),
        (b"HTTP/2 200\r\n\r\n", Cause::Garbage),
        (b"<html>", Cause::Garbage),
    ] {
        assert_eq!(refused("http://proxy", &[answer]).cause, cause, "{answer:?}");
    }
    let endless = [b"HTTP/1.1 200 OK\r\nA: ".to_vec(), vec![b'a'; http::MAX_HEAD]].concat();
    let mut negotiation = begin("http://proxy", "hub");
    assert_eq!(negotiation.receive(&endless).unwrap_err().cause, Cause::TooLong);
}

#[test]
fn socks_opens_the_way() {
    let by_name = b"\x05\x01\x00\x03\x0fhub.example.org\x16\x2e";
    let greeting: &[u8] = b"\x05\x01\x00";
    converses(
        "socks5://proxy",
        "hub.example.org",
        &[(greeting, b"\x05\x00"), (by_name, b"\x05\x00\x00\x01\x7f\x00\x00\x01\x10\x00")],
    );
    converses(
        "socks5h://proxy",
        "192.0.2.1",
        &[
            (greeting, b"\x05\x00"),
            (b"\x05\x01\x00\x01\xc0\x00\x02\x01\x16\x2e", b"\x05\x00\x00\x03\x02ab\x10\x00"),
        ],
    );
    converses(
        "socks5://proxy",
        "2001:db8::1",
        &[
            (greeting, b"\x05\x00"),
            (
                b"\x05\x01\x00\x04\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\x16\x2e",
                b"\x05\x00\x00\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
            ),
        ],
    );
    for status in [b"\x01\x00", b"\x05\x00"] {
        converses(
            "socks5://ann:secret@proxy",
            "hub.example.org",
            &[
                (b"\x05\x02\x00\x02", b"\x05\x02"),
                (b"\x01\x03ann\x06secret", status),
                (by_name, b"\x05\x00\x00\x03\x00\x10\x00"),
            ],
        );
    }
    // A log-in that is not wanted is not sent.
    converses(
        "socks5://ann:secret@proxy",
        "hub.example.org",
        &[(b"\x05\x02\x00\x02", b"\x05\x00"), (by_name, b"\x05\x00\x00\x01\0\0\0\0\0\0")],
    );
}

#[test]
fn socks_refusals_say_what_to_do() {
    let says = |error: ProxyError, cause: Cause, text: &str| {
        let said = error.to_string();
        assert_eq!(error.cause, cause, "{said}");
        assert!(said.contains(text), "{said}");
    };
    let (open, password) = ("socks5://proxy", "socks5://a:b@proxy");
    says(refused(open, &[b"\x05\xff"]), Cause::WantsPassword, "USER:PASSWORD@");
    says(refused(password, &[b"\x05\xff"]), Cause::UnknownLogin(String::new()), "takes no log-in");
    says(refused(open, &[b"\x05\x02"]), Cause::Garbage, "check its host, port and scheme");
    says(refused(open, &[b"HTTP/1.1 400 Bad\r\n"]), Cause::IsHttp, "write http://");
    says(refused(open, &[b"\x00\x5b"]), Cause::IsSocks4, "SOCKS5 is needed");
    says(refused(open, &[b"\xff"]), Cause::Garbage, "no answer of a proxy");
    says(refused(password, &[b"\x05\x02", b"\x01\x01"]), Cause::RejectedPassword, "check them");
    says(refused(password, &[b"\x05\x02", b"\x07\x00"]), Cause::Garbage, "no answer of a proxy");
    says(refused(open, &[b"\x05\x00", b"\x05\x00\x00\x07"]), Cause::Garbage, "no answer of a proxy");
    for (code, text) in [
        (1, "failed to connect to hub.example.org:5678"),
        (2, "does not allow connections"),
        (3, "has no route"),
        (4, "cannot reach"),
        (5, "was refused by hub.example.org:5678: is the hub running"),
        (6, "got no answer"),
        (7, "CONNECT"),
        (8, "of this kind"),
        (200, "code 200"),
    ] {
        says(refused(open, &[b"\x05\x00", &[5, code]]), Cause::Code(code), text);
    }
}

#[test]
fn what_socks_has_no_room_for_is_said_before_anything_is_sent() {
    let long = "x".repeat(256);
    for (url, host) in [
        ("socks5://proxy".to_owned(), long.as_str()),
        (format!("socks5://{long}:b@proxy"), "hub"),
        (format!("socks5://a:{long}@proxy"), "hub"),
    ] {
        let error = Negotiation::new(&url.parse().unwrap(), destination(host)).unwrap_err();
        assert_eq!(error.cause, Cause::TooLongToSay);
    }
    let just = "x".repeat(255);
    begin(&format!("socks5://{just}:{just}@proxy"), &just);
}

#[test]
fn a_proxy_that_closes_is_named() {
    let said = begin("socks5://proxy", "hub").closed().to_string();
    assert!(
        said.starts_with("the proxy socks5://proxy:1080 closed the connection without an answer"),
        "{said}"
    );
}
