//! What is compared: the two ceilings, our programs, and the peers.

use std::env;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::field::Field;
use crate::house::{
    Binaries, Failure, HUB_LISTENS, Host, Process, Result, SPOKE_ON_LAN, ping_until, require_tun,
};
use crate::peers;

/// How long a program may take until it is ready.
pub(crate) const START: Duration = Duration::from_secs(20);

/// What a system is to the comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// No tunnel: what the machine can do.
    Ceiling,
    /// This project.
    Ours,
    /// A tunnel over TCP.
    TcpPeer,
    /// A tunnel over UDP, which cannot go where TCP alone passes.
    UdpPeer,
}

/// A way to get packets or bytes from one end to another.
pub(crate) struct System {
    /// As `--only` takes it, and as the CSV file has it.
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    pub(crate) kind: Kind,
    /// Programs that it needs.
    programs: &'static [&'static str],
    /// Debian's packages that have them.
    packages: &'static str,
    set_up: fn(Field) -> Result<Running>,
}

/// In the order in which they run and are shown.
pub(crate) const SYSTEMS: &[System] = &[
    System {
        name: "kernel",
        title: "kernel forwarding",
        kind: Kind::Ceiling,
        programs: &[],
        packages: "",
        set_up: kernel,
    },
    System {
        name: "relay",
        title: "bare TCP relay",
        kind: Kind::Ceiling,
        programs: &["socat"],
        packages: "socat",
        set_up: relay,
    },
    System { name: "hub", title: "hub & spoke", kind: Kind::Ours, programs: &[], packages: "", set_up: ours },
    System {
        name: "softether",
        title: "SoftEther TCP",
        kind: Kind::TcpPeer,
        programs: &["vpnserver", "vpnclient", "vpncmd"],
        packages: "softether-vpnserver softether-vpnclient softether-vpncmd",
        set_up: peers::softether,
    },
    System {
        name: "openvpn",
        title: "OpenVPN TCP",
        kind: Kind::TcpPeer,
        programs: &["openvpn", "openssl"],
        packages: "openvpn openssl",
        set_up: peers::openvpn,
    },
    System {
        name: "tinc",
        title: "tinc TCPOnly",
        kind: Kind::TcpPeer,
        programs: &["tincd"],
        packages: "tinc",
        set_up: peers::tinc,
    },
    System {
        name: "vtun",
        title: "vtun (in clear)",
        kind: Kind::TcpPeer,
        programs: &["vtund"],
        packages: "vtun",
        set_up: peers::vtun,
    },
    System {
        name: "wireguard-go",
        title: "wireguard-go (UDP)",
        kind: Kind::UdpPeer,
        programs: &["wireguard-go", "wg"],
        packages: "wireguard-go wireguard-tools",
        set_up: peers::wireguard,
    },
];

/// A system at work. Programs are dropped before the hosts that hold them.
pub(crate) struct Running {
    /// The program of each end.
    pub(crate) ends: Vec<Process>,
    pub(crate) hub: Option<Process>,
    pub(crate) way: Way,
    pub(crate) field: Field,
}

/// How one end reaches another.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Way {
    /// By packets to an address, given for each end.
    Packets(fn(usize) -> Ipv4Addr),
    /// Not at all, but a program in the hub can pass on the bytes of a TCP connection.
    Relay,
}

impl System {
    /// Starts the system with so many ends, and waits until the first can reach the second.
    pub(crate) fn start(&self, ends: usize) -> Result<Running> {
        self.start_on(Field::new(ends)?)
    }

    /// The same with hosts and cables that are there.
    pub(crate) fn start_on(&self, field: Field) -> Result<Running> {
        self.require()?;
        let ends = field.ends.len();
        let running = (self.set_up)(field)?;
        for i in 1..ends {
            if let Some(address) = running.address(i) {
                ping_until(&running.field.ends[0], address, START)
                    .map_err(|failure| Failure::new(format!("{failure}{}", running.last_words())))?;
            }
        }
        Ok(running)
    }

    /// Whether its programs are installed.
    pub(crate) fn require(&self) -> Result<()> {
        require(self.programs, self.packages)
    }
}

