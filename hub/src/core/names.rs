//! The machines on the LAN by name and by address, for the name server. Pure.

use std::net::IpAddr;

use common::node::names::zone::Directory;
use common::wire::name::Name;

use super::Core;

impl Core {
    /// The hub's own addresses.
    pub(super) fn own_addresses(&self) -> Vec<IpAddr> {
        self.lan.subnets.hub().map(|address| address.ip()).collect()
    }
}

/// Names of earlier versions that can be no host's are nobody's.
impl Directory for Core {
    fn is_known(&self) -> bool {
        true
    }

    fn addresses(&self, name: &Name) -> Option<Vec<IpAddr>> {
        let members = self.members();
        match members.by_name(name).filter(|_| name.check_host().is_ok()) {
            Some(id) => Some(members.member(id).addresses.clone()),
            None => (members.hub_name() == Some(name)).then(|| self.own_addresses()),
        }
    }

    fn name(&self, address: IpAddr) -> Option<Name> {
        let members = self.members();
        if self.lan.subnets.is_hub(address) {
            return members.hub_name().cloned();
        }
        let holder = members.member(members.holder(address)?);
        holder.name.check_host().is_ok().then(|| holder.name.clone())
    }
}
