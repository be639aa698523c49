//! The server's part in what a person asks: the files of the state directory, and the control socket.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::Read as _;
use std::time::Instant;

use common::node::event_loop::Source;
use common::node::request::{decode, encode};
use common::node::state;
use common::wire::invite::Secret;
use log::{info, warn};

use super::{SAVE_PAUSE, Server};
use crate::control::{self, Invited, Reloaded, Request, Revoked, Standing};
use crate::lan::invites::{Invite, Invites};
use crate::lan::members::{Access, Change, Members};

/// The list of members.
pub(super) const MEMBERS: &str = "members";
/// The invites.
pub(super) const INVITES: &str = "invites";
/// A file that is there while the hub is locked.
pub(super) const LOCKED: &str = "locked";

const LOCKED_TEXT: &str = "# While this file is there, only members and those with an invite can join.\n";
/// The longest life of an invite.
const MAX_INVITE_SECONDS: u64 = 366 * 24 * 60 * 60;

/// What tells whether a text is the one that we know.
pub(super) fn fingerprint(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

impl Server {
    /// Serves the control socket.
    pub(super) fn serve_control(&mut self, source: Source, now: Instant) {
        let Some(control) = &mut self.control else { return };
        let Some((ticket, request)) = control.serve(source, self.events.registry(), now) else { return };
        let answer = match decode(&request) {
            Ok(request) => self.obey(request, now),
            Err(text) => encode::<()>(Err(text)),
        };
        if let Some(control) = &mut self.control {
            control.answer(ticket, answer, now);
        }
    }

    fn obey(&mut self, request: Request, now: Instant) -> Vec<u8> {
        match request {
            Request::Status { after } => {
                encode(Ok(control::status(&self.switch, &self.about, after.as_ref(), now)))
            }
            Request::Invite { name, addresses, routes, seconds } => {
                let seconds = seconds.clamp(1, MAX_INVITE_SECONDS);
                encode(state::random().map_err(|error| error.to_string()).and_then(|random| {
                    let [secret, _] = random.as_chunks().0 else { unreachable!("32 bytes are 2 times 16") };
                    let secret = Secret(*secret);
                    let until = self.unix_time + seconds;
                    let invite = Invite { hash: secret.hash(), name, until, addresses, routes };
                    self.invite(invite)?;
                    Ok(Invited {
                        invite: secret.to_hex(),
                        hub_key: self.switch.key(),
                        listening: self.about.listening,
                        seconds,
                    })
                }))
            }
            Request::Lock => encode(self.lock(Access::Locked)),
            Request::Unlock => encode(self.lock(Access::Open)),
            Request::Revoke { member } => encode(self.revoke(&member, now)),
            Request::Reload => encode(self.reload(now)),
        }
    }

    fn invite(&mut self, invite: Invite) -> Result<(), String> {
        let name = invite.name.clone();
        let before = self.switch.invites().clone();
        self.switch.invite(invite)?;
        if let Err(error) = self.save_invites() {
            self.switch.restore_invites(before);
            return Err(format!("{error}; nobody is invited"));
        }
        info!("{name} is invited");
        Ok(())
    }

    fn lock(&mut self, access: Access) -> Result<Standing, String> {
        let written = match access {
            Access::Open => self.state.remove(LOCKED),
            Access::Locked | Access::Invited => self.state.write(LOCKED, LOCKED_TEXT),
        };
        written.map_err(|error| format!("{error}; nothing is changed"))?;
        self.set_access(access);
        Ok(control::standing(&self.switch, &self.about))
    }

    /// Says who may join from now on.
    pub(super) fn set_access(&mut self, access: Access) {
        self.switch.set_access(access);
        let members = self.switch.members().len();
        match access {
            Access::Open => warn!(
                "open: anyone who reaches port {} can join the LAN; `hub lock` lets in only members and whom you \
                 invite",
                self.about.listening.port()
            ),
            Access::Locked | Access::Invited => {
                info!("locked: only {members} known members and those with an invite can join");
            }
        }
    }

    fn revoke(&mut self, who: &str, now: Instant) -> Result<Revoked, String> {
        let id = self.switch.find(who)?;
        let Change { member, .. } = self.switch.revoke(id, now);
        // It is off the LAN whatever the disk says, and whoever asked is to know what the disk says.
        self.save_again_at = None;
        self.save(now);
        if let Some(trouble) = self.about.trouble.as_ref().filter(|_| self.switch.members().is_changed()) {
            return Err(format!("{} is revoked and off the LAN, but {trouble}", member.name));
        }
        Ok(Revoked {
            name: member.name,
            key: member.key,
            addresses: member.addresses,
            online: member.session.is_some(),
            file: self.state.path().join(MEMBERS),
        })
    }

    // ---- files

    /// Reloads because of a signal.
    pub(super) fn handle_hangup(&mut self, now: Instant) {
        // Several signals may have left a byte each; one reload is for all of them.
        while matches!(self.hangups.read(&mut [0; 64]), Ok(1..)) {}
        if let Err(text) = self.reload(now) {
            warn!("{text}");
        }
    }

    /// Reads `members`, `invites` and `locked` again. An error leaves everything as it was.
    fn reload(&mut self, now: Instant) -> Result<Reloaded, String> {
        let unchanged = |error: state::Error| format!("{error}; nothing is changed");
        let text = match self.state.read(MEMBERS).map_err(unchanged)? {
            Some(text) => text,
            None if self.switch.members().is_empty() => String::new(),
            None => {
                let file = self.state.path().join(MEMBERS);
                return Err(format!("{} is missing; nothing is changed", file.display()));
            }
        };
        let subnets = self.switch.lan().subnets;
        let members = Members::parse(&text, subnets)
            .map_err(|bad| unchanged(self.state.damaged(MEMBERS, bad.line, bad.why)))?;
        let invites = self.state.read(INVITES).map_err(unchanged)?.unwrap_or_default();
        let invites = Invites::parse(&invites, subnets)
            .map_err(|bad| unchanged(self.state.damaged(INVITES, bad.line, bad.why)))?;
        let locked = self.state.read(LOCKED).map_err(unchanged)?.is_some();

        let changes = self.take_members(&text, members, now);
        self.switch.set_invites(invites);
        // A person may have mended what kept the hub from writing.
        self.save_again_at = None;
        let access = if locked { Access::Locked } else { Access::Open };
        if access != self.switch.access() {
            self.set_access(access);
        }
        let reloaded = control::reloaded(&self.switch, &self.about, &changes);
        info!("read the files again: {} members, {} of them changed", reloaded.standing.known, changes.len());
        Ok(reloaded)
    }

    fn take_members(&mut self, text: &str, members: Members, now: Instant) -> Vec<Change> {
        self.members_known = fingerprint(text);
        self.switch.replace_members(members, now)
    }

    /// Writes what is changed. Nothing that rests on it goes out before.
    pub(super) fn save(&mut self, now: Instant) {
        let is_all_saved = !self.switch.invites().is_changed() && !self.switch.members().is_changed();
        if self.save_again_at.is_some() || is_all_saved && self.about.trouble.is_none() {
            return;
        }
        self.save_changes(now);
    }

    #[cold]
    fn save_changes(&mut self, now: Instant) {
        // First that an invite is used, then by whom: if the second fails, nobody has a place for nothing.
        let invites = self.save_invites().map_err(|error| {
            format!("{error}; until then invites that are used may be good again when the hub starts anew")
        });
        let members = self.save_members(now).map_err(|error| {
            format!("{error}; until then what changes in the list of members is lost when the hub ends")
        });
        let trouble =
            [invites, members].into_iter().filter_map(Result::err).collect::<Vec<_>>().join("; and ");
        if trouble.is_empty() {
            if self.about.trouble.take().is_some() {
                info!("all changes are written to {} again", self.state.path().display());
            }
            return;
        }
        self.save_again_at = Some(now + SAVE_PAUSE);
        // It is tried again and again, and told once.
        if self.about.trouble.as_ref() != Some(&trouble) {
            warn!("{trouble}");
            self.about.trouble = Some(trouble);
        }
    }

    fn save_invites(&mut self) -> Result<(), state::Error> {
        if self.switch.invites().is_changed() {
            self.state.write(INVITES, &self.switch.invites().to_text())?;
            self.switch.invites_mut().set_saved();
        }
        Ok(())
    }

    fn save_members(&mut self, now: Instant) -> Result<(), state::Error> {
        if self.switch.members().is_changed() {
            self.take_edited_members(now)?;
            let text = self.switch.members().to_text();
            self.state.write(MEMBERS, &text)?;
            self.members_known = fingerprint(&text);
            self.switch.members_mut().set_saved();
        }
        Ok(())
    }

    /// Takes over what a person has written into `members` since it was read, lest it be overwritten.
    fn take_edited_members(&mut self, now: Instant) -> Result<(), state::Error> {
        // What cannot be read cannot be kept; writing says why.
        let Ok(Some(text)) = self.state.read(MEMBERS) else { return Ok(()) };
        if fingerprint(&text) == self.members_known {
            return Ok(());
        }
        let members = Members::parse(&text, self.switch.lan().subnets)
            .map_err(|bad| self.state.damaged(MEMBERS, bad.line, bad.why))?;
        info!("the list of members was edited: read it again");
        self.take_members(&text, members, now);
        Ok(())
    }
}
