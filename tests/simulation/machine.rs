//! A spoke's machine: the real uplink, and in memory what its shell, its kernel and its files would do.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use common::node::request::Ticket;
use common::wire::frame::{INVITE_LEN, Peer};
use common::wire::invite::Secret;
use common::wire::key::{PrivateKey, PublicKey};
use common::wire::name::Name;
use common::wire::target::Target;
use common::wire::tunnel::{Error, Flushed, QUEUE_BYTES};
use ipnetwork::IpNetwork;
use spoke::control::About;
use spoke::uplink::routes::{RouteMode, RoutePolicy};
use spoke::uplink::{self, Effect, Known, Notice, Uplink};

use crate::pipe::Read;
use crate::world::{World, chunk};

/// Where the hub is reached.
pub(crate) const HUB_OUTSIDE: &str = "192.0.2.100:5678";

/// What the shell has under way.
#[derive(Clone, Copy, Debug)]
enum Way {
    None,
    /// The look-up answers then.
    Lookup(Instant),
    /// The connection is there then, or is refused.
    Dial(Instant),
    /// The connection of this number.
    Link(usize),
}

pub(crate) struct Spoke {
    pub(crate) key: PrivateKey,
    /// It is not revoked, and the hub is open, or knows or has invited it.
    pub(crate) may_join: bool,
    pub(crate) invite: Option<[u8; INVITE_LEN]>,
    pub(crate) process: Option<Process>,
    /// The file of the hub's key, which outlives the process.
    pinned: Option<PublicKey>,
}

/// The running program, and what goes with it.
pub(crate) struct Process {
    pub(crate) uplink: Uplink,
    way: Way,
    kernel: Kernel,
    /// The list of members that was last written.
    pub(crate) hosts: Option<Vec<Peer>>,
    /// Networks behind this machine.
    pub(crate) offers: Vec<IpNetwork>,
    /// Persons who wait for an answer.
    asked: Vec<Ticket>,
}

/// The part of a kernel that the device has.
#[derive(Debug, Default)]
pub(crate) struct Kernel {
    pub(crate) addresses: Vec<IpNetwork>,
    pub(crate) routes: BTreeMap<IpNetwork, RouteMode>,
}

impl Kernel {
    /// As Linux does it: with the last address of a family go its routes in the main table.
    fn configure(&mut self, addresses: Vec<IpNetwork>) {
        let is_kept = |old: &IpNetwork| addresses.contains(old);
        let has_lost_v4 = !self.addresses.iter().any(|old| old.is_ipv4() && is_kept(old));
        if has_lost_v4 {
            self.routes.retain(|prefix, _| prefix.is_ipv6());
        }
        self.addresses = addresses;
    }
}

impl Spoke {
    pub(crate) fn new(key: PrivateKey) -> Spoke {
        Spoke { key, may_join: true, invite: None, process: None, pinned: None }
    }

    /// The connection that it has.
    pub(crate) fn conn(&self) -> Option<usize> {
        match self.process.as_ref()?.way {
            Way::Link(conn) => Some(conn),
            Way::None | Way::Lookup(_) | Way::Dial(_) => None,
        }
    }

    pub(crate) fn is_on_lan(&self) -> bool {
        self.process.as_ref().is_some_and(|process| process.uplink.is_on_lan())
    }

    /// The addresses of its device.
    pub(crate) fn addresses(&self) -> Vec<IpAddr> {
        let addresses = self.process.iter().flat_map(|process| &process.kernel.addresses);
        addresses.map(|address| address.ip()).collect()
    }

    pub(crate) fn routes(&self) -> Vec<IpNetwork> {
        self.process.iter().flat_map(|process| process.kernel.routes.keys().copied()).collect()
    }

    /// When something happens here by itself.
    pub(crate) fn next_at(&self) -> Option<Instant> {
        let process = self.process.as_ref()?;
        let way = match process.way {
            Way::Lookup(at) | Way::Dial(at) => Some(at),
            Way::None | Way::Link(_) => None,
        };
        way.into_iter().chain(process.uplink.deadline()).min()
    }
}

