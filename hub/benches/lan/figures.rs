//! The figures, and the course of measurements that finds them for one system.

use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::house::{Process, Result};
use crate::programs::median;
use crate::systems::{Kind, Running, System};
use crate::traffic::{Flood, Flows, pings, small_packets};

/// One row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Figure {
    OneFlow,
    FourFlows,
    SmallPackets,
    IdleTrip,
    LoadedTrip,
    LoadedTrip99,
    NarrowTrip,
    NarrowTrip99,
    NarrowFlow,
    CpuHub,
    CpuSender,
    CpuReceiver,
    CpuHubPacket,
    StoppedShare,
    StoppedGrowth,
}

impl Figure {
    /// In the order in which they are shown.
    pub(crate) const ALL: [Figure; 15] = [
        Figure::OneFlow,
        Figure::FourFlows,
        Figure::SmallPackets,
        Figure::IdleTrip,
        Figure::LoadedTrip,
        Figure::LoadedTrip99,
        Figure::NarrowTrip,
        Figure::NarrowTrip99,
        Figure::NarrowFlow,
        Figure::CpuHub,
        Figure::CpuSender,
        Figure::CpuReceiver,
        Figure::CpuHubPacket,
        Figure::StoppedShare,
        Figure::StoppedGrowth,
    ];

    pub(crate) fn title(self) -> &'static str {
        match self {
            Figure::OneFlow => "one TCP flow",
            Figure::FourFlows => "four TCP flows",
            Figure::SmallPackets => "64-byte UDP delivered",
            Figure::IdleTrip => "round trip, idle",
            Figure::LoadedTrip => "round trip, bulk load",
            Figure::LoadedTrip99 => "- 99th percentile, bulk load",
            Figure::NarrowTrip => "round trip, bulk, 20 Mbit/s",
            Figure::NarrowTrip99 => "- 99th percentile, 20 Mbit/s",
            Figure::NarrowFlow => "- throughput, 20 Mbit/s",
            Figure::CpuHub => "CPU of the hub",
            Figure::CpuSender => "CPU of the sender",
            Figure::CpuReceiver => "CPU of the receiver",
            Figure::CpuHubPacket => "CPU of the hub, 64-byte UDP",
            Figure::StoppedShare => "one spoke stopped: others keep",
            Figure::StoppedGrowth => "- the hub's memory grows by",
        }
    }

    pub(crate) fn unit(self) -> &'static str {
        match self {
            Figure::OneFlow | Figure::FourFlows => "Gbit/s",
            Figure::SmallPackets => "k packets/s",
            Figure::IdleTrip
            | Figure::LoadedTrip
            | Figure::LoadedTrip99
            | Figure::NarrowTrip
            | Figure::NarrowTrip99 => "ms",
            Figure::NarrowFlow => "Mbit/s",
            Figure::CpuHub | Figure::CpuSender | Figure::CpuReceiver => "s/GB",
            Figure::CpuHubPacket => "µs/packet",
            Figure::StoppedShare => "of their rate",
            Figure::StoppedGrowth => "MiB",
        }
    }

    pub(crate) fn more_is_better(self) -> bool {
        matches!(
            self,
            Figure::OneFlow
                | Figure::FourFlows
                | Figure::SmallPackets
                | Figure::NarrowFlow
                | Figure::StoppedShare
        )
    }
}

/// How often each system is measured, and how long each part lasts.
pub(crate) struct Times {
    pub(crate) turns: u32,
    /// Before a measurement begins, for windows to open and queues to fill.
    warm: Duration,
    flow: Duration,
    packets: Duration,
    /// How often a turn goes round the systems for idle round trips.
    pub(crate) idle_rounds: u32,
    idle: Duration,
    loaded: Duration,
    narrow_warm: Duration,
    narrow: Duration,
    stopped: Duration,
}

