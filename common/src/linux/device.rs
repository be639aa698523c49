//! The device's configuration, compared with the kernel's state and restored. IO, through the device's netlink socket.
//!
//! The kernel's state is observed, never assumed: other programs can delete the device, set it down or remove its
//! addresses, and the kernel removes IPv6 addresses when the device goes down.

use std::collections::BTreeSet;
use std::fmt;

use ipnetwork::IpNetwork;

use crate::linux::netlink::{Family, LOCAL_TABLE, MAIN_TABLE};
use crate::linux::tun::{self, Tun};

/// The wanted configuration of a device that is up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceConfig {
    /// Its addresses with their prefixes, a link-local one included.
    pub addresses: Vec<IpNetwork>,
    /// The largest packet in bytes.
    pub mtu: u32,
}

/// Keeps a device in its configuration. Addresses that other programs added are left alone.
#[derive(Debug, Default)]
pub struct Device {
    /// Nothing before the first configuration.
    wanted: Option<DeviceConfig>,
    /// The addresses that were put on it from here.
    added: BTreeSet<IpNetwork>,
    /// The steps that failed in the last attempt.
    failed: Vec<(Step, tun::Error)>,
}

/// One step towards the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Makes it again after someone deleted it. Its index changes.
    Reattach,
    /// Removes an address that is no longer wanted.
    RemoveAddress(IpNetwork),
    /// Sets its MTU.
    SetMtu(u32),
    /// Gives it an address.
    AddAddress(IpNetwork),
    /// Adds an address again whose routes are gone.
    RenewAddress(IpNetwork),
    /// Sets it up.
    Up,
}

/// The observed state of a device.
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
    /// Configures the device; returns the steps that were done. Routes through the device must be checked afterwards, as
    /// the kernel removes some with an address.
    ///
    /// # Errors
    /// If the kernel does not answer, or the device is gone and cannot be made again.
    pub fn configure(&mut self, tun: &mut Tun, config: DeviceConfig) -> Result<Vec<Step>, tun::Error> {
        self.wanted = Some(config);
        self.reconcile(tun)
    }

    /// Observes the device and restores its configuration; returns the steps that were done, each of which undoes a change
    /// by another program. Steps that failed are in [`Device::failures`], and the next call tries them again.
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

    /// The steps that failed in the last attempt, and why.
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

/// The steps from `observed` to `wanted`.
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
