//! The way of a packet through spoke, hub and spoke allocates nothing once it is warm: a counting allocator looks on.

#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "memory/mod.rs"]
mod memory;

use hub::lan::rules::Rules;
use memory::World;

fn allocates_nothing(rules: Option<Rules>) {
    let mut world = World::new(rules, &[28, 92, 1500, 9_000, 65_535]);
    for _ in 0..200 {
        world.turn();
    }
    let before: usize = world.spokes.iter().map(|spoke| spoke.received).sum();
    let counted = allocation_counter::measure(|| (0..500).for_each(|_| world.turn()));
    let received: usize = world.spokes.iter().map(|spoke| spoke.received).sum();
    assert_eq!(received - before, 500 * 2 * 20, "every packet arrives");
    assert_eq!(counted.count_total, 0, "{counted:?}");
}

#[test]
fn the_way_of_a_packet_allocates_nothing() {
    allocates_nothing(None);
}

#[test]
fn access_rules_allocate_nothing_for_known_flows() {
    allocates_nothing(Some(Rules::parse("deny c -> *\nallow a -> b [udp]\nallow b -> a [udp]").unwrap()));
}
