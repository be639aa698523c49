//! The server's part of commands: the control socket, metrics, the signal to read the files again, the audit file. IO.

use std::io::Read as _;
use std::net::SocketAddr;
use std::time::Instant;

use common::node::event_loop::Source;
use common::node::metrics::text;
use common::node::request::{Caller, Ticket, decode, encode};
use common::node::state;
use common::wire::invite::Secret;
use common::wire::place::Place;
use log::info;
use serde_json::{Value, json};

use super::Server;
use super::audit::Entry;
use super::machine::Machine;
use super::requester::{Asked, Inviting, Requester, summary};
use crate::control::{self, Allowed, Invited, Renamed, Request, Revoked};
use crate::effect::Notice;
use crate::ids::RequestId;
use crate::lan::invites::Invite;
use crate::lan::members::{Access, Change};
use crate::lan::saving::{Allow, Answer, Command};
use crate::lan::subnets::Subnets;
use crate::metrics::metrics;
use crate::options::DEFAULT_PORT;

/// The longest life of an invite.
const MAX_INVITE_SECONDS: u64 = 366 * 24 * 60 * 60;

impl Server {
    /// Serves the control socket.
    pub(super) fn serve_control(&mut self, source: Source, now: Instant) {
        let Some(control) = &mut self.control else { return };
        let Some((ticket, request)) = control.serve(source, self.events.registry(), now) else { return };
        match decode::<Request>(&request) {
            Ok((request, _)) if request.is_question() => {
                let answer = self.answer_question(request, now);
                self.reply(ticket, answer, now);
            }
            Ok((Request::Store { request }, _)) => self.serve_store(ticket, request, now),
            Ok((request, by)) => {
                let caller = control.caller(ticket, by);
                self.change(ticket, request, caller, now);
            }
            Err(text) => self.reply(ticket, encode::<()>(Err(text)), now),
        }
    }

    /// Serves the metrics.
    pub(super) fn serve_metrics(&mut self, number: u16, now: Instant) {
        let Server { scrapes, core, about, machine, events, .. } = self;
        let Some(scrapes) = scrapes else { return };
        let page = || {
            let mut status = control::head(core, about, now);
            status.problems = machine.as_ref().map(Machine::problems).unwrap_or_default();
            text(&metrics(&status))
        };
        if scrapes.serve(number, events.registry(), now, page) {
            events.again(Source::Metrics(number));
        }
    }

    /// Answers a request that changes nothing.
    fn answer_question(&mut self, request: Request, now: Instant) -> Vec<u8> {
        match request {
            Request::Status { after } => {
                let mut status = control::status(&self.core, &self.about, after.as_ref(), now);
                status.problems = self.machine.as_ref().map(Machine::problems).unwrap_or_default();
                status.zone = self.name_server.as_ref().map(|server| server.zone().to_string());
                encode(Ok(status))
            }
            Request::Invites => encode(Ok(control::invites(&self.core, self.clock.unix_time))),
            Request::Pending => encode(Ok(control::pending(&self.core, now))),
            Request::Rules { from } => encode(Ok(control::rules(&self.core, self.store.rules_file(), from))),
            Request::Explain { from, to, service } => {
                encode(control::explain(&self.core, &from, &to, &service))
            }
            Request::Invite { .. }
            | Request::Cancel { .. }
            | Request::Allow { .. }
            | Request::Rename { .. }
            | Request::Forget { .. }
            | Request::Lock
            | Request::Unlock
            | Request::Revoke { .. }
            | Request::Renumber { .. }
            | Request::Drain { .. }
            | Request::Keep
            | Request::Store { .. }
            | Request::Reload => encode::<()>(Err("this is no question".to_owned())),
        }
    }

    /// Has the core change something.
    fn change(&mut self, ticket: Ticket, request: Request, caller: Caller, now: Instant) {
        let text = serde_json::to_value(&request).unwrap_or_default();
        let mut requester = Requester::Command(ticket);
        let command = match request {
            Request::Invite { name, uses, addresses, routes, tags, seconds, is_hub, place } => {
                let random = match state::random() {
                    Ok(random) => random,
                    Err(error) => return self.reply(ticket, encode::<()>(Err(error.to_string())), now),
                };
                let [secret, _] = random.as_chunks().0 else { unreachable!("32 bytes are 2 times 16") };
                let (secret, seconds) = (Secret(*secret), seconds.clamp(1, MAX_INVITE_SECONDS));
                let (hash, until) = (secret.hash(), self.clock.unix_time + seconds);
                let is_it = |other: &Invite| other.name == name && self.clock.unix_time < other.until;
                let replaces = self.core.invites().iter().any(is_it);
                requester = Requester::Invite(ticket, Inviting { secret, seconds, replaces });
                let port = self.about.listening.first().map_or(DEFAULT_PORT, SocketAddr::port);
                let place = place.filter(|_| is_hub).map(|place| place.parse::<Place>()).transpose();
                let place = match place {
                    Ok(place) => place.map(|place| place.with_port(port)),
                    Err(why) => return self.reply(ticket, encode::<()>(Err(format!("--host: {why}"))), now),
                };
                Command::Invite(Invite { hash, name, uses, until, addresses, routes, tags, is_hub }, place)
            }
            Request::Cancel { name } => Command::Cancel(name),
            Request::Allow { who, in_place_of, name, addresses, routes, tags } => {
                Command::Allow(Allow { who, in_place_of, name, addresses, routes, tags })
            }
            Request::Rename { member, name } => Command::Rename(member, name),
            Request::Forget { member } => Command::Forget(member),
            Request::Lock => Command::SetAccess(Access::Locked),
            Request::Unlock => Command::SetAccess(Access::Open),
            Request::Revoke { member } => Command::Revoke(member),
            Request::Renumber { subnets } => match Subnets::new(&subnets) {
                Ok(subnets) => Command::Renumber(subnets),
                Err(error) => return self.reply(ticket, encode::<()>(Err(error.to_string())), now),
            },
            Request::Drain { off } => Command::Drain(!off),
            Request::Keep => Command::Keep,
            Request::Reload => Command::Reload,
            Request::Status { .. }
            | Request::Invites
            | Request::Pending
            | Request::Store { .. }
            | Request::Rules { .. }
            | Request::Explain { .. } => return,
        };
        self.request(Asked { requester, by: Some(caller), request: text }, command, now);
    }

