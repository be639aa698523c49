//! What each fuzz target does with its bytes. Shared by the targets and by the test that replays the corpus.
//!
//! A body panics where something that must hold does not; that nothing else panics is the other half.

use std::net::IpAddr;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use common::packet::drops::Reason;
use common::packet::icmp;
use common::packet::offload::{self, Features};
use common::packet::{self, MAX_PACKET, VNET_LEN};
use common::queue::Pool;
use common::wire::frame::{self, ControlFrame, Farewell, Join, Welcome};
use common::wire::hello::check_hello;
use common::wire::inbox::Inbox;
use common::wire::key::PrivateKey;
use common::wire::lane::Proof;
use common::wire::name::Name;
use common::wire::tunnel::{Error, Event, QUEUE_BYTES, Tunnel, outbox};
use hub::lan::members::{Access, Decision, Members};
use hub::lan::rules::access::{AccessControl, Party};
use hub::lan::rules::{self, Rules, Service};
use hub::lan::subnets::Subnets;

#[path = "around.rs"]
mod around;
#[path = "lane.rs"]
mod lane;

pub(crate) use around::{icmp, proxy, websocket};
pub(crate) use lane::lane;

/// Virtual time has to start somewhere.
fn start() -> Instant {
    static START: OnceLock<Instant> = OnceLock::new();
    #[allow(clippy::disallowed_methods, reason = "virtual time has to start somewhere")]
    *START.get_or_init(Instant::now)
}

fn key(seed: u8) -> PrivateKey {
    PrivateKey::from_random([seed; 32])
}

fn join() -> Join {
    Join::new(Name::nearest("fuzz"))
}

/// Input as a source of decisions; at its end all are 0.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn byte(&mut self) -> u8 {
        let Some((&byte, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        byte
    }

    fn word(&mut self) -> usize {
        usize::from(self.byte()) << 8 | usize::from(self.byte())
    }

    fn take(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }
}

/// One end of a tunnel and what its process has.
struct End {
    tunnel: Tunnel,
    inbox: Inbox,
    pool: Pool,
    packets: Vec<Vec<u8>>,
    is_told: bool,
}

impl End {
    fn new(make: impl FnOnce(&mut Pool) -> Tunnel) -> End {
        let mut pool = Pool::new(1 << 20);
        let tunnel = make(&mut pool);
        End { tunnel, inbox: Inbox::default(), pool, packets: Vec::new(), is_told: false }
    }

    fn hub() -> End {
        End::new(|_| Tunnel::hub(&key(2), [4; 32], start()))
    }

    fn spoke() -> End {
        End::new(|pool| Tunnel::spoke(&key(1), [3; 32], None, &join(), pool, start()))
    }

    /// Reads bytes and opens what they complete. A hub lets in whoever asks.
    fn read(&mut self, bytes: &[u8], now: Instant) -> Result<(), Error> {
        self.tunnel.unpark(&mut self.inbox, &mut self.pool);
        self.inbox.space()[..bytes.len()].copy_from_slice(bytes);
        self.inbox.filled(bytes.len());
        self.tunnel.heard(now);
        let opened = self.open(now);
        self.tunnel.park(&mut self.inbox, &mut self.pool);
        opened
    }

    fn open(&mut self, now: Instant) -> Result<(), Error> {
        while let Some(event) = self.tunnel.open(&mut self.inbox, &mut self.pool, now)? {
            match event {
                Event::Packet(packet) => {
                    self.packets.push(packet.to_vec());
                    self.pool.give(packet);
                }
                Event::Join { .. } => {
                    self.is_told = true;
                    let name = Name::nearest("fuzz");
                    let welcome = Welcome::new(name, 1_500);
                    self.tunnel.welcome(welcome, now)?;
                }
                Event::Attach { .. } => {
                    self.is_told = true;
                    self.tunnel.attached(now)?;
                }
                Event::Control(ControlFrame::Bye(_) | ControlFrame::Refused { .. }) => self.is_told = true,
                Event::Control(_) => {}
            }
        }
        Ok(())
    }

