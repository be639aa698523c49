//! Hubs that share one list, which one of them keeps: newcomers, commands, and what must hold of the list.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use common::wire::frame::Term;
use common::wire::invite::Secret;
use common::wire::key::{PrivateKey, PublicKey};
use hub::core::Core;
use hub::effect::Answer;
use hub::ids::RequestId;
use hub::lan::invites::Invite;
use hub::lan::members::{Access, Members};
use hub::lan::saving::{Allow, Command};

use crate::machine::{Machine, Newcomer};
use crate::ms;
use crate::world::{World, core, own, place, subnets};

/// Machines that no list knows at the beginning.
const NEWCOMERS: usize = 3;
/// Names of invites, and secrets.
const NAMES: usize = 5;
const SECRETS: u8 = 4;

/// What was asked for by a command.
enum Wish {
    Invite(String, u8),
    Cancel(String),
    Other,
}

/// What the list is to be like.
#[derive(Default)]
pub(crate) struct List {
    /// Nobody is let in but by an invite or a person.
    is_locked: bool,
    /// Whether a hub has kept the list in another one's place: then what the old one agreed to may be lost.
    pub(crate) has_kept: bool,
    /// Whether all hubs but the first have just joined it, and were never told the list.
    has_new: bool,
    last_request: u64,
    wishes: BTreeMap<u64, Wish>,
    /// Invites that a hub has said are good, and names whose invite a hub has said is void.
    good: BTreeMap<String, u8>,
    void: BTreeSet<String>,
    /// How often an invite of a name was made or cancelled: what was asked for at several hubs at once may be done in any
    /// order, and what was not agreed to in time may be done later.
    issued: BTreeMap<String, u32>,
    /// Which machines were let in while they showed a secret.
    pub(crate) entered: BTreeMap<Option<u8>, BTreeSet<usize>>,
    /// Secrets of machines which the keeper of the list has had as members.
    used: BTreeSet<u8>,
    /// How many machines the invites of a secret are for.
    uses: BTreeMap<u8, u32>,
    /// Whom a person may have let in, or taken off.
    allowed: BTreeSet<usize>,
    removed: BTreeSet<usize>,
    /// What was agreed to.
    pub(crate) done: u64,
}

impl List {
    pub(crate) fn answered(&mut self, RequestId(request): RequestId, answer: &Result<Answer, String>) {
        let (wish, good) = (self.wishes.remove(&request), answer.is_ok());
        self.done += u64::from(good && request > 0);
        match wish {
            Some(Wish::Invite(name, secret)) if good && self.issued[&name] == 1 => {
                self.good.insert(name, secret);
            }
            Some(Wish::Cancel(name)) if good => {
                self.void.insert(name);
            }
            Some(Wish::Invite(..) | Wish::Cancel(_) | Wish::Other) | None => {}
        }
    }
}

/// The lines of a list, without what was revoked.
fn lines(members: &Members) -> Vec<String> {
    let text = members.to_text();
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.retain(|line| !line.ends_with(" revoked"));
    lines.sort();
    lines
}

