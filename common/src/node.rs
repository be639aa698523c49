//! What both programs run on. `cli`, `control`, `event_loop` and `state` are IO, the others are pure.

pub mod cli;
pub mod control;
pub mod event_loop;
pub mod human;
pub mod link;
pub mod log_limit;
pub mod request;
pub mod state;
pub mod text;
pub mod timer;
