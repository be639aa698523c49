//! Links to other hubs: like those of members, but for who opens them and what goes over them. Pure.

use std::net::SocketAddr;
use std::time::Instant;

use common::wire::frame::{Join, Welcome};
use common::wire::key::{PrivateKey, PublicKey};
use common::wire::tunnel::Tunnel;

use super::{Role, Session, Switch};
use crate::ids::SessionId;

impl Switch {
    /// Takes in a connection to another hub, which is to prove this key and is asked for a link. `ephemeral`: 32 random
    /// bytes.
    pub fn dial(
        &mut self,
        key: &PrivateKey,
        (hub, address): (PublicKey, SocketAddr),
        ephemeral: [u8; 32],
        join: &Join,
        now: Instant,
    ) -> SessionId {
        let tunnel = Tunnel::spoke(key, ephemeral, Some(hub), join, &mut self.buffers.pool, now);
        let deadline = tunnel.deadline();
        let entry = Session { is_dialled: true, ..Session::new(tunnel, address, self.mtu) };
        let session = SessionId::new(self.sessions.insert(entry));
        self.timers.set(session.index(), deadline);
        self.mark_dirty(session);
        session
    }

    /// Makes a session a link to another hub, which takes packets up to `mtu` bytes of IP. `welcome`: what it is told, if it
    /// has asked.
    pub fn join_hub(&mut self, session: SessionId, mtu: Option<u32>, welcome: Option<Welcome>, now: Instant) {
        self.sessions[session.index()].tunnel.set_between_hubs();
        self.let_in(session, Role::Hub, mtu, welcome, now);
    }

    /// How many bytes of control frames wait for a session.
    pub fn waiting_control(&self, session: SessionId) -> usize {
        self.session(session).map_or(0, |entry| entry.tunnel.waiting_control())
    }
}
