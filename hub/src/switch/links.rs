//! Links to other hubs: like those of members, but for who opens them and what goes over them. Pure.

use std::net::SocketAddr;
use std::time::Instant;

use common::wire::frame::{ControlFrame, Join, Welcome};
use common::wire::key::{PrivateKey, PublicKey};
use common::wire::tunnel::Tunnel;

use super::{End, Role, Session, Switch};
use crate::ids::{MemberId, SessionId};

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

    /// Sends each member a control frame of its own.
    pub fn tell_each(&mut self, control: impl Fn(MemberId) -> ControlFrame) {
        self.tell_some(control, SessionId::new(0), usize::MAX);
    }

    /// The same for the first `most` members whose sessions are not before `from`: the session of the next one.
    pub fn tell_some(
        &mut self,
        control: impl Fn(MemberId) -> ControlFrame,
        from: SessionId,
        most: usize,
    ) -> Option<SessionId> {
        let can_be_told = |session: &&Session| session.end.is_none() && session.tunnel.is_open();
        let mut told = 0;
        for session in (from.index()..self.sessions.capacity()).map(SessionId::new) {
            let entry = self.session(session).filter(can_be_told);
            let Some(member) = entry.and_then(Session::member) else { continue };
            if told == most {
                return Some(session);
            }
            told += 1;
            self.tell(session, &control(member));
        }
        None
    }

    /// Sends a control frame to these sessions.
    pub fn tell_sessions(&mut self, sessions: impl Iterator<Item = SessionId>, control: &ControlFrame) {
        let mut frame = Vec::new();
        control.encode(&mut frame);
        sessions.for_each(|session| self.tell_encoded(session, &frame));
    }

    /// Queues a control frame that was encoded before, as many sessions get it.
    pub(super) fn tell_encoded(&mut self, session: SessionId, frame: &[u8]) {
        match self.sessions[session.index()].tunnel.control_encoded(frame) {
            Ok(()) => self.mark_dirty(session),
            Err(error) => self.end(session, End::Tunnel(error)),
        }
    }

    /// Sets up to how many members on the LAN a packet to everyone goes to other hubs.
    pub fn limit_broadcast(&mut self, members: usize) {
        self.policing.limits.most_for_all = members;
    }

    /// How many bytes of control frames wait for a session.
    pub fn waiting_control(&self, session: SessionId) -> usize {
        self.session(session).map_or(0, |entry| entry.tunnel.waiting_control())
    }
}
