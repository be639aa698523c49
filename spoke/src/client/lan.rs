//! What the hub says: welcome, routes, members, farewell; and what becomes of it on this machine. IO, by the device.

use std::time::{Duration, Instant};

use common::linux::tun::Tun;
use common::packet::link_local;
use common::wire::frame::{ControlFrame, Farewell, Peer, Refusal, Welcome};
use common::wire::key::PublicKey;
use common::wire::name::Name;
use ipnetwork::IpNetwork;
use log::{info, warn};

use super::phases::{Failures, Phase};
use super::{Client, Error, HUBS};
use crate::control::{Asker, MAX_MEMBERS};
use crate::uplink::routes::{RouteMode, RoutePolicy, View};
use crate::uplink::{grant, hosts, pins};

/// How long to wait before the hub's key is written again after that failed.
const PIN_PAUSE: Duration = Duration::from_secs(10);
/// Most prefixes that the hub may tell.
const MAX_TOLD: usize = 50_000;
/// Most prefixes about which the person is told.
const MAX_EXPLAINED: usize = 1_000;

impl Client {
    pub(super) fn handle_control(&mut self, control: ControlFrame, now: Instant) -> Result<(), Error> {
        match control {
            ControlFrame::Welcome(welcome) => self.handle_welcome(welcome, now),
            ControlFrame::Refused { reason, text } => {
                self.pin_hub(now);
                let refused = Error::Refused(reason, text);
                if !self.was_on_lan || reason == Refusal::Revoked {
                    return Err(refused);
                }
                self.retry(refused.to_string(), now);
                Ok(())
            }
            ControlFrame::Bye(farewell) => {
                let why = match farewell {
                    Farewell::Stopping => "it stops",
                    Farewell::Replaced => {
                        self.backoff.slow_down();
                        "another spoke joined with the same key: if that was a second one on purpose, give each its \
                         own --state DIR"
                    }
                    Farewell::Revoked => {
                        let text = "its membership was revoked".to_owned();
                        return Err(Error::Refused(Refusal::Revoked, text));
                    }
                    Farewell::AddressLost => "our address went to another spoke while we did not answer",
                    Farewell::Changed => "our membership was changed",
                    Farewell::Other(_) => "it said goodbye",
                };
                self.retry(format!("lost the hub {}: {why}", self.config.hub), now);
                Ok(())
            }
            ControlFrame::Routes { added, removed, all } => {
                self.handle_routes(added, &removed, all);
                Ok(())
            }
            ControlFrame::Members { peers, last } => match self.pending.told() {
                Some(Asker::Own) => self.handle_members(peers, last, now),
                Some(Asker::Person(ticket)) => {
                    self.answer_members(ticket, peers, last, now);
                    Ok(())
                }
                // Whoever asked has given up, or nobody asked.
                None => Ok(()),
            },
            ControlFrame::MembersChanged => self.ask_members(None, now),
            // The tunnel answers or refuses these itself.
            ControlFrame::Ping(_) | ControlFrame::Pong(_) | ControlFrame::AskMembers { .. } => Ok(()),
        }
    }

    pub(super) fn handle_welcome(&mut self, welcome: Welcome, now: Instant) -> Result<(), Error> {
        self.pin_hub(now);
        let RoutePolicy { accepted, .. } = &self.config.route_policy;
        if let Err(unfit) = grant::check(&welcome, &self.config.addresses, accepted, &self.hub_addresses) {
            let error = Error::RejectedConfig(unfit);
            if !self.was_on_lan {
                return Err(error);
            }
            self.retry(error.to_string(), now);
            return Ok(());
        }
        self.configure(&welcome)?;
        self.had = welcome.addresses.iter().map(|address| address.ip()).collect();
        self.name = welcome.name.clone();
        for route in self.config.route_policy.offered.iter().filter(|route| !welcome.routes.contains(route)) {
            warn!("the hub does not take the route {route}: its log says why");
        }
        self.was_on_lan = true;
        self.backoff.reset();
        self.failures = Failures::default();
        let own: Vec<String> = welcome.addresses.iter().map(|address| address.ip().to_string()).collect();
        if let Phase::Linked(linked) = &mut self.phase {
            linked.joined_at = Some(now);
            info!("on the LAN as {} ({}), through {}", own.join(" and "), welcome.name, linked.hub);
        }
        if self.hosts.is_some() {
            self.ask_members(None, now)?;
        }
        Ok(())
    }

    /// Asks for the list of members, or for its next page, and for word of changes.
    pub(super) fn ask_members(&mut self, after: Option<Name>, now: Instant) -> Result<(), Error> {
        let Phase::Linked(linked) = &mut self.phase else { return Ok(()) };
        if after.is_none() {
            linked.peers.clear();
        }
        match linked.tunnel.control(&ControlFrame::AskMembers { after, watch: true }) {
            Ok(()) => {
                self.pending.push_own();
                Ok(())
            }
            Err(error) => self.broken(error.into(), now),
        }
    }

    pub(super) fn handle_members(
        &mut self,
        mut peers: Vec<Peer>,
        last: bool,
        now: Instant,
    ) -> Result<(), Error> {
        let Phase::Linked(linked) = &mut self.phase else { return Ok(()) };
        linked.peers.append(&mut peers);
        if !last && linked.peers.len() < MAX_MEMBERS {
            let after = linked.peers.last().map(|peer| peer.name.clone());
            return self.ask_members(after, now);
        }
        if let Some(file) = &self.hosts
            && let Err(error) = file.write(&hosts::text(&linked.peers))
        {
            warn!("{error}");
        }
        Ok(())
    }

