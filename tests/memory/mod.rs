//! A LAN in memory: two spokes' tunnels and a hub's core, joined without sockets, clocks and files.
//!
//! Include it with `#[path = "memory/mod.rs"] mod memory;`.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "for tests and benchmarks")]

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use common::packet::{self, VNET_LEN};
use common::queue::{Buf, Pool};
use common::wire::frame::{ControlFrame, Join};
use common::wire::inbox::Inbox;
use common::wire::key::PrivateKey;
use common::wire::name::Name;
use common::wire::tunnel::{Event, Tunnel, outbox};
use hub::core::{Core, Files};
use hub::effect::Effect;
use hub::ids::SessionId;
use hub::lan::Lan;
use hub::lan::invites::Invites;
use hub::lan::keeper::LanFile;
use hub::lan::members::{Access, Members};
use hub::lan::moves::Moves;
use hub::lan::rules::Rules;
use hub::lan::saving::{Done, Fingerprint, Job, Written};
use hub::lan::subnets::Subnets;

/// A spoke's end, as its client has it.
pub(crate) struct Spoke {
    tunnel: Tunnel,
    session: SessionId,
    /// What it sends to the other spoke.
    packets: Vec<Vec<u8>>,
    pub(crate) received: usize,
}

/// Two spokes and their hub, joined by memory.
pub(crate) struct World {
    hub: Core,
    pub(crate) spokes: [Spoke; 2],
    pool: Pool,
    spoke_inbox: Inbox,
    outbox: Buf,
    dirty: Vec<SessionId>,
    now: Instant,
}

/// A UDP packet of `length` bytes between the spokes, with an empty virtio-net header.
fn udp(from: Ipv4Addr, to: Ipv4Addr, length: u16, port: u16) -> Vec<u8> {
    let mut packet = vec![0; VNET_LEN + usize::from(length)];
    let ip = &mut packet[VNET_LEN..];
    ip[0] = 0x45;
    ip[2..4].copy_from_slice(&length.to_be_bytes());
    ip[8] = 64;
    ip[9] = packet::protocol::UDP;
    ip[12..16].copy_from_slice(&from.octets());
    ip[16..20].copy_from_slice(&to.octets());
    ip[20..22].copy_from_slice(&port.to_be_bytes());
    ip[24..26].copy_from_slice(&(length - 20).to_be_bytes());
    packet
}

impl World {
    /// A hub with these access rules, if any; in each turn each spoke sends the other twenty packets,
    /// of these lengths in turn.
    pub(crate) fn new(rules: Option<Rules>, lengths: &[u16]) -> World {
        let now = Instant::now();
        let subnets = Subnets::new(&["10.0.0.0/24".parse().unwrap()]).unwrap();
        let lan = Lan {
            hub_name: "hub".parse().unwrap(),
            subnets,
            mtu: 1500,
            routes: vec![],
            hub_networks: vec![],
        };
        let files = Files {
            members: Members::parse("", subnets).unwrap(),
            fingerprint: Fingerprint::of(""),
            invites: Invites::default(),
            access: Access::Open,
            rules,
            moves: Moves::default(),
            lan: LanFile::default(),
        };
        let mut hub = Core::new(PrivateKey::from_random([1; 32]), lan, files, 7, Duration::ZERO);
        let mut pool = Pool::new(8 << 20);
        let addresses = [2, 3].map(|host| Ipv4Addr::new(10, 0, 0, host));
        let spokes = [0, 1].map(|index| {
            let source = SocketAddr::from((Ipv4Addr::LOCALHOST, 1000 + index as u16));
            let session = hub.accept(source, [10 + index as u8; 32], now).unwrap();
            let join = Join {
                addresses: vec![addresses[index].into()],
                ..Join::new(Name::nearest(["a", "b"][index]))
            };
            let key = PrivateKey::from_random([20 + index as u8; 32]);
            let tunnel = Tunnel::spoke(&key, [30 + index as u8; 32], None, &join, &mut pool, now);
            let (from, to) = (addresses[index], addresses[1 - index]);
            let length = |n: usize| lengths[n % lengths.len()];
            let packets = (0..20).map(|n| udp(from, to, length(n), 5_000 + n as u16 % 7)).collect();
            Spoke { tunnel, session, packets, received: 0 }
        });
        World { hub, spokes, pool, spoke_inbox: Inbox::default(), outbox: outbox(), dirty: Vec::new(), now }
    }