impl World {
    /// Starts a spoke's program with these addresses to ask for, in the place of one that just vanishes.
    pub(crate) fn join(&mut self, at: usize, addresses: Vec<IpAddr>) {
        self.vanish(at);
        let name = Name::nearest(&format!("s{}", self.rng.below(3)));
        let spoke = &self.spokes[at];
        let config = uplink::Config {
            hubs: vec![HUB_OUTSIDE.parse().unwrap()],
            ways: vec![HUB_OUTSIDE.parse::<Target>().unwrap().into()],
            hub_keys: Vec::new(),
            addresses,
            name,
            invite: spoke.invite.map(Secret),
            route_policy: RoutePolicy { offered: self.offers.clone(), ..RoutePolicy::default() },
            mtu: None,
            follows_members: true,
            may_have_lane: true,
            pins: "pins".into(),
        };
        let pinned = spoke.pinned.map(|key| (HUB_OUTSIDE.parse().unwrap(), key));
        let known = Known { pinned: pinned.into_iter().collect(), told: Vec::new(), joins: 0 };
        let uplink = Uplink::new(config, spoke.key.clone(), known, self.rng.next(), self.now);
        self.spokes[at].process = Some(Process {
            uplink,
            way: Way::None,
            kernel: Kernel::default(),
            hosts: None,
            offers: self.offers.clone(),
            asked: Vec::new(),
        });
    }

    /// The program is gone without a word: to the hub its connection falls silent.
    pub(crate) fn vanish(&mut self, at: usize) {
        let conn = self.spokes[at].conn();
        self.spokes[at].process = None;
        let now = self.now;
        if let Some(conn) = conn.and_then(|conn| self.conns.get_mut(&conn)) {
            conn.spoke = None;
            conn.is_sound = false;
            conn.stalled_at = Some(now);
            conn.up.stall();
        }
    }

    /// The program is told to stop: it says goodbye and ends.
    pub(crate) fn leave(&mut self, at: usize) {
        if let Some(process) = &mut self.spokes[at].process {
            process.uplink.stop();
        }
        self.carry_out(at);
        self.flush_spoke(at);
        self.end(at);
    }

    /// The program ends, and with it its socket.
    fn end(&mut self, at: usize) {
        self.hang_up(at, false);
        self.spokes[at].process = None;
    }

    fn hang_up(&mut self, at: usize, reset: bool) {
        let conn = self.spokes[at].conn();
        if let Some(process) = &mut self.spokes[at].process {
            process.way = Way::None;
        }
        if let Some(conn) = conn.and_then(|conn| self.conns.get_mut(&conn)) {
            conn.spoke = None;
            if reset { conn.up.reset(self.now) } else { conn.up.close(self.now) }
        }
    }

    // ---- a turn, as the shell does it

    pub(crate) fn read_spoke(&mut self, at: usize) {
        loop {
            let Some(id) = self.spokes[at].conn() else { return };
            let Some(conn) = self.conns.get_mut(&id) else { return };
            let Some(process) = &mut self.spokes[at].process else { return };
            let most = chunk(&mut self.rng, usize::MAX);
            let (mut read, now) = (Read::Nothing, self.now);
            process.uplink.receive(now, |space| {
                let space_len = most.min(space.len());
                read = conn.down.read(&mut space[..space_len], now);
                read.len()
            });
            // There is room in the socket again.
            let session = conn.session.filter(|_| matches!(read, Read::Bytes(_)));
            if let Some(session) = session.filter(|&session| self.hub.is_live(session)) {
                self.hub.mark_dirty(session);
            }
            self.carry_out(at);
            match read {
                Read::Bytes(_) => {}
                Read::Nothing => return,
                Read::Closed => {
                    if self.spokes[at].conn() == Some(id) {
                        let is_cut = self.conns[&id].is_sound && self.spokes[at].is_on_lan();
                        assert!(!is_cut, "spoke {at} has a sound link that the hub cut");
                        self.with_uplink(at, |uplink, now| {
                            uplink.handle_closed(&std::io::ErrorKind::UnexpectedEof.into(), now)
                        });
                    }
                    return;
                }
            }
        }
    }