    // ---- routes

    pub(super) fn handle_routes(&mut self, added: Vec<IpNetwork>, removed: &[IpNetwork], all: bool) {
        let Phase::Linked(linked) = &mut self.phase else { return };
        for prefix in removed {
            self.told.remove(prefix);
        }
        let mut is_too_much = false;
        for prefix in added {
            linked.stale.remove(&prefix);
            if self.told.len() < MAX_TOLD {
                self.told.insert(prefix);
            } else if !self.told.contains(&prefix) {
                is_too_much = true;
            }
        }
        if all {
            for prefix in std::mem::take(&mut linked.stale) {
                self.told.remove(&prefix);
            }
            self.set_routes();
            self.explain_routes();
        }
        if is_too_much && !std::mem::replace(&mut self.told_too_much, true) {
            warn!("the hub tells more than {MAX_TOLD} routes: the others are not taken");
        }
    }

    /// Brings the kernel's routes in step with what the hub told and how the link stands.
    pub(super) fn set_routes(&mut self) {
        if self.told.is_empty() && self.table.is_empty() {
            return;
        }
        self.own_networks = own_networks(&self.tun);
        let plan = self.view().plan(&self.told);
        self.table.set(&self.tun, plan, &self.hub_addresses);
    }

    pub(super) fn view(&self) -> View<'_> {
        View {
            route_policy: &self.config.route_policy,
            own: &self.own_networks,
            hub: &self.hub_addresses,
            is_linked: matches!(self.phase, Phase::Linked(_)),
        }
    }

    /// Tells about each prefix, once, why it is not taken or what is special about it.
    pub(super) fn explain_routes(&mut self) {
        // A hub that takes prefixes back and tells them again does not fill the log.
        let room = MAX_EXPLAINED.saturating_sub(self.explained.len());
        let new: Vec<IpNetwork> = self.told.difference(&self.explained).take(room).copied().collect();
        for &prefix in &new {
            match self.view().decide(prefix) {
                Ok(RouteMode::Main) => {}
                Ok(RouteMode::Around) => {
                    warn!("route {prefix} holds the hub itself: the tunnel goes around it");
                }
                Err(skip) => info!("route {prefix} is not taken: {skip}"),
            }
        }
        self.explained.extend(new);
    }

    /// Sets the device to what the hub granted; what is set already stays untouched.
    pub(super) fn configure(&mut self, welcome: &Welcome) -> Result<(), Error> {
        let (old, new) = (with_link_local(&self.addresses), with_link_local(&welcome.addresses));
        for &gone in old.iter().filter(|old| !new.contains(old)) {
            self.tun.remove_address(gone)?;
        }
        self.tun.set_mtu(self.config.mtu.map_or(welcome.mtu, |mtu| mtu.min(welcome.mtu)))?;
        self.tun.without_link_local()?;
        for &address in new.iter().filter(|new| !old.contains(new)) {
            self.tun.add_address(address)?;
        }
        self.tun.up()?;
        self.addresses.clone_from(&welcome.addresses);
        Ok(())
    }

    /// Holds on to the key of the hub that has just spoken: the first time, or when the person gave another one.
    pub(super) fn pin_hub(&mut self, now: Instant) {
        let Phase::Linked(linked) = &self.phase else { return };
        if let Some(key) = linked.tunnel.remote() {
            self.hub_key = Some(key);
            self.keep_pin(key, now);
        }
    }

    /// Writes the hub's key down; where that fails it is told once, and tried again until it works.
    pub(super) fn keep_pin(&mut self, key: PublicKey, now: Instant) {
        let failed_before = self.pin_again_at.take().is_some();
        let hub = &self.config.hub;
        let written = self.state.read(HUBS).and_then(|text| {
            let text = text.unwrap_or_default();
            if pins::pinned(&text, hub) == Ok(Some(key)) {
                return Ok(false);
            }
            self.state.write(HUBS, &pins::with_pin(&text, hub, key)).map(|()| true)
        });
        match written {
            Ok(true) => info!("the hub at {hub} has key {key}; it is remembered"),
            Ok(false) => {}
            Err(error) => {
                if !failed_before {
                    warn!("{error}; until then the hub's key is not remembered when the spoke ends");
                }
                self.pin_again_at = Some(now + PIN_PAUSE);
            }
        }
    }
}

/// The addresses that the device is to have for these: the IPv6 one brings its link-local one along.
fn with_link_local(addresses: &[IpNetwork]) -> Vec<IpNetwork> {
    let link_local = addresses.iter().filter_map(|&address| match address {
        IpNetwork::V4(_) => None,
        IpNetwork::V6(v6) => link_local::of(v6).map(IpNetwork::V6),
    });
    addresses.iter().copied().chain(link_local).collect()
}

/// The networks that this machine is in, but for the LAN and itself.
fn own_networks(tun: &Tun) -> Vec<IpNetwork> {
    tun.other_networks().unwrap_or_else(|error| {
        warn!("{error}; routes that the hub tells may lie in a network of this machine");
        Vec::new()
    })
}
