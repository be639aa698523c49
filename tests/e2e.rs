//! The end-to-end tests, one module a theme: real binaries on real TUN devices, each test in namespaces of its own.
//!
//! They are one program, which is linked once and runs them beside each other, as most of them wait for most of their
//! time. What measures time to the millisecond is in `e2e_timed.rs`.

mod house;

mod config;
mod control;
mod house_itself;
mod lan_basic;
mod lan_disk;
mod lan_example;
mod lan_faults;
mod lan_forged;
mod lan_hostile;
mod lan_hub_input;
mod lan_middle;
mod lan_spoke_input;
mod lan_trust;
mod manual;
mod metrics;
mod net_broadcast;
mod net_discovery;
mod net_dns;
mod net_dual;
mod net_encapsulation;
mod net_exit;
mod net_export;
mod net_hostile;
mod net_hub_machine;
mod net_kernel;
mod net_machines;
mod net_members;
mod net_moves;
mod net_mtu;
mod net_names;
mod net_overlap;
mod net_policy;
mod net_renumber;
mod net_resolved;
mod net_routes;
mod net_rules;
mod net_strangers;
mod packages;
mod paths_auto;
mod paths_check;
mod paths_hubs;
mod paths_icmp;
mod paths_proxy;
mod paths_tls;
mod paths_web;
mod provisioning;
mod sandbox;
mod service;
mod versions;
