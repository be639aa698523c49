//! What happens to lanes, and to links that have one.

use std::net::IpAddr;
use std::time::Duration;

use common::packet::VNET_LEN;
use common::queue::tcp_info::TcpInfo;

use crate::packets::udp;
use crate::world::{Conn, World};

impl World {
    /// A packet of one of a few flows, of this length beyond its headers.
    pub(crate) fn send_in_flow(&mut self, from: usize, to: IpAddr, flow: u16, extra: usize) {
        let mut packet = udp(self.spokes[from].own, to, self.book.next_id(), extra);
        let port = VNET_LEN + 22;
        packet[port..port + 2].copy_from_slice(&flow.to_be_bytes());
        let id = self.book.enter(&packet, Some(from), to, true);
        self.book.keep_order(id, flow);
        self.spokes[from].send(&packet, self.now);
        self.carry_out(from);
    }

    /// Packets are lost on the way of a spoke, which may open a lane then.
    pub(crate) fn lose(&mut self, spoke: usize) {
        self.losses += 10;
        self.spokes[spoke].lose(self.losses, self.now);
        self.carry_out(spoke);
        // And between hubs.
        let info =
            TcpInfo { resent: self.losses, shortest: Some(Duration::from_millis(40)), ..TcpInfo::default() };
        for hub in 0..self.hubs.len() {
            if let Some(core) = &mut self.hubs[hub].core {
                let links = core.without_lane();
                links.into_iter().for_each(|link| core.consider_lane(link, &info, self.now));
            }
            self.do_effects(hub);
        }
    }

    /// The lane of a spoke, or its link.
    fn one_of(&mut self, spoke: usize, is_lane: bool) -> Option<&mut Conn> {
        let machine = &self.spokes[spoke];
        let conn = if is_lane { machine.lane() } else { machine.link() }?;
        self.conns.get_mut(&conn)
    }

    /// It is reset.
    pub(crate) fn cut_one(&mut self, spoke: usize, is_lane: bool) {
        let now = self.now;
        if let Some(conn) = self.one_of(spoke, is_lane) {
            conn.up.reset(now);
            conn.down.reset(now);
        }
    }

    /// What goes by it stands still, one way or both.
    pub(crate) fn stall_one(&mut self, spoke: usize, is_lane: bool) {
        let ways = self.rng.below(3);
        if let Some(conn) = self.one_of(spoke, is_lane) {
            if ways != 1 {
                conn.up.stall();
            }
            if ways != 2 {
                conn.down.stall();
            }
        }
    }

    /// It goes on.
    pub(crate) fn resume_one(&mut self, spoke: usize, is_lane: bool) {
        let now = self.now;
        if let Some(conn) = self.one_of(spoke, is_lane) {
            conn.up.resume(now);
            conn.down.resume(now);
        }
    }
}