    pub(crate) fn time_out_spoke(&mut self, at: usize) {
        let now = self.now;
        let Some(process) = &mut self.spokes[at].process else { return };
        match process.way {
            Way::Lookup(due) if due <= now => {
                process.way = Way::None;
                self.with_uplink(at, |uplink, now| {
                    uplink.handle_resolved(Ok(vec![HUB_OUTSIDE.parse().unwrap()]), now);
                });
            }
            Way::Dial(due) if due <= now => self.connect_spoke(at),
            Way::None | Way::Lookup(_) | Way::Dial(_) | Way::Link(_) => {}
        }
        let Some(process) = &mut self.spokes[at].process else { return };
        let is_due = process.uplink.deadline().is_some_and(|due| due <= now);
        let wanted = process.uplink.wants_write();
        process.uplink.handle_timeout(now);
        let has_done = process.uplink.wants_write() != wanted;
        let effect = process.uplink.poll_effect();
        assert!(
            is_due || !has_done && effect.is_none(),
            "spoke {at} had something to do of which its deadline did not tell: {effect:?}"
        );
        if let Some(effect) = effect {
            self.carry_out_one(at, effect);
        }
        self.carry_out(at);
    }

    fn connect_spoke(&mut self, at: usize) {
        let conn = self.connect(Some(at));
        let ephemeral = self.rng.key();
        let Some(process) = &mut self.spokes[at].process else { return };
        process.way = conn.map_or(Way::None, Way::Link);
        self.with_uplink(at, |uplink, now| match conn {
            Some(_) => uplink.handle_connected(HUB_OUTSIDE.parse().unwrap(), ephemeral, now),
            None => uplink.handle_unreachable(None, &std::io::ErrorKind::ConnectionRefused.into(), now),
        });
    }

    pub(crate) fn flush_spoke(&mut self, at: usize) {
        let Some(conn) = self.spokes[at].conn() else { return };
        let Some(conn) = self.conns.get_mut(&conn) else { return };
        let Some(process) = &mut self.spokes[at].process else { return };
        let now = self.now;
        while process.uplink.flush(now, |bytes| conn.up.write(bytes, now)) == Flushed::More {}
        self.carry_out(at);
    }

    /// Gives the uplink an event, and does what follows from it.
    pub(crate) fn with_uplink(&mut self, at: usize, event: impl FnOnce(&mut Uplink, Instant)) {
        let Some(process) = &mut self.spokes[at].process else { return };
        event(&mut process.uplink, self.now);
        self.carry_out(at);
    }

    fn carry_out(&mut self, at: usize) {
        while let Some(process) = &mut self.spokes[at].process
            && let Some(effect) = process.uplink.poll_effect()
        {
            self.carry_out_one(at, effect);
        }
    }

