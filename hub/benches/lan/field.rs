//! The three hosts of the benchmark, and a fourth and fifth where a figure needs them.
//!
//! ```text
//!   end 0                         hub                          end 1
//!   eth0 192.0.2.2/30 ─── e0 192.0.2.1 │ 192.0.2.5 e1 ─── eth0 192.0.2.6/30     end i: 192.0.2.(4i+2)
//! ```
//! Each end hangs on a cable of its own and knows no way to the others: whatever arrives there came through a
//! program in the hub, or through its kernel where `forward` made a router of it.

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::house::{Host, Result, allow_cubic, ping_until};

const READY: Duration = Duration::from_secs(5);

/// The bottleneck of the narrow path.
const NARROW: &str = "tbf rate 20mbit burst 16kb latency 20ms";

/// Hosts and cables.
pub(crate) struct Field {
    pub(crate) hub: Host,
    pub(crate) ends: Vec<Host>,
}

impl Field {
    /// A hub and `ends` ends, all with cubic.
    pub(crate) fn new(ends: usize) -> Result<Field> {
        Field::with_cables(ends, lay_cable)
    }

    /// The same with cables that `connect` lays from the hub's e*i* to the eth0 of end *i*.
    pub(crate) fn with_cables(
        ends: usize,
        mut connect: impl FnMut(&Host, &Host, usize) -> Result<()>,
    ) -> Result<Field> {
        allow_cubic()?;
        let hub = Host::new("hub")?;
        let ends = (0..ends).map(|i| Host::new(&format!("end{i}"))).collect::<Result<Vec<_>>>()?;
        for (i, end) in ends.iter().enumerate() {
            connect(&hub, end, i)?;
            hub.ip(&format!("addr add {}/30 dev e{i}", Field::hub_address(i)))?;
            end.ip(&format!("addr add {}/30 dev eth0", Field::end_address(i)))?;
        }
        let field = Field { hub, ends };
        for i in 0..field.ends.len() {
            ping_until(&field.hub, Field::end_address(i).into(), READY)?;
        }
        Ok(field)
    }

    /// The hub's address on the cable of end `i`.
    pub(crate) fn hub_address(i: usize) -> Ipv4Addr {
        Ipv4Addr::new(192, 0, 2, host_number(i, 1))
    }

    /// The address of end `i` on its cable.
    pub(crate) fn end_address(i: usize) -> Ipv4Addr {
        Ipv4Addr::new(192, 0, 2, host_number(i, 2))
    }

    /// Narrows the path from the hub to end `i`.
    pub(crate) fn narrow(&self, i: usize) -> Result<()> {
        self.hub.tc(&format!("qdisc replace dev e{i} root {NARROW}"))
    }
}

/// Lays a cable from the hub's e*i* to the eth0 of end *i*.
pub(crate) fn lay_cable(hub: &Host, end: &Host, i: usize) -> Result<()> {
    hub.ip(&format!(
        "link add e{i} type veth peer name eth0 netns {}\nlink set e{i} up",
        end.namespace_path().display()
    ))?;
    end.ip("link set eth0 up")
}

fn host_number(end: usize, offset: usize) -> u8 {
    u8::try_from(4 * end + offset).expect("a handful of ends")
}
