//! Moves the LAN to other subnets while it runs. Pure.
//!
//! That the LAN has moved is written first. Then a crash at any time leaves files that the next start reads as moved.

use common::packet::prefix::overlap;
use common::wire::frame::Farewell;
use ipnetwork::IpNetwork;

use super::Core;
use crate::effect::{Effect, Notice};
use crate::ids::RequestId;
use crate::lan::admission::Admission;
use crate::lan::moves::{Moves, Step};
use crate::lan::saving::{Job, Renumbered, Running};
use crate::lan::subnets::Subnets;

impl Core {
    /// Checks whether all can move, and has it written.
    pub(super) fn start_renumber(&mut self, request: RequestId, new: Subnets) -> Option<Job> {
        match self.plan(new) {
            Ok((steps, moves, to)) => {
                self.saving.run(Running::Move(request, steps, moves.clone(), to));
                Some(Job::Move(Box::new(moves), to))
            }
            Err(text) => {
                self.answer(request, Err(text));
                None
            }
        }
    }

    fn plan(&self, new: Subnets) -> Result<(Vec<Step>, Moves, Subnets), String> {
        let mut moves = self.admission.moves().clone();
        // Where nobody has told of earlier ones.
        moves.start(self.lan.subnets);
        let steps = moves.renumber(new)?;
        for step in &steps {
            let near = self.lan.hub_networks.iter().find(|&&network| overlap(network, step.to));
            if let Some(network) = near {
                let prefix = IpNetwork::new(network.network(), network.prefix()).unwrap_or(*network);
                return Err(format!(
                    "the hub's machine is in {prefix}: take another subnet than {}",
                    step.to
                ));
            }
        }
        let to = moves.present().ok_or("the LAN has no subnet")?;
        Admission::check_steps(self.admission.members(), self.admission.invites(), &steps, to)?;
        Ok((steps, moves, to))
    }

    /// Moves everything. All links end, and their spokes come back for their new addresses.
    pub(super) fn renumber(&mut self, steps: Vec<Step>, moves: Moves, to: Subnets) -> Renumbered {
        let renumbered = Renumbered::new(self.admission.members(), self.admission.invites(), steps);
        self.switch.dismiss_all(Farewell::Changed, "the LAN has another subnet");
        self.switch.set_subnets(to);
        if let Some(mut rules) = self.access_rules().map(|access| access.rules().clone()) {
            rules.locate(|prefix| moves.translate_prefix(prefix));
            self.set_rules(Some(rules));
        }
        self.admission.renumber(to, moves);
        self.routes.set_subnets(to);
        self.lan.subnets = to;
        let own = self.members().addresses_of(&self.key.public()).to_vec();
        self.effects.push_back(Effect::SetSubnets(to, own));
        self.note(Notice::Renumbered(to));
        renumbered
    }
}
