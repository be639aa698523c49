//! The TUN device: opened, read, written, configured.
//!
//! IO: it owns the device's descriptor. Configuration goes through [`crate::linux::netlink`].
//!
//! A packet, in and out, is 10 bytes of `virtio_net_hdr` (linux/virtio_net.h), little endian, and the IP
//! packet behind them; with offload it is a super-packet of up to 64 KiB.
//!
//! Linux (drivers/net/tun.c) makes a TUN device `POINTOPOINT | NOARP | MULTICAST`. `BROADCAST` is fixed
//! when the device is made: `__dev_change_flags` (net/core/dev.c) takes it from neither ioctl nor netlink,
//! so no program sees that flag on one. Broadcast works all the same: the address carries its broadcast
//! address, and packets to it and to 255.255.255.255 leave through the device.

#![expect(clippy::disallowed_methods, reason = "IO: opens /dev/net/tun")]

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;

use ipnetwork::IpNetwork;
use log::error;
use mio::event::Source;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};

use crate::linux::netlink::{self, MAIN_TABLE, Netlink, Route};
use crate::linux::sys::{InterfaceRequest, set_interface, set_number, set_offload};
use crate::packet::offload::{self, Features};
use crate::packet::{MAX_MTU, MIN_MTU, MIN_MTU_V6, VNET_LEN};

/// Most bytes to read from the device in one turn of the loop. It exceeds what a turn sends, so that packets wait in
/// our own queue and not in the device's FIFO.
pub const TURN_BYTES: usize = 1024 * 1024;
/// Most packets to read in one turn: small packets cost more than their bytes.
pub const TURN_PACKETS: usize = 256;

const PATH: &str = "/dev/net/tun";

/// A TUN device. Dropping it deletes the device with its addresses and routes.
///
/// It lives in the network namespace of the thread that opened it. When someone deletes it, as
/// `ip link del` can, mio reports an event with `is_error`, not readable, and reads and writes fail with
/// `EBADFD` from then on.
#[derive(Debug)]
pub struct Tun {
    file: File,
    name: String,
    index: u32,
    features: Features,
    netlink: Netlink,
}

