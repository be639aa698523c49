//! Spokes without devices: many tunnels in one event loop, over loopback.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use common::node::state;
use common::node::timer::Timers;
use common::packet::VNET_LEN;
use common::queue::{Buf, Pool};
use common::transport::tcp::{Filled, Flushed, Link};
use common::wire::frame::{ControlFrame, Join};
use common::wire::inbox::Inbox;
use common::wire::key::PrivateKey;
use common::wire::name::Name;
use common::wire::tunnel::{Event, Tunnel, Watch, outbox};
use mio::net::TcpStream;
use mio::{Events, Poll, Token};
use spoke::uplink::ASK_EVERY;

use crate::house::wire::udp_packet;
use crate::house::{Context, Failure, Result};

/// Joins under way: a hub takes no more than 128 from one source.
const AT_ONCE: usize = 64;

const PATIENCE: Duration = Duration::from_secs(20);

/// Spoke `i` has address 10.0.0.0 + 2 + i.
pub(crate) struct Crowd {
    hub: SocketAddr,
    spokes: Vec<Spoke>,
    on_lan: usize,
    /// Packets that arrived, at any spoke.
    received: u64,
    timers: Timers,
    poll: Poll,
    events: Events,
    pool: Pool,
    inbox: Inbox,
    outbox: Buf,
}

struct Spoke {
    link: Link,
    tunnel: Tunnel,
}

impl Crowd {
    pub(crate) fn new(hub: SocketAddr) -> Result<Crowd> {
        Ok(Crowd {
            hub,
            spokes: Vec::new(),
            on_lan: 0,
            received: 0,
            timers: Timers::default(),
            poll: Poll::new()?,
            events: Events::with_capacity(1_024),
            pool: Pool::new(8 << 20),
            inbox: Inbox::default(),
            outbox: outbox(),
        })
    }

    /// Lets spokes join until there are `count`.
    pub(crate) fn grow(&mut self, count: usize) -> Result<()> {
        let mut heard_at = Instant::now();
        while self.on_lan < count {
            let before = self.on_lan;
            while self.spokes.len() < count && self.spokes.len() - self.on_lan < AT_ONCE {
                self.dial()?;
            }
            self.turn(Duration::from_millis(100))?;
            if self.on_lan > before {
                heard_at = Instant::now();
            } else if heard_at.elapsed() > PATIENCE {
                let on_lan = self.on_lan;
                return Err(Failure::new(format!("no spoke joined in {PATIENCE:?}; {on_lan} have")));
            }
        }
        Ok(())
    }

