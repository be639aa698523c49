//! The server's part of commands: the control socket, and the signal to read the files again. IO.

use std::io::Read as _;
use std::time::Instant;

use common::node::event_loop::Source;
use common::node::request::{Ticket, decode, encode};
use common::node::state;
use common::wire::invite::Secret;

use super::Server;
use super::requester::Requester;
use crate::control::{self, Invited, Request, Revoked};
use crate::effect::Notice;
use crate::ids::RequestId;
use crate::lan::invites::Invite;
use crate::lan::members::Access;
use crate::lan::saving::{Answer, Command};
use crate::lan::subnets::Subnets;

/// The longest life of an invite.
const MAX_INVITE_SECONDS: u64 = 366 * 24 * 60 * 60;

impl Server {
    /// Serves the control socket.
    pub(super) fn serve_control(&mut self, source: Source, now: Instant) {
        let Some(control) = &mut self.control else { return };
        let Some((ticket, request)) = control.serve(source, self.events.registry(), now) else { return };
        match decode(&request) {
            Ok(Request::Status { after }) => {
                let mut status = control::status(&self.core, &self.about, after.as_ref(), now);
                status.problems = self.machine.problems();
                self.reply(ticket, encode(Ok(status)), now);
            }
            Ok(Request::Invite { name, addresses, routes, seconds }) => {
                let random = match state::random() {
                    Ok(random) => random,
                    Err(error) => return self.reply(ticket, encode::<()>(Err(error.to_string())), now),
                };
                let [secret, _] = random.as_chunks().0 else { unreachable!("32 bytes are 2 times 16") };
                let (secret, seconds) = (Secret(*secret), seconds.clamp(1, MAX_INVITE_SECONDS));
                let until = self.clock.unix_time + seconds;
                let invite = Invite { hash: secret.hash(), name, until, addresses, routes };
                self.request(Requester::Invite(ticket, secret, seconds), Command::Invite(invite), now);
            }
            Ok(Request::Lock) => {
                self.request(Requester::Command(ticket), Command::SetAccess(Access::Locked), now);
            }
            Ok(Request::Unlock) => {
                self.request(Requester::Command(ticket), Command::SetAccess(Access::Open), now);
            }
            Ok(Request::Revoke { member }) => {
                self.request(Requester::Command(ticket), Command::Revoke(member), now);
            }
            Ok(Request::Renumber { subnets }) => match Subnets::new(&subnets) {
                Ok(subnets) => self.request(Requester::Command(ticket), Command::Renumber(subnets), now),
                Err(error) => self.reply(ticket, encode::<()>(Err(error.to_string())), now),
            },
            Ok(Request::Reload) => self.request(Requester::Command(ticket), Command::Reload, now),
            Err(text) => self.reply(ticket, encode::<()>(Err(text)), now),
        }
    }

    /// Reloads because of a signal.
    pub(super) fn handle_hangup(&mut self, now: Instant) {
        // Several signals may have left a byte each; one reload handles all of them.
        while matches!(self.signals.reload.read(&mut [0; 64]), Ok(1..)) {}
        self.request(Requester::Signal, Command::Reload, now);
    }

    fn request(&mut self, requester: Requester, command: Command, now: Instant) {
        self.requests.last += 1;
        let request = RequestId(self.requests.last);
        self.requests.asked.insert(request, requester);
        self.core.request(request, command, now);
    }

    fn reply(&mut self, ticket: Ticket, answer: Vec<u8>, now: Instant) {
        if let Some(control) = &mut self.control {
            control.answer(ticket, answer, now);
        }
    }

    /// Passes on what a request led to.
    pub(super) fn answer(&mut self, request: RequestId, answer: Result<Answer, String>, now: Instant) {
        let Some(asked) = self.requests.asked.remove(&request) else { return };
        match asked {
            Requester::Signal => {
                if let Err(text) = answer {
                    self.logbook.note(Notice::ReloadFailed(text), now);
                }
            }
            Requester::Invite(ticket, secret, seconds) => {
                let invited = answer.map(|_| Invited {
                    invite: secret.to_hex(),
                    hub_key: self.core.key(),
                    listening: self.about.listening,
                    seconds,
                });
                self.reply(ticket, encode(invited), now);
            }
            Requester::Command(ticket) => {
                let answer = self.encode_answer(answer);
                self.reply(ticket, answer, now);
            }
        }
    }

    fn encode_answer(&self, answer: Result<Answer, String>) -> Vec<u8> {
        match answer {
            Ok(Answer::Access(_)) => encode(Ok(control::standing(&self.core, &self.about))),
            Ok(Answer::Renumbered(renumbered)) => encode(Ok(control::renumbered(&renumbered, true))),
            Ok(Answer::Reloaded(changes)) => encode(Ok(control::reloaded(&self.core, &self.about, &changes))),
            Ok(Answer::Revoked(change)) => encode(Ok(Revoked {
                name: change.member.name,
                key: change.member.key,
                addresses: change.member.addresses,
                online: change.member.session.is_some(),
                file: self.store.members_file(),
            })),
            Ok(Answer::Invited) => encode(Ok(())),
            Err(text) => encode::<()>(Err(text)),
        }
    }
}
