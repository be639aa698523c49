//! Has the hub's own kernel know which members are here, for a routing daemon to tell other hubs. Pure.

use super::Core;
use crate::effect::Effect;
use crate::ids::MemberId;
use crate::lan::exports::Exports;

impl Core {
    /// From now on the kernel has a route to each member that is here, and is given what is for an address of the LAN that
    /// no member has who is known to be anywhere.
    pub fn export(&mut self) {
        self.routes.exports = Some(Exports::default());
    }

    /// Notes that a member has come or gone.
    pub(super) fn note_export(&mut self, id: MemberId) {
        if let Some(exports) = &mut self.routes.exports {
            exports.touch(&self.admission.members().member(id).addresses);
        }
    }

    /// Tells the kernel what has changed.
    pub(super) fn tell_exports(&mut self) {
        if let Some(exports) = &mut self.routes.exports {
            let changes = exports.take_changes(self.admission.members());
            self.effects
                .extend(changes.into_iter().map(|(address, is_here)| Effect::Export(address, is_here)));
        }
    }
}
