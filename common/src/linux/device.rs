//! What the device is to be, and what is done where it is something else. IO, through the device's netlink socket.
//!
//! The kernel's state is looked at, never remembered: others can delete the device, set it down or take its addresses
//! away, and the kernel itself takes IPv6 addresses away with the device's being up.

use std::collections::BTreeSet;
use std::fmt;

use ipnetwork::IpNetwork;

use crate::linux::netlink::{Family, LOCAL_TABLE, MAIN_TABLE};
use crate::linux::tun::{self, Tun};

/// What a device is to be, beside up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceConfig {
    /// Its addresses with their prefixes, a link-local one included.
    pub addresses: Vec<IpNetwork>,
    /// The largest packet in bytes.
    pub mtu: u32,
}

/// Keeps a device as it is wanted. Addresses that someone else gave it are left alone.
#[derive(Debug, Default)]
pub struct Device {
    /// Nothing before the first configuration.
    wanted: Option<DeviceConfig>,
    /// The addresses that were put on it from here.
    added: BTreeSet<IpNetwork>,
    /// What could not be done at the last try.
    failed: Vec<(Step, tun::Error)>,
}

/// One thing that makes a device what it is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Makes it anew: someone deleted it. It has another index from here on.
    Reattach,
    /// Takes an address away that is not wanted any more.
    RemoveAddress(IpNetwork),
    /// Sets its MTU.
    SetMtu(u32),
    /// Gives it an address.
    AddAddress(IpNetwork),
    /// Gives it an address anew that it has, but whose routes are gone.
    RenewAddress(IpNetwork),
    /// Sets it up.
    Up,
}

/// What the kernel says of a device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Observed {
    is_up: bool,
    mtu: u32,
    addresses: Vec<IpNetwork>,
    /// Those of them that lack a route which the kernel made with them.
    hollow: Vec<IpNetwork>,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Reattach => f.write_str("it was deleted"),
            Step::RemoveAddress(address) => write!(f, "it had the address {address}"),
            Step::SetMtu(mtu) => write!(f, "its MTU was not {mtu}"),
            Step::AddAddress(address) => write!(f, "its address {address} was removed"),
            Step::RenewAddress(address) => write!(f, "the routes of its address {address} were removed"),
            Step::Up => f.write_str("it was set down"),
        }
    }
}

impl Device {
    /// Sets the device to `config`; the steps that were done. Whatever goes through the device is to be looked at
    /// afterwards: with an address the kernel takes routes away.
    ///
    /// # Errors
    /// Where the kernel does not answer, and where the device is gone and cannot be made anew.
    pub fn configure(&mut self, tun: &mut Tun, config: DeviceConfig) -> Result<Vec<Step>, tun::Error> {
        self.wanted = Some(config);
        self.reconcile(tun)
    }

    /// Looks at the device and sets right what is not as it was configured; the steps that were done, each of which
    /// undoes what someone else did. What cannot be done is in [`Device::failures`], and tried again at the next
    /// call.
    ///
    /// # Errors
    /// As for [`Device::configure`].
    pub fn reconcile(&mut self, tun: &mut Tun) -> Result<Vec<Step>, tun::Error> {
        let Some(wanted) = self.wanted.clone() else { return Ok(Vec::new()) };
        let mut done = Vec::new();
        self.failed.clear();
        let mut observed = match observe(tun)? {
            Some(observed) => observed,
            None => {
                tun.reattach()?;
                self.added.clear();
                done.push(Step::Reattach);
                observe(tun)?.unwrap_or_default()
            }
        };
        self.added.retain(|address| observed.addresses.contains(address));
        let unwanted: Vec<IpNetwork> =
            self.added.iter().filter(|added| !wanted.addresses.contains(added)).copied().collect();
        for &address in &unwanted {
            self.take(tun, Step::RemoveAddress(address), &mut done);
        }
        if !unwanted.is_empty() {
            // With the first address of a subnet the kernel may take others away.
            observed = observe(tun)?.unwrap_or_default();
            self.added.retain(|address| observed.addresses.contains(address));
        }
        for step in steps(&observed, &wanted) {
            self.take(tun, step, &mut done);
        }
        Ok(done)
    }

