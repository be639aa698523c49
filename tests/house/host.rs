//! A host: a thread in a network namespace, a mount namespace and a host name of its own.

use std::fs::{self, File};
use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Pid, gettid, sethostname};
use socket2::{Domain, Socket, Type};

use super::{Context, Failure, Process, Result};

type Job = Box<dyn FnOnce() + Send>;

/// What names a proxy to programs, which those of a test are not to hear of.
const PROXY_VARIABLES: [&str; 6] =
    ["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY"];

/// Whether a host forwards: IPv4 and IPv6.
const FORWARDING: [&str; 2] = ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"];

/// A machine of the house: its own network stack, its own name, and its own empty directory for state.
///
/// The namespaces live as long as the thread, its programs and the sockets opened in them; none has a name
/// that could stay behind. Dropping the host kills the programs that it got going.
pub(crate) struct Host {
    name: String,
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    namespace: File,
    tid: Pid,
    private: PathBuf,
}

impl Host {
    /// A host with `lo` up and no other interface.
    ///
    /// # Errors
    /// Not root, or a tool is missing: the sentence says which, and what to do.
    pub(crate) fn new(name: &str) -> Result<Host> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let (ready, set_up) = mpsc::channel();
        let private = private_directory()?;
        let (directory, host_name) = (private.clone(), name.to_owned());
        let thread = thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                let entered = enter(&directory, &host_name);
                let failed = entered.is_err();
                if ready.send(entered).is_err() || failed {
                    return;
                }
                for job in queue {
                    job();
                }
            })
            .context("a thread for a host")?;
        let (namespace, tid) = set_up.recv().context("a host's thread has ended")??;
        let host =
            Host { name: name.to_owned(), jobs: Some(jobs), thread: Some(thread), namespace, tid, private };
        host.ip("link set lo up")?;
        Ok(host)
    }

    /// Its host name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Runs `work` on the host's thread and returns its result. Sockets that it opens belong to the host, on
    /// whichever thread they are used later. Jobs run one after another, so it should not block for long.
    pub(crate) fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (reply, answer) = mpsc::channel();
        let job = move || {
            // The caller may have gone; then nobody wants the result.
            let _ = reply.send(catch_unwind(AssertUnwindSafe(work)));
        };
        let jobs = self.jobs.as_ref().expect("jobs are taken only by drop");
        jobs.send(Box::new(job)).expect("the host's thread lives until drop");
        match answer.recv().expect("the host's thread answers each job") {
            Ok(value) => value,
            Err(panic) => resume_unwind(panic),
        }
    }

    /// Runs `work` on a new thread of this host, for what takes long.
    pub(crate) fn thread<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        // A thread is born in the namespaces of the thread that starts it.
        self.run(move || thread::spawn(work))
    }

    /// Starts a program that dies with this host, in a process group of its own (a Ctrl-C at the terminal
    /// does not reach it). Its output is collected; its standard input is empty.
    pub(crate) fn spawn(&self, name: &str, command: &Command) -> Result<Process> {
        let mut wrapped = self.mortal(command);
        let program = command.get_program().to_string_lossy().into_owned();
        let child = self
            .run(move || {
                use std::os::unix::process::CommandExt;
                wrapped
                    .process_group(0)
                    .stdin(Stdio::null())
                    .stdout(Stdio::piped())
                    .stderr(Stdio::piped())
                    .spawn()
            })
            .map_err(|error| missing_tool("setpriv", "util-linux", &error))
            .context(&format!("start {program}"))?;
        Process::new(name, child)
    }

    /// `command` so wrapped that the program is killed when the thread that starts it ends. Start it in
    /// [`Host::run`].
    pub(crate) fn mortal(&self, command: &Command) -> Command {
        // The shell ends at once if this process died before `setpriv` had set the signal.
        const IF_PARENT_LIVES: &str = r#"[ "$PPID" = "$0" ] && exec "$@""#;
        let mut wrapped = Command::new("setpriv");
        wrapped.args(["--pdeathsig", "KILL", "--", "sh", "-c", IF_PARENT_LIVES]);
        wrapped.arg(std::process::id().to_string()).arg(command.get_program()).args(command.get_args());
        for name in PROXY_VARIABLES {
            wrapped.env_remove(name);
        }
        for (key, value) in command.get_envs() {
            match value {
                Some(value) => wrapped.env(key, value),
                None => wrapped.env_remove(key),
            };
        }
        if let Some(directory) = command.get_current_dir() {
            wrapped.current_dir(directory);
        }
        wrapped
    }

    /// Runs a short command to its end in this host.
    ///
    /// # Errors
    /// It can't be started, or it fails; the text has what it said.
    pub(crate) fn output(&self, command: Command) -> Result<Output> {
        self.output_with_input(command, "")
    }

    /// Runs lines of `ip -batch` in this host.
    pub(crate) fn ip(&self, batch: &str) -> Result<()> {
        let mut command = Command::new("ip");
        command.args(["-batch", "-"]);
        self.output_with_input(command, &format!("{batch}\n")).map(drop)
    }

    /// Runs one `tc` command line in this host.
    pub(crate) fn tc(&self, line: &str) -> Result<()> {
        let mut command = Command::new("tc");
        command.args(line.split_ascii_whitespace());
        self.output(command).map(drop)
    }

    /// Has `nft` read rules in this host.
    pub(crate) fn nft(&self, rules: &str) -> Result<()> {
        let mut command = Command::new("nft");
        command.args(["-f", "-"]);
        self.output_with_input(command, rules).map(drop)
    }

    /// Loses in silence what this host and these addresses, as nft has a set or one, send each other.
    pub(crate) fn part_from(&self, addresses: &str) -> Result<()> {
        self.nft(&format!(
            "table inet parted {{\n chain input {{\n type filter hook input priority 0\n ip saddr {addresses} drop\n }}\n \
             chain output {{\n type filter hook output priority 0\n ip daddr {addresses} drop\n }}\n }}\n"
        ))
    }

    /// Ends that.
    pub(crate) fn rejoin(&self) -> Result<()> {
        self.nft("delete table inet parted\n")
    }

    /// The host's network namespace, as a path that any process of the same user can open while this host
    /// lives: `ip link … netns PATH`.
    pub(crate) fn namespace_path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), self.namespace.as_raw_fd()))
    }

    /// The path by which the rest of this process sees the host's `path`.
    pub(crate) fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        let root = PathBuf::from(format!("/proc/{}/task/{}/root", std::process::id(), self.tid));
        root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// A directory that only this host sees, as the host names it; empty at first, gone with the host. It is
    /// `/var/lib` wherever possible, so that the programs' default state directories are this host's own.
    pub(crate) fn private(&self) -> &Path {
        &self.private
    }

    /// Gives the host a text of its own in place of a file that the machine has, such as /etc/hosts; again, to
    /// change it.
    pub(crate) fn set_file(&self, path: &str, text: &str) -> Result<()> {
        let own = self.private.join(path.replace('/', "_"));
        let is_new = !self.path(&own).exists();
        fs::write(self.path(&own), text).context("write a file of the host's own")?;
        if is_new {
            let (path, nothing) = (path.to_owned(), None::<&Path>);
            self.run(move || mount(Some(&own), path.as_str(), nothing, MsFlags::MS_BIND, nothing))
                .context("mount a file of the host's own")?;
        }
        Ok(())
    }

    /// Writes a file that only this host sees: anywhere below its private directory, or in /etc.
    pub(crate) fn put(&self, path: &str, text: &str) {
        if path.starts_with("/etc/") {
            self.own_etc();
        }
        let path = self.path(path);
        fs::create_dir_all(path.parent().expect("a file is in a directory")).expect("a host may write");
        fs::write(path, text).expect("a host may write");
    }

    /// Has the host write to an /etc of its own, in front of the machine's.
    fn own_etc(&self) {
        let [upper, work] = ["upper", "work"].map(|name| self.private.join(name));
        if self.path(&upper).exists() {
            return;
        }
        for directory in [&upper, &work] {
            fs::create_dir(self.path(directory)).expect("a host may write");
        }
        let options = format!("lowerdir=/etc,upperdir={},workdir={}", upper.display(), work.display());
        let overlay = Some("overlay");
        self.run(move || mount(overlay, "/etc", overlay, MsFlags::empty(), Some(options.as_str())))
            .expect("a host may mount");
    }

    /// Has the host forward packets of both families.
    pub(crate) fn forward(&self) {
        self.run(|| FORWARDING.iter().for_each(|family| set(family, "1")));
    }

    /// A TCP listener of this host.
    pub(crate) fn tcp_listen(&self, address: impl Into<SocketAddr>) -> Result<TcpListener> {
        let address = address.into();
        self.run(move || once_free(|| TcpListener::bind(address)))
            .context(&format!("{}: listen on {address}", self.name))
    }

    /// A TCP connection from this host.
    pub(crate) fn tcp_connect(&self, address: impl Into<SocketAddr>, timeout: Duration) -> Result<TcpStream> {
        let address = address.into();
        let what = format!("{}: connect to {address}", self.name);
        let socket =
            self.run(move || Socket::new(Domain::for_address(address), Type::STREAM, None)).context(&what)?;
        let connected = socket.connect_timeout(&address.into(), timeout).map_err(|error| {
            // The kernel may close it a moment before it says why.
            let why = if error.raw_os_error().is_none() { socket.take_error().ok().flatten() } else { None };
            why.unwrap_or(error)
        });
        connected.context(&what)?;
        Ok(socket.into())
    }

    /// A UDP socket of this host.
    pub(crate) fn udp_bind(&self, address: impl Into<SocketAddr>) -> Result<UdpSocket> {
        let address = address.into();
        self.run(move || once_free(|| UdpSocket::bind(address)))
            .context(&format!("{}: bind {address}", self.name))
    }

    fn output_with_input(&self, mut command: Command, input: &str) -> Result<Output> {
        let program = command.get_program().to_string_lossy().into_owned();
        let input = input.to_owned();
        let output = self
            .run(move || {
                let mut child =
                    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
                if let Some(mut stdin) = child.stdin.take() {
                    stdin.write_all(input.as_bytes())?;
                }
                child.wait_with_output()
            })
            .map_err(|error| {
                let package = if program == "nft" { "nftables" } else { "iproute2" };
                missing_tool(&program, package, &error)
            })?;
        if output.status.success() {
            return Ok(output);
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(Failure::new(format!("{}: {program} failed ({}): {}", self.name, output.status, said.trim())))
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            // A panic of a job was handed to its caller; the thread itself has nothing to say.
            let _ = thread.join();
        }
    }
}