    /// Reloads because of a signal.
    pub(super) fn handle_hangup(&mut self, now: Instant) {
        // Several signals may have left a byte each; one reload handles all of them.
        while matches!(self.signals.reload.read(&mut [0; 64]), Ok(1..)) {}
        let request = json!({"command": "reload"});
        self.request(Asked { requester: Requester::Signal, by: None, request }, Command::Reload, now);
    }

    fn request(&mut self, asked: Asked, command: Command, now: Instant) {
        self.requests.last += 1;
        let request = RequestId(self.requests.last);
        self.requests.asked.insert(request, asked);
        // Where the certificate is of no use, nothing changes.
        if matches!(command, Command::Reload)
            && let Err(error) = self.certificate.reload()
        {
            let text =
                format!("{error}; links still get the TLS certificate as it was, and nothing is changed");
            return self.answer(request, Err(text), now);
        }
        self.core.request(request, command, now);
    }

    pub(super) fn reply(&mut self, ticket: Ticket, answer: Vec<u8>, now: Instant) {
        if let Some(control) = &mut self.control {
            control.answer(ticket, answer, now);
        }
    }

    /// Passes on what a request led to, and notes who made it.
    pub(super) fn answer(&mut self, request: RequestId, answer: Result<Answer, String>, now: Instant) {
        let Some(Asked { requester, by, request }) = self.requests.asked.remove(&request) else { return };
        self.audit(by, request, answer.as_ref().err());
        match requester {
            Requester::Signal => {
                if let Err(text) = answer {
                    self.logbook.note(Notice::ReloadFailed(text), now);
                }
            }
            Requester::Invite(ticket, Inviting { secret, seconds, replaces }) => {
                let invited = answer.map(|_| Invited {
                    invite: secret.to_hex(),
                    hub_key: self.core.key(),
                    listening: self.about.listening[0],
                    seconds,
                    replaces,
                });
                self.reply(ticket, encode(invited), now);
            }
            Requester::Command(ticket) => {
                let answer = self.encode_answer(answer);
                self.reply(ticket, answer, now);
            }
        }
    }

    /// Writes down who asked for what, and whether it was done.
    fn audit(&mut self, by: Option<Caller>, request: Value, error: Option<&String>) {
        let who = by.as_ref().map_or("a signal".to_owned(), Caller::to_string);
        let refused = if error.is_some() { " (refused)" } else { "" };
        info!("{}{refused}, by {who}", summary(&request));
        let entry = Entry::new(self.clock.unix_time, by, request, error.cloned());
        self.store.audit(entry.line());
    }

    fn encode_answer(&self, answer: Result<Answer, String>) -> Vec<u8> {
        match answer {
            Ok(Answer::Access(_)) => encode(Ok(control::standing(&self.core, &self.about))),
            Ok(Answer::Draining(_)) => encode(Ok(control::draining(&self.core, self.clock.now))),
            Ok(Answer::Renumbered(renumbered)) => {
                encode(Ok(control::renumbered(&renumbered, self.core.key(), true)))
            }
            Ok(Answer::Reloaded(changes, others)) => {
                let certificate = self.certificate.file();
                encode(Ok(control::reloaded(&self.core, &self.about, (&changes, &others), certificate)))
            }
            Ok(Answer::Revoked(change) | Answer::Forgotten(change)) => encode(Ok(self.revoked(change))),
            Ok(Answer::Allowed(name, key, waited)) => encode(Ok(Allowed { name, key, waited })),
            Ok(Answer::Renamed(change, to)) => encode(Ok(Renamed { from: change.member.name, to })),
            Ok(Answer::Kept) => encode(Ok(control::head(&self.core, &self.about, self.clock.now).keeper)),
            Ok(Answer::Invited | Answer::Cancelled(_)) => encode(Ok(())),
            Err(text) => encode::<()>(Err(text)),
        }
    }

    fn revoked(&self, change: Change) -> Revoked {
        Revoked {
            name: change.member.name,
            key: change.member.key,
            addresses: change.member.addresses,
            online: change.member.session.is_some(),
            file: self.store.members_file(),
            hubs: control::others(&self.core),
            unreached: control::unlinked(&self.core),
            kept: self.core.keeper().is_some_and(|term| term.keeper == change.member.key),
        }
    }
}
