//! What both ends of hub & spoke speak, and what both run on.
//!
//! Arrows go down: `node` → `transport` → `linux` → `wire` → `queue` → `packet`. `packet`, `queue` and `wire` are pure:
//! they touch no descriptor, no clock and no global. The files of the others that do IO say so at their head.
#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests may ask the clock"))]

pub mod linux;
pub mod node;
pub mod packet;
pub mod queue;
pub mod transport;
pub mod wire;
