//! What carries a tunnel's bytes: `tcp` is IO; what is spoken on the socket around the tunnel is pure.

pub mod http;
pub mod layers;
pub mod proxy;
pub mod sniff;
pub mod tcp;
pub mod tls;
pub mod websocket;
