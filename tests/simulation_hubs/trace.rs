//! `TRACE=1` tells what happens: what is done, what hubs note and answer, and each change of their lists and files.

use std::collections::BTreeSet;
use std::time::Duration;

use hub::effect::Notice;

use crate::world::{HubHost, World};

/// What was told so far: of each hub its lines, and where each spoke is and goes.
#[derive(Default)]
pub(crate) struct Trace {
    hubs: Vec<BTreeSet<String>>,
    spokes: Vec<(Option<usize>, Option<usize>)>,
}

pub(crate) fn say(trace: &Option<Box<Trace>>, at: Duration, what: impl FnOnce() -> String) {
    if trace.is_some() {
        println!("{at:?} {}", what());
    }
}

/// What a hub notes, as far as it is about the list.
#[expect(clippy::wildcard_enum_match_arm, reason = "the others are about something else")]
pub(crate) fn note(hub: usize, notice: &Notice) -> String {
    let text = match notice {
        Notice::Refused { source, text, .. } => format!("{source} is refused: {text}"),
        Notice::Joined { who, source, is_new, .. } => format!("{} joins, {source}, new {is_new}", who.name),
        Notice::InviteUsed(name) => format!("{name} has used an invite"),
        Notice::NoMember(who, outcome) => format!("{} is {outcome:?}", who.name),
        Notice::BadRecord(why) => format!("a bad record: {why}"),
        Notice::Keeper(name, term, _) => format!("{name} keeps the list, {term}"),
        Notice::Pending { name, .. } => format!("{name} waits"),
        _ => "something else".to_owned(),
    };
    format!("hub {hub}: {text}")
}

/// What a hub has in memory and on its disk, in lines.
fn lines(host: &HubHost) -> BTreeSet<String> {
    let files = host.disk.members.lines().chain(host.disk.invites.lines());
    let mut lines: BTreeSet<String> = files.map(|line| format!("on disk {line}")).collect();
    if let Some(core) = &host.core {
        let list = core.members().to_text() + &core.invites().to_text();
        lines.extend(list.lines().map(str::to_owned));
        lines.insert(format!("{:?}, {} wait", core.access(), core.waiting_for_keeper()));
        lines.insert(format!("{:?}, reached {}", core.keeper(), core.reaches_keeper()));
    }
    lines
}

impl World {
    pub(crate) fn say(&self, what: impl FnOnce() -> String) {
        say(&self.trace, self.now - self.start, what);
    }

    /// Tells what has changed in the last turn.
    pub(crate) fn trace(&mut self) {
        let Some(mut trace) = self.trace.take() else { return };
        trace.hubs.resize_with(self.hubs.len(), BTreeSet::new);
        let at = self.now - self.start;
        for (hub, (host, before)) in self.hubs.iter().zip(&mut trace.hubs).enumerate() {
            let now = lines(host);
            before.difference(&now).for_each(|gone| println!("{at:?} hub {hub} - {gone}"));
            now.difference(before).for_each(|new| println!("{at:?} hub {hub} + {new}"));
            *before = now;
        }
        let goes_to = |spoke: usize| Some(self.conns.get(&self.spokes[spoke].link()?)?.hub);
        let spokes = (0..self.spokes.len()).map(|spoke| (self.hub_of(spoke), goes_to(spoke))).collect();
        if trace.spokes != spokes {
            println!("{at:?} spokes are at, and go to {spokes:?}");
            trace.spokes = spokes;
        }
        self.trace = Some(trace);
    }
}