    /// Writes up to `most` bytes of what there is.
    fn write(&mut self, most: usize, now: Instant) -> Vec<u8> {
        if self.tunnel.unsent().is_empty() {
            let mut outbox = outbox();
            self.tunnel.seal(&mut outbox, &mut self.pool, now).expect("there are nonces enough");
            let len = outbox.len().min(most);
            self.tunnel.wrote(&outbox, len, &mut self.pool, now);
            outbox[..len].to_vec()
        } else {
            let bytes = self.tunnel.unsent();
            let bytes = bytes[..bytes.len().min(most)].to_vec();
            self.tunnel.sent(bytes.len(), &mut self.pool, now);
            bytes
        }
    }
}

/// Clear hello and handshake: `data` is what a stranger says to a hub at its beginning, to a hub that waits for
/// the third message, or to a spoke. Nobody gets in.
pub(crate) fn handshake(data: &[u8]) {
    let _ = check_hello(data);
    if let Ok(join) = Join::decode(data) {
        assert_eq!(Join::decode(&join.encode()), Ok(join));
        assert_eq!(Proof::decode(data), None, "it is one or the other");
    }
    if let Some(proof) = Proof::decode(data) {
        assert_eq!(proof.encode(), data);
    }
    let mut bytes = Bytes(data);
    let choice = bytes.byte();
    let chunk = usize::from(bytes.byte()) + 1;
    let mut end = if choice % 3 == 1 { End::spoke() } else { End::hub() };
    if choice % 3 == 2 {
        let first = End::spoke().write(usize::MAX, start());
        end.read(&first, start()).expect("an honest beginning");
        end.write(usize::MAX, start());
    }
    for part in bytes.0.chunks(chunk).take(2_000) {
        if end.read(part, start()).is_err() {
            break;
        }
        end.write(usize::MAX, start());
        assert!(end.tunnel.is_half_open() && !end.is_told, "a stranger got in");
    }
    assert!(end.packets.is_empty() && !end.tunnel.is_open());
}

/// Opened records: `data` is a stream of frames from an authenticated end.
pub(crate) fn frames(data: &[u8]) {
    let mut rest = data;
    while let Ok(Some(header)) = frame::Header::decode(rest) {
        assert!(header.len <= frame::MAX_BODY);
        let Some(body) = rest[frame::HEADER_LEN..].get(..header.len) else { return };
        rest = &rest[frame::HEADER_LEN + header.len..];
        if header.is_packet() {
            continue;
        }
        let Ok(Some(control)) = ControlFrame::decode(header, body) else { continue };
        let mut encoded = Vec::new();
        control.encode(&mut encoded);
        let again = frame::Header::decode(&encoded).expect("within the bound").expect("a whole header");
        let again = ControlFrame::decode(again, &encoded[frame::HEADER_LEN..]).expect("our own frame");
        // A text that is longer than we send is cut.
        if !matches!(&control, ControlFrame::Refused { text, .. } if text.len() > frame::MAX_TEXT / 4) {
            assert_eq!(again, Some(control));
        }
    }
}

