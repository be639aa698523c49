//! The system calls that a confined program may make, as a seccomp filter. IO: it installs the filter.
//!
//! A call is allowed, fails with ENOSYS if it is on no list, or kills the process if only an intruder would make it.
//! Most are allowed whatever their arguments; the kernel decides those by a bitmap without running the filter (Linux
//! 5.11 and later), so the packet path costs no more.

use super::profile::Profile;

pub(super) use imp::confine;

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod imp {
    use std::collections::BTreeMap;

    use seccompiler::{
        BackendError, BpfProgram, Error, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
        SeccompFilter, SeccompRule, TargetArch,
    };

    use super::Profile;

    /// What an event loop, name look-ups by glibc and musl, a panic and an orderly end need.
    const ALLOWED: &[libc::c_long] = &[
        // descriptors
        libc::SYS_read,
        libc::SYS_write,
        libc::SYS_readv,
        libc::SYS_writev,
        libc::SYS_pread64,
        libc::SYS_pwrite64,
        libc::SYS_lseek,
        libc::SYS_close,
        libc::SYS_dup,
        libc::SYS_dup3,
        libc::SYS_fcntl,
        libc::SYS_pipe2,
        libc::SYS_eventfd2,
        // waiting
        libc::SYS_epoll_create1,
        libc::SYS_epoll_ctl,
        libc::SYS_epoll_pwait,
        libc::SYS_epoll_pwait2,
        libc::SYS_ppoll,
        libc::SYS_pselect6,
        libc::SYS_nanosleep,
        libc::SYS_clock_nanosleep,
        libc::SYS_restart_syscall,
        // files; which ones is Landlock's
        libc::SYS_openat,
        libc::SYS_fstat,
        libc::SYS_newfstatat,
        libc::SYS_statx,
        libc::SYS_fstatfs,
        libc::SYS_faccessat,
        libc::SYS_faccessat2,
        libc::SYS_readlinkat,
        libc::SYS_getdents64,
        libc::SYS_getcwd,
        libc::SYS_renameat,
        libc::SYS_renameat2,
        libc::SYS_unlinkat,
        libc::SYS_ftruncate,
        libc::SYS_fsync,
        libc::SYS_fdatasync,
        libc::SYS_flock,
        libc::SYS_umask,
        // sockets that are there; new ones are below
        libc::SYS_accept,
        libc::SYS_accept4,
        libc::SYS_connect,
        libc::SYS_bind,
        libc::SYS_getsockname,
        libc::SYS_getpeername,
        libc::SYS_getsockopt,
        libc::SYS_setsockopt,
        libc::SYS_sendto,
        libc::SYS_sendmsg,
        libc::SYS_sendmmsg,
        libc::SYS_recvfrom,
        libc::SYS_recvmsg,
        libc::SYS_recvmmsg,
        libc::SYS_shutdown,
        // memory; what makes it executable is below
        libc::SYS_brk,
        libc::SYS_munmap,
        libc::SYS_mremap,
        libc::SYS_madvise,
        libc::SYS_membarrier,
        // threads and signals
        libc::SYS_futex,
        libc::SYS_rseq,
        libc::SYS_set_robust_list,
        libc::SYS_get_robust_list,
        libc::SYS_set_tid_address,
        libc::SYS_gettid,
        libc::SYS_sched_yield,
        libc::SYS_sched_getaffinity,
        libc::SYS_sigaltstack,
        libc::SYS_rt_sigaction,
        libc::SYS_rt_sigprocmask,
        libc::SYS_rt_sigreturn,
        libc::SYS_exit,
        libc::SYS_exit_group,
        // the time, randomness and who we are
        libc::SYS_clock_gettime,
        libc::SYS_clock_getres,
        libc::SYS_gettimeofday,
        libc::SYS_getrandom,
        libc::SYS_uname,
        libc::SYS_sysinfo,
        libc::SYS_getpid,
        libc::SYS_getppid,
        libc::SYS_getuid,
        libc::SYS_geteuid,
        libc::SYS_getgid,
        libc::SYS_getegid,
        libc::SYS_getrlimit,
        libc::SYS_getrusage,
    ];

    /// Older forms of the same, which other architectures never had.
    #[cfg(target_arch = "x86_64")]
    const ALLOWED_HERE: &[libc::c_long] = &[
        libc::SYS_open,
        libc::SYS_stat,
        libc::SYS_lstat,
        libc::SYS_access,
        libc::SYS_readlink,
        libc::SYS_rename,
        libc::SYS_unlink,
        libc::SYS_dup2,
        libc::SYS_pipe,
        libc::SYS_eventfd,
        libc::SYS_poll,
        libc::SYS_select,
        libc::SYS_epoll_create,
        libc::SYS_epoll_wait,
        libc::SYS_time,
    ];
    #[cfg(target_arch = "aarch64")]
    const ALLOWED_HERE: &[libc::c_long] = &[];

    /// What neither program nor libc ever asks for, and an intruder would: other programs, other processes,
    /// other namespaces, the kernel itself.
    const DEADLY: &[libc::c_long] = &[
        libc::SYS_execve,
        libc::SYS_execveat,
        libc::SYS_ptrace,
        libc::SYS_process_vm_readv,
        libc::SYS_process_vm_writev,
        libc::SYS_unshare,
        libc::SYS_setns,
        libc::SYS_chroot,
        libc::SYS_pivot_root,
        libc::SYS_mount,
        libc::SYS_umount2,
        libc::SYS_move_mount,
        libc::SYS_open_tree,
        libc::SYS_fsopen,
        libc::SYS_fsmount,
        libc::SYS_open_by_handle_at,
        libc::SYS_init_module,
        libc::SYS_finit_module,
        libc::SYS_delete_module,
        libc::SYS_kexec_load,
        libc::SYS_bpf,
        libc::SYS_perf_event_open,
        libc::SYS_userfaultfd,
        libc::SYS_io_uring_setup,
        libc::SYS_io_uring_enter,
        libc::SYS_io_uring_register,
        libc::SYS_add_key,
        libc::SYS_request_key,
        libc::SYS_keyctl,
        libc::SYS_swapon,
        libc::SYS_swapoff,
        libc::SYS_reboot,
    ];

    /// Confines this process; `false` where there is no list for this architecture.
    pub(in super::super) fn confine(profile: Profile, binds_names: bool) -> Result<bool, Error> {
        // Of two filters the harsher answer holds; the second still has to let itself be installed.
        let filters = [deadly()?, allowed(profile, binds_names, std::process::id())?];
        for filter in &filters {
            seccompiler::apply_filter_all_threads(filter)?;
        }
        Ok(true)
    }

    fn deadly() -> Result<BpfProgram, BackendError> {
        let rules = DEADLY.iter().map(|&call| (call, Vec::new())).collect();
        compile(rules, SeccompAction::Allow, SeccompAction::KillProcess)
    }

    fn allowed(profile: Profile, binds_names: bool, process: u32) -> Result<BpfProgram, BackendError> {
        let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
            ALLOWED.iter().chain(ALLOWED_HERE).map(|&call| (call, Vec::new())).collect();

        // A spoke listens for questions about names once it has an address; it can bind no port but that one.
        if binds_names {
            rules.insert(libc::SYS_listen, Vec::new());
        }
        for family in [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK] {
            rules.entry(libc::SYS_socket).or_default().push(argument(0, SeccompCmpOp::Eq, family as u64)?);
        }
        // Whether a descriptor is a terminal (glibc, musl); non-blocking; bytes to read; an interface's number; the
        // TUN device made anew after someone deleted it, by the descriptor that is open: no other can be opened.
        // Their type is another one with each C library; the kernel's is u32.
        const REQUESTS: [u32; 10] = [
            libc::TCGETS as u32,
            libc::TCGETS2 as u32,
            libc::TIOCGWINSZ as u32,
            libc::FIONBIO as u32,
            libc::FIONREAD as u32,
            libc::SIOCGIFINDEX as u32,
            libc::TUNSETIFF as u32,
            libc::TUNSETVNETHDRSZ as u32,
            libc::TUNSETVNETLE as u32,
            libc::TUNSETOFFLOAD as u32,
        ];
        for request in REQUESTS {
            rules.entry(libc::SYS_ioctl).or_default().push(argument(1, SeccompCmpOp::Eq, request.into())?);
        }
        // abort(3) signals this process. Limits can be read: that is the third argument, where to set none.
        rules.insert(libc::SYS_tgkill, vec![argument(0, SeccompCmpOp::Eq, process.into())?]);
        rules.insert(libc::SYS_prlimit64, vec![pointer_is_null(2)?]);
        for call in [libc::SYS_mmap, libc::SYS_mprotect] {
            let executable = libc::PROT_EXEC as u64;
            let when = match profile {
                // libc loads modules for name services.
                Profile::Resolves => Vec::new(),
                Profile::Accepts | Profile::Connects => {
                    vec![argument(2, SeccompCmpOp::MaskedEq(executable), 0)?]
                }
            };
            rules.insert(call, when);
        }
        // Threads, but no processes: a hub writes its files in one, a spoke looks names up in one. clone3 hides its
        // flags behind a pointer: libc falls back to this.
        let thread = libc::CLONE_THREAD as u64;
        rules.insert(libc::SYS_clone, vec![argument(0, SeccompCmpOp::MaskedEq(thread), thread)?]);
        compile(rules, SeccompAction::Errno(libc::ENOSYS as u32), SeccompAction::Allow)
    }

    fn argument(index: u8, is: SeccompCmpOp, value: u64) -> Result<SeccompRule, BackendError> {
        SeccompRule::new(vec![SeccompCondition::new(index, SeccompCmpArgLen::Dword, is, value)?])
    }

    fn pointer_is_null(index: u8) -> Result<SeccompRule, BackendError> {
        SeccompRule::new(vec![SeccompCondition::new(index, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, 0)?])
    }

    fn compile(
        rules: BTreeMap<i64, Vec<SeccompRule>>,
        otherwise: SeccompAction,
        listed: SeccompAction,
    ) -> Result<BpfProgram, BackendError> {
        let arch = TargetArch::try_from(std::env::consts::ARCH)?;
        SeccompFilter::new(rules, otherwise, listed, arch)?.try_into()
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
mod imp {
    use super::Profile;

    /// Confines this process; `false` where there is no list for this architecture.
    pub(in super::super) fn confine(_: Profile, _: bool) -> Result<bool, std::convert::Infallible> {
        Ok(false)
    }
}
