//! What goes over the wire, seen without a socket. Pure.

pub mod frame;
pub mod hello;
pub mod inbox;
pub mod invite;
pub mod key;
pub mod lane;
pub mod name;
pub mod noise;
pub mod pair;
pub mod place;
pub mod target;
pub mod tunnel;