/// Virtio-net header and IP packet, and all that is done to one that was let pass.
pub(crate) fn packet(data: &[u8]) {
    let mut bytes = Bytes(data);
    let mtu = bytes.word();
    let mut packet = bytes.0[..bytes.0.len().min(MAX_PACKET)].to_vec();
    packet::mark_congestion(&mut packet.clone());
    offload::complete(&mut packet.clone());
    let mut scratch = Vec::new();
    // Whatever comes: no panic, also without `check`.
    offload::split_front(&mut packet.clone(), mtu, &mut scratch);
    offload::segment(&mut packet.clone(), Features::default(), &mut scratch, |_| {});
    let mut own = packet.clone();
    if let Ok(header) = offload::check_own(&mut own) {
        let finished = own.clone();
        assert_eq!(offload::check(&mut own), Ok(header), "what our own kernel left open is finished");
        assert_eq!(own, finished, "and stays as it is");
    }
    let Ok(header) = offload::check(&mut packet) else { return };

    let checked = packet.clone();
    assert_eq!(offload::check(&mut packet), Ok(header), "a packet that was let pass is let pass again");
    assert_eq!(packet, checked, "and stays as it is");
    assert_eq!(header.length + VNET_LEN, packet.len());
    assert!(header.l4 <= header.length);
    assert!(!header.to_string().is_empty());
    assert_eq!(header.flow(1), header.flow(1));
    let mut marked = packet.clone();
    packet::mark_congestion(&mut marked);
    assert_eq!(offload::check(&mut marked).map(|marked| marked.length), Ok(header.length));

    for features in [
        Features::default(),
        Features { checksum: true, tcp: true, udp: false },
        Features { checksum: true, tcp: true, udp: true },
    ] {
        let mut total = 0;
        offload::segment(&mut packet.clone(), features, &mut scratch, |piece| {
            total += piece.len() - header.l4 - VNET_LEN;
            assert!(offload::check(&mut piece.to_vec()).is_ok(), "a piece is a packet");
            assert!(features.fits(piece), "that this kernel takes");
        });
        assert!(total + header.l4 + VNET_LEN >= packet.len(), "nothing is lost");
    }
    let mut rest = packet.clone();
    let mut at = 0;
    while let Some(offset) = offload::split_front(&mut rest[at..], mtu, &mut scratch) {
        assert!(offload::check(&mut scratch.clone()).is_ok(), "a front is a packet");
        at += offset;
        assert!(offload::check(&mut rest[at..].to_vec()).is_ok(), "and so is the rest");
    }
    let mut fragments = 0;
    offload::fragment(&mut packet.clone(), &header, mtu, &mut scratch, |fragment| {
        fragments += 1;
        assert!(fragment.len() <= VNET_LEN + mtu && packet::parse(&fragment[VNET_LEN..]).is_ok());
    });
    assert!(fragments <= MAX_PACKET / 8);
    for hub in ["10.0.0.1", "fd00::1"].map(|text| text.parse::<IpAddr>().expect("an address")) {
        for mut answer in
            [icmp::unreachable(&packet, &header, hub, None), icmp::too_big(&packet, &header, hub, None, mtu)]
                .into_iter()
                .flatten()
                .map(|answer| answer.to_vec())
        {
            let answer = offload::check(&mut answer).expect("an answer is a packet");
            assert_eq!((answer.source, answer.destination), (hub, header.source));
        }
    }
}

/// Requests through the control sockets: whatever is understood can be said again.
pub(crate) fn control(data: &[u8]) {
    if let Ok((request, _)) = common::node::request::decode::<hub::control::Request>(data) {
        let again = common::node::request::to_json(&request);
        let by = common::node::request::By::default();
        assert_eq!(common::node::request::decode(again.as_bytes()), Ok((request, by)));
    }
}

/// The hub's list of members: whatever is read can be written and read again, and can be joined.
pub(crate) fn members(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let subnets = ["10.0.0.0/29", "fd00::/125"].map(|text| text.parse().expect("a prefix"));
    let subnets = Subnets::new(&subnets).expect("for hosts");
    let mut members = match Members::parse(text, subnets) {
        Ok(members) => members,
        Err(bad) => {
            assert!((1..=text.lines().count()).contains(&bad.line) && !bad.why.is_empty());
            return;
        }
    };
    let written = members.to_text();
    assert_eq!(lines(&written), lines(text));
    for seed in 1..4 {
        let wish = Join { addresses: vec!["10.0.0.3".parse().expect("an address")], ..join() };
        match members.admit(key(seed).public(), &wish, Access::Open, &[]) {
            Decision::Member { id, .. } => {
                assert_eq!(members.by_key(&key(seed).public()), Some(id));
                assert_eq!(members.holder(wish.addresses[0]), Some(id));
            }
            Decision::Dispute(_) => panic!("nobody is online"),
            Decision::Refused(..) => {}
        }
    }
    if let Some(id) = members.by_key(&key(1).public()) {
        members.revoke(id);
        assert!(members.is_revoked(&key(1).public()));
    }
    let written = members.to_text();
    members.replace(Members::parse(&written, subnets).expect("what was written can be read"));
    assert_eq!(lines(&members.to_text()), lines(&written));
    let again = Members::parse(&written, subnets).map(|again| again.to_text());
    assert_eq!(again.as_deref().map(lines), Ok(lines(&written)));
}

