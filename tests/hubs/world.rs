//! Two hubs with one list of members, and the hosts of two spokes.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::Command;
use std::time::Duration;

use crate::house::{
    self, Binaries, HUB_LISTENS, Host, Lan, Net, Process, SPOKE_ON_LAN, Said, ask_spoke, await_true,
    make_state, run, state,
};

pub(crate) const SOON: Duration = Duration::from_secs(20);
/// Whose host the second hub's is, and those of the spokes.
pub(crate) const SECOND: usize = 0;
pub(crate) const LAPTOP: usize = 1;
pub(crate) const DESK: usize = 2;
pub(crate) const HUB_A: usize = 0;
pub(crate) const HUB_B: usize = 1;

/// Nothing that a hub's host sends or hears passes, and nobody is told.
pub(crate) const SILENCE: &str = "\
table inet silence {
    chain input { type filter hook input priority 0; iifname != lo drop; }
    chain output { type filter hook output priority 0; oifname != lo drop; }
}
";

/// The addresses that a hub of [`World::linked`] has alone.
pub(crate) fn own(hub: usize) -> [IpAddr; 2] {
    let host = 251 + hub as u8;
    [Ipv4Addr::new(10, 0, 0, host).into(), Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, u16::from(host)).into()]
}

pub(crate) struct World {
    pub(crate) spokes: Vec<Process>,
    pub(crate) hubs: [Option<Process>; 2],
    pub(crate) keys: [String; 2],
    pub(crate) net: Net,
    pub(crate) binaries: Binaries,
    subnet: &'static str,
}

impl World {
    /// Two hubs with one list, which has no member but them.
    pub(crate) fn new() -> World {
        World::with_subnet("10.0.0.0/24")
    }

    fn with_subnet(subnet: &'static str) -> World {
        house::require_tun().unwrap();
        let net = Net::named(&["second", "laptop", "desk"]).unwrap();
        let mut world = World {
            spokes: Vec::new(),
            hubs: [None, None],
            keys: Default::default(),
            net,
            binaries: Binaries::find().unwrap(),
            subnet,
        };
        for hub in [HUB_A, HUB_B] {
            make_state(world.host(hub), "hub").unwrap();
            world.start(hub);
            world.keys[hub] = world.json(hub)["key"].as_str().unwrap().to_owned();
        }
        world.share("");
        world
    }

    /// Two hubs that are linked, with an address each that it has alone, and a spoke at each; in both families.
    pub(crate) fn linked() -> World {
        World::linked_with([HUB_A, HUB_B])
    }

    /// The same with the spokes at these hubs.
    pub(crate) fn linked_with(at: [usize; 2]) -> World {
        World::new().link_up(at, "")
    }

    /// The same in a larger subnet, with these members in the list.
    pub(crate) fn wide(at: [usize; 2], members: &str) -> World {
        World::with_subnet("10.0.0.0/16").link_up(at, members)
    }

    fn link_up(self, at: [usize; 2], members: &str) -> World {
        let mut world = self;
        let spokes = [LAPTOP, DESK].map(|i| {
            make_state(world.net.spoke(i), "spoke").unwrap();
            ask_spoke(&world.net, i, &["key"]).good().trim().to_owned()
        });
        let [a, b] = &world.keys;
        let list = format!(
            "{a} hub-a {} hub={}\n{b} hub-b {} hub={}\n{} laptop 10.0.0.2,fd00::2\n{} desk 10.0.0.3,fd00::3\n{members}",
            own(HUB_A).map(|own| own.to_string()).join(","),
            World::place(HUB_A),
            own(HUB_B).map(|own| own.to_string()).join(","),
            World::place(HUB_B),
            spokes[0],
            spokes[1],
        );
        for hub in [HUB_A, HUB_B] {
            world.hubs[hub].take().unwrap().kill().unwrap();
            fs::write(state(world.host(hub), "hub").join("members"), &list).unwrap();
            world.start_with(hub, &["--subnet", "fd00::/64"]);
        }
        world.await_linked();
        for (i, hub) in [(LAPTOP, at[0]), (DESK, at[1])] {
            let (spoke, mut command) = (world.net.spoke(i), Command::new(&world.binaries.spoke));
            command.args(["--hub", &World::place(hub), "--state"]).arg(spoke.private().join("spoke"));
            let spoke = spoke.spawn(spoke.name(), &command).unwrap();
            spoke.wait_for_line(SPOKE_ON_LAN, SOON).unwrap();
            world.spokes.push(spoke);
        }
        await_true("each hub knows of both members", SOON, || {
            [HUB_A, HUB_B].iter().all(|&hub| {
                let status = world.json(hub);
                let here = at.iter().filter(|&&at| at == hub).count();
                (&status["online"], &status["elsewhere"]) == (&here.into(), &(2 - here).into())
            })
        });
        world
    }

