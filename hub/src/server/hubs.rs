//! Carries out what the core wants of other hubs. IO.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use common::linux::sandbox::Profile;
use common::node::event_loop::Ready;
use common::node::link::Link;
use common::node::state;
use common::wire::key::PublicKey;
use common::wire::place::Place;

use super::Server;
use super::dials::{self, Connected, Outcome};
use super::links::source_of;
use crate::ids::SessionId;

/// How often the links to other hubs are looked at, at most.
const LOOK_EVERY: Duration = Duration::from_secs(1);

impl Server {
    /// Where this hub is reached, as it was started: the list of members is to say so.
    pub fn set_place(&mut self, place: Place) {
        self.core.set_place(place, self.clock.now);
    }

    /// The connections that it makes once it is confined, and the TCP ports that they go to.
    pub fn connects(&self) -> (Profile, Vec<u16>) {
        let places = dials::places(self.core.members(), &self.core.key());
        self.dials.announce(&places);
        (self.dials.profile(), places.into_iter().filter_map(|place| self.dials.port(place)).collect())
    }

    /// Takes in what an event said about a connection that is being made.
    pub(super) fn serve_dial(&mut self, attempt: u16, ready: &Ready, now: Instant) {
        self.dials.set_ready(attempt, ready);
        self.poll_dials(now);
    }

    /// Goes on with the connections to other hubs that are being made.
    pub(super) fn poll_dials(&mut self, now: Instant) {
        while let Some((hub, lane_of, outcome)) = self.dials.poll(self.events.registry(), now) {
            let taken = match outcome {
                Outcome::Connected(connected) => self.take_in_hub(hub, lane_of, connected, now),
                Outcome::Failed(why) => Err(why),
            };
            match (taken, lane_of) {
                (Ok(()), _) => {}
                (Err(_), Some(link)) => self.core.lane_not_dialled(&hub, link, now),
                (Err(why), None) => self.core.not_dialled(&hub, why, now),
            }
        }
    }

    /// Connects to another hub.
    pub(super) fn dial_hub(&mut self, hub: PublicKey, place: &Place, now: Instant) {
        if let Err(why) = self.dials.start(hub, place, now) {
            self.core.not_dialled(&hub, why, now);
        }
        self.poll_dials(now);
    }

    /// Connects to another hub once more, for a lane of the link to it.
    pub(super) fn dial_lane(
        &mut self,
        (hub, link): (PublicKey, SessionId),
        place: &Place,
        at: SocketAddr,
        now: Instant,
    ) {
        if self.dials.start_lane((hub, link), place, at, now).is_err() {
            self.core.lane_not_dialled(&hub, link, now);
        }
        self.poll_dials(now);
    }

    /// Tells the core how the links stand that may have a lane, now and then, in turns that there are anyway.
    pub(super) fn look_at_hub_links(&mut self, now: Instant) {
        if self.dials.look_at.is_some_and(|at| at > now) {
            return;
        }
        self.dials.look_at = Some(now + LOOK_EVERY);
        for link in self.core.without_lane() {
            if let Some(info) = self.links.info(link) {
                self.core.consider_lane(link, &info, now);
            }
        }
    }

    fn take_in_hub(
        &mut self,
        hub: PublicKey,
        lane_of: Option<SessionId>,
        connected: Connected,
        now: Instant,
    ) -> Result<(), String> {
        let Connected { mut link, at, .. } = connected;
        let ephemeral = state::random().map_err(|error| error.to_string())?;
        let taken = match lane_of {
            Some(link) => self.core.lane_dialled((hub, link), at, ephemeral, now),
            None => self.core.dialled(hub, at, ephemeral, now),
        };
        let Some(session) = taken else { return Ok(()) };
        if let Link::Tcp(stream) = &mut link
            && let Err(error) = stream.reregister(self.events.registry(), source_of(session).token())
        {
            self.core.end(session, error.to_string());
        }
        self.links.insert(session, link);
        // What is around the tunnel may have taken the hub's first words from the socket.
        self.events.again(self.links.source(session));
        Ok(())
    }
}