impl Running {
    /// The address at which end `i` is reached, where there is one.
    pub(crate) fn address(&self, i: usize) -> Option<IpAddr> {
        match self.way {
            Way::Packets(address) => Some(address(i).into()),
            Way::Relay => None,
        }
    }

    /// What the programs said last.
    fn last_words(&self) -> String {
        let lines = self.hub.iter().chain(&self.ends).flat_map(|program| {
            let lines = program.lines();
            let last = lines[lines.len().saturating_sub(3)..].to_vec();
            last.into_iter().map(|line| format!("\n  {}: {line}", program.name()))
        });
        lines.collect()
    }

    /// The host of end `i`.
    pub(crate) fn end(&self, i: usize) -> &Host {
        &self.field.ends[i]
    }
}

/// Fails where one of these programs is missing, and says which of Debian's packages have them.
pub(crate) fn require(programs: &[&str], packages: &str) -> Result<()> {
    let missing: Vec<_> = programs.iter().filter(|name| find(name).is_none()).copied().collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(Failure::new(format!("{} missing; Debian: apt-get install {packages}", missing.join(", "))))
}

/// A command for a program that is wherever administrators' programs are.
pub(crate) fn command(program: &str) -> Command {
    Command::new(find(program).unwrap_or_else(|| program.into()))
}

fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let own = env::split_paths(&path);
    let usual = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    own.chain(usual).map(|directory| directory.join(program)).find(|program| Path::is_file(program))
}

/// The address of end `i` in the network that a tunnel makes.
pub(crate) fn inner_address(i: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, u8::try_from(2 + i).expect("a handful of ends"))
}

/// The hub's kernel forwards from cable to cable.
fn kernel(field: Field) -> Result<Running> {
    field.hub.forward();
    for (i, end) in field.ends.iter().enumerate() {
        end.ip(&format!("route add default via {}", Field::hub_address(i)))?;
    }
    Ok(Running { ends: Vec::new(), hub: None, way: Way::Packets(Field::end_address), field })
}

/// Each flow starts its own relay.
fn relay(field: Field) -> Result<Running> {
    Ok(Running { ends: Vec::new(), hub: None, way: Way::Relay, field })
}

fn ours(field: Field) -> Result<Running> {
    start_ours(&Binaries::find()?, field, &[], &[])
}

/// Our programs, with these options more for both, and those for spokes.
pub(crate) fn start_ours(
    binaries: &Binaries,
    field: Field,
    options: &[&str],
    of_spokes: &[&str],
) -> Result<Running> {
    require_tun()?;
    let hub = start_hub(binaries, &field, options)?;
    let options = [options, of_spokes].concat();
    let ends = (0..field.ends.len())
        .map(|i| start_spoke(binaries, &field, i, &format!("{}:5678", Field::hub_address(i)), &options))
        .collect::<Result<Vec<_>>>()?;
    Ok(Running { ends, hub: Some(hub), way: Way::Packets(inner_address), field })
}

/// Starts the hub, and waits until it listens.
pub(crate) fn start_hub(binaries: &Binaries, field: &Field, options: &[&str]) -> Result<Process> {
    let mut command = Command::new(&binaries.hub);
    command.args(["--subnet", "10.0.0.0/24", "--state"]).arg(field.hub.private().join("hub")).args(options);
    let hub = field.hub.spawn("hub", &command)?;
    hub.wait_for_line(HUB_LISTENS, START)?;
    Ok(hub)
}

/// Starts the spoke of end `i`, which is to reach the hub there, and waits until it is on the LAN.
pub(crate) fn start_spoke(
    binaries: &Binaries,
    field: &Field,
    i: usize,
    hub: &str,
    options: &[&str],
) -> Result<Process> {
    let host = &field.ends[i];
    let mut command = Command::new(&binaries.spoke);
    command.args(["--hub", hub, "--ip", &inner_address(i).to_string(), "--state"]);
    command.arg(host.private().join("spoke")).args(options);
    let spoke = host.spawn("spoke", &command)?;
    spoke.wait_for_line(SPOKE_ON_LAN, START)?;
    Ok(spoke)
}
