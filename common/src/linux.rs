//! The Linux kernel: the device, the network configuration, the sandbox. IO.

pub mod netlink;
pub mod sandbox;
pub mod service_manager;
pub mod sys;
pub mod tun;
