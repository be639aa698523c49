//! Clients and servers in memory, in every combination of layers.

use super::*;
use crate::transport::proxy::Destination;
use crate::transport::tls::files;
use crate::transport::tls::tests::Directory;
use crate::wire::hello::hello;

/// What a hub does with a connection: it sniffs first.
struct Server {
    first: Vec<u8>,
    layers: Option<Layers>,
    config: Arc<ServerConfig>,
}

impl Server {
    fn receive(&mut self, bytes: &[u8]) -> Result<(), Error> {
        if let Some(layers) = &mut self.layers {
            return layers.receive(bytes);
        }
        self.first.extend(bytes);
        let Some(carries) = sniff(&self.first) else { return Ok(()) };
        self.layers.insert(Layers::server(carries, Some(&self.config))?).receive(&self.first)
    }
}

fn read(layers: &mut Layers) -> Vec<u8> {
    let mut all = Vec::new();
    while layers.has_plain() {
        let mut space = [0; 1_000];
        let len = layers.read(&mut space);
        all.extend(&space[..len]);
    }
    all
}

fn take_unsent(layers: &mut Layers) -> Vec<u8> {
    let unsent = layers.unsent().to_vec();
    layers.sent(unsent.len());
    unsent
}

/// Takes what the tunnel sends as an event loop does.
fn send_all(layers: &mut Layers, mut plain: &[u8]) -> Vec<u8> {
    let mut wire = Vec::new();
    while !plain.is_empty() {
        let len = layers.send(plain).unwrap();
        assert!(len > 0);
        assert_eq!(layers.send(&plain[len..]), Ok(0), "some are unsent");
        plain = &plain[len..];
        wire.extend(take_unsent(layers));
    }
    wire
}

/// The answers of proxies, by what came before.
fn proxy_answer(seen: &[u8]) -> &'static [u8] {
    match seen {
        [5, 1, 0] => b"\x05\x00",
        [5, 1, 0, 5, 1, 0, 3, ..] => b"\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00",
        _ if seen.ends_with(b"\r\n\r\n") => b"HTTP/1.1 200 OK\r\n\r\n",
        _ => b"",
    }
}

#[test]
fn all_layers_in_all_combinations_carry_the_tunnel() {
    let directory = Directory::new("layers");
    let (certificate, key) = directory.certificate("hub", "DNS:hub.example.org", "CA:FALSE");
    let server_config = files::server(&certificate, &key).unwrap();
    let client_config = files::client(Some(&certificate), None).unwrap();
    // Behind our hello, so that a server knows it.
    let bytes: Vec<u8> =
        hello().into_iter().chain((0..200_000u32).map(|n| n as u8 ^ (n >> 8) as u8)).collect();

    for combination in 0..24 {
        let (proxy, has_tls, has_web, split) =
            (combination % 3, combination / 3 % 2 == 1, combination / 6 % 2 == 1, combination / 12);
        let split = if split == 0 { usize::MAX } else { 3 };
        let destination = Destination { host: "hub.example.org".to_owned(), port: 443 };
        let through = |url: &str| Negotiation::new(&url.parse().unwrap(), destination.clone()).unwrap();
        let plan = Plan {
            proxy: [None, Some("http://proxy"), Some("socks5://proxy")][proxy].map(through),
            tls: has_tls.then(|| (Arc::clone(&client_config), "hub.example.org".to_owned())),
            web: has_web.then(|| Ask { host: "hub".to_owned(), path: "/".to_owned(), key: [7; 16] }),
        };
        let mut client = Layers::client(plan).unwrap();
        let mut server = Server { first: Vec::new(), layers: None, config: Arc::clone(&server_config) };

        let mut to_proxy = Vec::new();
        while client.stage() == Stage::Proxy {
            to_proxy.extend(take_unsent(&mut client));
            for piece in proxy_answer(&to_proxy).chunks(split) {
                client.receive(piece).unwrap();
            }
        }
        while !client.is_open() {
            assert_eq!(client.send(&bytes), Ok(0), "it is not open");
            for piece in take_unsent(&mut client).chunks(split) {
                server.receive(piece).unwrap();
            }
            for piece in server.layers.as_mut().map(take_unsent).unwrap_or_default().chunks(split) {
                client.receive(piece).unwrap();
            }
        }
        assert!(!client.has_plain());

        let early = take_unsent(&mut client);
        let mut received = Vec::new();
        for piece in [early, send_all(&mut client, &bytes)].concat().chunks(split) {
            server.receive(piece).unwrap();
            received.extend(server.layers.as_mut().map(read).unwrap_or_default());
        }
        assert!(received == bytes, "to the server, combination {combination}");

        let server = server.layers.as_mut().unwrap();
        assert!(server.is_open());
        let early = take_unsent(server);
        received.clear();
        for piece in [early, send_all(server, &bytes)].concat().chunks(split) {
            client.receive(piece).unwrap();
            received.extend(read(&mut client));
        }
        assert!(received == bytes, "to the client, combination {combination}");
        assert_eq!((client.plain.capacity(), client.unsent.capacity()), (0, 0), "idle costs nothing");
        assert_eq!((server.plain.capacity(), server.unsent.capacity()), (0, 0), "idle costs nothing");
    }
}

