//! What both programs run on. `cli`, `control`, `dial`, `event_loop`, `logger`, `names::server`, `opening`,
//! `ping_dial`, `state` and `synced_file` are IO, the others are pure.

pub mod advice;
pub mod args;
pub mod cli;
pub mod config;
pub mod control;
pub mod dial;
pub mod event_loop;
pub mod human;
pub mod lane_status;
pub mod link;
pub mod log_filter;
pub mod log_limit;
pub mod logger;
pub mod metrics;
pub mod names;
pub mod nearest;
pub mod opening;
pub mod outbound;
pub mod ping_dial;
pub mod request;
pub mod state;
pub mod synced_file;
pub mod text;
pub mod timer;
pub mod values;
pub mod way;