impl Times {
    pub(crate) const FULL: Times = Times {
        turns: 4,
        warm: Duration::from_secs(1),
        flow: Duration::from_millis(2_500),
        packets: Duration::from_millis(1_500),
        idle_rounds: 5,
        idle: Duration::from_millis(400),
        loaded: Duration::from_millis(2_500),
        narrow_warm: Duration::from_secs(3),
        narrow: Duration::from_secs(15),
        stopped: Duration::from_secs(3),
    };
    pub(crate) const QUICK: Times = Times {
        turns: 1,
        warm: Duration::from_millis(500),
        flow: Duration::from_millis(1_500),
        packets: Duration::from_millis(1_000),
        idle_rounds: 10,
        idle: Duration::from_millis(200),
        loaded: Duration::from_millis(1_500),
        narrow_warm: Duration::from_millis(700),
        narrow: Duration::from_millis(2_000),
        stopped: Duration::from_millis(500),
    };
}

/// What one system reached: a column of the table.
pub(crate) struct Column {
    pub(crate) system: &'static System,
    /// What each measurement found.
    values: [Vec<f64>; Figure::ALL.len()],
    /// What could not be measured, and why.
    pub(crate) failures: Vec<String>,
}

/// Between pings: often enough for a 99th percentile, rarely enough to be no load.
const PING_EVERY: Duration = Duration::from_millis(10);

/// How long what a measurement left in queues may take to drain.
const DRAIN: Duration = Duration::from_millis(300);

/// How often the flooded spoke is stopped.
const STOPS: u32 = 4;

/// How long the flood takes to fill the queue before a stopped spoke.
const FILL: Duration = Duration::from_millis(500);

/// What floods the stopped spoke: fills its queue in a moment, and leaves the machine time for the others.
const FLOOD: u64 = 100_000_000;

impl Column {
    /// Nothing measured yet.
    pub(crate) fn new(system: &'static System) -> Column {
        Column { system, values: Default::default(), failures: Vec::new() }
    }

    /// Measures all that loads the path as it is.
    pub(crate) fn take_turn(&mut self, running: &Running, times: &Times) {
        self.load("flows", |column| column.flows(running, times));
        self.load("small packets", |column| column.packets(running, times));
        self.load("round trips under load", |column| column.loaded(running, times));
    }

    /// Measures round trips with nothing else on the way. They are as short as what the machine does beside
    /// makes them, so the systems take it in short turns.
    pub(crate) fn take_idle_turn(&mut self, running: &Running, times: &Times) {
        self.part("idle round trips", |column| column.idle(running, times));
    }

    /// Measures what needs another path or more ends.
    pub(crate) fn finish(&mut self, running: Running, times: &Times) {
        self.part("narrow path", |column| column.narrow(&running, times));
        drop(running);
        if self.system.kind == Kind::Ours {
            self.part("a stopped spoke", |column| column.stopped(times));
        }
    }

    /// The median of what was found.
    pub(crate) fn value(&self, figure: Figure) -> Option<f64> {
        median(self.values[figure as usize].clone())
    }

    fn set(&mut self, figure: Figure, value: f64) {
        self.values[figure as usize].push(value);
    }

    /// One part that fails does not take the others with it.
    fn part(&mut self, what: &str, measure: impl FnOnce(&mut Column) -> Result<()>) {
        if let Err(failure) = measure(self) {
            let failure = format!("{what}: {failure}");
            if !self.failures.contains(&failure) {
                self.failures.push(failure);
            }
        }
    }

    /// A part that leaves something in queues, which then drains.
    fn load(&mut self, what: &str, measure: impl FnOnce(&mut Column) -> Result<()>) {
        self.part(what, measure);
        thread::sleep(DRAIN);
    }

    fn flows(&mut self, running: &Running, times: &Times) -> Result<()> {
        let flow = Flows::start(running, 0, 1, 1)?;
        thread::sleep(times.warm);
        let programs = || {
            let relays = flow.relays.iter().chain(&running.hub).collect::<Vec<_>>();
            [
                cpu(&relays),
                cpu(&running.ends.first().into_iter().collect::<Vec<_>>()),
                cpu(&running.ends.get(1).into_iter().collect::<Vec<_>>()),
            ]
        };
        let before = programs();
        let (bytes, rate) = rate(&flow, times.flow);
        let after = programs();
        self.set(Figure::OneFlow, rate / 1e9);
        for (i, figure) in [Figure::CpuHub, Figure::CpuSender, Figure::CpuReceiver].into_iter().enumerate() {
            if let (Some(before), Some(after)) = (before[i], after[i]) {
                self.set(figure, (after - before) / (bytes as f64 / 1e9));
            }
        }
        drop(flow);
        thread::sleep(DRAIN);
        let flows = Flows::start(running, 0, 1, 4)?;
        thread::sleep(times.warm);
        self.set(Figure::FourFlows, self::rate(&flows, times.flow).1 / 1e9);
        Ok(())
    }

