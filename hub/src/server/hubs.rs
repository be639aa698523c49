//! Carries out what the core wants of other hubs. IO.

use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use common::linux::sandbox::Profile;
use common::node::state;
use common::transport::stream::Stream;
use common::transport::tcp::Link;
use common::wire::key::PublicKey;
use mio::net::TcpStream;

use super::dials::Outcome;
use super::{Server, source_of};

impl Server {
    /// The connections that it makes once it is confined, and the ports of other hubs that they go to.
    pub fn connects(&self) -> (Profile, Vec<u16>) {
        let places = self.core.hubs().into_iter().filter(|hub| hub.key != self.core.key());
        (self.dials.profile(), places.filter_map(|hub| Some(hub.hub.as_ref()?.port)).collect())
    }

    /// Goes on with the connections to other hubs that are being made.
    pub(super) fn poll_dials(&mut self, now: Instant) {
        while let Some((hub, outcome)) = self.dials.poll(self.events.registry(), now) {
            let taken = match outcome {
                Outcome::Connected(address, stream) => self.take_in_hub(hub, address, stream, now),
                Outcome::Failed(why) => Err(why),
            };
            if let Err(why) = taken {
                self.core.not_dialled(&hub, why, now);
            }
        }
    }

    fn take_in_hub(
        &mut self,
        hub: PublicKey,
        address: SocketAddr,
        stream: TcpStream,
        now: Instant,
    ) -> Result<(), String> {
        let text = |error: io::Error| error.to_string();
        let mut link = Stream::plain(Link::new(stream).map_err(text)?);
        let ephemeral = state::random().map_err(text)?;
        let Some(session) = self.core.dialled(hub, address, ephemeral, now) else { return Ok(()) };
        if let Err(error) = link.register(self.events.registry(), source_of(session).token()) {
            self.core.end(session, error.to_string());
        }
        self.links.insert(session, link);
        Ok(())
    }
}