/// Why the device cannot be made or configured. Each error prints as one line that says what to do.
#[derive(Debug)]
pub enum Error {
    /// Not an interface's name.
    BadName(String),
    /// The machine or the container has no /dev/net/tun, or it is something else.
    NoDevice(io::Error),
    /// No CAP_NET_ADMIN, or no right to open /dev/net/tun.
    NotAllowed(io::Error),
    /// The device was moved to another network namespace.
    Moved {
        /// Its name.
        name: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Another interface has this name.
    NameTaken {
        /// The name that was wanted.
        name: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Descriptors are used up.
    Descriptors(io::Error),
    /// No TUN device can have this MTU.
    Mtu(u32),
    /// The kernel refused a setting.
    Netlink(netlink::Error),
    /// The kernel refused something else.
    Other {
        /// What was wanted.
        action: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
}

impl Tun {
    /// Makes a TUN device called `name`, down and without addresses, that never blocks.
    ///
    /// # Errors
    /// Every [`Error`] but `Mtu`.
    pub fn open(name: &str) -> Result<Tun, Error> {
        let request = InterfaceRequest::new(name).ok_or_else(|| Error::BadName(name.to_owned()))?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open(PATH)
            .map_err(|source| Error::from_errno(source, name, "open /dev/net/tun"))?;
        let netlink = Netlink::open()?;
        let mut tun = Tun { file, name: name.to_owned(), index: 0, features: Features::default(), netlink };
        tun.attach(request)?;
        Ok(tun)
    }

    /// Makes the device anew, under the same name but with another index, after someone deleted it. The
    /// descriptor stays the same, and so does its registration with an event queue: no file is opened, which a
    /// confined program could not.
    ///
    /// # Errors
    /// As for [`Tun::open`]; `NameTaken` too where the device is still there.
    pub fn reattach(&mut self) -> Result<(), Error> {
        let request = InterfaceRequest::new(&self.name).ok_or_else(|| Error::BadName(self.name.clone()))?;
        match self.attach(request) {
            // The file still has a device, which is not to be seen here.
            Err(Error::NameTaken { name, source }) if source.raw_os_error() == Some(libc::EEXIST) => {
                Err(Error::Moved { name, source })
            }
            attached => attached,
        }
    }

    fn attach(&mut self, request: InterfaceRequest) -> Result<(), Error> {
        let (file, name) = (self.file.as_fd(), &self.name);
        set_interface(file, request)
            .map_err(|source| Error::from_errno(source, name, "make the TUN device"))?;
        set_number(file, libc::TUNSETVNETHDRSZ, VNET_LEN as libc::c_int)
            .and_then(|()| set_number(file, libc::TUNSETVNETLE, 1))
            .map_err(|source| Error::Other { action: "set the TUN device's header", source })?;
        self.features = probe(|offload| set_offload(file, offload))
            .map_err(|source| Error::Other { action: "set the TUN device's offload", source })?;
        self.index = self.netlink.link(name)?.index;
        let Features { checksum, tcp, udp } = self.features;
        log::debug!("{name}: interface {}, offload: checksum {checksum}, TCP {tcp}, UDP {udp}", self.index);
        Ok(())
    }

    /// The interface's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The interface's index.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// The metric of routes through this device: behind those to the same prefix that someone else made, whose
    /// metrics are lower, and different from that of another device of ours.
    pub fn metric(&self) -> u32 {
        const FIRST_METRIC: u32 = 20_000;
        FIRST_METRIC + self.index % 10_000
    }

    /// The offload that the kernel took.
    pub fn features(&self) -> Features {
        self.features
    }

    /// The netlink socket of the device's namespace, for routes and rules beyond the device.
    pub fn netlink(&self) -> &Netlink {
        &self.netlink
    }

    /// Reads one packet that the machine sends, header first; the number of its bytes. What does not fit in
    /// `buffer` is lost, so let it hold `packet::MAX_PACKET`.
    ///
    /// # Errors
    /// `WouldBlock` when there is none; `EBADFD` once someone has deleted the device.
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        retry(|| (&self.file).read(buffer))
    }

    /// Reads what one turn of the loop may: up to [`TURN_PACKETS`] packets and [`TURN_BYTES`] bytes. `take` gets what
    /// reads one packet into its space, and returns that packet's length. Whether there may be more.
    pub fn read_turn(
        &self,
        mut take: impl FnMut(&mut dyn FnMut(&mut [u8]) -> Option<usize>) -> Option<usize>,
    ) -> bool {
        let mut bytes = 0;
        for _ in 0..TURN_PACKETS {
            if bytes >= TURN_BYTES {
                break;
            }
            let Some(len) = take(&mut |space| self.read_or_log(space)) else { return false };
            bytes += len;
        }
        true
    }

    fn read_or_log(&self, space: &mut [u8]) -> Option<usize> {
        match self.read(space) {
            Ok(len) => Some(len),
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            // Someone has deleted the device: it is made anew, and that is logged.
            Err(error) if error.raw_os_error() == Some(libc::EBADFD) => None,
            Err(error) => {
                error!("cannot read from {}: {error}", self.name());
                None
            }
        }
    }

    /// Hands one packet, header first, to the machine.
    ///
    /// # Errors
    /// The packet is lost: `EINVAL` for one that the kernel calls malformed, `EIO` while the device is down,
    /// `ENOMEM`, `ENOBUFS` or `WouldBlock` where memory is short, `WriteZero` if only part was taken.
    /// `EBADFD` once someone has deleted the device.
    pub fn write(&self, packet: &[u8]) -> io::Result<()> {
        match retry(|| (&self.file).write(packet))? {
            written if written == packet.len() => Ok(()),
            _ => Err(ErrorKind::WriteZero.into()),
        }
    }

    /// Hands over a packet that [`offload::check`] let pass, cut into such as this kernel takes where that is
    /// needed. `scratch` is overwritten.
    ///
    /// # Errors
    /// As for [`Tun::write`]; where a packet was cut, those of its pieces that were taken stay delivered.
    pub fn deliver(&self, packet: &mut [u8], scratch: &mut Vec<u8>) -> io::Result<()> {
        if self.features.fits(packet) {
            return self.write(packet);
        }
        let mut written = Ok(());
        offload::segment(packet, self.features, scratch, |piece| {
            if let Err(error) = self.write(piece) {
                written = Err(error);
            }
        });
        written
    }

    /// The networks that this machine is in, but for the device's own and the machine itself.
    ///
    /// # Errors
    /// [`Error::Netlink`].
    pub fn other_networks(&self) -> Result<Vec<IpNetwork>, Error> {
        let others = self.netlink.addresses()?.into_iter().filter(|&(device, _)| device != self.index);
        Ok(others.map(|(_, network)| network).filter(|network| !network.ip().is_loopback()).collect())
    }

    /// Sets the MTU in bytes, [`MIN_MTU`] to [`MAX_MTU`]. Below [`MIN_MTU_V6`] the kernel takes IPv6 and its
    /// addresses away.
    ///
    /// # Errors
    /// [`Error::Mtu`] outside of this range, and [`Error::Netlink`].
    pub fn set_mtu(&self, mtu: u32) -> Result<(), Error> {
        if !(MIN_MTU..=MAX_MTU).contains(&mtu) {
            return Err(Error::Mtu(mtu));
        }
        Ok(self.netlink.set_mtu(self.index, mtu)?)
    }

    /// Gives the device an address; its prefix becomes a route through the device, once that is up. An IPv4
    /// prefix up to 30 bits gets its broadcast address. An IPv6 address can be bound at once. Succeeds where
    /// the device has it.
    ///
    /// # Errors
    /// [`Error::Netlink`]
    pub fn add_address(&self, address: IpNetwork) -> Result<(), Error> {
        Ok(self.netlink.add_address(self.index, address, Some(self.metric()))?)
    }

    /// Takes an address and its prefix's route away. Succeeds where it is gone.
    ///
    /// # Errors
    /// [`Error::Netlink`]
    pub fn remove_address(&self, address: IpNetwork) -> Result<(), Error> {
        Ok(self.netlink.remove_address(self.index, address)?)
    }

    /// Brings the device up, with multicast.
    ///
    /// # Errors
    /// [`Error::Netlink`]
    pub fn up(&self) -> Result<(), Error> {
        let flags = (libc::IFF_UP | libc::IFF_MULTICAST) as u32;
        Ok(self.netlink.set_flags(self.index, flags, flags)?)
    }

    /// Keeps the kernel from giving the device a link-local IPv6 address when it comes up, and from
    /// soliciting routers by it again and again. For a LAN without IPv6; to be called before [`Tun::up`].
    /// A TUN device has no hardware address, so the kernel would make up a random one
    /// (`addrconf_dev_config` in net/ipv6/addrconf.c). Succeeds where the machine has no IPv6.
    ///
    /// # Errors
    /// [`Error::Netlink`]
    pub fn without_link_local(&self) -> Result<(), Error> {
        Ok(self.netlink.without_link_local(self.index)?)
    }

    /// Routes `prefix` through the device, in the main table. Succeeds where it is there.
    ///
    /// # Errors
    /// [`Error::Netlink`]; its errno is `EEXIST` where the machine has another route to this very prefix
    /// with this metric, which is left as it is.
    pub fn add_route(&self, prefix: IpNetwork, metric: Option<u32>) -> Result<(), Error> {
        Ok(self.netlink.add_route(&self.route(prefix, metric))?)
    }

    /// Takes away what [`Tun::add_route`] added, whatever its metric. Succeeds where it is gone.
    ///
    /// # Errors
    /// [`Error::Netlink`]
    pub fn remove_route(&self, prefix: IpNetwork) -> Result<(), Error> {
        Ok(self.netlink.remove_route(&self.route(prefix, None))?)
    }

    fn route(&self, prefix: IpNetwork, metric: Option<u32>) -> Route {
        Route { prefix, gateway: None, interface: self.index, table: MAIN_TABLE, metric }
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl AsRawFd for Tun {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

impl Source for Tun {
    fn register(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        SourceFd(&self.as_raw_fd()).register(registry, token, interests)
    }

    fn reregister(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        SourceFd(&self.as_raw_fd()).reregister(registry, token, interests)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        SourceFd(&self.as_raw_fd()).deregister(registry)
    }
}

impl Error {
    /// Whether something with IPv6 was refused because the machine or the device has no IPv6.
    pub fn says_no_ipv6(&self) -> bool {
        matches!(self, Error::Netlink(error) if error.says_no_ipv6())
    }

    fn from_errno(source: io::Error, name: &str, action: &'static str) -> Error {
        match source.raw_os_error() {
            Some(libc::ENOENT | libc::ENODEV | libc::ENXIO | libc::ENOTTY) => Error::NoDevice(source),
            Some(libc::EACCES | libc::EPERM) => Error::NotAllowed(source),
            Some(libc::EBUSY | libc::EEXIST) => Error::NameTaken { name: name.to_owned(), source },
            Some(libc::EMFILE | libc::ENFILE) => Error::Descriptors(source),
            _ => Error::Other { action, source },
        }
    }
}

impl From<netlink::Error> for Error {
    fn from(error: netlink::Error) -> Error {
        match error.errno() {
            Some(errno @ (libc::EMFILE | libc::ENFILE)) => {
                Error::Descriptors(io::Error::from_raw_os_error(errno))
            }
            _ => Error::Netlink(error),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::BadName(name) => write!(
                f,
                "no interface can be called {name:?}: choose 1 to 15 letters, digits, '-', '_' or '.' with --tun NAME"
            ),
            Error::NoDevice(source) => write!(
                f,
                "{PATH} is not there: {source}: load the module with `modprobe tun`; \
                 a container must be given the device, as `docker run --device {PATH}` does"
            ),
            Error::NotAllowed(source) => write!(
                f,
                "cannot make a TUN device: {source}: run as root or give CAP_NET_ADMIN; \
                 in Docker `--cap-add NET_ADMIN --device {PATH}`"
            ),
            Error::NameTaken { name, .. } => {
                write!(f, "an interface called {name} is there already: choose another with --tun NAME")
            }
            Error::Moved { name, .. } => {
                write!(f, "someone has moved {name} to another network namespace: start this program again")
            }
            Error::Descriptors(source) => {
                write!(f, "no descriptor left: {source}: raise `ulimit -n` (LimitNOFILE= in a systemd unit)")
            }
            Error::Mtu(mtu) => write!(
                f,
                "the MTU cannot be {mtu}: choose {MIN_MTU} to {MAX_MTU} with --mtu N, with IPv6 {MIN_MTU_V6} at least"
            ),
            Error::Netlink(error) => error.fmt(f),
            Error::Other { action, source } => write!(f, "cannot {action}: {source}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::BadName(_) | Error::Mtu(_) => None,
            Error::NoDevice(source)
            | Error::NotAllowed(source)
            | Error::Descriptors(source)
            | Error::NameTaken { source, .. }
            | Error::Moved { source, .. }
            | Error::Other { source, .. } => Some(source),
            Error::Netlink(error) => error.source(),
        }
    }
}

/// Asks for the most offload that the kernel takes.
fn probe(set: impl Fn(libc::c_uint) -> io::Result<()>) -> io::Result<Features> {
    const CHECKSUM: libc::c_uint = libc::TUN_F_CSUM;
    const TCP: libc::c_uint = CHECKSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;
    const UDP: libc::c_uint = TCP | libc::TUN_F_USO4 | libc::TUN_F_USO6;
    let steps = [
        (UDP, Features { checksum: true, tcp: true, udp: true }),
        (TCP, Features { checksum: true, tcp: true, udp: false }),
        (CHECKSUM, Features { checksum: true, tcp: false, udp: false }),
    ];
    for (offload, features) in steps {
        if set(offload).is_ok() {
            return Ok(features);
        }
    }
    set(0).map(|()| Features::default())
}

fn retry<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == ErrorKind::Interrupted => (),
            outcome => return outcome,
        }
    }
}

#[cfg(test)]
mod tests;
