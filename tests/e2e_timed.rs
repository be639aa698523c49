//! The end-to-end tests that flood, or measure time to the millisecond: as many at once as there are processors.

mod house;

mod attack;
mod hubs;
mod net_long;
mod soak;