/// Lines without the carriage returns at their ends, which need not survive.
fn lines(text: &str) -> Vec<&str> {
    text.lines().map(|line| line.trim_end_matches('\r')).collect()
}

/// The whole tunnel: `data` decides what both ends do, what the stream between them does, and the time.
pub(crate) fn tunnel(data: &[u8]) {
    let mut bytes = Bytes(data);
    let mut now = start();
    let mut ends = [End::spoke(), End::hub()];
    let mut wires = [Vec::new(), Vec::new()];
    let mut sent = [Vec::new(), Vec::new()];
    let mut is_sound = [true; 2];
    let mut number = 0u8;
    for _ in 0..2_000 {
        if bytes.0.is_empty() {
            break;
        }
        let choice = bytes.byte();
        let at = usize::from(choice & 1);
        let end = &mut ends[at];
        match choice >> 1 & 7 {
            // Writing and reading most, as nothing happens without.
            0 | 1 => {
                let most = if choice >= 128 { usize::MAX } else { bytes.word() };
                wires[at].extend(end.write(most, now));
            }
            2 | 3 => {
                let most = if choice >= 128 { 200_000 } else { bytes.word() };
                let wire = &mut wires[1 - at];
                let part: Vec<u8> = wire.drain(..most.min(wire.len())).collect();
                if let Err(error) = end.read(&part, now) {
                    // The handshake proves both directions: damage in one shows in the other.
                    assert!(is_sound != [true; 2] || end.is_told, "a sound stream broke: {error}");
                    break;
                }
            }
            4 if end.tunnel.is_open() => {
                number = number.wrapping_add(1);
                let len = VNET_LEN + bytes.word() % (MAX_PACKET - VNET_LEN);
                let mut packet = vec![number; len];
                packet[..VNET_LEN].fill(0);
                let packet = end.pool.copy(&packet);
                if end.tunnel.queue().cost() + packet.truesize() + 1_000 < QUEUE_BYTES {
                    sent[at].push((number, len));
                    end.tunnel.enqueue(packet, 0, &mut end.pool, now);
                }
            }
            5 => {
                let most = if choice >= 128 { 5_000 } else { 1 };
                now += Duration::from_millis(u64::from(bytes.byte()) * most / 255);
                for end in &mut ends {
                    if end.tunnel.handle_timeout(now).is_err() {
                        return;
                    }
                    let is_waiting = !end.is_told || end.tunnel.is_open();
                    assert!(!is_waiting || end.tunnel.deadline() > now, "a deadline in the past");
                }
            }
            6 => {
                let len = usize::from(bytes.byte());
                let text = bytes.take(len);
                let header = frame::Header::decode(&[choice >> 4, 0, 0, text.len() as u8]);
                if let Ok(Some(header)) = header
                    && let Ok(Some(control)) = ControlFrame::decode(header, text)
                    && end.tunnel.remote().is_some()
                {
                    // Not all may be said by this end at this time.
                    is_sound[at] &= matches!(control, ControlFrame::Ping(_) | ControlFrame::Pong(_));
                    if end.tunnel.control(&control).is_err() {
                        return;
                    }
                }
            }
            7 => {
                let place = bytes.word();
                let wire = &mut wires[at];
                match choice >> 4 {
                    0..4 if !wire.is_empty() => {
                        let bit = place % (wire.len() * 8);
                        wire[bit / 8] ^= 1 << (bit % 8);
                        is_sound[at] = false;
                    }
                    4..6 => {
                        let len = usize::from(bytes.byte());
                        wire.extend(bytes.take(len));
                        is_sound[at] &= len == 0;
                    }
                    6 => {
                        wire.truncate(place % (wire.len() + 1));
                        is_sound[at] = false;
                    }
                    7 => {
                        // A goodbye: whatever follows breaks the link, as it may.
                        end.is_told = true;
                        let _ = end.tunnel.bye(Farewell::Stopping);
                        is_sound[at] = false;
                    }
                    8 => {
                        let _ = end.tunnel.ping(now);
                    }
                    9 => {
                        end.tunnel.close(&mut end.pool);
                        return;
                    }
                    _ => {}
                }
            }
            _ => {}
        }
        for (to, from) in [(0, 1), (1, 0)] {
            let got = &ends[to].packets;
            let queue_drops = ends[from].tunnel.queue().drops();
            assert!(got.len() <= sent[from].len(), "a packet came out of nowhere");
            let lost = queue_drops.of(Reason::Delay) + queue_drops.of(Reason::QueueFull);
            if lost == 0 {
                for (packet, &(number, len)) in got.iter().zip(&sent[from]) {
                    let is_same =
                        packet.len() == len && packet[VNET_LEN..].iter().all(|&byte| byte == number);
                    assert!(is_same, "a packet was changed");
                }
            }
        }
    }
}