    fn packets(&mut self, running: &Running, times: &Times) -> Result<()> {
        let Some(to) = running.address(1) else { return Ok(()) };
        let found = small_packets(running, to, times.warm, times.packets)?;
        self.set(Figure::SmallPackets, found.rate / 1e3);
        if let Some(seconds) = found.hub_seconds {
            self.set(Figure::CpuHubPacket, seconds * 1e6);
        }
        Ok(())
    }

    fn idle(&mut self, running: &Running, times: &Times) -> Result<()> {
        let Some(to) = running.address(1) else { return Ok(()) };
        self.set(Figure::IdleTrip, pings(running, to, PING_EVERY, times.idle)?.quantile_ms(0.5));
        Ok(())
    }

    fn loaded(&mut self, running: &Running, times: &Times) -> Result<()> {
        let Some(to) = running.address(1) else { return Ok(()) };
        let _flow = Flows::start(running, 0, 1, 1)?;
        thread::sleep(times.warm);
        let trips = pings(running, to, PING_EVERY, times.loaded)?;
        self.set(Figure::LoadedTrip, trips.quantile_ms(0.5));
        self.set(Figure::LoadedTrip99, trips.quantile_ms(0.99));
        Ok(())
    }

    fn narrow(&mut self, running: &Running, times: &Times) -> Result<()> {
        running.field.narrow(1)?;
        let flow = Flows::start(running, 0, 1, 1)?;
        thread::sleep(times.narrow_warm);
        let (before, start) = (flow.received(), Instant::now());
        if let Some(to) = running.address(1) {
            let trips = pings(running, to, PING_EVERY, times.narrow)?;
            self.set(Figure::NarrowTrip, trips.quantile_ms(0.5));
            self.set(Figure::NarrowTrip99, trips.quantile_ms(0.99));
        } else {
            thread::sleep(times.narrow);
        }
        let bits = (flow.received() - before) as f64 * 8.0;
        self.set(Figure::NarrowFlow, bits / start.elapsed().as_secs_f64() / 1e6);
        Ok(())
    }

    /// End 0 sends to end 1 while end 2 floods end 3, which in turns reads and is stopped: what else the
    /// machine does meets both alike.
    fn stopped(&mut self, times: &Times) -> Result<()> {
        let running = self.system.start(4)?;
        let flow = Flows::start(&running, 0, 1, 1)?;
        let _flood = Flood::start(&running, 2, 3, FLOOD)?;
        thread::sleep(times.warm);
        let (Some(hub), Some(victim)) = (&running.hub, running.ends.get(3)) else { return Ok(()) };
        let memory_before = hub.resident_bytes()?;
        let (mut reading, mut stopped, mut memory) = (0.0, 0.0, memory_before);
        for _ in 0..STOPS {
            reading += rate(&flow, times.stopped).1;
            victim.signal(Signal::SIGSTOP)?;
            thread::sleep(FILL);
            stopped += rate(&flow, times.stopped).1;
            memory = memory.max(hub.resident_bytes()?);
            victim.signal(Signal::SIGCONT)?;
            thread::sleep(DRAIN);
        }
        self.set(Figure::StoppedShare, stopped / reading);
        self.set(Figure::StoppedGrowth, (memory - memory_before) as f64 / f64::from(1 << 20));
        Ok(())
    }
}

/// Bytes that arrive in `time`, and bits a second.
fn rate(flows: &Flows, time: Duration) -> (u64, f64) {
    let (before, start) = (flows.received(), Instant::now());
    thread::sleep(time);
    let bytes = flows.received() - before;
    (bytes, bytes as f64 * 8.0 / start.elapsed().as_secs_f64())
}

/// Seconds of CPU so far, of all of them; `None` where there is none.
fn cpu(programs: &[&Process]) -> Option<f64> {
    let seconds: Vec<_> = programs.iter().map(|program| program.cpu_seconds()).collect();
    if seconds.is_empty() { None } else { Some(seconds.iter().sum()) }
}
