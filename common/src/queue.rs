//! Where packets wait: FQ-CoDel, its flows, the buffers, and how much is sealed at once. Pure.

mod buf;
mod codel;
pub mod flight;
mod flows;
mod fq_codel;
pub mod pace;
pub mod pool;
pub mod steering;
pub mod tcp_info;
pub mod token_bucket;

pub use buf::Buf;
pub use fq_codel::{KEPT_BYTES, KEPT_FOR, Queue};
pub use pool::Pool;
