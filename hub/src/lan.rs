//! The LAN: who is a member, under which name and address, and which prefixes lie behind whom. Pure.

pub mod invites;
pub mod members;
pub mod routes;
pub mod rules;
pub mod subnets;
