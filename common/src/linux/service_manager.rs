//! Notifications to the service manager (sd_notify(3)): ready, status, watchdog. IO.
//!
//! Its socket is connected at start: a program in its sandbox may not find the way there any more.

#![expect(clippy::disallowed_methods, reason = "an IO file: it reads the environment and opens a socket")]

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

/// Longest status that is sent, in characters: `systemctl status` shows one line.
const MAX_STATUS: usize = 200;

/// The service manager that started this program, if one did and wants to know.
#[derive(Debug, Default)]
pub struct ServiceManager {
    socket: Option<UnixDatagram>,
    /// How often it wants to hear that this program is alive: twice in the time after which it would end it.
    alive_every: Option<Duration>,
    alive_at: Option<Instant>,
    is_ready: bool,
    status: String,
}

impl ServiceManager {
    /// Connects to the one that the environment names; without one, everything else does nothing.
    pub fn connect(now: Instant) -> ServiceManager {
        let variable = |name: &str| std::env::var_os(name);
        let Some(path) = variable("NOTIFY_SOCKET") else { return ServiceManager::default() };
        match connect(&path) {
            Ok(socket) => {
                let own = std::process::id();
                let alive_every = watchdog(variable("WATCHDOG_USEC"), variable("WATCHDOG_PID"), own);
                ServiceManager {
                    socket: Some(socket),
                    alive_every,
                    alive_at: alive_every.map(|_| now),
                    ..ServiceManager::default()
                }
            }
            Err(error) => {
                log::warn!("cannot notify the service manager: {}: {error}", path.display());
                ServiceManager::default()
            }
        }
    }

    /// The LAN's address can be bound from now on: services that wait for it may start. Also tells how things stand.
    pub fn ready(&mut self, status: &str) {
        if !std::mem::replace(&mut self.is_ready, true) {
            self.send("READY=1");
        }
        self.status(status);
    }

    /// Tells how things stand, if that is new.
    pub fn status(&mut self, status: &str) {
        let line = status_line(status);
        if line != self.status {
            self.send(&format!("STATUS={line}"));
            self.status = line;
        }
    }

    /// The program ends because it was told to.
    pub fn stopping(&self) {
        self.send("STOPPING=1");
    }

    /// When [`handle_timeout`](ServiceManager::handle_timeout) has something to do.
    pub fn deadline(&self) -> Option<Instant> {
        self.alive_at
    }

    /// Says that the program is alive, when that is due: called from the event loop, which a program that hangs does
    /// not get to.
    pub fn handle_timeout(&mut self, now: Instant) {
        if let (Some(every), Some(at)) = (self.alive_every, self.alive_at)
            && at <= now
        {
            self.send("WATCHDOG=1");
            self.alive_at = Some(now + every);
        }
    }

    fn send(&self, message: &str) {
        if let Some(socket) = &self.socket {
            // A service manager that is being restarted misses it; it must not hold us up.
            if let Err(error) = socket.send(message.as_bytes()) {
                log::debug!("the service manager did not take {message:?}: {error}");
            }
        }
    }
}

fn connect(path: &OsStr) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    match path.as_bytes().strip_prefix(b"@") {
        Some(name) => socket.connect_addr(&SocketAddr::from_abstract_name(name)?)?,
        None => socket.connect(path)?,
    }
    Ok(socket)
}

/// How often to say that this process is alive; `None` where nobody wants to know, or it is meant for another process.
fn watchdog(usec: Option<OsString>, pid: Option<OsString>, own: u32) -> Option<Duration> {
    let number = |text: OsString| text.to_str()?.parse::<u64>().ok();
    if pid.is_some_and(|pid| number(pid) != Some(own.into())) {
        return None;
    }
    let every = Duration::from_micros(number(usec?)?) / 2;
    (!every.is_zero()).then_some(every)
}

/// One line, cut at a sensible length.
fn status_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_STATUS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_each_thing_once_and_stays_alive() {
        let name = format!("service-manager-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let manager = UnixDatagram::bind_addr(&address).unwrap();
        manager.set_nonblocking(true).unwrap();
        let heard = || {
            let mut bytes = [0; 4_096];
            let mut all = Vec::new();
            while let Ok(length) = manager.recv(&mut bytes) {
                all.push(String::from_utf8(bytes[..length].to_vec()).unwrap());
            }
            all
        };
        let now = Instant::now();
        let every = Duration::from_secs(5);
        let mut notified = ServiceManager {
            socket: Some(connect(OsStr::new(&format!("@{name}"))).unwrap()),
            alive_every: Some(every),
            alive_at: Some(now),
            ..ServiceManager::default()
        };
        notified.status("connecting");
        notified.status("connecting");
        notified.ready("on the LAN\nas 10.0.0.2");
        notified.ready("on the LAN\nas 10.0.0.2");
        notified.stopping();
        assert_eq!(heard(), ["STATUS=connecting", "READY=1", "STATUS=on the LAN as 10.0.0.2", "STOPPING=1"]);
        assert_eq!(notified.deadline(), Some(now));
        notified.handle_timeout(now);
        notified.handle_timeout(now + every / 2);
        assert_eq!((heard(), notified.deadline()), (vec!["WATCHDOG=1".to_owned()], Some(now + every)));
        drop(manager);
        notified.ready("nobody listens");
    }

    #[test]
    fn without_one_nothing_happens() {
        let mut nobody = ServiceManager::default();
        nobody.ready("x");
        nobody.handle_timeout(Instant::now());
        assert_eq!(nobody.deadline(), None);
    }

    #[test]
    fn the_watchdog_is_for_this_process() {
        let text = |text: &str| Some(OsString::from(text));
        let second = Some(Duration::from_secs(1));
        assert_eq!(watchdog(text("2000000"), None, 7), second);
        assert_eq!(watchdog(text("2000000"), text("7"), 7), second);
        for (usec, pid) in [("2000000", "8"), ("x", "7"), ("0", "7"), ("2000000", "x")] {
            assert_eq!(watchdog(text(usec), text(pid), 7), None, "{usec} {pid}");
        }
        assert_eq!(watchdog(None, None, 7), None);
        assert_eq!(status_line(&"ü".repeat(500)).chars().count(), MAX_STATUS);
    }
}
