//! From a name to a link: the look-up, the connection, what is set up around the tunnel, or the pings. IO.

use std::io;
use std::time::Instant;

use common::node::dial::Dialed;
use common::node::event_loop::Source;
use common::node::link::Link;
use common::node::opening::Opening;
use common::node::state;
use common::transport::layers::Stage;

use super::Client;
use super::connection::Connection;
use crate::uplink::Attempt;
use crate::uplink::trial::Outcome;
use common::node::ping_dial::PingDialed;

impl Client {
    /// Tells the uplink what came of an attempt.
    pub(super) fn tell(&mut self, attempt: Attempt, outcome: Outcome, now: Instant) {
        let uplink = &mut self.uplink;
        match (attempt, outcome) {
            (Attempt::Trial(slot), outcome) => uplink.handle_trial(slot, outcome, now),
            (Attempt::Link, Outcome::Resolved(found)) => uplink.handle_resolved(found, now),
            (Attempt::Link, Outcome::Unreachable(at, error)) => uplink.handle_unreachable(at, &error, now),
            (Attempt::Link, Outcome::NotOpened(stage, error)) => {
                uplink.handle_not_opened(stage, &error, now);
            }
            (Attempt::Link, Outcome::Connected(at, ephemeral)) => {
                uplink.handle_connected(at, ephemeral, now);
            }
            (Attempt::Link, Outcome::Closed(error)) => uplink.handle_closed(&error, now),
        }
    }

    pub(super) fn finish_lookups(&mut self, now: Instant) {
        for attempt in Attempt::ALL {
            let is_done =
                matches!(&self.connections[attempt], Connection::Lookup(lookup) if lookup.is_done());
            if is_done && let Connection::Lookup(lookup) = self.connections.take(attempt) {
                self.uplink.handle_networks(self.machine.look_around());
                self.note_name_servers();
                self.tell(attempt, Outcome::Resolved(lookup.finish()), now);
            }
        }
    }

    pub(super) fn poll_dial(&mut self, attempt: Attempt, now: Instant) {
        let Connection::Dial(dial, plan) = &mut self.connections[attempt] else { return };
        match dial.poll(self.events.registry(), now) {
            Dialed::Wait => {}
            Dialed::Connected(at, stream, number) => {
                let source = stream.local_addr();
                match Opening::begin(stream, number, at, plan, self.trust.as_ref(), now) {
                    Ok(opening) => {
                        self.connections[attempt] = Connection::Opening(opening);
                        match (attempt, source) {
                            (Attempt::Link, Ok(source)) => self.machine.set_link(source.ip(), at.ip()),
                            (Attempt::Trial(slot), Ok(source)) => {
                                self.connections.set_ends(slot, (source.ip(), at.ip()));
                            }
                            (_, Err(_)) => {}
                        }
                        self.poll_opening(attempt, now);
                    }
                    Err(error) => self.fail_opening(attempt, Stage::Proxy, error, now),
                }
            }
            Dialed::Failed(tried, error) => {
                self.connections.take(attempt);
                self.tell(attempt, Outcome::Unreachable(tried, error), now);
            }
        }
    }

    /// Goes on with setting up what is around the tunnel, and begins the tunnel once that is there.
    pub(super) fn poll_opening(&mut self, attempt: Attempt, now: Instant) {
        let Connection::Opening(opening) = &mut self.connections[attempt] else { return };
        let opened = opening.go_on(now).and_then(|is_open| Ok((is_open, state::random()?)));
        let stage = opening.stream.stage();
        match opened {
            Ok((false, _)) => {}
            Ok((true, ephemeral)) => {
                let Connection::Opening(Opening { stream, number, at, .. }) = self.connections.take(attempt)
                else {
                    return;
                };
                self.connections[attempt] = Connection::Link(Link::Tcp(stream), Some(number));
                self.tell(attempt, Outcome::Connected(at, ephemeral), now);
                // The hub may have been quicker than this turn.
                self.events.again(Source::Dial(number));
            }
            Err(error) => self.fail_opening(attempt, stage, error, now),
        }
    }

    /// Goes on with pinging, and begins the tunnel once a hub answers.
    pub(super) fn poll_pinging(&mut self, now: Instant) {
        let attempt = Attempt::Link;
        let (Connection::Pinging(dial), Some(pings)) = (&mut self.connections[attempt], &self.pings) else {
            return;
        };
        match dial.poll(pings, now) {
            PingDialed::Wait => {}
            PingDialed::Connected(at, ping) => {
                self.machine.set_link(ping.own_address(), at.ip());
                self.connections[attempt] = Connection::Link(Link::Ping(ping), None);
                match state::random() {
                    Ok(ephemeral) => self.tell(attempt, Outcome::Connected(at, ephemeral), now),
                    Err(error) => self.fail_opening(attempt, Stage::Open, error, now),
                }
            }
            PingDialed::Failed(tried, error) => {
                self.connections.take(attempt);
                self.tell(attempt, Outcome::Unreachable(tried, error), now);
            }
        }
    }

    fn fail_opening(&mut self, attempt: Attempt, stage: Stage, error: io::Error, now: Instant) {
        self.connections.take(attempt);
        if attempt == Attempt::Link {
            self.machine.clear_link();
        }
        self.tell(attempt, Outcome::NotOpened(stage, error), now);
    }
}
