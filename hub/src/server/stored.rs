//! The server's part of `hub store`: keeps its question until there is something to answer. IO.

use std::time::Instant;

use common::node::request::{Ticket, encode};

use super::Server;
use crate::control::{StoreRequest, StoreWork, serve_store};

impl Server {
    /// Serves a request of `hub store`.
    pub(super) fn serve_store(&mut self, ticket: Ticket, request: StoreRequest, now: Instant) {
        match serve_store(&mut self.core, request, now) {
            Some(answer) => self.reply(ticket, encode(answer), now),
            None => self.requests.store = Some(ticket),
        }
    }

    /// Answers `hub store` where it waits and there is something for it.
    pub(super) fn tell_store(&mut self, now: Instant) {
        if self.core.has_work_for_store()
            && let Some(ticket) = self.requests.store.take()
        {
            let work = StoreWork::take(&mut self.core);
            self.reply(ticket, encode(Ok(work)), now);
        }
    }
}
