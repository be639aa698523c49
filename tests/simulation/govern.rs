//! A person changes the list of members while the LAN runs: what must hold for each, and for all others.

use std::net::Ipv4Addr;

use common::wire::invite::Secret;
use common::wire::key::PublicKey;
use hub::effect::Answer;
use hub::ids::SessionId;
use hub::lan::invites::Invite;
use hub::lan::members::{Change, Outcome};
use hub::lan::saving::Command;

use crate::world::World;

/// One change, and who may notice it.
pub(crate) fn govern(world: &mut World) {
    // All would like to be the way to this: it is one's after the other.
    world.offers = vec!["192.168.0.0/23".parse().expect("a prefix")];
    let spoke = world.rng.below(world.spokes.len());
    let key = world.spokes[spoke].key.public();
    // What happens by itself has happened.
    world.write_all();
    let before = links(world);
    let changes = match world.rng.below(5) {
        0 => world.reload(|text| text.to_owned()),
        1 => move_away(world, key),
        // On a locked hub it would be a stranger from now on.
        2 if !world.is_locked => strike(world, spoke),
        3 if world.rng.one_in(8) => revoke(world, spoke),
        _ => {
            invite_last(world);
            Vec::new()
        }
    };
    for change in &changes {
        assert!(change.member.key == key, "{change:?} is about another one");
        // Its addresses are free for others at once.
        world.holders.retain(|_, holder| *holder != key);
        // The hub has ended its link, which it may not know yet.
        let conn = world.spokes[spoke].conn();
        if let Some(conn) = conn.and_then(|conn| world.conns.get_mut(&conn)) {
            conn.is_sound = false;
        }
    }
    for (other, session) in before {
        let is_live = world.hub.is_live(session);
        // By another link: one that waited for an address which is free now, or the link of one struck off that an
        // open hub takes for a newcomer.
        let has = world.hub.members().by_key(&other).and_then(|id| world.hub.members().member(id).session);
        let has_joined_anew = has.is_some_and(|has| has != session && world.hub.is_live(has));
        match changes.iter().find(|change| change.member.key == other) {
            None => assert!(is_live || has_joined_anew, "the link of {other} is gone"),
            Some(change) => {
                assert!(!is_live, "the link of {other} is still there: {change:?}");
                assert!(change.outcome != Outcome::Revoked || !has_joined_anew, "{other} is there again");
            }
        }
    }
}

/// The members that are online, with their sessions.
fn links(world: &World) -> Vec<(PublicKey, SessionId)> {
    let members = world.hub.members().iter();
    let online = members.filter_map(|(_, member)| Some((member.key, member.session?)));
    online.filter(|&(_, session)| world.hub.is_live(session)).collect()
}

/// Gives a member another IPv4 address, if that is free.
fn move_away(world: &mut World, key: PublicKey) -> Vec<Change> {
    let to = Ipv4Addr::new(10, 0, 0, 2 + world.rng.below(13) as u8);
    let member = world.hub.members().by_key(&key).map(|id| world.hub.members().member(id));
    let Some(from) = member.and_then(|member| member.addresses.iter().find(|held| held.is_ipv4()).copied())
    else {
        return Vec::new();
    };
    let line_of_key = |line: &str| {
        let words = line.split_whitespace().map(|word| word.replace(&format!("{from}"), &to.to_string()));
        words.collect::<Vec<_>>().join(" ")
    };
    world.reload(|text| {
        let lines = text.lines().map(|line| {
            if line.starts_with(&key.to_string()) { line_of_key(line) + "\n" } else { format!("{line}\n") }
        });
        lines.collect()
    })
}

/// Deletes a line, which undoes a revocation too. The invite by which it may have come is used.
fn strike(world: &mut World, spoke: usize) -> Vec<Change> {
    let key = world.spokes[spoke].key.public();
    world.spokes[spoke].may_join = true;
    world.spokes[spoke].invite = None;
    world.reload(|text| {
        let others = text.lines().filter(|line| !line.starts_with(&key.to_string()));
        others.map(|line| line.to_owned() + "\n").collect()
    })
}

fn revoke(world: &mut World, spoke: usize) -> Vec<Change> {
    let key = world.spokes[spoke].key.public();
    match world.request(Command::Revoke(key.to_string())) {
        Ok(Answer::Revoked(change)) => {
            world.spokes[spoke].may_join = false;
            assert_eq!(change.outcome, Outcome::Revoked);
            vec![change]
        }
        Ok(other) => panic!("a revocation led to {other:?}"),
        Err(_) => Vec::new(),
    }
}

/// Lets the one in that a locked hub does not know.
fn invite_last(world: &mut World) {
    let last = world.spokes.len() - 1;
    let key = world.spokes[last].key.public();
    let is_known = world.hub.members().by_key(&key).is_some();
    if is_known || world.hub.members().is_revoked(&key) {
        return;
    }
    let mut secret = [0; 16];
    secret.copy_from_slice(&world.rng.bytes(16));
    let invite = Invite {
        hash: Secret(secret).hash(),
        name: "guest".parse().expect("a name"),
        uses: None,
        until: 1,
        addresses: vec![],
        routes: vec![],
        tags: vec![],
        is_hub: false,
    };
    if world.request(Command::Invite(invite, None)).is_ok() {
        world.spokes[last].invite = Some(secret);
        world.spokes[last].may_join = true;
    }
}
