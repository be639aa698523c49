//! Handles the hub's frames: welcome, refusal, routes, members, farewell. Pure.

use std::time::Instant;

use common::node::request::Ticket;
use common::wire::frame::{ControlFrame, Farewell, Refusal, Welcome};
use common::wire::name::Name;
use ipnetwork::IpNetwork;

use super::learned::MAX_ANNOUNCED;
use super::members::{Asked, PageOutcome};
use super::routes::{RouteMode, View};
use super::{Config, Effect, Error, Notice, OuterNetwork, Phase, Uplink, advice, grant};
use crate::control::{MemberStatus, NO_ANSWER, NOT_ON_LAN, Page};

impl Uplink {
    pub(super) fn handle_frame(&mut self, frame: ControlFrame, now: Instant) {
        match frame {
            ControlFrame::Welcome(welcome) => self.handle_welcome(welcome, now),
            ControlFrame::Refused { reason, text } => self.handle_refused(reason, text, now),
            ControlFrame::Bye(farewell) => self.handle_bye(farewell, now),
            ControlFrame::Routes { added, removed, all } => {
                if self.routes.update(added, &removed, all) {
                    self.effects.push_back(Effect::Log(Notice::TooManyRoutes(MAX_ANNOUNCED)));
                }
                if all {
                    self.set_routes();
                    self.explain_routes();
                }
            }
            ControlFrame::Members { peers, page, state } => {
                let outcome = self.members.handle_page(peers, page, state);
                self.handle_members(outcome, now);
            }
            ControlFrame::MembersChanged => self.refresh_members(now),
            ControlFrame::Pending => self.handle_pending(),
            ControlFrame::Hubs(hubs) => self.handle_hubs(hubs, now),
            ControlFrame::Lane(note) => self.handle_lane_note(note, now),
            // The tunnel answers or refuses these itself.
            ControlFrame::Ping(_)
            | ControlFrame::Pong(_)
            | ControlFrame::AskMembers { .. }
            | ControlFrame::Online(_)
            | ControlFrame::Offline(_)
            | ControlFrame::Revoked(_)
            | ControlFrame::Keeper { .. }
            | ControlFrame::Records { .. }
            | ControlFrame::Ask { .. }
            | ControlFrame::Answer { .. } => {}
        }
    }

    fn handle_refused(&mut self, reason: Refusal, text: String, now: Instant) {
        self.pin_hub();
        if reason == Refusal::Locked {
            // Its owner may let this machine in at any time.
            self.retry.slow_down();
            return self.try_again(advice::locked(&self.config.name, &self.identity.key.public()), now);
        }
        let refused = Error::Refused(reason, text);
        if reason == Refusal::Later {
            // What is missing is another hub, which may be back soon.
            self.try_again(refused.to_string(), now);
        } else if reason == Refusal::Revoked {
            self.effects.push_back(Effect::Exit(refused));
        } else {
            if reason == Refusal::KeyInUse {
                self.retry.count_clone();
            }
            self.end_or_try_again(refused, now);
        }
    }

    /// A person at the hub has to decide.
    fn handle_pending(&mut self) {
        self.pin_hub();
        let Phase::Linked(linked) = &mut self.phase else { return };
        linked.is_pending = true;
        if !std::mem::replace(&mut self.identity.has_said_pending, true) {
            let text = advice::locked(&self.config.name, &self.identity.key.public());
            self.effects.push_back(Effect::Log(Notice::Pending(text)));
        }
    }

    fn handle_bye(&mut self, farewell: Farewell, now: Instant) {
        let why = match farewell {
            Farewell::Stopping => "it stops",
            // By the way that is tried: that one is heard of next.
            Farewell::Replaced if self.switch_at_loss(now) => return,
            Farewell::Replaced => {
                // A link that lasted says that there was no other machine before.
                self.close_link(false, now);
                self.retry.count_clone();
                "another spoke joined with the same key: if that was a second one on purpose, give each its own \
                 --state DIR; if one machine is a clone of the other, delete the file `key` in the clone's state \
                 directory"
            }
            Farewell::TooOften => "this spoke joined too often: later",
            Farewell::Revoked => {
                let text = "its membership was revoked".to_owned();
                self.effects.push_back(Effect::Exit(Error::Refused(Refusal::Revoked, text)));
                return;
            }
            Farewell::AddressLost => "our address went to another spoke while we did not answer",
            Farewell::Changed => "our membership was changed",
            Farewell::Other(_) => "it said goodbye",
        };
        let why = format!("lost the hub {}: {why}", self.ways.current().hub);
        match farewell {
            // There is another machine, or will be too soon.
            Farewell::Replaced | Farewell::TooOften => self.try_again(why, now),
            Farewell::Changed => self.join_again(why, now),
            Farewell::Stopping | Farewell::Revoked | Farewell::AddressLost | Farewell::Other(_) => {
                self.fail_over(why, now);
            }
        }
    }

