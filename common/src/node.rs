//! What both programs run on. `control`, `cli` and `state` are IO, the others are pure.

pub mod cli;
pub mod control;
pub mod human;
pub mod log_limit;
pub mod state;
pub mod text;
pub mod timer;
