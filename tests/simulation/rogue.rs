//! A member with a program of its own, which says what no spoke says.

use common::packet::offload;
use common::wire::frame::{ControlFrame, Join, Welcome};
use common::wire::inbox::Inbox;
use common::wire::key::PrivateKey;
use common::wire::name::Name;
use common::wire::tunnel::{Event, Flushed, Tunnel};

use crate::packets::{self, Place};
use crate::pipe::Read;
use crate::world::{World, chunk};

pub(crate) struct Rogue {
    key: PrivateKey,
    /// Its tunnel, and the connection that carries it.
    link: Option<(Tunnel, usize)>,
    inbox: Inbox,
}

/// The place of the rogue in the book of packets.
pub(crate) const ROGUE: Place = Some(usize::MAX);

impl Rogue {
    pub(crate) fn new(key: PrivateKey) -> Rogue {
        Rogue { key, link: None, inbox: Inbox::default() }
    }
}

impl World {
    /// Joins, or, once on the LAN, says one thing that is out of place.
    pub(crate) fn act_as_rogue(&mut self) {
        match &self.rogue.link {
            None => self.join_as_rogue(),
            Some((tunnel, _)) if tunnel.is_open() && self.rng.one_in(2) => self.speak_as_rogue(),
            Some((tunnel, _)) if tunnel.is_open() => self.send_as_rogue(),
            Some(_) => {}
        }
    }

    fn join_as_rogue(&mut self) {
        let Some(conn) = self.connect(None) else { return };
        let name = Name::nearest("rogue");
        let join = Join::new(name);
        let ephemeral = self.rng.key();
        let tunnel = Tunnel::spoke(&self.rogue.key, ephemeral, None, &join, &mut self.pool, self.now);
        self.rogue.link = Some((tunnel, conn));
    }

    /// A control frame that a hub answers, ignores, or closes the link for.
    fn speak_as_rogue(&mut self) {
        let frame = match self.rng.below(4) {
            0 => ControlFrame::Pong(self.rng.next()),
            1 => ControlFrame::Welcome(Welcome::new(Name::nearest("x"), 1)),
            _ => ControlFrame::AskMembers { after: None, watch: true, since: None },
        };
        if let Some((tunnel, _)) = &mut self.rogue.link {
            tunnel.control(&frame).unwrap();
        }
    }

    /// A packet with a forged source, or one that is no packet.
    fn send_as_rogue(&mut self) {
        let (from, to) = (crate::destination(self), crate::destination(self));
        if from.is_ipv4() != to.is_ipv4() {
            return;
        }
        let mut packet = packets::udp(from, to, self.book.next_id(), self.rng.below(1_400));
        let random = self.rng.next() as usize;
        match random % 5 {
            0 => packet.truncate(random / 5 % packet.len()),
            1 => packet.push(0),
            // A flag, a type or a length of an offload that is none.
            2 => packet[random / 5 % 2] = 0x40,
            3 => packet[10] = (random >> 8) as u8 | 0x80,
            // From a neighbour, from the hub, from the internet.
            _ => packet[0] = 0,
        }
        let own = self.rogue_addresses();
        self.book.enter(&packet, ROGUE, to, own.contains(&from) && random % 5 == 4);
        let packet = self.pool.copy(&packet);
        let Some((tunnel, _)) = &mut self.rogue.link else { return };
        tunnel.enqueue(packet, 0, &mut self.pool, self.now);
    }

    /// What the hub has given it.
    pub(crate) fn rogue_addresses(&self) -> Vec<std::net::IpAddr> {
        let members = self.hub.members();
        let id = members.by_key(&self.rogue.key.public());
        id.map_or(Vec::new(), |id| members.member(id).addresses.clone())
    }

    /// Reads, and writes what there is to write.
    pub(crate) fn rogue_turn(&mut self) {
        let now = self.now;
        loop {
            let Some((tunnel, id)) = &mut self.rogue.link else { return };
            let Some(conn) = self.conns.get_mut(id) else { return self.rogue_hang_up() };
            if tunnel.handle_timeout(now).is_err() {
                return self.rogue_hang_up();
            }
            let (most, mut read) = (chunk(&mut self.rng, usize::MAX), Read::Nothing);
            let inbox = &mut self.rogue.inbox;
            tunnel.fill(inbox, &mut self.pool, now, |space| {
                let space_len = most.min(space.len());
                read = conn.down.read(&mut space[..space_len], now);
                read.len()
            });
            let mut is_over = matches!(read, Read::Closed);
            loop {
                match tunnel.open(inbox, &mut self.pool, now) {
                    Ok(Some(Event::Packet(mut packet))) => {
                        offload::check(&mut packet).expect("the hub lets no other packet through");
                        self.pool.give(packet);
                    }
                    Ok(Some(Event::Control(ControlFrame::Refused { .. } | ControlFrame::Bye(_))))
                    | Err(_) => {
                        is_over = true;
                    }
                    Ok(Some(Event::Control(_) | Event::Join { .. } | Event::Attach { .. })) => {}
                    Ok(None) => break,
                }
                if is_over {
                    break;
                }
            }
            if is_over {
                return self.rogue_hang_up();
            }
            tunnel.park(inbox, &mut self.pool);
            // There is room in the socket again.
            let session = conn.session.filter(|_| matches!(read, Read::Bytes(_)));
            if let Some(session) = session.filter(|&session| self.hub.is_live(session)) {
                self.hub.mark_dirty(session);
            }
            let outbox = &mut self.outbox;
            while tunnel.flush(outbox, &mut self.pool, now, |bytes| conn.up.write(bytes, now))
                == Ok(Flushed::More)
            {}
            if matches!(read, Read::Nothing) {
                return;
            }
        }
    }

    pub(crate) fn rogue_hang_up(&mut self) {
        let Some((mut tunnel, conn)) = self.rogue.link.take() else { return };
        tunnel.close(&mut self.pool);
        if let Some(conn) = self.conns.get_mut(&conn) {
            conn.up.close(self.now);
        }
    }

    pub(crate) fn rogue_next_at(&self) -> Option<std::time::Instant> {
        let (tunnel, conn) = self.rogue.link.as_ref()?;
        let down = self.conns.get(conn).and_then(|conn| conn.down.next_at());
        down.into_iter().chain([tunnel.deadline()]).min()
    }
}
