//! What carries a tunnel's bytes. IO.

pub mod tcp;
