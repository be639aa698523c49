//! From a name to a link: the look-up, the connection, what is set up around the tunnel, or the pings. IO.

use std::io;
use std::time::Instant;

use common::node::event_loop::Source;
use common::node::state;
use common::transport::layers::Stage;

use super::Client;
use super::connection::{Connection, Link, Opening};
use super::ping::PingDialed;
use crate::dial::Dialed;

impl Client {
    pub(super) fn finish_lookup(&mut self, now: Instant) {
        if !matches!(self.connection, Connection::Lookup(_)) {
            return;
        }
        if let Connection::Lookup(lookup) = std::mem::replace(&mut self.connection, Connection::None) {
            self.uplink.handle_networks(self.machine.look_around());
            self.note_name_servers();
            self.uplink.handle_resolved(lookup.finish(), now);
        }
    }

    pub(super) fn poll_dial(&mut self, now: Instant) {
        let Connection::Dial(dial, plan) = &mut self.connection else { return };
        match dial.poll(self.events.registry(), now) {
            Dialed::Wait => {}
            Dialed::Connected(at, stream, number) => {
                if let Ok(source) = stream.local_addr() {
                    self.machine.set_link(source.ip(), at.ip());
                }
                match Opening::begin(stream, number, at, plan, self.trust.as_ref(), now) {
                    Ok(opening) => {
                        self.connection = Connection::Opening(opening);
                        self.poll_opening(now);
                    }
                    Err(error) => self.fail_opening(Stage::Proxy, &error, now),
                }
            }
            Dialed::Failed(tried, error) => {
                self.connection = Connection::None;
                self.uplink.handle_unreachable(tried, &error, now);
            }
        }
    }

    /// Goes on with setting up what is around the tunnel, and begins the tunnel once that is there.
    pub(super) fn poll_opening(&mut self, now: Instant) {
        let Connection::Opening(opening) = &mut self.connection else { return };
        let opened = opening.go_on(now).and_then(|is_open| Ok((is_open, state::random()?)));
        let stage = opening.stream.stage();
        match opened {
            Ok((false, _)) => {}
            Ok((true, ephemeral)) => {
                let Connection::Opening(Opening { stream, number, at, .. }) =
                    std::mem::replace(&mut self.connection, Connection::None)
                else {
                    return;
                };
                self.connection = Connection::Link(Link::Tcp(stream, number));
                self.uplink.handle_connected(at, ephemeral, now);
                // The hub may have been quicker than this turn.
                self.events.again(Source::Dial(number));
            }
            Err(error) => self.fail_opening(stage, &error, now),
        }
    }

    /// Goes on with pinging, and begins the tunnel once a hub answers.
    pub(super) fn poll_pinging(&mut self, now: Instant) {
        let (Connection::Pinging(dial), Some(pings)) = (&mut self.connection, &self.pings) else { return };
        match dial.poll(pings, now) {
            PingDialed::Wait => {}
            PingDialed::Connected(at, ping) => {
                self.machine.set_link(ping.own_address(), at.ip());
                self.connection = Connection::Link(Link::Ping(ping));
                match state::random() {
                    Ok(ephemeral) => self.uplink.handle_connected(at, ephemeral, now),
                    Err(error) => self.fail_opening(Stage::Open, &error, now),
                }
            }
            PingDialed::Failed(tried, error) => {
                self.connection = Connection::None;
                self.uplink.handle_unreachable(tried, &error, now);
            }
        }
    }

    pub(super) fn fail_opening(&mut self, stage: Stage, error: &io::Error, now: Instant) {
        self.connection = Connection::None;
        self.machine.clear_link();
        self.uplink.handle_not_opened(stage, error, now);
    }
}
