//! Admission: who may join, under which name and address, by which invite, and who gets a disputed address.
//! Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use common::node::text::Printable;
use common::wire::frame::{Join, Refusal};
use common::wire::invite::{Secret, SecretHash};
use common::wire::key::PublicKey;
use common::wire::name::Name;
use common::wire::place::Place;

use crate::ids::{MemberId, SessionId};
use crate::lan::invites::{Invite, Invites, format_invite, parse_invite};
use crate::lan::joins::Joins;
use crate::lan::members::{Access, Change, Decision, Members, Rights, Unagreed};
use crate::lan::moves::{Moves, Step};
use crate::lan::pending::{Pending, Waiting};
use crate::lan::saving::{Job, Saving};
use crate::lan::subnets::Subnets;

/// How long the holder of a disputed address has to answer.
pub const DISPUTE_TIME: Duration = Duration::from_secs(2);
/// How often its answer is checked: a live holder answers within a round trip.
pub const DISPUTE_STEP: Duration = Duration::from_millis(50);

/// The state of links, for code that has no access to them.
pub trait Contact {
    /// Whether the session is alive and was heard, or came to the LAN, after `since`.
    fn was_heard(&self, session: SessionId, since: Instant) -> bool;
}

/// The decision on a join request.
#[derive(Debug)]
pub enum Ruling {
    /// Admitted.
    Welcome(Welcomed),
    /// Refused: the reason, as a code and as text.
    Refused(Applicant, Refusal, String),
    /// The hub is locked and does not know the key: a person has to decide.
    Unknown(PublicKey, Join),
    /// Pending: ping this member, and check again every [`DISPUTE_STEP`].
    Dispute {
        /// The member.
        holder: MemberId,
        /// Whether it is asked already, for someone else.
        is_asked: bool,
    },
}

/// Who asks to join.
#[derive(Clone, Debug)]
pub struct Applicant {
    /// The key that it proved.
    pub key: PublicKey,
    /// The name that it would have, if its request can be read.
    pub name: Option<Name>,
}

/// An admitted member, and the members that lost an address to it.
#[derive(Debug)]
pub struct Welcomed {
    /// Who.
    pub id: MemberId,
    /// Its request.
    pub join: Join,
    /// Whether the hub did not know it before.
    pub is_new: bool,
    /// Whether it has used an invite up.
    pub has_used_invite: bool,
    /// The keys of members that lost an address to it, with the address.
    pub evicted: Vec<(PublicKey, IpAddr)>,
}

/// A request to join.
struct Request {
    key: PublicKey,
    join: Join,
    /// Holders of addresses that it asks for that did not answer, and since when.
    found_dead: Vec<(PublicKey, Instant)>,
}

impl Request {
    fn refused(&self, reason: Refusal, text: String) -> Ruling {
        Ruling::Refused(Applicant { key: self.key, name: Some(self.join.name.clone()) }, reason, text)
    }
}

/// A request for an address whose holder was asked for a sign of life. While it waits, the holder may be forgotten, and its place in
/// the list be another one's.
struct Dispute {
    request: Request,
    holder: PublicKey,
    asked_at: Instant,
}

/// Members, invites and pending requests.
pub struct Admission {
    members: Members,
    invites: Invites,
    access: Access,
    subnets: Subnets,
    /// Where the LAN's subnets were before.
    moves: Moves,
    /// The time of day, for invites: Unix seconds.
    unix_time: u64,
    disputes: BTreeMap<SessionId, Dispute>,
    /// When holders were last asked for a sign of life.
    asked: BTreeMap<PublicKey, Instant>,
    /// How often keys join.
    pub(crate) joins: Joins,
    /// Who waits for a person.
    pub(crate) pending: Pending,
}

impl Admission {
    /// Admission to a LAN of these members, without invites.
    pub fn new(members: Members, access: Access, subnets: Subnets) -> Admission {
        Admission {
            members,
            invites: Invites::default(),
            access,
            subnets,
            moves: Moves::default(),
            unix_time: 0,
            disputes: BTreeMap::new(),
            asked: BTreeMap::new(),
            joins: Joins::default(),
            pending: Pending::default(),
        }
    }

    /// The list of members.
    pub fn members(&self) -> &Members {
        &self.members
    }