    // ---- the welcome

    fn handle_welcome(&mut self, welcome: Welcome, now: Instant) {
        self.pin_hub();
        let Phase::Linked(linked) = &self.phase else { return };
        let accepted = &self.config.route_policy.accepted;
        let hub = linked.hub.ip().to_canonical();
        if let Err(rejected) = grant::check(&welcome, &self.config.addresses, accepted, hub) {
            return self.end_or_try_again(Error::RejectedConfig(rejected), now);
        }
        self.release_packets(now);
        let mtu = self.config.mtu.map_or(welcome.mtu, |mtu| mtu.min(welcome.mtu));
        self.effects.push_back(Effect::Configure { addresses: welcome.addresses.clone(), mtu });
        if let Phase::Linked(linked) = &mut self.phase {
            linked.welcome = Some(welcome);
        }
    }

    /// The outcome of [`Effect::Configure`]; an error's text says what to do. After success the spoke is on the LAN.
    pub fn handle_configured(&mut self, configured: Result<(), String>, now: Instant) {
        let Phase::Linked(linked) = &mut self.phase else { return };
        let Some(welcome) = linked.welcome.take() else { return };
        if let Err(why) = configured {
            return self.end_or_try_again(Error::Device(why), now);
        }
        linked.joined_at = Some(now);
        let hub = linked.hub;
        self.identity.was_on_lan = true;
        self.identity.has_said_pending = false;
        self.retry.succeeded();
        self.note_way();
        let refused =
            self.config.route_policy.offered.iter().filter(|&offer| !welcome.routes.contains(offer));
        self.effects.extend(refused.map(|&offer| Effect::Log(Notice::OfferRefused(offer))));
        if is_taken(&self.config.name, &welcome.name) && welcome.name != self.identity.name {
            let (wanted, given) = (self.config.name.clone(), welcome.name.clone());
            self.effects.push_back(Effect::Log(Notice::NameTaken { wanted, given }));
        }
        for &wanted in &self.config.addresses {
            let same_family = |given: &&IpNetwork| given.is_ipv4() == wanted.is_ipv4();
            let given = welcome.addresses.iter().find(same_family).map(|given| given.ip());
            // Once for each address that it gets.
            if let Some(given) = given.filter(|given| *given != wanted && !self.identity.has(*given)) {
                self.effects.push_back(Effect::Log(Notice::AddressMoved { wanted, given }));
            }
        }
        self.effects.push_back(Effect::Log(Notice::OnLan {
            addresses: welcome.addresses.iter().map(|address| address.ip()).collect(),
            name: welcome.name.clone(),
            hub,
            proxy: self.ways.current().proxy.as_ref().map(ToString::to_string),
        }));
        self.identity.name = welcome.name;
        self.identity.addresses = welcome.addresses;
        // The kernel forgets routes with the addresses that they need.
        self.set_routes();
        if self.config.follows_members {
            self.refresh_members(now);
        }
        self.schedule_better(now);
        self.watch_link(now);
    }

    // ---- routes

    /// Asks for the routes that fit what the hub announced and how the link stands.
    pub(super) fn set_routes(&mut self) {
        let view = view(&self.config, &self.outer, &self.phase, self.routes.way_outs());
        if let Some(routes) = self.routes.plan(&view) {
            self.effects.push_back(Effect::SetRoutes { routes, hub: self.outer.hub_addresses.clone() });
        }
    }

