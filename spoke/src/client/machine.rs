//! What the shell does to this machine, and sees of it: addresses of the device, networks around it. IO.

use common::linux::tun;
use common::packet::link_local;
use ipnetwork::IpNetwork;
use log::warn;

use super::Client;

impl Client {
    /// Sets the device to what the hub granted; what is set already stays untouched.
    pub(super) fn configure(&mut self, addresses: Vec<IpNetwork>, mtu: u32) -> Result<(), tun::Error> {
        let (old, new) = (with_link_local(&self.addresses), with_link_local(&addresses));
        for &gone in old.iter().filter(|old| !new.contains(old)) {
            self.tun.remove_address(gone)?;
        }
        self.tun.set_mtu(mtu)?;
        self.tun.without_link_local()?;
        for &address in new.iter().filter(|new| !old.contains(new)) {
            self.tun.add_address(address)?;
        }
        self.tun.up()?;
        self.addresses = addresses;
        self.observe_networks();
        Ok(())
    }

    /// Tells the uplink which networks this machine is in.
    pub(super) fn observe_networks(&mut self) {
        match self.tun.other_networks() {
            Ok(networks) => self.uplink.handle_networks(networks),
            Err(error) => {
                warn!("{error}; routes that the hub announces may lie in a network of this machine");
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
