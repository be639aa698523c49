//! A real LAN: the binaries `hub` and `spoke`, each in its host.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};

use super::{Context, Failure, Host, Net, Process, Result, ping_until};

/// Part of the line by which a spoke says that it has joined; its address follows.
pub(crate) const SPOKE_ON_LAN: &str = "on the LAN as ";

/// Part of the line by which a hub says that it is ready.
pub(crate) const HUB_LISTENS: &str = "listening on";

/// How long a program may take to be ready.
const START: Duration = Duration::from_secs(10);

/// Where the two programs are.
#[derive(Clone, Debug)]
pub(crate) struct Binaries {
    pub(crate) hub: PathBuf,
    pub(crate) spoke: PathBuf,
}

impl Binaries {
    /// The programs built with this target: Cargo tells a test or benchmark of either package where its
    /// program is; an example lies one directory below.
    pub(crate) fn find() -> Result<Binaries> {
        let told = option_env!("CARGO_BIN_EXE_hub").or(option_env!("CARGO_BIN_EXE_spoke"));
        let directory = match told {
            Some(program) => Path::new(program).parent().map(Path::to_owned),
            None => {
                let program = std::env::current_exe().context("find this program")?;
                program.ancestors().nth(2).map(Path::to_owned)
            }
        };
        let directory = directory.ok_or_else(|| Failure::new("this program is in no directory"))?;
        let binaries = Binaries { hub: directory.join("hub"), spoke: directory.join("spoke") };
        for program in [&binaries.hub, &binaries.spoke] {
            if !program.is_file() {
                let program = program.display();
                return Err(Failure::new(format!(
                    "{program} is missing: run cargo build --bins, or cargo test --workspace"
                )));
            }
        }
        Ok(binaries)
    }
}

/// A hub and its spokes, running. The LAN is 10.0.0.0/24, the hub 10.0.0.1, spoke `i` 10.0.0.(2+i).
pub(crate) struct Lan {
    // Programs are dropped before the hosts that hold them.
    pub(crate) hub: Process,
    pub(crate) spokes: Vec<Process>,
    pub(crate) net: Net,
    pub(crate) binaries: Binaries,
}

impl Lan {
    /// Starts a hub and `spokes` spokes, and waits until all are on the LAN.
    pub(crate) fn new(spokes: usize) -> Result<Lan> {
        Lan::with(Net::new(spokes)?, spokes)
    }

    /// As [`Lan::new`] in a net that may have more hosts, for those who are not on the LAN.
    pub(crate) fn with(net: Net, spokes: usize) -> Result<Lan> {
        Lan::with_options(net, &[], &vec![&[][..]; spokes])
    }

    /// As [`Lan::new`], with IPv6 too: the LAN is also fd00::/64.
    pub(crate) fn dual(spokes: usize) -> Result<Lan> {
        Lan::dual_in(Net::new(spokes)?, spokes)
    }

    /// As [`Lan::dual`] in a net that may have more hosts.
    pub(crate) fn dual_in(net: Net, spokes: usize) -> Result<Lan> {
        let addresses: Vec<String> = (0..spokes).map(|i| Lan::address_v6(i).to_string()).collect();
        let options: Vec<_> = addresses.iter().map(|address| ["--ip", address.as_str()]).collect();
        let options: Vec<&[&str]> = options.iter().map(|options| &options[..]).collect();
        let lan = Lan::with_options(net, &["--subnet", "fd00::/64"], &options)?;
        // The kernel makes an IPv6 address reachable a little after it has taken it.
        ping_until(lan.net.hub(), Lan::hub_address_v6().into(), START)?;
        (0..spokes)
            .try_for_each(|i| ping_until(lan.net.spoke(i), Lan::address_v6(i).into(), START).map(drop))?;
        Ok(lan)
    }

    /// As [`Lan::new`], with more options for the hub and for each spoke.
    pub(crate) fn with_options(net: Net, of_hub: &[&str], of_spokes: &[&[&str]]) -> Result<Lan> {
        require_tun()?;
        let binaries = Binaries::find()?;
        let hub = start_hub(&net, &binaries, of_hub)?;
        let started: Result<Vec<_>> = of_spokes
            .iter()
            .enumerate()
            .map(|(i, options)| spawn_spoke(&net, &binaries, i, options))
            .collect();
        let spokes = started?;
        for spoke in &spokes {
            spoke.wait_for_line(SPOKE_ON_LAN, START)?;
        }
        Ok(Lan { hub, spokes, net, binaries })
    }

    /// The hub's own address in the LAN.
    pub(crate) fn hub_address() -> Ipv4Addr {
        Ipv4Addr::new(10, 0, 0, 1)
    }

    /// The address of spoke `i` in the LAN.
    pub(crate) fn address(i: usize) -> Ipv4Addr {
        Ipv4Addr::new(10, 0, 0, u8::try_from(2 + i).expect("fewer spokes than the subnet has addresses"))
    }