    /// Tells about each prefix, once, why it is rejected or what is special about it.
    fn explain_routes(&mut self) {
        let view = view(&self.config, &self.outer, &self.phase, self.routes.way_outs());
        let notices = self.routes.explain(&view).into_iter().filter_map(|(prefix, decided)| match decided {
            Ok(RouteMode::Main) => None,
            Ok(RouteMode::Around) => Some(Notice::RouteAroundHub(prefix)),
            Err(skip) => Some(Notice::RouteSkipped(prefix, skip)),
        });
        self.effects.extend(notices.map(Effect::Log));
    }

    // ---- members

    /// A person asks for a page of the members, from the first name after `after` on.
    pub fn ask_members(&mut self, ticket: Ticket, after: Option<Name>, now: Instant) {
        if !self.is_on_lan() {
            return self.refuse(ticket, NOT_ON_LAN);
        }
        match self.members.ask_for(ticket, after, now) {
            Ok(question) => self.ask(question, now),
            Err(why) => self.refuse(ticket, why),
        }
    }

    fn refuse(&mut self, ticket: Ticket, why: &str) {
        self.effects.push_back(Effect::Answer(ticket, Err(why.to_owned())));
    }

    /// Reads the list of members anew.
    fn refresh_members(&mut self, now: Instant) {
        if let Some(question) = self.members.refresh() {
            self.ask(question, now);
        }
    }

    fn ask(&mut self, Asked { after, watch, since }: Asked, now: Instant) {
        let Phase::Linked(linked) = &mut self.phase else { return };
        if let Err(error) = linked.tunnel.control(&ControlFrame::AskMembers { after, watch, since }) {
            self.fail_link(error, now);
        }
    }

    fn handle_members(&mut self, outcome: PageOutcome, now: Instant) {
        match outcome {
            PageOutcome::Person(ticket, peers, last) => {
                let page = Page { members: peers.into_iter().map(MemberStatus::from).collect(), last };
                self.effects.push_back(Effect::Answer(ticket, Ok(page)));
            }
            PageOutcome::GoOn(question) => self.ask(question, now),
            PageOutcome::Whole(peers, again) => {
                self.effects.push_back(Effect::Members(peers));
                if let Some(question) = again {
                    self.ask(question, now);
                }
            }
            PageOutcome::Nobody => {}
        }
    }

    /// Answers those who have waited for too long.
    pub(super) fn answer_late(&mut self, now: Instant) {
        while let Some(ticket) = self.members.poll_late(now) {
            self.effects.push_back(Effect::Answer(ticket, Err(NO_ANSWER.to_owned())));
        }
    }

    /// The link is gone: answers those who wait for the hub.
    pub(super) fn answer_nobody(&mut self) {
        let waiting = self.members.end_link();
        self.effects.extend(waiting.map(|ticket| Effect::Answer(ticket, Err(NOT_ON_LAN.to_owned()))));
    }
}

/// Whether the hub gave a name with a number behind it in the place of one that another member has, or none can have.
fn is_taken(wanted: &Name, given: &Name) -> bool {
    let number = given.as_str().rsplit_once('-').and_then(|(_, number)| number.parse().ok());
    number.is_some_and(|number| Name::nearest(wanted.as_str()).numbered(number) == *given)
}

/// What routes are decided by.
fn view<'a>(
    config: &'a Config,
    outer: &'a OuterNetwork,
    phase: &Phase,
    way_outs: Vec<IpNetwork>,
) -> View<'a> {
    View {
        route_policy: &config.route_policy,
        own: &outer.own_networks,
        hub: &outer.hub_addresses,
        name_servers: &outer.name_servers,
        way_outs,
        is_linked: matches!(phase, Phase::Linked(_)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_behind_the_wanted_name_says_that_it_is_taken() {
        let is_taken =
            |wanted: &str, given: &str| is_taken(&wanted.parse().unwrap(), &given.parse().unwrap());
        assert!(is_taken("laptop", "laptop-2") && is_taken("laptop-2", "laptop-2-3"));
        assert!(is_taken(&"x".repeat(63), &format!("{}-12", "x".repeat(60))));
        // An invite or the hub's owner gave these.
        for (wanted, given) in
            [("laptop", "laptop"), ("laptop-2", "laptop-2"), ("laptop", "phone"), ("a", "b-2"), ("a", "a-x")]
        {
            assert!(!is_taken(wanted, given), "{wanted} {given}");
        }
    }
}