    /// What could not be done at the last try, and why.
    pub fn failures(&self) -> &[(Step, tun::Error)] {
        &self.failed
    }

    /// The first of them, for who gives up on it.
    pub fn take_failure(&mut self) -> Option<tun::Error> {
        (!self.failed.is_empty()).then(|| self.failed.remove(0).1)
    }

    /// Whether the device is to have IPv6 addresses, and the machine has no IPv6 for it.
    pub fn lacks_ipv6(&self) -> bool {
        self.failed.iter().any(|(_, error)| error.says_no_ipv6())
    }

    /// Whether it is to have addresses, and has none of them.
    pub fn is_without_addresses(&self) -> bool {
        self.added.is_empty() && self.wanted.as_ref().is_some_and(|wanted| !wanted.addresses.is_empty())
    }

    fn take(&mut self, tun: &Tun, step: Step, done: &mut Vec<Step>) {
        let outcome = match step {
            Step::Reattach => Ok(()),
            Step::RemoveAddress(address) => tun.remove_address(address),
            Step::SetMtu(mtu) => tun.set_mtu(mtu),
            Step::AddAddress(address) => tun.add_address(address),
            Step::RenewAddress(address) => {
                tun.remove_address(address).and_then(|()| tun.add_address(address))
            }
            Step::Up => tun.without_link_local().and_then(|()| tun.up()),
        };
        match (outcome, step) {
            (Ok(()), Step::AddAddress(address) | Step::RenewAddress(address)) => {
                self.added.insert(address);
                done.push(step);
            }
            (Ok(()), Step::RemoveAddress(address)) => {
                self.added.remove(&address);
                done.push(step);
            }
            (Ok(()), Step::Reattach | Step::SetMtu(_) | Step::Up) => done.push(step),
            (Err(error), _) => self.failed.push((step, error)),
        }
    }
}

/// What `observed` lacks to be as `wanted`.
fn steps(observed: &Observed, wanted: &DeviceConfig) -> Vec<Step> {
    let mut steps = Vec::new();
    // IPv6 addresses need the MTU, and go when the device goes down: in this order none is added in vain.
    if observed.mtu != wanted.mtu {
        steps.push(Step::SetMtu(wanted.mtu));
    }
    if !observed.is_up {
        steps.push(Step::Up);
    }
    let missing = wanted.addresses.iter().filter(|wanted| !observed.addresses.contains(wanted));
    steps.extend(missing.map(|&address| Step::AddAddress(address)));
    let hollow = wanted.addresses.iter().filter(|wanted| observed.hollow.contains(wanted));
    steps.extend(hollow.map(|&address| Step::RenewAddress(address)));
    steps
}

/// `None` where the device is gone.
fn observe(tun: &Tun) -> Result<Option<Observed>, tun::Error> {
    let netlink = tun.netlink();
    let Some(link) = netlink.link_by_index(tun.index())? else { return Ok(None) };
    let addresses = netlink.addresses()?.into_iter().filter(|&(index, _)| index == tun.index());
    let addresses: Vec<IpNetwork> = addresses.map(|(_, address)| address).collect();
    let is_up = link.flags & libc::IFF_UP as u32 != 0;
    let mut hollow = Vec::new();
    for family in [Family::V4, Family::V6] {
        let own: Vec<IpNetwork> =
            addresses.iter().filter(|address| Family::of(address.ip()) == family).copied().collect();
        // They come when the device is set up.
        if !is_up || own.is_empty() {
            continue;
        }
        let routes = netlink.routes_of_addresses(family, tun.index())?;
        let has = |prefix: IpNetwork, table| {
            routes.iter().any(|route| route.prefix == prefix && route.table == table)
        };
        hollow.extend(own.into_iter().filter(|&address| {
            let host = IpNetwork::from(address.ip());
            let network = IpNetwork::new(address.network(), address.prefix()).unwrap_or(address);
            // An IPv6 address gets the route to itself a little later.
            let lacks_own = address.is_ipv4() && !has(host, LOCAL_TABLE);
            lacks_own || (network != host && !has(network, MAIN_TABLE))
        }));
    }
    Ok(Some(Observed { is_up, mtu: link.mtu, addresses, hollow }))
}

#[cfg(test)]
mod tests;