    /// The same, for what concerns neither names nor addresses.
    pub(crate) fn members_mut(&mut self) -> &mut Members {
        &mut self.members
    }

    /// The invites that are not used yet.
    pub fn invites(&self) -> &Invites {
        &self.invites
    }

    /// Whether unknown keys may join.
    pub fn access(&self) -> Access {
        self.access
    }

    /// Sets whether unknown keys may join; members on the LAN stay.
    pub fn set_access(&mut self, access: Access) {
        self.access = access;
    }

    /// Sets whether nobody can agree to a change now: members that come are let in as their lines are.
    pub(crate) fn set_frozen(&mut self, is_frozen: bool) {
        self.members.set_frozen(is_frozen);
    }

    /// Sets the time of day, in Unix seconds: invites expire by it.
    pub fn set_unix_time(&mut self, now: u64) {
        self.unix_time = now;
    }

    // ---- join requests

    /// Decides on the request of a session whose other end has proved `key`.
    pub fn ask(
        &mut self,
        session: SessionId,
        key: PublicKey,
        mut join: Join,
        contact: &impl Contact,
        now: Instant,
    ) -> Ruling {
        self.moves.translate_all(join.addresses.iter_mut().chain(&mut join.had));
        self.decide(session, Request { key, join, found_dead: Vec::new() }, contact, now)
    }

    fn decide(
        &mut self,
        session: SessionId,
        mut request: Request,
        contact: &impl Contact,
        now: Instant,
    ) -> Ruling {
        // A holder found dead may have come back while another one was asked.
        request.found_dead.retain(|(holder, asked_at)| !self.was_heard(holder, *asked_at, contact));
        let dead = request.found_dead.iter().filter_map(|(holder, _)| self.members.by_key(holder));
        let dead: Vec<MemberId> = dead.collect();
        let Request { key, join, .. } = &mut request;
        let claim = match self.claim(key, join) {
            Ok(claim) => claim,
            Err(text) => return request.refused(Refusal::BadInvite, text),
        };
        let access = match (self.access, claim) {
            (Access::Locked, Some(_)) => Access::Invited,
            (access, _) => access,
        };
        let is_new = self.members.by_key(key).is_none();
        let decision = self.members.admit(*key, join, access, &dead);
        let has_used_invite = self.settle_claim(claim, &decision);
        match decision {
            Decision::Refused(Refusal::Locked, _) => Ruling::Unknown(request.key, request.join),
            Decision::Refused(reason, text) => request.refused(reason, text),
            Decision::Dispute(holder) => self.dispute(session, request, holder, contact, now),
            Decision::Member { id, evicted } => {
                let join = request.join;
                let key = |id| self.members.member(id).key;
                let evicted = evicted.into_iter().map(|(holder, address)| (key(holder), address)).collect();
                Ruling::Welcome(Welcomed { id, join, is_new, has_used_invite, evicted })
            }
        }
    }

    /// Has a request wait for the holder of an address: one question at a time, whoever and how many want to know.
    fn dispute(
        &mut self,
        session: SessionId,
        request: Request,
        holder: MemberId,
        contact: &impl Contact,
        now: Instant,
    ) -> Ruling {
        self.asked.retain(|_, asked_at| now < *asked_at + DISPUTE_TIME);
        let key = self.members.member(holder).key;
        let asked = self.asked.get(&key).copied();
        if let Some(asked_at) = asked
            && self.was_heard(&key, asked_at, contact)
            && let Some((reason, text)) = self.refusal(&request, &key)
        {
            return request.refused(reason, text);
        }
        let asked_at = asked.unwrap_or(now);
        self.asked.insert(key, asked_at);
        self.disputes.insert(session, Dispute { request, holder: key, asked_at });
        Ruling::Dispute { holder, is_asked: asked.is_some() }
    }

    /// The refusal of a request for an address that this member holds.
    fn refusal(&self, request: &Request, holder: &PublicKey) -> Option<(Refusal, String)> {
        let (addresses, holder) = (&request.join.addresses, self.members.by_key(holder)?);
        let held = addresses.iter().find(|&&address| self.members.holder(address) == Some(holder));
        held.map(|&address| self.members.held(holder, address))
    }

    /// Whether the session waits for the holder of an address.
    pub fn is_disputing(&self, session: SessionId) -> bool {
        self.disputes.contains_key(&session)
    }

