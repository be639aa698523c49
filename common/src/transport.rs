//! What carries a tunnel's bytes. `tcp`, `stream`, `ping` and `tls::files` are IO; what is spoken around the tunnel is pure.

pub mod http;
pub mod icmp;
pub mod layers;
pub mod ping;
pub mod proxy;
pub mod sniff;
pub mod stream;
pub mod tcp;
pub mod tls;
pub mod websocket;