    /// Each spoke sends its packets, and everything is carried until nothing moves.
    pub(crate) fn turn(&mut self) {
        self.now += Duration::from_millis(3);
        for spoke in &mut self.spokes {
            if !spoke.tunnel.is_open() {
                continue;
            }
            for packet in &spoke.packets {
                let header = packet::parse(&packet[VNET_LEN..]).unwrap();
                let packet = self.pool.copy(packet);
                spoke.tunnel.enqueue(packet, header.flow(7), &mut self.pool, self.now);
            }
        }
        while self.carry() {}
        self.hub.handle_timeouts(self.now);
    }

    fn carry(&mut self) -> bool {
        let mut moved = false;
        for spoke in &mut self.spokes {
            moved |= transfer(&mut spoke.tunnel, &mut self.pool, &mut self.outbox, self.now, |bytes, now| {
                self.hub.receive(spoke.session, now, |space| {
                    space[..bytes.len()].copy_from_slice(bytes);
                    bytes.len()
                });
            });
        }
        self.hub.finish_turn(self.now);
        self.do_effects();
        self.dirty.clear();
        self.hub.take_dirty(&mut self.dirty);
        for &session in &self.dirty {
            let World { hub, spokes, pool, spoke_inbox, now, .. } = self;
            let spoke = spokes.iter_mut().find(|spoke| spoke.session == session).unwrap();
            hub.flush(session, *now, |bytes| {
                moved = true;
                spoke.read(bytes, spoke_inbox, pool, *now);
                bytes.len()
            });
        }
        moved
    }

    fn do_effects(&mut self) {
        while let Some(effect) = self.hub.poll_effect() {
            match effect {
                Effect::Deliver(packet) => self.hub.delivered(packet, true),
                Effect::Save(job) => {
                    let Job::Write { members: Some(_), .. } = *job else { panic!("the hub wants {job:?}") };
                    let done = Done::Written { invites: None, members: Some(Written::Saved) };
                    self.hub.handle_done(done, self.now);
                }
                Effect::Log(_) => {}
                other @ (Effect::Close { .. }
                | Effect::AddRoute(_)
                | Effect::RemoveRoute(_)
                | Effect::Export(..)
                | Effect::SetSubnets(..)
                | Effect::Hurry(_)
                | Effect::Dial(..)
                | Effect::DialLane { .. }
                | Effect::Answer(..)) => panic!("the hub wants {other:?}"),
            }
        }
    }
}

impl Spoke {
    fn read(&mut self, bytes: &[u8], inbox: &mut Inbox, pool: &mut Pool, now: Instant) {
        self.tunnel.fill(inbox, pool, now, |space| {
            space[..bytes.len()].copy_from_slice(bytes);
            bytes.len()
        });
        while let Some(event) = self.tunnel.open(inbox, pool, now).unwrap() {
            match event {
                Event::Packet(packet) => {
                    self.received += 1;
                    pool.give(packet);
                }
                Event::Control(
                    ControlFrame::Welcome(_)
                    | ControlFrame::Routes { .. }
                    | ControlFrame::Hubs(_)
                    | ControlFrame::Lane(_),
                ) => {}
                other @ (Event::Join { .. } | Event::Attach { .. } | Event::Control(_)) => {
                    panic!("the hub said {other:?}")
                }
            }
        }
        self.tunnel.park(inbox, pool);
    }
}

/// Writes once, to a socket that takes all.
fn transfer(
    tunnel: &mut Tunnel,
    pool: &mut Pool,
    outbox: &mut Buf,
    now: Instant,
    mut carry: impl FnMut(&[u8], Instant),
) -> bool {
    let mut moved = false;
    tunnel
        .flush(outbox, pool, now, |bytes| {
            moved = true;
            carry(bytes, now);
            bytes.len()
        })
        .unwrap();
    moved
}
