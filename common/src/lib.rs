//! What both ends of hub & spoke speak.
//!
//! Pure files hold the protocol and touch no descriptor, no clock and no global; the IO files
//! (`tun`, `netlink`, `link`, `state`, `control`, `sandbox`, `cli`) say so at their head and are thin.
#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests may ask the clock"))]

pub mod cli;
mod codel;
pub mod control;
pub mod damper;
pub mod drops;
mod flows;
pub mod frame;
pub mod human;
pub mod icmp;
pub mod inbox;
pub mod invite;
pub mod link;
pub mod link_local;
pub mod name;
pub mod netlink;
pub mod noise;
pub mod offload;
pub mod pace;
pub mod packet;
pub mod pool;
pub mod prefix;
pub mod queue;
pub mod sandbox;
pub mod state;
pub mod text;
pub mod timer;
pub mod tun;
pub mod tunnel;