    /// Says for some time what spokes say that have nothing to send.
    pub(crate) fn idle(&mut self, time: Duration) -> Result<()> {
        let end = Instant::now() + time;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            self.turn(left)?;
        }
    }

    /// Has each watch the hub from now on, as spokes do that have another one to go to: by the kernel, or by pings alone.
    pub(crate) fn watch(&mut self, by_kernel: bool) -> Result<()> {
        for i in 0..self.spokes.len() {
            let Spoke { link, tunnel } = &mut self.spokes[i];
            tunnel.set_watch(if by_kernel { Watch::Sending } else { Watch::Always });
            link.ask_kernel(by_kernel.then_some(ASK_EVERY)).context("have the kernel ask")?;
            self.timers.set(i, self.spokes[i].tunnel.deadline());
        }
        Ok(())
    }

    /// Sends bursts of `burst` packets from the first spoke to the second for some time, each when the one
    /// before has arrived. Returns the number of packets.
    pub(crate) fn talk(&mut self, burst: u64, time: Duration) -> Result<u64> {
        let packet = udp_packet((address(0), 4_000), (address(1), 4_001), &[0x5a; 64]);
        let packet = [&[0; VNET_LEN][..], &packet].concat();
        let (start, before) = (Instant::now(), self.received);
        let mut sent = 0;
        while start.elapsed() < time {
            let now = Instant::now();
            for _ in 0..burst {
                let packet = self.pool.copy(&packet);
                self.spokes[0].tunnel.enqueue(packet, 0, &mut self.pool, now);
            }
            self.flush(0, now)?;
            sent += burst;
            while self.received - before < sent {
                self.turn(PATIENCE)?;
                if now.elapsed() > PATIENCE {
                    return Err(Failure::new("packets were lost"));
                }
            }
        }
        Ok(sent)
    }

    fn dial(&mut self) -> Result<()> {
        let i = self.spokes.len();
        let now = Instant::now();
        let stream = TcpStream::connect(self.hub).context("connect to the hub")?;
        let key = PrivateKey::from_random(state::random()?);
        let join = Join {
            addresses: vec![IpAddr::V4(address(i))],
            ..Join::new(Name::nearest(&format!("crowd-{i}")))
        };
        let mut link = Link::new(stream).context("set a socket's options")?;
        link.register(self.poll.registry(), Token(i)).context("register a socket")?;
        let tunnel = Tunnel::spoke(&key, state::random()?, None, &join, &mut self.pool, now);
        self.spokes.push(Spoke { link, tunnel });
        self.flush(i, now)
    }

    /// Waits for events, or until a tunnel has something to do, and deals with that.
    fn turn(&mut self, timeout: Duration) -> Result<()> {
        let next = self.timers.next().map(|at| at.saturating_duration_since(Instant::now()));
        let timeout = next.unwrap_or(timeout).min(timeout);
        let mut events = std::mem::replace(&mut self.events, Events::with_capacity(0));
        match self.poll.poll(&mut events, Some(timeout)) {
            Err(error) if error.kind() != std::io::ErrorKind::Interrupted => return Err(error.into()),
            _ => {}
        }
        let now = Instant::now();
        for event in &events {
            let Token(i) = event.token();
            if event.is_writable() {
                self.spokes[i].link.set_ready(true, false);
            }
            if event.is_readable() {
                while self.read(i, now)? == Filled::More {}
            }
            self.flush(i, now)?;
        }
        self.events = events;
        while let Some(i) = self.timers.pop(now) {
            let tunnel = &mut self.spokes[i].tunnel;
            tunnel.handle_timeout(now).context("wait for the hub")?;
            self.timers.set(i, tunnel.deadline());
            self.flush(i, now)?;
        }
        Ok(())
    }

    fn read(&mut self, i: usize, now: Instant) -> Result<Filled> {
        let Spoke { link, tunnel } = &mut self.spokes[i];
        let what = || format!("spoke {i}");
        let filled = link.fill(tunnel, &mut self.inbox, &mut self.pool, now).context(&what())?;
        while let Some(event) = tunnel.open(&mut self.inbox, &mut self.pool, now).context(&what())? {
            match event {
                Event::Packet(packet) => {
                    self.received += 1;
                    self.pool.give(packet);
                }
                Event::Control(ControlFrame::Welcome(_)) => {
                    self.on_lan += 1;
                    self.timers.set(i, tunnel.deadline());
                }
                Event::Control(ControlFrame::Refused { text, .. }) => {
                    return Err(Failure::new(format!("the hub refused spoke {i}: {text}")));
                }
                Event::Control(_) | Event::Join { .. } | Event::Attach { .. } => {}
            }
        }
        tunnel.park(&mut self.inbox, &mut self.pool);
        if filled == Filled::Closed {
            return Err(Failure::new(format!("the hub closed the connection of spoke {i}")));
        }
        Ok(filled)
    }

    fn flush(&mut self, i: usize, now: Instant) -> Result<()> {
        let Spoke { link, tunnel } = &mut self.spokes[i];
        let mut flush = || link.flush(tunnel, &mut self.outbox, &mut self.pool, now);
        while flush().context("write")? == Flushed::More {}
        Ok(())
    }
}

fn address(i: usize) -> Ipv4Addr {
    let first = u32::from(Ipv4Addr::new(10, 0, 0, 2));
    Ipv4Addr::from(first + u32::try_from(i).expect("fewer spokes than the subnet has addresses"))
}
