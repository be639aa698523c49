//! Carries out what the core wants of other hubs. IO.

use std::time::Instant;

use common::linux::sandbox::Profile;
use common::node::event_loop::Ready;
use common::node::state;
use common::wire::key::PublicKey;

use super::dials::{self, Connected, Outcome};
use super::{Server, source_of};

impl Server {
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
        while let Some((hub, outcome)) = self.dials.poll(self.events.registry(), now) {
            let taken = match outcome {
                Outcome::Connected(connected) => self.take_in_hub(hub, connected, now),
                Outcome::Failed(why) => Err(why),
            };
            if let Err(why) = taken {
                self.core.not_dialled(&hub, why, now);
            }
        }
    }

    fn take_in_hub(&mut self, hub: PublicKey, connected: Connected, now: Instant) -> Result<(), String> {
        let Connected { mut stream, at, .. } = connected;
        let ephemeral = state::random().map_err(|error| error.to_string())?;
        let Some(session) = self.core.dialled(hub, at, ephemeral, now) else { return Ok(()) };
        if let Err(error) = stream.reregister(self.events.registry(), source_of(session).token()) {
            self.core.end(session, error.to_string());
        }
        self.links.insert(session, stream);
        // What is around the tunnel may have taken the hub's first words from the socket.
        self.events.again(source_of(session));
        Ok(())
    }
}