/// The hub's access rules, up to a zero byte, and a packet behind it: what is read decides as its own lines say.
pub(crate) fn rules(data: &[u8]) {
    let at = data.iter().position(|byte| *byte == 0).unwrap_or(data.len());
    let Ok(text) = std::str::from_utf8(&data[..at]) else { return };
    let rules = match Rules::parse(text) {
        Ok(rules) => rules,
        Err(bad) => {
            assert!((1..=text.lines().count()).contains(&bad.line) && !bad.why.is_empty());
            return;
        }
    };
    let [laptop, nas, tag] = ["laptop", "nas", "db"].map(|name| name.parse::<Name>().expect("a name"));
    let [of_laptop, of_nas, of_hub] =
        ["10.0.0.2", "fd00::3", "10.0.0.1"].map(|text| text.parse::<IpAddr>().expect("an address"));
    let tags = [tag];
    let ends = [
        rules::End { is_hub: false, name: Some(&laptop), tags: &[], address: of_laptop },
        rules::End { is_hub: false, name: Some(&nas), tags: &tags, address: of_nas },
        rules::End { is_hub: true, name: None, tags: &[], address: of_hub },
    ];
    let services = [Service::Tcp(22), Service::Udp(53), Service::Icmp, Service::Other(47)];
    for (from, to) in ends.iter().flat_map(|from| ends.iter().map(move |to| (*from, *to))) {
        for service in services {
            let decision = rules.decide(from, to, service);
            let Some(line) = decision.line else {
                assert!(!decision.allows, "what no line matches is denied");
                continue;
            };
            let shown = rules.text(line).expect("a line that decides has a text");
            assert_eq!(shown.starts_with("allow"), decision.allows);
            // No line behind it has a say.
            let until: String = text.lines().take(line).map(|line| format!("{line}\n")).collect();
            let until = Rules::parse(&until).expect("the beginning of what was read");
            assert_eq!(until.decide(from, to, service), decision);
        }
    }
    let mut packet = data.get(at + 1..).unwrap_or_default().to_vec();
    packet.truncate(MAX_PACKET);
    let Ok(header) = offload::check(&mut packet) else { return };
    let mut control = AccessControl::new(rules);
    let parties = [Party::Member(0), Party::Member(1), Party::Hub];
    let end = |party, address| match party {
        Party::Member(index) => rules::End { address, ..ends[index] },
        Party::Hub => rules::End { address, ..ends[2] },
    };
    let mut packets = 0;
    for (from, to) in parties.iter().flat_map(|from| parties.iter().map(move |to| (*from, *to))) {
        for _ in 0..2 {
            control.allows(from, to, &header, &packet[VNET_LEN..], start(), end);
            packets += 1;
            let counted: u64 = control.counts().map(|count| count.packets).sum();
            assert!(counted <= packets, "a packet counts once");
        }
    }
}
