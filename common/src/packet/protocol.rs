//! Protocol and next-header numbers that this program looks at (IANA "Assigned Internet Protocol Numbers"). Pure.

#![expect(missing_docs, reason = "the names are the registry's")]

pub const HOP_BY_HOP: u8 = 0;
pub const ICMP: u8 = 1;
pub const IGMP: u8 = 2;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const DCCP: u8 = 33;
pub const ROUTING: u8 = 43;
pub const FRAGMENT: u8 = 44;
pub const GRE: u8 = 47;
pub const ESP: u8 = 50;
pub const AUTHENTICATION: u8 = 51;
pub const ICMPV6: u8 = 58;
pub const NO_NEXT_HEADER: u8 = 59;
pub const DESTINATION: u8 = 60;
pub const SCTP: u8 = 132;
pub const UDP_LITE: u8 = 136;