/// Binds a socket, once its address is free: a program that another test starts just now may hold a copy of one that was
/// closed, until it has begun.
fn once_free<T>(bind: impl Fn() -> io::Result<T>) -> io::Result<T> {
    const PATIENCE: Duration = Duration::from_secs(1);
    let end = Instant::now() + PATIENCE;
    loop {
        match bind() {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < end => {
                thread::sleep(Duration::from_millis(5));
            }
            outcome => return outcome,
        }
    }
}

/// Lets namespaces choose the cubic congestion control on a machine whose administrator has not allowed it
/// to users. For benchmarks, whose figures depend on it: this changes a setting of the machine itself.
pub(crate) fn allow_cubic() -> Result<()> {
    const ALLOWED: &str = "/proc/sys/net/ipv4/tcp_allowed_congestion_control";
    let allowed = fs::read_to_string(ALLOWED).context(ALLOWED)?;
    if allowed.split_ascii_whitespace().any(|name| name == "cubic") {
        return Ok(());
    }
    fs::write(ALLOWED, format!("{} cubic", allowed.trim())).context("allow cubic in namespaces")
}

/// Moves the calling thread into namespaces of its own and prepares them.
fn enter(private: &Path, name: &str) -> Result<(File, Pid)> {
    if let Err(error) = unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS)
    {
        let hint = if error == Errno::EPERM {
            ": run this as root (sudo; in a container, docker run --privileged)"
        } else {
            ""
        };
        return Err(Failure::new(format!("make a network namespace: {error}{hint}")));
    }
    sethostname(name).context("name the host")?;
    let nothing = None::<&Path>;
    mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing)
        .context("make mounts private")?;
    mount(Some("tmpfs"), private, Some("tmpfs"), MsFlags::empty(), Some("mode=755"))
        .context("mount a directory of the host's own")?;
    set("net/ipv4/tcp_congestion_control", "cubic");
    // A machine that forwards, as one with Docker does, hands that down.
    for family in FORWARDING {
        set(family, "0");
    }
    // Addresses are usable at once, without duplicate address detection.
    set("net/ipv6/conf/all/accept_dad", "0");
    set("net/ipv6/conf/default/accept_dad", "0");
    let namespace = File::open("/proc/thread-self/ns/net").context("/proc/thread-self/ns/net")?;
    Ok((namespace, gettid()))
}

/// Sets a sysctl of the thread's namespace where the machine has it and lets us: the house works without.
fn set(name: &str, value: &str) {
    let _ = fs::write(Path::new("/proc/sys").join(name), value);
}

/// A directory that every Linux has, to mount the host's own upon; not one that holds this program.
fn private_directory() -> Result<PathBuf> {
    let program = std::env::current_exe().context("find this program")?;
    ["/var/lib", "/srv", "/media", "/dev/shm"]
        .into_iter()
        .map(PathBuf::from)
        .find(|directory| directory.is_dir() && !program.starts_with(directory))
        .ok_or_else(|| Failure::new("none of /var/lib, /srv, /media and /dev/shm can be used in a namespace"))
}

pub(super) fn missing_tool(program: &str, package: &str, error: &io::Error) -> Failure {
    if error.kind() == io::ErrorKind::NotFound {
        return Failure::new(format!("`{program}` is missing: install it (Debian: apt install {package})"));
    }
    Failure::new(format!("{program}: {error}"))
}