    /// The hub's own IPv6 address in a [`Lan::dual`].
    pub(crate) fn hub_address_v6() -> Ipv6Addr {
        Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1)
    }

    /// The IPv6 address of spoke `i` in a [`Lan::dual`].
    pub(crate) fn address_v6(i: usize) -> Ipv6Addr {
        Ipv6Addr::from_bits(Lan::hub_address_v6().to_bits() + 1 + i as u128)
    }

    /// Ends the hub with SIGKILL and starts another with the same state.
    pub(crate) fn restart_hub(&mut self) -> Result<()> {
        self.hub.kill()?;
        self.hub = start_hub(&self.net, &self.binaries, &[])?;
        Ok(())
    }

    /// Ends spoke `i` with SIGKILL, starts another with the same state and waits until it is on the LAN.
    pub(crate) fn restart_spoke(&mut self, i: usize) -> Result<()> {
        self.spokes[i].kill()?;
        self.spokes[i] = spawn_spoke(&self.net, &self.binaries, i, &[])?;
        self.spokes[i].wait_for_line(SPOKE_ON_LAN, START).map(drop)
    }
}

const TUN: &str = "/dev/net/tun";

/// Says so where this machine has no TUN device, or not for us.
pub(crate) fn require_tun() -> Result<()> {
    match File::options().read(true).write(true).open(TUN) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let program =
                std::env::current_exe().map_or("this program".to_owned(), |path| path.display().to_string());
            Err(Failure::new(format!(
                "only root may open {TUN} here ({error}).\nRun it as root: sudo {program}\nOr let users open it: \
                 sudo chmod 666 {TUN}"
            )))
        }
        Err(error) => Err(Failure::new(format!(
            "{TUN} cannot be opened ({error}): load the module (modprobe tun), or give the container the device \
             (docker run --device {TUN})"
        ))),
    }
}

/// Gives a host, on whose thread this is called, a TUN device of its own with this mode.
pub(crate) fn make_tun(mode: u32) {
    let tmpfs = Some("tmpfs");
    mount(tmpfs, "/dev/net", tmpfs, MsFlags::empty(), None::<&str>).expect("a host may mount");
    let bits = Mode::from_bits_truncate(mode);
    mknod(TUN, SFlag::S_IFCHR, bits, makedev(10, 200)).expect("root may make a device");
    fs::set_permissions(TUN, fs::Permissions::from_mode(mode)).expect("it is there");
}

/// The command line of a hub for 10.0.0.0/24, with `extra` behind.
pub(crate) fn hub_command(net: &Net, binaries: &Binaries, extra: &[&str]) -> Command {
    let mut command = Command::new(&binaries.hub);
    command.args(["--subnet", "10.0.0.0/24"]).args(own_state(net.hub(), "hub")).args(extra);
    command
}

/// The command line of spoke `i`, with `extra` behind. Its name is its host's.
pub(crate) fn spoke_command(net: &Net, binaries: &Binaries, i: usize, extra: &[&str]) -> Command {
    let (hub, address) = (format!("{}:5678", Net::hub_v4()), Lan::address(i).to_string());
    let mut command = Command::new(&binaries.spoke);
    command.args(["--hub", &hub, "--ip", &address]).args(own_state(net.spoke(i), "spoke")).args(extra);
    command
}

/// Starts a hub for 10.0.0.0/24 and waits until it listens.
pub(crate) fn start_hub(net: &Net, binaries: &Binaries, extra: &[&str]) -> Result<Process> {
    let hub = net.hub().spawn("hub", &hub_command(net, binaries, extra))?;
    hub.wait_for_line(HUB_LISTENS, START)?;
    Ok(hub)
}

/// A key that nobody has: any 43 characters of base64 that end in zeros are one.
pub(crate) fn nobodys_key(number: usize) -> String {
    format!("{number:A<42}A=")
}

/// Starts spoke `i`, without waiting.
pub(crate) fn spawn_spoke(net: &Net, binaries: &Binaries, i: usize, extra: &[&str]) -> Result<Process> {
    let host = net.spoke(i);
    host.spawn(host.name(), &spoke_command(net, binaries, i, extra))
}

/// The state directory of `hub` or `spoke` in a host, as this process sees it.
pub(crate) fn state(host: &Host, program: &str) -> PathBuf {
    host.path(host.private().join(program))
}

/// Makes the state directory of `hub` or `spoke` in a host, ahead of the program.
pub(crate) fn make_state(host: &Host, program: &str) -> Result<PathBuf> {
    let directory = state(host, program);
    make_directory(&directory)?;
    Ok(directory)
}

fn make_directory(path: &Path) -> Result<()> {
    DirBuilder::new().mode(0o700).create(path).context("make a state directory")
}

/// Copies a state directory, keys included: the other host becomes the same member, or the same hub.
pub(crate) fn copy_state(from: &Path, to: &Path) -> Result<()> {
    make_directory(to)?;
    for entry in fs::read_dir(from).context("read a state directory")? {
        let path = entry?.path();
        let name = path.file_name().expect("an entry has a name");
        // The control socket belongs to whom it was made by.
        if path.is_file() {
            fs::copy(&path, to.join(name)).context("copy a state file")?;
        }
    }
    Ok(())
}

/// The arguments by which a program keeps its state in its host alone: none where its default directory is
/// the host's own.
fn own_state(host: &Host, program: &str) -> Vec<String> {
    let directory = host.private().join(program);
    if directory.parent() == Some(Path::new("/var/lib")) {
        return Vec::new();
    }
    vec!["--state".to_owned(), directory.display().to_string()]
}
