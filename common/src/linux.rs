//! The Linux kernel: the device, the network configuration, the sandbox. IO.

pub mod device;
pub mod monitor;
pub mod netlink;
pub mod ping;
pub mod policy;
pub mod sandbox;
pub mod service_manager;
pub mod surroundings;
pub mod sys;
pub mod tun;