    /// The first hub's link to the second one, as `hub status` has it.
    pub(crate) fn link(&self, hub: usize) -> serde_json::Value {
        let status = self.json(hub);
        let other = |other: &&serde_json::Value| other["this"] == false;
        status["hubs"].as_array().unwrap().iter().find(other).unwrap()["link"].clone()
    }

    pub(crate) fn await_linked(&self) {
        for hub in [HUB_A, HUB_B] {
            await_true("a link to the other hub", SOON, || self.link(hub).is_object());
        }
    }

    /// As [`World::new`], with both spokes on the LAN through the first hub; the list is copied to the other.
    pub(crate) fn with_spokes() -> World {
        let mut world = World::new();
        for (i, address) in [(LAPTOP, 0), (DESK, 1)] {
            let spoke = world.spawn_spoke(i, address, &[&World::place(HUB_A)]);
            spoke.wait_for_line(SPOKE_ON_LAN, SOON).unwrap();
            world.spokes.push(spoke);
        }
        world.copy_members();
        world.await_watched();
        world
    }

    pub(crate) fn host(&self, hub: usize) -> &Host {
        if hub == HUB_A { self.net.hub() } else { self.net.spoke(SECOND) }
    }

    pub(crate) fn place(hub: usize) -> String {
        if hub == HUB_A {
            format!("{}:5678", Net::hub_v4())
        } else {
            format!("{}:5678", Net::spoke_v4(SECOND))
        }
    }

    pub(crate) fn start(&mut self, hub: usize) {
        self.start_with(hub, &[]);
    }

    pub(crate) fn start_with(&mut self, hub: usize, options: &[&str]) {
        let host = self.host(hub);
        let mut command = Command::new(&self.binaries.hub);
        command.args(["--subnet", self.subnet, "--state"]).arg(host.private().join("hub")).args(options);
        let process = host.spawn(if hub == HUB_A { "hub-a" } else { "hub-b" }, &command).unwrap();
        process.wait_for_line(HUB_LISTENS, SOON).unwrap();
        self.hubs[hub] = Some(process);
    }

    pub(crate) fn ask(&self, hub: usize, words: &[&str]) -> Said {
        let host = self.host(hub);
        let mut command = Command::new(&self.binaries.hub);
        command.args(words).arg("--state").arg(host.private().join("hub"));
        run(host, command)
    }

    pub(crate) fn json(&self, hub: usize) -> serde_json::Value {
        serde_json::from_str(&self.ask(hub, &["status", "--json"]).good()).unwrap()
    }

    pub(crate) fn online(&self, hub: usize) -> u64 {
        self.json(hub)["online"].as_u64().unwrap()
    }

    /// Gives both hubs this list, with their own lines.
    pub(crate) fn share(&self, members: &str) {
        let [a, b] = &self.keys;
        let hubs =
            format!("{a} hub-a - hub={}\n{b} hub-b - hub={}\n", World::place(HUB_A), World::place(HUB_B));
        let members: Vec<&str> = members.lines().filter(|line| !line.contains("hub=")).collect();
        for hub in [HUB_A, HUB_B] {
            let text = format!("{hubs}{}\n", members.join("\n"));
            fs::write(state(self.host(hub), "hub").join("members"), text).unwrap();
            self.ask(hub, &["reload"]).good();
        }
    }

    pub(crate) fn copy_members(&self) {
        let list = state(self.host(HUB_A), "hub").join("members");
        self.share(&fs::read_to_string(list).unwrap());
    }

    pub(crate) fn spawn_spoke(&self, i: usize, address: usize, hubs: &[&str]) -> Process {
        let host = self.net.spoke(i);
        let mut command = Command::new(&self.binaries.spoke);
        command
            .args(["--ip", &Lan::address(address).to_string(), "--state"])
            .arg(host.private().join("spoke"));
        command.args(hubs.iter().flat_map(|hub| ["--hub", hub]));
        host.spawn(host.name(), &command).unwrap()
    }

    /// Both spokes know both hubs.
    pub(crate) fn await_watched(&self) {
        for i in [LAPTOP, DESK] {
            await_true("a spoke that knows two hubs", SOON, || {
                self.spoke(i)["hubs"].as_array().unwrap().len() == 2
            });
        }
    }

    pub(crate) fn spoke(&self, i: usize) -> serde_json::Value {
        serde_json::from_str(&ask_spoke(&self.net, i, &["status", "--json"]).good()).unwrap()
    }

    /// The hub that a spoke is at.
    pub(crate) fn is_at(&self, i: usize, hub: usize) -> bool {
        let status = self.spoke(i);
        let at = |known: &&serde_json::Value| known["since_seconds"].is_number();
        let hubs = status["hubs"].as_array().unwrap();
        hubs.iter().find(at).is_some_and(|at| at["key"] == self.keys[hub].as_str())
    }

    pub(crate) fn await_at(&self, hub: usize) {
        for i in [LAPTOP, DESK] {
            await_true("both spokes are at this hub", SOON, || self.is_at(i, hub));
        }
    }
}