#[test]
fn a_browser_gets_its_page_in_clear_and_in_tls_and_never_our_hello() {
    let directory = Directory::new("browser");
    let (certificate, key) = directory.certificate("hub", "DNS:hub.example.org", "CA:FALSE");
    let config = files::server(&certificate, &key).unwrap();
    let client_config = files::client(Some(&certificate), None).unwrap();
    for has_tls in [false, true] {
        let plan = Plan {
            tls: has_tls.then(|| (Arc::clone(&client_config), "hub.example.org".to_owned())),
            ..Plan::default()
        };
        let mut browser = Layers::client(plan).unwrap();
        let mut server = Server { first: Vec::new(), layers: None, config: Arc::clone(&config) };
        while !browser.is_open() {
            server.receive(&take_unsent(&mut browser)).unwrap();
            let answer = take_unsent(server.layers.as_mut().unwrap());
            browser.receive(&answer).unwrap();
        }
        let early = take_unsent(&mut browser);
        let request = send_all(&mut browser, b"GET / HTTP/1.1\r\nHost: hub.example.org\r\n\r\n");
        assert_eq!(server.receive(&[early, request].concat()), Err(Error::Web(WebError::Page)));
        let last_words = take_unsent(server.layers.as_mut().unwrap());
        browser.receive(&last_words).unwrap();
        let page = String::from_utf8(read(&mut browser)).unwrap();
        assert!(page.starts_with("HTTP/1.1 404 Not Found\r\n"), "{page}");
        assert!(!page.contains("hub"), "{page}");
    }
}

#[test]
fn a_server_without_a_certificate_says_so() {
    assert_eq!(Layers::server(Carries::Tls, None).err(), Some(Error::NoCertificate));
}

#[test]
fn an_early_end_is_told_by_the_stage() {
    let directory = Directory::new("early");
    let (certificate, _) = directory.certificate("hub", "DNS:hub.example.org", "CA:FALSE");
    let config = files::client(Some(&certificate), None).unwrap();
    let ask = Ask { host: "hub".to_owned(), path: "/".to_owned(), key: [7; 16] };
    let destination = Destination { host: "hub".to_owned(), port: 443 };
    let negotiation = Negotiation::new(&"http://proxy".parse().unwrap(), destination).unwrap();
    let says = |plan: Plan| Layers::client(plan).unwrap().closed().map(|error| error.to_string());
    let proxy = says(Plan { proxy: Some(negotiation), ..Plan::default() }).unwrap();
    assert!(proxy.contains("the proxy http://proxy:1080 closed the connection"), "{proxy}");
    let tls = says(Plan { tls: Some((config, "hub".to_owned())), web: Some(ask.clone()), proxy: None });
    assert_eq!(tls.as_deref(), Some("it closed the connection during the TLS handshake"));
    let web = says(Plan { web: Some(ask), ..Plan::default() });
    assert_eq!(web.as_deref(), Some("it closed the connection during the request for a WebSocket"));
    assert_eq!(says(Plan::default()), None);
}

#[test]
fn who_pings_and_does_not_read_is_given_up() {
    let ask = Ask { host: "hub".to_owned(), path: "/".to_owned(), key: [7; 16] };
    let mut client = Layers::client(Plan { web: Some(ask), ..Plan::default() }).unwrap();
    let mut server = Layers::server(Carries::Http, None).unwrap();
    server.receive(&take_unsent(&mut client)).unwrap();
    client.receive(&take_unsent(&mut server)).unwrap();
    let pings = [[0x89, 0x84, 0, 0, 0, 0, b'p', b'i', b'n', b'g']; 1_000].concat();
    let gives_up = (0..100).find_map(|_| server.receive(&pings).err());
    assert_eq!(gives_up, Some(Error::SendBufferFull));
    assert!(server.unsent().len() < 200_000, "{} bytes wait", server.unsent().len());
}