    /// Forgets a session that has ended.
    pub fn forget_session(&mut self, session: SessionId) {
        self.disputes.remove(&session);
        self.joins.take_question(session);
        self.pending.remove(session);
    }

    /// Takes out those who wait and for whom there is a decision now.
    pub(crate) fn take_decided(&mut self) -> Vec<(SessionId, Waiting)> {
        let (members, is_open) = (&self.members, self.access != Access::Locked);
        self.pending.take(|machine| {
            is_open || members.by_key(&machine.key).is_some() || members.is_revoked(&machine.key)
        })
    }

    /// Settles a dispute if the holder was heard since or is gone, or if its time is over; `None` while it is open.
    pub fn settle(&mut self, session: SessionId, contact: &impl Contact, now: Instant) -> Option<Ruling> {
        let dispute = self.disputes.get(&session)?;
        let is_online = self.session(&dispute.holder).is_some();
        let heard = self.was_heard(&dispute.holder, dispute.asked_at, contact);
        if is_online && !heard && now < dispute.asked_at + DISPUTE_TIME {
            return None;
        }
        let Dispute { mut request, holder, asked_at } = self.disputes.remove(&session)?;
        if heard {
            if let Some((reason, text)) = self.refusal(&request, &holder) {
                return Some(request.refused(reason, text));
            }
        } else {
            request.found_dead.push((holder, asked_at));
        }
        Some(self.decide(session, request, contact, now))
    }

    /// Takes out all open disputes, to be decided anew by [`Admission::ask`] now that holders may be gone.
    pub(crate) fn take_disputes(&mut self) -> Vec<(SessionId, PublicKey, Join)> {
        let disputes = std::mem::take(&mut self.disputes).into_iter();
        disputes.map(|(session, dispute)| (session, dispute.request.key, dispute.request.join)).collect()
    }

    /// Whether a member is on the LAN and was heard, or came, after `since`.
    fn was_heard(&self, key: &PublicKey, since: Instant, contact: &impl Contact) -> bool {
        self.session(key).is_some_and(|session| contact.was_heard(session, since))
    }

    /// The session of the member with this key, if it is on the LAN through this hub.
    fn session(&self, key: &PublicKey) -> Option<SessionId> {
        self.members.member(self.members.by_key(key)?).session
    }

    // ---- invites

    /// The invites with one more, unless its name or an address of it is a member's already.
    pub fn with_invite(&mut self, invite: &Invite) -> Result<Invites, String> {
        self.check_invite(invite)?;
        self.invites.prune(self.unix_time);
        let mut invites = self.invites.clone();
        invites.add(invite.clone())?;
        Ok(invites)
    }

    /// Makes the invite of this name void; `text` is written and does not have it.
    pub fn cancel_invite(&mut self, name: &Name, text: &str) {
        self.invites.cancel(name);
        self.invites.set_saved_text(text);
        self.reserve(None);
    }

    /// Adds an invite that is written: `text` has it.
    pub fn add_invite(&mut self, invite: Invite, text: &str) -> Result<(), String> {
        let added = self.check_invite(&invite).and_then(|()| self.invites.add(invite));
        match added {
            Ok(()) => self.invites.set_saved_text(text),
            // The list has changed while it was written: the text goes back to what the invites are.
            Err(_) => self.invites.set_outdated(),
        }
        self.reserve(None);
        added
    }

    fn check_invite(&self, invite: &Invite) -> Result<(), String> {
        if invite.uses.is_none() && self.members.by_name(&invite.name).is_some() {
            return Err(format!(
                "{0} is a member already: `hub revoke {0}` first, or use another name",
                invite.name
            ));
        }
        if self.members.hub_name() == Some(&invite.name) {
            return Err(format!("{} is the hub's own name: choose another", invite.name));
        }
        // A text that cannot be parsed must not be written: the hub would not start.
        parse_invite(&format_invite(invite), self.subnets)?;
        for &address in &invite.addresses {
            if let Some(holder) = self.members.holder(address) {
                return Err(format!("{address} is held by {}", self.members.member(holder).name));
            }
        }
        Ok(())
    }

    /// Takes over invites that were read.
    pub fn replace_invites(&mut self, invites: Invites) {
        self.invites.replace(invites);
        self.invites.prune(self.unix_time);
        self.reserve(None);
    }