fn invites(core: &Core) -> Vec<String> {
    let mut lines: Vec<String> = core.invites().to_text().lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

impl World {
    /// Three hubs of which the first keeps the list, spokes that it knows, and some that it does not.
    pub(crate) fn sharing(seed: u64) -> World {
        let mut world = World::new(seed);
        let (is_locked, keeper) = (world.rng.one_in(2), world.hubs[0].public());
        let has_new = world.rng.one_in(3);
        world.list = Some(Box::new(List { is_locked, has_new, ..List::default() }));
        for hub in 0..world.hubs.len() {
            let (seed, time) = (world.rng.next(), world.time());
            let host = &mut world.hubs[hub];
            let is_new = hub > 0 && has_new;
            host.disk.term = Some(Term { number: u64::from(!is_new), keeper });
            // As a list of thousands is written, in half of the stories.
            host.disk.append_from = seed.is_multiple_of(2).then_some((0, 0));
            host.disk.locked = is_locked || is_new;
            if is_new {
                host.disk.members = format!("{keeper} hub-0 {} hub={}\n", own(0), place(0));
            }
            host.core = Some(core(&host.key, &host.disk, seed, time));
        }
        world.spokes.truncate(3);
        for at in 0..NEWCOMERS {
            let key = PrivateKey::from_random(world.rng.key());
            let secret =
                (!world.rng.one_in(3)).then(|| [1 + world.rng.below(usize::from(SECRETS)) as u8; 16]);
            let name = if world.rng.one_in(3) { "same".to_owned() } else { format!("n{at}") };
            let newcomer = Newcomer { name, secret, first: world.rng.below(world.hubs.len()) };
            let nobody = IpAddr::from([10, 0, 0, 9]);
            let (seed, time) = (world.rng.next(), (world.time(), world.now));
            world.say(|| {
                let hash = secret.map(|secret| Secret(secret).hash().to_string());
                format!(
                    "spoke {} is {} {} and shows {hash:?}",
                    world.spokes.len(),
                    newcomer.name,
                    key.public()
                )
            });
            world.spokes.push(Machine::with(key, nobody, Some(newcomer), seed, time));
        }
        world
    }

    fn newcomers(&self) -> Vec<usize> {
        (0..self.spokes.len()).filter(|&at| self.spokes[at].newcomer.is_some()).collect()
    }

    fn secret_of(&self, spoke: usize) -> Option<u8> {
        self.spokes[spoke].newcomer.as_ref()?.secret.map(|secret| secret[0])
    }

    fn list(&mut self) -> &mut List {
        self.list.as_mut().unwrap()
    }

    fn command(&mut self, hub: usize, command: Command, wish: Wish) {
        self.say(|| format!("hub {hub} is asked: {command:?}"));
        let now = self.now;
        let list = self.list();
        list.last_request += 1;
        let request = list.last_request;
        list.wishes.insert(request, wish);
        if let Some(core) = &mut self.hubs[hub].core {
            core.request(RequestId(request), command, now);
        }
        self.do_effects(hub);
    }

    /// A person does something at a hub that is alive.
    pub(crate) fn govern(&mut self, hub: usize) {
        let newcomers = self.newcomers();
        let one = newcomers[self.rng.below(newcomers.len())];
        let key = self.spokes[one].key.public();
        let name = format!("guest{}", self.rng.below(NAMES));
        match self.rng.below(24) {
            0..8 => {
                let secret = 1 + self.rng.below(usize::from(SECRETS)) as u8;
                let uses = self.rng.one_in(3).then_some(2);
                let list = self.list();
                // One secret is one invite's.
                if list.uses.contains_key(&secret) {
                    return;
                }
                list.uses.insert(secret, uses.unwrap_or(1));
                *list.issued.entry(name.clone()).or_default() += 1;
                list.good.remove(&name);
                let until = self.time().as_secs() + 3_600;
                let addresses = if uses.is_none() && self.rng.one_in(3) {
                    vec![IpAddr::from([10, 0, 0, 9 + self.rng.below(2) as u8])]
                } else {
                    vec![]
                };
                let (name_of, hash) = (name.parse().unwrap(), Secret([secret; 16]).hash());
                let (routes, tags) = (vec![], vec![]);
                let invite =
                    Invite { hash, name: name_of, uses, until, addresses, routes, tags, is_hub: false };
                self.command(hub, Command::Invite(invite, None), Wish::Invite(name, secret));
            }
            8..10 => {
                let list = self.list();
                *list.issued.entry(name.clone()).or_default() += 1;
                list.good.remove(&name);
                self.command(hub, Command::Cancel(name.parse().unwrap()), Wish::Cancel(name));
            }
            10..14 => {
                let access = if self.rng.one_in(2) { Access::Locked } else { Access::Open };
                if !self.list().is_locked {
                    self.command(hub, Command::SetAccess(access), Wish::Other);
                }
            }
            14..17 => {
                let name = ["n1", "x", "same"][self.rng.below(3)].parse().unwrap();
                self.command(hub, Command::Rename(key.to_string(), name), Wish::Other);
            }
            17..19 => {
                self.list().removed.insert(one);
                self.command(hub, Command::Forget(key.to_string()), Wish::Other);
            }
            19 => {
                self.list().removed.insert(one);
                self.command(hub, Command::Revoke(key.to_string()), Wish::Other);
            }
            20..22 => {
                self.list().allowed.insert(one);
                let (routes, tags, addresses) = (vec![], vec![], vec![]);
                let name = self.rng.one_in(2).then(|| "friend".parse().unwrap());
                let who = key.to_string();
                let allow = Allow { who, in_place_of: None, name, addresses, routes, tags };
                self.command(hub, Command::Allow(allow), Wish::Other);
            }
            22 => self.command(hub, Command::Reload, Wish::Other),
            _ => {
                if self.rng.one_in(2) {
                    self.keep(hub);
                }
            }
        }
    }

    pub(crate) fn keep(&mut self, hub: usize) {
        // One that was the keeper of a store may be so no more, and not know it.
        self.list().has_kept |= self.stores.is_some();
        self.list().has_kept |= self.hubs[hub]
            .core
            .as_ref()
            .is_some_and(|core| core.keeper().is_some_and(|term| term.keeper != core.key()));
        self.command(hub, Command::Keep, Wish::Other);
    }

    // ---- what must hold

    /// Nobody has a name or an address twice, and no invite lets in more than it is for.
    pub(crate) fn check_list(&mut self) {
        if self.list.is_none() {
            return;
        }
        for (hub, host) in self.hubs.iter().enumerate() {
            // A long list is looked at in the end.
            let Some(core) = host.core.as_ref().filter(|core| core.members().len() < 100) else { continue };
            let (mut names, mut addresses) = (BTreeSet::new(), BTreeSet::new());
            for (_, member) in core.members().iter() {
                assert!(names.insert(&member.name), "hub {hub}: {} twice", member.name);
                for address in &member.addresses {
                    assert!(addresses.insert(address), "hub {hub}: {address} twice");
                }
            }
        }
        for at in self.newcomers() {
            if self.hub_of(at).is_some() {
                let secret = self.secret_of(at);
                self.list().entered.entry(secret).or_default().insert(at);
            }
        }
        let keepers = self.hubs.iter().filter_map(|hub| hub.core.as_ref());
        let keepers: Vec<&Core> =
            keepers.filter(|core| core.keeper().is_some_and(|term| term.keeper == core.key())).collect();
        let is_member = |at: &usize| {
            let key = self.spokes[*at].key.public();
            keepers.iter().any(|core| core.members().by_key(&key).is_some())
        };
        let members = self.newcomers().into_iter().filter(is_member);
        let used: Vec<u8> = members.filter_map(|at| self.secret_of(at)).collect();
        let list = self.list();
        list.used.extend(used);
        if list.is_locked && !list.has_kept {
            for (secret, entered) in &list.entered {
                let uses = secret.and_then(|secret| list.uses.get(&secret)).copied().unwrap_or(0);
                let invited: Vec<usize> = entered.difference(&list.allowed).copied().collect();
                assert!(
                    invited.len() <= uses as usize,
                    "{invited:?} are let in by an invite of secret {secret:?} for {uses}"
                );
            }
        }
    }

    /// After quiet all hubs that are alive have the same list, in memory and on their disks, and what a hub has said holds.
    pub(crate) fn check_lists(&mut self) {
        self.check_list();
        let mut first = None;
        for (hub, host) in self.hubs.iter().enumerate() {
            let Some(core) = &host.core else { continue };
            let revoked: BTreeSet<PublicKey> = self
                .spokes
                .iter()
                .map(|spoke| spoke.key.public())
                .filter(|key| core.members().is_revoked(key))
                .collect();
            let now = (lines(core.members()), invites(core), core.access(), core.keeper(), revoked);
            let disk = Members::parse(&host.disk.members, subnets()).map_err(|bad| bad.why).unwrap();
            assert_eq!(lines(&disk), now.0, "hub {hub}: its file");
            let mut file: Vec<&str> = host.disk.invites.lines().collect();
            file.sort_unstable();
            assert_eq!(file, now.1, "hub {hub}: its file of invites");
            assert_eq!(host.disk.locked, now.2 == Access::Locked, "hub {hub}: its file `locked`");
            assert_eq!(host.disk.term, now.3, "hub {hub}: its file of the keeper");
            assert_eq!(core.waiting_for_keeper(), 0, "hub {hub}");
            match &first {
                None => first = Some(now),
                Some(first) => assert_eq!(&now, first, "hub {hub} and the first one"),
            }
        }
        let (_, invites, ..) = first.expect("a hub is alive");
        let list = self.list.as_ref().unwrap();
        if list.has_kept {
            return;
        }
        let core = self.hubs.iter().find_map(|hub| hub.core.as_ref()).unwrap();
        for &spoke in list.entered.values().flatten().filter(|spoke| !list.removed.contains(spoke)) {
            let key = self.spokes[spoke].key.public();
            assert!(core.members().by_key(&key).is_some(), "spoke {spoke} was let in, and is no member");
        }
        for (name, secret) in &list.good {
            let is_there =
                invites.iter().any(|line| line.starts_with(&Secret([*secret; 16]).hash().to_string()));
            // Whom it let in may have been taken off again before it heard so, and before the keeper's turn ended.
            let is_taken_off = |at: &usize| self.secret_of(*at) == Some(*secret);
            let is_used = list.entered.contains_key(&Some(*secret))
                || list.used.contains(secret)
                || list.removed.iter().any(is_taken_off);
            assert!(is_there || is_used, "the invite for {name} is lost");
        }
        for name in list.void.iter().filter(|name| list.issued[*name] <= 2) {
            let is_there = invites.iter().any(|line| line.split(' ').nth(1) == Some(name));
            assert!(!is_there, "the invite for {name} is good again");
        }
    }

    /// Who may be on the LAN is, at one hub.
    pub(crate) fn check_newcomers(&self) {
        let core = self.hubs.iter().find_map(|hub| hub.core.as_ref()).unwrap();
        for at in self.newcomers() {
            let key = self.spokes[at].key.public();
            let is_member = core.members().by_key(&key).is_some();
            let is_open = core.access() == Access::Open && !core.members().is_revoked(&key);
            // One that shows an invite which is none is refused on an open LAN, too.
            let may = is_member || is_open && self.secret_of(at).is_none();
            // Its only hub may be gone for good.
            let first = self.spokes[at].newcomer.as_ref().map_or(0, |newcomer| newcomer.first);
            let may = may && (self.hubs[first].is_alive() || !self.spokes[at].told.is_empty());
            assert!(
                !may || self.hub_of(at).is_some(),
                "spoke {at} is not on the LAN: {is_member} {is_open} {:?}",
                self.spokes[at].state(self.now)
            );
            assert!(is_member || self.hub_of(at).is_none(), "spoke {at} is on the LAN, and no member");
        }
    }
}

/// Tells a story.
pub(crate) fn tell(seed: u64, steps: usize) -> (u64, u64) {
    let mut world = World::sharing(seed);
    for _ in 0..steps {
        act(&mut world);
        pass_some_time(&mut world);
    }
    // Quiet; in some stories with the keeper gone for good.
    let keeper = world.hubs.iter().find_map(|hub| hub.core.as_ref()?.keeper()).map(|term| term.keeper);
    let others: Vec<usize> =
        (0..world.hubs.len()).filter(|&hub| Some(world.hubs[hub].public()) != keeper).collect();
    let is_gone = world.rng.one_in(4) && !world.list().has_new;
    for hub in 0..world.hubs.len() {
        world.mend(hub);
        world.drain(hub, false);
        if is_gone && !others.contains(&hub) {
            world.kill_hub(hub);
        } else if !world.hubs[hub].is_alive() {
            world.start_hub(hub);
        }
    }
    world.join_up();
    world.pass(Duration::from_secs(10));
    if is_gone {
        world.keep(others[0]);
    }
    end(&mut world)
}

/// Tells a story in which the list is in etcd: in the end, too, nobody has to say which hub keeps it.
pub(crate) fn tell_stored(seed: u64, steps: usize) -> (u64, u64) {
    let mut world = World::storing(seed);
    world.pass(ms(3_000));
    for _ in 0..steps {
        if world.rng.one_in(3) {
            act_on_store(&mut world);
        } else {
            act(&mut world);
        }
        pass_some_time(&mut world);
    }
    // Quiet; in some stories without one hub, whichever it is.
    world.join_stores();
    let gone = world.rng.one_in(4).then(|| world.rng.below(world.hubs.len()));
    for hub in 0..world.hubs.len() {
        world.mend(hub);
        world.hubs[hub].disk.is_full = false;
        if !world.hubs[hub].is_alive() {
            world.start_hub(hub);
        }
        world.start_store(hub);
    }
    world.join_up();
    world.pass(Duration::from_secs(20));
    if let Some(hub) = gone {
        world.kill_hub(hub);
        world.kill_store(hub);
    }
    let told = end(&mut world);
    world.check_store();
    told
}

fn pass_some_time(world: &mut World) {
    let time = match world.rng.below(6) {
        0 => world.rng.below(10_000),
        1 | 2 => world.rng.below(2_000),
        _ => world.rng.below(60),
    };
    world.pass(ms(time as u64));
}

/// What holds once all is quiet: how many commands were agreed to, and how many machines let in.
fn end(world: &mut World) -> (u64, u64) {
    world.pass(Duration::from_secs(20));
    for at in world.newcomers() {
        if world.spokes[at].is_out {
            world.restart_spoke(at);
        }
    }
    world.pass(Duration::from_secs(60));
    world.check_lists();
    world.check_newcomers();
    world.check_reach();
    let list = world.list();
    (list.done, list.entered.values().map(|entered| entered.len() as u64).sum())
}

/// One thing happens to the store, or to the disk of a hub.
fn act_on_store(world: &mut World) {
    let hub = world.rng.below(world.hubs.len());
    match world.rng.below(32) {
        0..4 => world.kill_store(hub),
        4..12 => world.start_store(hub),
        12..16 => world.part_store(hub),
        16..20 => world.lose_majority(),
        20 => world.wipe_store(),
        21 | 22 => world.hubs[hub].disk.is_full = true,
        23..26 => world.hubs[hub].disk.is_full = false,
        _ => world.join_stores(),
    }
}

/// One thing happens.
fn act(world: &mut World) {
    let hub = world.rng.below(world.hubs.len());
    let spoke = world.rng.below(world.spokes.len());
    match world.rng.below(32) {
        0 | 1 if world.hubs[hub].is_alive() => world.kill_hub(hub),
        0..5 if !world.hubs[hub].is_alive() => world.start_hub(hub),
        5 => world.silence(hub),
        6 | 7 => world.mend(hub),
        8 => world.restart_spoke(spoke),
        9 => world.cut(spoke),
        10 | 11 => {
            let other = world.rng.below(world.hubs.len());
            world.part(hub, other);
        }
        12 | 13 => world.join_up(),
        14 => world.send(spoke, 0),
        15..18 => {
            let newcomers = world.newcomers();
            let one = newcomers[world.rng.below(newcomers.len())];
            world.restart_spoke(one);
        }
        _ if world.hubs[hub].is_alive() => world.govern(hub),
        _ => {}
    }
}

/// A list of thousands is told to hubs that have just joined, or have an older one, while it changes from page to page.
pub(crate) fn tell_many(seed: u64) {
    const STRANGERS: usize = 1_500;
    let mut world = World::sharing(seed);
    let keys: Vec<PublicKey> =
        (0..STRANGERS).map(|_| PrivateKey::from_random(world.rng.key()).public()).collect();
    let line = |at: usize| format!("{} m{at} -\n", keys[at]);
    world.list().removed = (0..world.spokes.len()).collect();
    for hub in 0..world.hubs.len() {
        world.kill_hub(hub);
        let host = &mut world.hubs[hub];
        host.disk.locked = true;
        // The others know some that are gone, and the keeper some that are new.
        let known: String = (0..STRANGERS).filter(|at| hub == 0 || at % 3 == hub).map(line).collect();
        host.disk.members.push_str(&known);
        world.start_hub(hub);
    }
    let mut told = 0;
    for step in 0..150 {
        let key = keys[world.rng.below(STRANGERS)].to_string();
        let before = world.lens();
        match world.rng.below(4) {
            0 => world.command(0, Command::Forget(key), Wish::Other),
            1 => {
                let name = format!("a{step}").parse().unwrap();
                world.command(0, Command::Rename(key, name), Wish::Other);
            }
            2 => {
                let who = PrivateKey::from_random(world.rng.key()).public().to_string();
                let name = format!("{}{step}", ["b", "n", "z"][step % 3]).parse().ok();
                let (routes, tags, addresses) = (vec![], vec![], vec![]);
                let allow = Allow { who, in_place_of: None, name, addresses, routes, tags };
                world.command(0, Command::Allow(allow), Wish::Other);
            }
            _ if step % 50 == 49 => {
                world.kill_hub(1);
                world.start_hub(1);
            }
            _ => {}
        }
        let time = world.rng.below(3_000);
        world.pass(Duration::from_micros(time as u64));
        told += usize::from(before != world.lens());
    }
    world.pass(Duration::from_secs(30));
    world.check_lists();
    assert!(told > 20, "nothing changes while the list is told");
}

impl World {
    fn lens(&self) -> Vec<usize> {
        self.hubs.iter().map(|hub| hub.core.as_ref().map_or(0, |core| core.members().len())).collect()
    }
}
