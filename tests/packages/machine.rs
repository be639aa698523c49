//! A Debian machine: a root of its own, with a service manager of its own, on the network of a host of the house.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::house::{Host, Process, Said, run};

const START: Duration = Duration::from_secs(60);

/// Makes the machine's root and starts systemd in it: `$0` is the base, `$1` the machine's directory, `$2` its cgroup, `$3` its name.
/// All mounts, processes and control groups are in namespaces that end with it.
const BOOT: &str = r#"
set -e
root=$1/root
mkdir -p "$root" "$1/upper" "$1/work" "$1/cgroup"
mountpoint -q "$1/cgroup" || mount -t cgroup2 cgroup2 "$1/cgroup"
mkdir -p "$1/cgroup/$2"
echo $$ >"$1/cgroup/$2/cgroup.procs"
exec unshare --mount --pid --ipc --uts --cgroup --fork --kill-child -- sh -ec '
mount -t overlay -o "lowerdir=$0,upperdir=$1/upper,workdir=$1/work" overlay "$1/root"
cd "$1/root"
echo "$2" >etc/hostname
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs dev
mknod -m 666 dev/null c 1 3
mknod -m 666 dev/zero c 1 5
mknod -m 666 dev/full c 1 7
mknod -m 666 dev/random c 1 8
mknod -m 666 dev/urandom c 1 9
mkdir dev/net dev/shm
mknod -m 666 dev/net/tun c 10 200
ln -s /proc/self/fd dev/fd
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs tmpfs tmp
mkdir -p .before
pivot_root . .before
exec env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin chroot . \
    sh -c "umount -l /.before; rmdir /.before; mount --make-rshared /; exec /lib/systemd/systemd --log-target=null </dev/null"
' "$0" "$1" "$3"
"#;

/// A machine that runs.
pub(crate) struct Machine<'a> {
    host: &'a Host,
    base: PathBuf,
    name: String,
    systemd: Option<Process>,
}

impl<'a> Machine<'a> {
    /// Starts a machine on the network of a host. `base`: a root with systemd, which is only read.
    pub(crate) fn boot(host: &'a Host, base: &Path) -> Machine<'a> {
        let name = format!("lan-test-{}-{}", std::process::id(), host.name());
        let mut machine = Machine { host, base: base.to_owned(), name, systemd: None };
        machine.start();
        machine
    }

    fn start(&mut self) {
        let mut command = Command::new("sh");
        command
            .args(["-c", BOOT])
            .arg(&self.base)
            .arg(self.directory())
            .arg(&self.name)
            .arg(self.host.name());
        self.systemd = Some(self.host.spawn("systemd", &command).unwrap());
        let end = Instant::now() + START;
        // Until then there may be no process to enter, or no service manager to ask.
        while self
            .systemctl("is-system-running")
            .is_none_or(|state| state != "running" && state != "degraded")
        {
            assert!(Instant::now() < end, "the machine does not come up");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Cuts its power, and turns it on again.
    pub(crate) fn reboot(&mut self) {
        self.systemd.take().expect("it runs").kill().unwrap();
        self.start();
    }

    fn directory(&self) -> PathBuf {
        self.host.private().join("machine")
    }

    /// The number of its first process, as this process knows it.
    fn init(&self) -> String {
        let outer = self.systemd.as_ref().expect("it runs").pid();
        let children = fs::read_to_string(format!("/proc/{outer}/task/{outer}/children")).unwrap_or_default();
        children.split_whitespace().next().unwrap_or("0").to_owned()
    }

    /// Copies a file into its /root; returns what it is called there.
    pub(crate) fn take(&self, file: &Path) -> String {
        let name = file.file_name().unwrap().to_str().unwrap();
        fs::copy(file, format!("/proc/{}/root/root/{name}", self.init())).unwrap();
        format!("/root/{name}")
    }

    /// A command of the machine, to be run on its host.
    pub(crate) fn command(&self, line: &str) -> Command {
        let init = self.init();
        let mut command = Command::new("nsenter");
        command.args(["-t", &init, "-m", "-p", "-i", "-u", "-n", "-C", "-r", "--wd=/", "--", "env", "-i"]);
        command.args(["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive"]);
        command.args(["sh", "-c", line]);
        command
    }

    /// Runs a command line there.
    pub(crate) fn run(&self, line: &str) -> Said {
        run(self.host, self.command(line))
    }

    /// Starts a service now and at each boot, and returns once it is ready.
    pub(crate) fn enable(&self, unit: &str) {
        self.run(&format!("systemctl enable --now {unit} || {{ journalctl -b -u {unit} >&2; systemctl status {unit} >&2; exit 1; }}"))
            .good();
    }

    /// The answer of systemctl, whatever it means.
    pub(crate) fn systemctl(&self, line: &str) -> Option<String> {
        let said = self.run(&format!("systemctl {line}"));
        Some(said.out.trim().to_owned()).filter(|out| !out.is_empty())
    }

    /// All files that are there, but for those of the package manager and of this moment.
    pub(crate) fn files(&self) -> Vec<String> {
        let passing = [
            "/proc",
            "/sys",
            "/dev",
            "/run",
            "/tmp",
            "/var/tmp",
            "/root",
            "/var/lib/dpkg",
            "/var/lib/apt",
            "/var/log",
        ];
        let passing = passing.map(|path| format!("-path {path} -prune -o")).join(" ");
        let list = self.run(&format!("find / {passing} -path '/var/cache/*' -prune -o -print | sort")).good();
        list.lines().map(str::to_owned).collect()
    }
}

impl Drop for Machine<'_> {
    fn drop(&mut self) {
        drop(self.systemd.take());
        // The control groups that it has made, once the last of its processes has gone.
        const CLEAR: &str = r#"
for n in 1 2 3 4 5 6 7 8 9 10; do
    find "$0/cgroup/$1" -depth -type d -exec rmdir {} \; 2>/dev/null
    [ -d "$0/cgroup/$1" ] || break
    sleep 0.2
done"#;
        let mut command = Command::new("sh");
        command.args(["-c", CLEAR]);
        command.arg(self.directory()).arg(&self.name);
        let _ = self.host.run(move || command.status());
    }
}
