//! A tunnel in pings: its bytes go through a TCP of our own, whose segments are the data of echo requests and replies.
//!
//! ```text
//! client: send ─▶ stack ─▶ request ─▶ ping ─▶ hub: Server ─▶ stack ─▶ read
//! client: read ◀─ stack ◀─ reply ◀─ ping ◀─ one request's credit ◀─ stack ◀─ send
//! ```
//! The server says nothing but replies to requests, each answered at most once, so that NAT and firewalls take them for
//! what they look like. So the client keeps some requests unanswered with the server, its *credits*, by which the server
//! can send when it has something to say; each reply tells how many are left. The kernel of the server answers the
//! same requests with their own data; a bit in the header tells its answers from ours.
//!
//! A session begins with a cookie, which proves that the client hears replies: who makes up source addresses costs the
//! server a hash. Noise authenticates both ends inside.
//!
//! Pure.

pub mod client;
pub mod packet;
pub mod server;
pub mod stack;
#[cfg(test)]
mod tests;