    /// Whether a text that was read has other invites that can be used than those that were written.
    pub(crate) fn has_other_invites(&self, read: &Invites) -> bool {
        let lines = |invites: &Invites| -> BTreeSet<String> {
            invites.iter().filter(|invite| self.unix_time < invite.until).map(format_invite).collect()
        };
        !self.invites.is_changed() && lines(read) != lines(&self.invites)
    }

    /// Whether anything has to be written.
    pub(crate) fn is_changed(&self) -> bool {
        self.members.is_changed() || self.invites.is_changed()
    }

    /// The job that writes what is changed, but for `unagreed` members; `None` where there is nothing to write now.
    pub(crate) fn write_changes(
        &mut self,
        saving: &mut Saving,
        unagreed: &Unagreed,
        now: Instant,
    ) -> Option<Job> {
        saving.write_changes(&mut self.members, &self.invites, unagreed, now)
    }

    /// The invites, to note what of them was written.
    pub(crate) fn invites_mut(&mut self) -> &mut Invites {
        &mut self.invites
    }

    /// Looks at the invite that comes with a join request of an unknown key, and fills in what it grants.
    fn claim(&mut self, key: &PublicKey, join: &mut Join) -> Result<Option<SecretHash>, String> {
        // A member keeps showing the invite by which it joined.
        if self.members.by_key(key).is_some() || self.members.is_revoked(key) {
            return Ok(None);
        }
        let Some(secret) = join.invite.map(Secret) else { return Ok(None) };
        let Some(invite) = self.invites.find(&secret, self.unix_time).filter(|invite| !invite.is_hub) else {
            return Err("the invite is unknown, used or expired: ask for a new one".to_owned());
        };
        // Several machines keep the names that they have.
        if invite.uses.is_none() {
            join.name = invite.name.clone();
        }
        for &granted in &invite.addresses {
            join.addresses.retain(|wanted| wanted.is_ipv4() != granted.is_ipv4());
            join.addresses.push(granted);
        }
        let hash = invite.hash;
        self.reserve(Some(hash));
        Ok(Some(hash))
    }

    /// Uses the invite up if it let someone in; whether it did.
    fn settle_claim(&mut self, claim: Option<SecretHash>, decision: &Decision) -> bool {
        let Some(hash) = claim else { return false };
        let admitted = match decision {
            Decision::Member { id, .. } => Some(*id),
            Decision::Dispute(_) | Decision::Refused(..) => None,
        };
        if let Some(id) = admitted {
            let invite = self.invites.iter().find(|invite| invite.hash == hash);
            let (routes, tags) = invite.map(|one| (&*one.routes, &*one.tags)).unwrap_or_default();
            self.members.set_routes(id, routes);
            self.members.set_tags(id, tags);
            self.invites.use_up(hash);
        }
        self.reserve(None);
        admitted.is_some()
    }

    /// Has the addresses of all invites kept free.
    pub(crate) fn keep_invited_free(&mut self) {
        self.reserve(None);
    }

    /// Takes a hub in that shows an invite, unless it shows none: whether it does.
    ///
    /// # Errors
    /// A sentence that says why it is not taken in.
    pub(crate) fn admit_hub(&mut self, key: PublicKey, join: &Join) -> Result<bool, String> {
        let Some(secret) = join.invite.map(Secret) else { return Ok(false) };
        let invite = self.invites.find(&secret, self.unix_time).filter(|invite| invite.is_hub);
        let (invite, place) = match (invite, &join.place) {
            (Some(invite), Some(place)) => (invite.clone(), place.clone()),
            (Some(_), None) => {
                return Err("the hub does not say where it is reached: give it --host".to_owned());
            }
            (None, _) => {
                return Err(
                    "the invite is unknown, used or expired, or not that of a hub: ask for a new one"
                        .to_owned(),
                );
            }
        };
        let Invite { hash, name, addresses, routes, tags, .. } = invite;
        self.reserve(Some(hash));
        let listed = self.members.list_hub(key, name, Rights { addresses, routes, tags }, place);
        if listed.is_ok() {
            self.invites.use_up(hash);
        }
        self.reserve(None);
        listed.map(|()| true)
    }

