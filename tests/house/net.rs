//! The outside network: a switch, one hub host, spoke hosts, and faults on the way.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use super::{Failure, Host, Result, ping_until};

/// The most spokes that the addresses allow.
const MAX_SPOKES: usize = 200;

/// How long a new cable may take to carry packets.
const READY: Duration = Duration::from_secs(5);

/// Hosts on one switch. Spokes are numbered from 0.
pub(crate) struct Net {
    hosts: Vec<Host>,
    switch: Host,
    /// What `limit` has set, by host: put back by `mend`.
    limits: Mutex<Vec<Option<String>>>,
    ipv6: bool,
}

/// A direction seen from a spoke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    /// What the spoke receives.
    In,
    /// What the spoke sends.
    Out,
}

impl Net {
    /// A hub's host `hub` and hosts `spoke0`, `spoke1`… for spokes, each reaching each other.
    pub(crate) fn new(spokes: usize) -> Result<Net> {
        let names: Vec<_> = (0..spokes).map(|i| format!("spoke{i}")).collect();
        Net::named(&names.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// A hub's host `hub` and hosts of these names for spokes.
    pub(crate) fn named(spokes: &[&str]) -> Result<Net> {
        if spokes.len() > MAX_SPOKES {
            return Err(Failure::new(format!("a net has at most {MAX_SPOKES} spokes")));
        }
        let names = ["hub"].into_iter().chain(spokes.iter().copied());
        let made: Vec<_> = thread::scope(|scope| {
            let threads: Vec<_> = names.map(|name| scope.spawn(move || Host::new(name))).collect();
            threads.into_iter().map(|thread| thread.join().expect("making a host does not panic")).collect()
        });
        let hosts = made.into_iter().collect::<Result<Vec<_>>>()?;
        let net = Net {
            limits: Mutex::new(vec![None; hosts.len()]),
            switch: Host::new("switch")?,
            ipv6: Path::new("/proc/sys/net/ipv6").exists(),
            hosts,
        };
        net.wire()?;
        Ok(net)
    }

    /// The host for the hub.
    pub(crate) fn hub(&self) -> &Host {
        &self.hosts[0]
    }

    /// The host for spoke `i`.
    pub(crate) fn spoke(&self, i: usize) -> &Host {
        &self.hosts[1 + i]
    }

    /// Has the host of spoke `i` know the hub's host by these names.
    pub(crate) fn name_hub(&self, i: usize, names: &str) -> Result<()> {
        let hosts = format!("127.0.0.1 localhost\n{} {names}\n", Net::hub_v4());
        self.spoke(i).set_file("/etc/hosts", &hosts)
    }

    /// Number of spokes.
    pub(crate) fn spokes(&self) -> usize {
        self.hosts.len() - 1
    }

    /// Whether this machine has IPv6.
    pub(crate) fn ipv6(&self) -> bool {
        self.ipv6
    }

    /// The outer IPv4 address of spoke `i`.
    pub(crate) fn spoke_v4(i: usize) -> Ipv4Addr {
        v4(1 + i)
    }

    /// The outer IPv6 address of spoke `i`.
    pub(crate) fn spoke_v6(i: usize) -> Ipv6Addr {
        v6(1 + i)
    }

    /// The hub's outer IPv4 address.
    pub(crate) fn hub_v4() -> Ipv4Addr {
        v4(0)
    }

    /// The hub's outer IPv6 address.
    pub(crate) fn hub_v6() -> Ipv6Addr {
        v6(0)
    }

    /// From now on everything to and from spoke `i` is lost in silence: no reset, no ICMP error, no loss of
    /// carrier.
    pub(crate) fn cut(&self, i: usize) -> Result<()> {
        self.switch.ip(&format!("link set p{} nomaster", 1 + i))
    }

    /// From now on one direction of spoke `i` is lost in silence.
    pub(crate) fn cut_one_way(&self, i: usize, direction: Direction) -> Result<()> {
        match direction {
            Direction::In => self.switch.tc(&format!("qdisc replace dev p{} root blackhole", 1 + i)),
            Direction::Out => self.spoke(i).tc("qdisc replace dev eth0 root blackhole"),
        }
    }

    /// Undoes the cuts of spoke `i`.
    pub(crate) fn mend(&self, i: usize) -> Result<()> {
        let port = 1 + i;
        self.switch.ip(&format!("link set p{port} master switch"))?;
        self.spoke(i).tc("qdisc replace dev eth0 root pfifo_fast")?;
        let limit = self.limits.lock().expect("no holder panics")[port].clone();
        let qdisc = limit.unwrap_or_else(|| "pfifo_fast".to_owned());
        self.switch.tc(&format!("qdisc replace dev p{port} root {qdisc}"))
    }

    /// Limits the path to spoke `i` to `kilobits` a second, with a queue of `latency` before it; `None` lifts
    /// the limit.
    pub(crate) fn limit(&self, i: usize, kilobits: Option<u32>, latency: Duration) -> Result<()> {
        let port = 1 + i;
        let tbf =
            kilobits.map(|rate| format!("tbf rate {rate}kbit burst 5kb latency {}us", latency.as_micros()));
        let qdisc = tbf.clone().unwrap_or_else(|| "pfifo_fast".to_owned());
        self.limits.lock().expect("no holder panics")[port] = tbf;
        self.switch.tc(&format!("qdisc replace dev p{port} root {qdisc}"))
    }

    /// From now on this part of all packets between hosts, either way, is lost in silence; 0 ends that.
    ///
    /// Hosts hand over packets of the cable's size, not super-packets: else each loss would be one of up to 64 KiB.
    pub(crate) fn lose(&self, percent: u32) -> Result<()> {
        let mut batch = String::new();
        for (port, host) in self.hosts.iter().enumerate() {
            host.ip("link set eth0 gso_max_segs 1")?;
            let _ = writeln!(batch, "link set p{port} gso_max_segs 1");
        }
        self.switch.ip(&batch)?;
        let rule = format!("numgen random mod 100 < {percent} counter drop");
        let table = format!(
            "table bridge loss\ndelete table bridge loss\ntable bridge loss {{\nchain forward {{\n\
             type filter hook forward priority 0\n{}\n}}\n}}\n",
            if percent > 0 { &rule } else { "" }
        );
        self.switch.nft(&table)
    }

    /// From now on nothing passes between hosts but ICMP, and what finds neighbours.
    pub(crate) fn only_icmp(&self) -> Result<()> {
        self.switch.nft(
            "table bridge only {\nchain forward {\ntype filter hook forward priority -1\n\
             ether type arp accept\nip protocol icmp accept\nip6 nexthdr icmpv6 accept\ncounter drop\n}\n}\n",
        )
    }

    /// From now on packets to or from spoke `i` of more than `bytes` are lost in silence: either way, or one.
    ///
    /// Hosts hand over packets of the cable's size, as in [`Net::lose`].
    pub(crate) fn lose_longer(&self, i: usize, bytes: u32, direction: Option<Direction>) -> Result<()> {
        let port = 1 + i;
        for (port, host) in self.hosts.iter().enumerate() {
            host.ip("link set eth0 gso_max_segs 1")?;
            self.switch.ip(&format!("link set p{port} gso_max_segs 1"))?;
        }
        let rule = |way: &str| format!("{way} p{port} meta length > {bytes} drop\n");
        let rules = match direction {
            Some(Direction::In) => rule("oifname"),
            Some(Direction::Out) => rule("iifname"),
            None => rule("oifname") + &rule("iifname"),
        };
        self.switch.nft(&format!(
            "table bridge hole{port} {{\nchain forward {{\ntype filter hook forward priority 0\n{rules}}}\n}}\n"
        ))
    }

    /// Undoes [`Net::lose_longer`].
    pub(crate) fn close_hole(&self, i: usize) -> Result<()> {
        self.switch.nft(&format!("delete table bridge hole{}\n", 1 + i))
    }

    /// Lays the cables.
    fn wire(&self) -> Result<()> {
        // Without snooping the bridge floods multicast, as neighbour discovery needs.
        let mut batch = String::from("link add switch up type bridge mcast_snooping 0\n");
        for (port, host) in self.hosts.iter().enumerate() {
            let (mac, namespace) = (mac(port), host.namespace_path().display().to_string());
            let _ = write!(
                batch,
                "link add p{port} type veth peer name eth0 address {mac} netns {namespace}\n\
                 link set p{port} up master switch\n"
            );
        }
        self.switch.ip(&batch)?;
        thread::scope(|scope| {
            let threads: Vec<_> = (0..self.hosts.len())
                .map(|port| scope.spawn(move || self.hosts[port].ip(&self.host_batch(port))))
                .collect();
            threads.into_iter().try_for_each(|thread| thread.join().expect("wiring a host does not panic"))
        })?;
        // The kernel starts a queue a little after it has seen the carrier; until then packets are lost.
        (1..self.hosts.len()).try_for_each(|port| {
            ping_until(self.hub(), v4(port).into(), READY)?;
            if self.ipv6 { ping_until(self.hub(), v6(port).into(), READY).map(drop) } else { Ok(()) }
        })
    }

    fn host_batch(&self, port: usize) -> String {
        let mut batch = String::from("link set eth0 up\n");
        let _ = writeln!(batch, "addr add {}/24 dev eth0", v4(port));
        if self.ipv6 {
            let _ = writeln!(batch, "addr add {}/64 dev eth0 nodad", v6(port));
        }
        // The hub and the spokes know each other for good: otherwise a cut would show by the neighbour's
        // silence, and be reported as "no route to host", as it is not on a path with routers.
        let neighbours = if port == 0 { 1..self.hosts.len() } else { 0..1 };
        for neighbour in neighbours {
            let mac = mac(neighbour);
            let _ = writeln!(batch, "neigh add {} lladdr {mac} dev eth0 nud permanent", v4(neighbour));
            if self.ipv6 {
                let _ = writeln!(batch, "neigh add {} lladdr {mac} dev eth0 nud permanent", v6(neighbour));
            }
        }
        batch
    }
}

/// The last byte of a host's addresses.
fn number(port: usize) -> u8 {
    let number = if port == 0 { 1 } else { 9 + port };
    u8::try_from(number).expect("MAX_SPOKES keeps it below 255")
}

fn v4(port: usize) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, number(port))
}

fn v6(port: usize) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(number(port)))
}

fn mac(port: usize) -> String {
    format!("02:00:00:00:00:{:02x}", number(port))
}

/// A host on a network behind `gateway`, which is .1 there, on this device, and forwards; the host is .20.
pub(crate) fn host_behind(gateway: &Host, device: &str, name: &str, network: [u8; 3]) -> Result<Host> {
    let host = Host::new(name)?;
    let [a, b, c] = network;
    gateway.ip(&format!(
        "link add {device} type veth peer name eth0 netns {}\n\
         addr add {a}.{b}.{c}.1/24 dev {device}\nlink set {device} up",
        host.namespace_path().display()
    ))?;
    host.ip(&format!(
        "addr add {a}.{b}.{c}.20/24 dev eth0\nlink set eth0 up\nroute add default via {a}.{b}.{c}.1"
    ))?;
    gateway.forward();
    ping_until(&host, Ipv4Addr::new(a, b, c, 1).into(), Duration::from_secs(5))?;
    Ok(host)
}
