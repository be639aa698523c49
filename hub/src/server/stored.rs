//! The server's part of `hub store`: gives it what is to be written down, and takes what it brings. IO.

use std::time::Instant;

use common::node::request::{Ticket, encode};

use super::Server;
use crate::control::{StoreChange, StoreRequest, StoreWork, StoredRecord};

impl Server {
    /// Serves a request of `hub store`.
    pub(super) fn serve_store(&mut self, ticket: Ticket, request: StoreRequest, now: Instant) {
        match request {
            StoreRequest::Wait { written, lost } => {
                written.into_iter().for_each(|token| self.core.handle_stored(token, now));
                if let Some(why) = lost {
                    self.core.lose_store(&why, now);
                }
                self.requests.store = Some(ticket);
                if !self.core.is_stored() {
                    self.give_store_work(now);
                }
            }
            StoreRequest::List { first } => {
                let records = self.core.page_for_store(first).into_iter().map(StoredRecord::new);
                let answer = encode(Ok(records.collect::<Vec<_>>()));
                self.reply(ticket, answer, now);
            }
            StoreRequest::Take { records, first } => {
                let read: Result<Vec<_>, String> = records.into_iter().map(StoredRecord::read).collect();
                let answer = read.map(|records| self.core.take_stored(records, first, now));
                self.reply(ticket, encode(answer), now);
            }
            StoreRequest::Keep { term, taken } => {
                self.core.keep_in_store(term, taken, now);
                self.reply(ticket, encode(Ok(())), now);
            }
        }
    }

    /// Answers `hub store` where it waits and there is something for it.
    pub(super) fn tell_store(&mut self, now: Instant) {
        if self.requests.store.is_some() && self.core.has_work_for_store() {
            self.give_store_work(now);
        }
    }

    fn give_store_work(&mut self, now: Instant) {
        let Some(ticket) = self.requests.store.take() else { return };
        let changes = self.core.work_for_store().into_iter().map(StoreChange::new).collect();
        let work = StoreWork {
            key: self.core.key(),
            attached: self.core.is_stored(),
            term: self.core.keeper().map_or(0, |term| term.number),
            changes,
        };
        self.reply(ticket, encode(Ok(work)), now);
    }
}