    fn carry_out_one(&mut self, at: usize, effect: Effect) {
        let now = self.now;
        let soon = now + Duration::from_micros(self.rng.below(3_000) as u64);
        let Some(process) = &mut self.spokes[at].process else { return };
        match effect {
            Effect::Resolve { .. } => process.way = Way::Lookup(soon),
            Effect::Dial { addresses, segment, .. } => {
                assert_eq!(segment, None, "streams in memory have no packets");
                assert_eq!(addresses, [HUB_OUTSIDE.parse::<SocketAddr>().unwrap()]);
                process.way = Way::Dial(soon);
            }
            Effect::Close { reset } => self.hang_up(at, reset),
            Effect::Remember(key, hubs) => {
                assert_eq!(hubs, [HUB_OUTSIDE.parse().unwrap()]);
                self.remember(at, key);
            }
            Effect::RememberHubs(told) => assert_eq!(told, [], "there is one hub"),
            Effect::RememberWays(_)
            | Effect::GiveUp(_)
            | Effect::Hurry(_)
            | Effect::AskKernel(_)
            | Effect::Switch(_) => {
                unreachable!("there is one way to one hub")
            }
            Effect::Configure { addresses, mtu } => {
                assert_eq!(mtu, 1_500);
                process.kernel.configure(addresses);
                process.uplink.handle_configured(Ok(()), now);
            }
            Effect::SetRoutes { routes, hub } => {
                let goes_by_itself = |prefix: &IpNetwork| hub.iter().any(|&hub| prefix.contains(hub));
                assert!(
                    routes.iter().all(|(prefix, mode)| *mode == RouteMode::Around || !goes_by_itself(prefix))
                );
                process.kernel.routes = routes;
            }
            Effect::Deliver(packet) => {
                let addresses = process.kernel.addresses.iter().map(|address| address.ip());
                self.book.arrive(&packet, Some(at), &addresses.collect::<Vec<_>>());
                process.uplink.recycle(packet);
            }
            Effect::Members(peers) => {
                assert!(peers.is_sorted_by(|a, b| a.name < b.name), "doubled or out of order: {peers:?}");
                process.hosts = Some(peers);
            }
            Effect::Answer(ticket, _) => {
                let place = process.asked.iter().position(|&asked| asked == ticket);
                process.asked.remove(place.expect("who did not ask is not answered"));
            }
            Effect::Log(notice) => self.check_notice(at, &notice),
            // A person sees it and may start the program again.
            Effect::Exit(_) => self.end(at),
        }
    }

    /// The disk is full now and then.
    fn remember(&mut self, at: usize, key: PublicKey) {
        assert_eq!(key, self.hub_key, "spoke {at} is on the LAN of another hub");
        let written = if self.rng.one_in(8) { Err("the disk is full".to_owned()) } else { Ok(()) };
        let spoke = &mut self.spokes[at];
        let written = written.map(|()| spoke.pinned.replace(key) != Some(key));
        if let Some(process) = &mut spoke.process {
            process.uplink.handle_remembered(written, self.now);
        }
    }

    /// A sound connection ends only by what the hub says.
    fn check_notice(&self, at: usize, notice: &Notice) {
        let (Notice::Failed(why) | Notice::FailedAgain(why, _)) = notice else { return };
        let conn = self.conns.values().find(|conn| conn.spoke == Some(at));
        if conn.is_some_and(|conn| conn.is_sound) {
            // Who wants the addresses of others may have to wait for too many of them: TooSlow.
            let errors =
                [Error::Handshake, Error::Record, Error::Frame, Error::Silent, Error::SendBufferFull];
            let is_broken = errors.iter().any(|error| why.contains(&error.to_string()));
            assert!(!is_broken, "spoke {at} has a sound link, but: {why}");
        }
    }

    /// A person asks for the members.
    pub(crate) fn ask_spoke(&mut self, at: usize) {
        let ticket = Ticket::for_test(self.rng.next());
        let Some(process) = &mut self.spokes[at].process else { return };
        process.asked.push(ticket);
        self.with_uplink(at, |uplink, now| uplink.ask_members(ticket, None, now));
    }

    // ---- what must hold after each turn

    pub(crate) fn check_spoke(&self, at: usize) {
        let Some(process) = &self.spokes[at].process else { return };
        let deadline = process.uplink.deadline();
        assert!(deadline.is_none_or(|due| due > self.now), "spoke {at} has a deadline in the past");
        let about = About { device: "spoke0".to_owned(), started_at: self.now };
        let status = process.uplink.status(&about, self.now);
        assert!(status.link.is_none_or(|link| link.queue_bytes <= QUEUE_BYTES), "the queue of spoke {at}");
        assert!(process.asked.len() <= 64, "persons wait for ever");
        // No traffic for the LAN leaves the machine by another way, and none for elsewhere goes into the LAN.
        let is_offered = |prefix: &IpNetwork| self.offers.contains(prefix);
        assert!(process.kernel.routes.keys().all(is_offered), "{:?}", process.kernel);
    }
}
