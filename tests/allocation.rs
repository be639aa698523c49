//! The way of a packet through spoke, hub and spoke allocates nothing once it is warm: a counting allocator looks on.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test")]

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use common::packet::{self, VNET_LEN};
use common::queue::{Buf, Pool};
use common::wire::frame::{ControlFrame, Join};
use common::wire::inbox::Inbox;
use common::wire::key::PrivateKey;
use common::wire::name::Name;
use common::wire::tunnel::{Event, Tunnel, outbox};
use hub::lan::members::{Access, Members};
use hub::lan::subnets::Subnets;
use hub::switch::{Lan, Switch};

/// A spoke's end, as its client has it.
struct Spoke {
    tunnel: Tunnel,
    session: usize,
    /// What it sends to the other spoke.
    packets: Vec<Vec<u8>>,
    received: usize,
}

/// Two spokes and their hub, joined by memory.
struct World {
    switch: Switch,
    spokes: [Spoke; 2],
    pool: Pool,
    hub_inbox: Inbox,
    spoke_inbox: Inbox,
    outbox: Buf,
    dirty: Vec<usize>,
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
    fn new() -> World {
        let now = Instant::now();
        let subnets = Subnets::new(&["10.0.0.0/24".parse().unwrap()]).unwrap();
        let lan = Lan { subnets, mtu: 1500, routes: vec![], hub_networks: vec![] };
        let members = Members::parse("", subnets).unwrap();
        let mut switch = Switch::new(PrivateKey::from_random([1; 32]), lan, Access::Open, members, 7);
        let mut pool = Pool::new(8 << 20);
        let addresses = [2, 3].map(|host| Ipv4Addr::new(10, 0, 0, host));
        let spokes = [0, 1].map(|index| {
            let source = SocketAddr::from((Ipv4Addr::LOCALHOST, 1000 + index as u16));
            let session = switch.accept(source, [10 + index as u8; 32], now).unwrap();
            let join = Join {
                name: Name::nearest(["a", "b"][index]),
                addresses: vec![addresses[index].into()],
                routes: vec![],
                mtu: None,
                invite: None,
                had: vec![],
            };
            let key = PrivateKey::from_random([20 + index as u8; 32]);
            let tunnel = Tunnel::spoke(&key, [30 + index as u8; 32], None, &join, &mut pool, now);
            let (from, to) = (addresses[index], addresses[1 - index]);
            let lengths = [28, 92, 1500, 9_000, 65_535];
            let packets = (0..20).map(|n| udp(from, to, lengths[n % 5], 5_000 + n as u16 % 7)).collect();
            Spoke { tunnel, session, packets, received: 0 }
        });
        World {
            switch,
            spokes,
            pool,
            hub_inbox: Inbox::default(),
            spoke_inbox: Inbox::default(),
            outbox: outbox(),
            dirty: Vec::new(),
            now,
        }
    }

    /// Each spoke sends its packets, and everything is carried until nothing moves.
    fn turn(&mut self) {
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
        self.switch.handle_timeouts(self.now);
    }

    fn carry(&mut self) -> bool {
        let mut moved = false;
        for spoke in &mut self.spokes {
            moved |= transfer(&mut spoke.tunnel, &mut self.pool, &mut self.outbox, self.now, |bytes, now| {
                let (tunnel, pool) = self.switch.tunnel(spoke.session);
                tunnel.unpark(&mut self.hub_inbox, pool);
                self.hub_inbox.space()[..bytes.len()].copy_from_slice(bytes);
                self.hub_inbox.filled(bytes.len());
                tunnel.heard(now);
                while let Some(packet) = self.switch.receive(spoke.session, &mut self.hub_inbox, now) {
                    self.switch.pool().give(packet);
                }
                let (tunnel, pool) = self.switch.tunnel(spoke.session);
                tunnel.park(&mut self.hub_inbox, pool);
            });
        }
        self.dirty.clear();
        self.switch.take_dirty(&mut self.dirty);
        for &session in &self.dirty {
            let spoke = self.spokes.iter_mut().find(|spoke| spoke.session == session).unwrap();
            let (tunnel, pool) = self.switch.tunnel(session);
            let sent = transfer(tunnel, pool, &mut self.outbox, self.now, |bytes, now| {
                spoke.tunnel.unpark(&mut self.spoke_inbox, &mut self.pool);
                self.spoke_inbox.space()[..bytes.len()].copy_from_slice(bytes);
                self.spoke_inbox.filled(bytes.len());
                spoke.tunnel.heard(now);
                while let Some(event) = spoke.tunnel.open(&mut self.spoke_inbox, &mut self.pool, now).unwrap()
                {
                    match event {
                        Event::Packet(packet) => {
                            spoke.received += 1;
                            self.pool.give(packet);
                        }
                        Event::Control(ControlFrame::Welcome(_) | ControlFrame::Routes { .. }) => {}
                        other @ (Event::Join { .. } | Event::Control(_)) => panic!("the hub said {other:?}"),
                    }
                }
                spoke.tunnel.park(&mut self.spoke_inbox, &mut self.pool);
            });
            if sent {
                self.switch.mark_dirty(session);
            }
            moved |= sent;
        }
        moved
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
    outbox.clear();
    outbox.append(tunnel.unsent());
    tunnel.sent(outbox.len(), pool, now);
    if outbox.is_empty() {
        tunnel.seal(outbox, pool, now).unwrap();
        tunnel.wrote(outbox, outbox.len(), pool, now);
    }
    if outbox.is_empty() {
        return false;
    }
    carry(outbox, now);
    true
}

#[test]
fn the_way_of_a_packet_allocates_nothing() {
    let mut world = World::new();
    for _ in 0..200 {
        world.turn();
    }
    let before: usize = world.spokes.iter().map(|spoke| spoke.received).sum();
    let counted = allocation_counter::measure(|| (0..500).for_each(|_| world.turn()));
    let received: usize = world.spokes.iter().map(|spoke| spoke.received).sum();
    assert_eq!(received - before, 500 * 2 * 20, "every packet arrives");
    assert_eq!(counted.count_total, 0, "{counted:?}");
}
