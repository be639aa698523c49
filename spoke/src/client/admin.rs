//! The spoke's part in what a person asks.

use std::time::Instant;

use common::node::event_loop::Source;
use common::node::request::{Ticket, decode, encode};
use common::wire::frame::{ControlFrame, Peer};

use super::phases::Phase;
use super::{Client, socket};
use crate::control::{self, LinkStatus, MemberStatus, PATIENCE, Page, Request, Status};

impl Client {
    /// Serves the control socket.
    pub(super) fn serve_control(&mut self, source: Source, now: Instant) {
        let Some(control) = &mut self.control else { return };
        let Some((ticket, request)) = control.serve(source, self.events.registry(), now) else { return };
        match decode(&request) {
            Ok(Request::Status) => self.answer(ticket, encode(Ok(self.status(now))), now),
            Ok(Request::Members { after }) => {
                if let Err(text) = self.pass_on(ticket, ControlFrame::AskMembers { after, watch: false }, now)
                {
                    self.answer(ticket, encode::<()>(Err(text)), now);
                }
            }
            Err(text) => self.answer(ticket, encode::<()>(Err(text)), now),
        }
    }

    fn pass_on(&mut self, ticket: Ticket, question: ControlFrame, now: Instant) -> Result<(), String> {
        let Phase::Linked(linked) = &mut self.phase else { return Err(NOT_ON_LAN.to_owned()) };
        if !linked.tunnel.is_open() {
            return Err(NOT_ON_LAN.to_owned());
        }
        if !self.pending.has_room() {
            return Err("too many wait for the hub's answer".to_owned());
        }
        linked.tunnel.control(&question).map_err(|error| error.to_string())?;
        self.pending.push(ticket, now);
        Ok(())
    }

    /// Hands on what the hub has told.
    pub(super) fn answer_members(&mut self, ticket: Ticket, peers: Vec<Peer>, last: bool, now: Instant) {
        let page = Page { members: peers.into_iter().map(MemberStatus::from).collect(), last };
        self.answer(ticket, encode(Ok(page)), now);
    }

    /// Tells those who wait for the hub that its link is gone.
    pub(super) fn give_up_waiting(&mut self, now: Instant) {
        for ticket in self.pending.take_all() {
            self.answer(ticket, encode::<()>(Err(NOT_ON_LAN.to_owned())), now);
        }
    }

    /// When `handle_control_timeout` has something to do.
    pub(super) fn control_deadline(&self) -> Option<Instant> {
        let control = self.control.as_ref().and_then(socket::ControlSocket::deadline);
        [control, self.pending.deadline()].into_iter().flatten().min()
    }

    pub(super) fn handle_control_timeout(&mut self, now: Instant) {
        while let Some(ticket) = self.pending.poll(now) {
            let text = format!("the hub did not answer within {} s", PATIENCE.as_secs());
            self.answer(ticket, encode::<()>(Err(text)), now);
        }
        if let Some(control) = &mut self.control {
            control.handle_timeout(self.events.registry(), now);
        }
    }

    fn answer(&mut self, ticket: Ticket, answer: Vec<u8>, now: Instant) {
        if let Some(control) = &mut self.control {
            control.answer(ticket, answer, now);
        }
    }

    fn status(&self, now: Instant) -> Status {
        let ago = |at: Instant| now.saturating_duration_since(at).as_secs();
        let mut drops = self.drops.clone();
        let mut link = None;
        let phase = match &self.phase {
            Phase::Pause(_) => "waiting",
            Phase::Lookup(_) => "looking-up",
            Phase::Dial(_) => "connecting",
            Phase::Linked(linked) if !linked.tunnel.is_open() => "joining",
            Phase::Linked(linked) => {
                let (received, sent) = linked.tunnel.traffic();
                drops.add_all(&linked.tunnel.queue().drops());
                link = Some(LinkStatus {
                    seconds: linked.joined_at.map_or(0, ago),
                    hub_address: linked.hub,
                    round_trip_ms: linked.tunnel.round_trip().map(|time| time.as_secs_f64() * 1_000.0),
                    received: received.into(),
                    sent: sent.into(),
                    queue_bytes: linked.tunnel.queue().bytes(),
                });
                "on-lan"
            }
        };
        let trouble = Some(&self.failures.last).filter(|why| link.is_none() && !why.is_empty());
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            up_seconds: ago(self.started_at),
            name: self.name.clone(),
            addresses: self.addresses.clone(),
            device: self.tun.name().to_owned(),
            key: self.key.public(),
            hub: self.config.hub.to_string(),
            hub_key: self.hub_key,
            phase: phase.to_owned(),
            trouble: trouble.cloned(),
            link,
            drops: control::drops(&drops),
            members: Vec::new(),
        }
    }
}

const NOT_ON_LAN: &str = "this spoke is not on the LAN now";