    /// Has this hub itself in the list, reached there; where it is there already, with its name and addresses of before.
    pub(crate) fn list_hub(
        &mut self,
        key: PublicKey,
        name: &Name,
        place: Option<Place>,
    ) -> Result<(), String> {
        let known = self.members.by_key(&key).map(|id| self.members.member(id));
        match (known.and_then(|member| member.hub.as_ref()), place) {
            (Some(_), None) => Ok(()),
            (Some(before), Some(place)) if *before == place => Ok(()),
            (_, Some(place)) => self.members.list_hub(key, name.clone(), Rights::default(), place),
            (None, None) => {
                Err("say where other hubs and spokes reach this hub: --host HOST[:PORT]".to_owned())
            }
        }
    }

    /// The invite that a line says.
    pub(crate) fn parse_invite(&self, line: &str) -> Result<Invite, String> {
        parse_invite(line, self.subnets)
    }

    /// Has the addresses of all invites but one kept free.
    fn reserve(&mut self, but: Option<SecretHash>) {
        let invites = self.invites.iter().filter(|invite| Some(invite.hash) != but);
        let addresses = invites.flat_map(|invite| invite.addresses.iter().copied()).collect();
        self.members.set_reserved(addresses);
    }

    // ---- what a person changes

    /// Finds a member by its key, an address of it, or its name.
    pub fn find(&self, who: &str) -> Result<MemberId, String> {
        if let Ok(key) = who.parse::<PublicKey>() {
            if self.members.is_revoked(&key) {
                return Err(format!("{key} is revoked already"));
            }
            return self.members.by_key(&key).ok_or_else(|| format!("no member has the key {key}"));
        }
        let by_address = who.parse().ok().and_then(|address| self.members.holder(address));
        let by_name = || self.members.by_name(&who.parse::<Name>().ok()?);
        by_address.or_else(by_name).ok_or_else(|| match self.members.is_revoked_as(who) {
            true => format!("{} is revoked already", Printable(who)),
            false => format!("no member has the name, address or key {}", Printable(who)),
        })
    }

    /// Strikes a member off the list for good. Its link is for the caller to end.
    pub fn revoke(&mut self, id: MemberId) -> Change {
        self.members.revoke(id)
    }

    /// Sets where the LAN's subnets were before: addresses of those mean addresses of the present ones.
    pub fn set_moves(&mut self, moves: Moves) {
        self.moves = moves;
    }

    /// Where the LAN's subnets were before.
    pub fn moves(&self) -> &Moves {
        &self.moves
    }

    /// Moves all members and invites to other subnets.
    pub fn renumber(&mut self, subnets: Subnets, moves: Moves) {
        self.subnets = subnets;
        self.members.renumber(subnets, &moves);
        self.invites.renumber(subnets, &moves);
        self.moves = moves;
        self.reserve(None);
    }

    /// Whether all members and invites have a place in the subnets that these steps lead to.
    ///
    /// # Errors
    /// A sentence that names one which has none.
    pub fn check_steps(
        members: &Members,
        invites: &Invites,
        steps: &[Step],
        to: Subnets,
    ) -> Result<(), String> {
        let members = members.iter().map(|(_, member)| (&member.name, &member.addresses));
        let invites = invites.iter().map(|invite| (&invite.name, &invite.addresses));
        for (name, addresses) in members.chain(invites) {
            for &address in addresses {
                let Some(step) = steps.iter().find(|step| step.from.contains(address)) else { continue };
                let (from, new) = (step.from, step.to);
                match step.apply(address) {
                    Some(moved) => {
                        to.check(moved).map_err(|unfit| {
                            format!(
                                "{address} of {name} cannot become {moved}, which {unfit}; nothing is changed"
                            )
                        })?;
                    }
                    None if new.prefix() > from.prefix() && !common::packet::prefix::overlap(new, from) => {
                        return Err(format!(
                            "{new} is too small: it has no host for {address} of {name}; take a prefix of /{}, or \
                             revoke that member; nothing is changed",
                            from.prefix()
                        ));
                    }
                    None => {
                        return Err(format!(
                            "{new} is a part of {from}, where addresses stay as they are, and {address} of {name} is not \
                             in it: take a subnet apart from {from}; nothing is changed"
                        ));
                    }
                }
            }
        }
        Ok(())
    }

    /// Takes over a list of members that was read anew; tells who is changed by it.
    pub fn replace_members(&mut self, members: Members) -> Vec<Change> {
        self.members.replace(members)
    }
}
