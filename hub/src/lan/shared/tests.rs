//! Random changes of lists, told to others: what is agreed to makes both equal, what is refused changes nothing.

#![expect(clippy::disallowed_methods, reason = "virtual time has to start somewhere")]

use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use common::wire::frame::Join;
use common::wire::invite::Secret;
use common::wire::key::PrivateKey;
use proptest::prelude::*;

use super::*;
use crate::ids::SessionId;
use crate::lan::admission::Contact;
use crate::lan::members::{MAX_HUBS, Members, Rights};
use crate::lan::subnets::Subnets;

/// Nobody was heard.
struct Silence;

impl Contact for Silence {
    fn was_heard(&self, _: SessionId, _: Instant) -> bool {
        false
    }
}

/// What a person or a machine does to a list. Numbers stand for one of a few keys, names, addresses and secrets, so that
/// many are at odds with each other.
#[derive(Clone, Debug)]
enum Op {
    Join { key: u8, name: u8, ip: Option<u8>, secret: Option<u8> },
    Allow { key: u8, name: u8, ip: Option<u8> },
    Rename { key: u8, name: u8 },
    Rekey { key: u8, to: u8 },
    Forget(u8),
    Revoke(u8),
    Routes(u8, bool),
    Hub { key: u8, name: u8, secret: Option<u8> },
    Invite { secret: u8, name: u8, ip: Option<u8>, uses: Option<u32>, is_hub: bool },
    Cancel(u8),
    Expire,
    Lock(bool),
}

fn op() -> impl Strategy<Value = Op> {
    let (key, name, secret) = (0..7_u8, 0..5_u8, 0..4_u8);
    let (ip, shown) = (proptest::option::of(2..7_u8), proptest::option::of(secret.clone()));
    prop_oneof![
        4 => (key.clone(), name.clone(), ip.clone(), shown.clone())
            .prop_map(|(key, name, ip, secret)| Op::Join { key, name, ip, secret }),
        2 => (key.clone(), name.clone(), ip.clone()).prop_map(|(key, name, ip)| Op::Allow { key, name, ip }),
        2 => (key.clone(), name.clone()).prop_map(|(key, name)| Op::Rename { key, name }),
        1 => (key.clone(), key.clone()).prop_map(|(key, to)| Op::Rekey { key, to }),
        2 => key.clone().prop_map(Op::Forget),
        1 => key.clone().prop_map(Op::Revoke),
        1 => (key.clone(), any::<bool>()).prop_map(|(key, has)| Op::Routes(key, has)),
        1 => (key, name.clone(), shown).prop_map(|(key, name, secret)| Op::Hub { key, name, secret }),
        3 => (secret, name.clone(), ip, proptest::option::of(1..4_u32), any::<bool>()).prop_map(
            |(secret, name, ip, uses, is_hub)| Op::Invite {
                secret, name, uses, ip: ip.filter(|_| uses.is_none()), is_hub: is_hub && uses.is_none()
            }
        ),
        1 => name.prop_map(Op::Cancel),
        1 => Just(Op::Expire),
        1 => any::<bool>().prop_map(Op::Lock),
    ]
}

fn key(seed: u8) -> PublicKey {
    // Keys take time to make.
    static KEYS: std::sync::LazyLock<Vec<PublicKey>> = std::sync::LazyLock::new(|| {
        (0..8).map(|seed| PrivateKey::from_random([seed + 1; 32]).public()).collect()
    });
    KEYS[usize::from(seed)]
}

fn name(seed: u8) -> common::wire::name::Name {
    format!("m{seed}").parse().unwrap()
}

fn ip(seed: Option<u8>) -> Vec<IpAddr> {
    seed.map(|seed| Ipv4Addr::new(10, 0, 0, seed).into()).into_iter().collect()
}

fn subnets() -> Subnets {
    Subnets::new(&["10.0.0.0/29".parse().unwrap(), "fd00::/64".parse().unwrap()]).unwrap()
}

/// A list that is shared, and the time.
struct List {
    admission: Admission,
    time: u64,
}

impl List {
    fn new() -> List {
        let members = Members::parse("", subnets()).unwrap();
        let mut admission = Admission::new(members, Access::Open, subnets());
        admission.share(true);
        List { admission, time: 1 }
    }

    fn of(ops: &[Op]) -> List {
        let mut list = List::new();
        ops.iter().for_each(|op| drop(list.act(op)));
        drop(list.admission.take_edits());
        list
    }

    /// Does something, if it can be done. What is another record then, and who was revoked.
    fn act(&mut self, op: &Op) -> (Vec<Edit>, Option<PublicKey>) {
        let (admission, mut revoked) = (&mut self.admission, None);
        let access = admission.access();
        let id = |admission: &Admission, seed: u8| admission.members().by_key(&key(seed));
        match *op {
            Op::Join { key: seed, name: named, ip: at, secret } => {
                let join = Join {
                    addresses: ip(at),
                    invite: secret.map(|secret| [secret; 16]),
                    ..Join::new(name(named))
                };
                drop(admission.ask(SessionId::new(1), key(seed), join, &Silence, Instant::now()));
                admission.forget_session(SessionId::new(1));
            }
            Op::Allow { key: seed, name: named, ip: at } => {
                let rights = Rights { addresses: ip(at), routes: vec![], tags: vec![] };
                drop(admission.members_mut().allow(key(seed), name(named), rights));
            }
            Op::Rename { key, name: named } => {
                if let Some(id) = id(admission, key) {
                    drop(admission.members_mut().rename(id, name(named)));
                }
            }
            Op::Rekey { key: seed, to } => {
                if let Some(id) = id(admission, seed) {
                    drop(admission.members_mut().rekey(id, key(to)));
                }
            }
            Op::Forget(key) => {
                if let Some(id) = id(admission, key) {
                    admission.members_mut().remove(id);
                }
            }
            Op::Revoke(seed) => {
                if let Some(id) = id(admission, seed) {
                    admission.revoke(id);
                    revoked = Some(key(seed));
                }
            }
            Op::Routes(key, has) => {
                if let Some(id) = id(admission, key) {
                    let routes = has.then(|| "192.168.7.0/24".parse().unwrap());
                    admission.members_mut().set_routes(id, routes.as_slice());
                    let tag = has.then(|| "door".parse().unwrap());
                    admission.members_mut().set_tags(id, tag.as_slice());
                }
            }
            Op::Hub { key: seed, name: named, secret } => {
                let place = format!("192.0.2.{seed}:5678").parse().ok();
                let invite = secret.map(|secret| [secret; 16]);
                let join = Join { invite, place: place.clone(), is_hub: true, ..Join::new(name(named)) };
                match invite {
                    Some(_) => drop(admission.admit_hub(key(seed), &join)),
                    None if admission.members().is_revoked(&key(seed)) => {}
                    None => drop(admission.list_hub(key(seed), &name(named), place)),
                }
            }
            Op::Invite { secret, name: named, ip: at, uses, is_hub } => {
                let invite = Invite {
                    hash: Secret([secret; 16]).hash(),
                    name: name(named),
                    uses,
                    until: self.time + 3,
                    addresses: ip(at),
                    routes: vec![],
                    tags: vec![],
                    is_hub,
                };
                if admission.with_invite(&invite).is_ok() {
                    drop(admission.add_invite(invite, ""));
                }
            }
            Op::Cancel(named) => admission.cancel_invite(&name(named), ""),
            Op::Expire => {
                self.time += 2;
                admission.set_unix_time(self.time);
            }
            Op::Lock(locked) => admission.set_access(if locked { Access::Locked } else { Access::Open }),
        }
        let mut edits = admission.take_edits();
        if admission.access() != access {
            let record = admission.record(RecordId::Access);
            edits.push(Edit { record, before: Some(access_text(access)) });
        }
        (edits, revoked)
    }

    /// As the keeper agrees to changes.
    fn apply(&mut self, edits: &[Edit]) -> Result<(), String> {
        let put = self.admission.apply(edits, None)?;
        self.take(put);
        Ok(())
    }

    fn put(&mut self, records: &[Record]) {
        let put = self.admission.put(records);
        assert!(put.bad.is_empty(), "{:?}", put.bad);
        drop(self.admission.take_edits());
        self.take(put);
    }

    fn take(&mut self, put: Put) {
        if let Some(access) = put.access {
            self.admission.set_access(access);
        }
    }

    fn keep_out(&mut self, revoked: Option<PublicKey>) {
        let Some(key) = revoked else { return };
        match self.admission.members().by_key(&key) {
            Some(id) => drop(self.admission.revoke(id)),
            None => drop(self.admission.members_mut().keep_out(key)),
        }
        drop(self.admission.members_mut().take_edits());
    }

    /// All records, in order.
    fn records(&self) -> Vec<Record> {
        let members = self.admission.members();
        let members = members.iter().map(|(_, member)| members.record(&member.key));
        let mut records: Vec<Record> = members.chain(self.admission.other_records()).collect();
        records.sort_by_key(|record| record.id);
        records
    }

    /// Nothing is held twice, everything is found, and the texts say the same when they are read.
    fn check(&self) {
        let members = self.admission.members();
        for (id, member) in members.iter() {
            assert_eq!(members.by_key(&member.key), Some(id));
            assert_eq!(members.by_name(&member.name), Some(id), "{}", member.name);
            for &address in &member.addresses {
                assert_eq!(members.holder(address), Some(id), "{address}");
            }
            assert!(!members.is_revoked(&member.key));
        }
        assert_eq!(members.after(None).count(), members.len(), "names that nobody has");
        for address in (0..8).flat_map(|seed| ip(Some(seed))) {
            let holder = members.holder(address);
            assert!(holder.is_none_or(|id| members.member(id).addresses.contains(&address)), "{address}");
        }
        let read = Members::parse(&members.to_text(), subnets()).unwrap_or_else(|bad| panic!("{}", bad.why));
        let read: BTreeSet<String> =
            read.iter().filter_map(|(_, member)| read.record(&member.key).text).collect();
        let now: BTreeSet<String> =
            members.iter().filter_map(|(_, member)| members.record(&member.key).text).collect();
        assert_eq!(read, now);
        let invites = self.admission.invites();
        let read = crate::lan::invites::Invites::parse(&invites.to_text(), subnets());
        let read = read.unwrap_or_else(|bad| panic!("{}", bad.why));
        assert!(read.iter().eq(invites.iter()));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn what_is_agreed_to_makes_both_lists_equal(ops in prop::collection::vec((op(), any::<bool>()), 1..60)) {
        let (mut copy, mut keeper) = (List::new(), List::new());
        let mut edits: Vec<Edit> = Vec::new();
        for (op, is_told) in ops {
            let (more, revoked) = copy.act(&op);
            keeper.keep_out(revoked);
            merge(&mut edits, more);
            if is_told {
                let told = std::mem::take(&mut edits);
                let is_revoked = |edit: &Edit| {
                    matches!(edit.record.id, RecordId::Member(key) if keeper.admission.members().is_revoked(&key))
                };
                let told: Vec<Edit> = told.into_iter().filter(|edit| !is_revoked(edit)).collect();
                prop_assert_eq!(keeper.apply(&told), Ok(()));
                prop_assert_eq!(keeper.records(), copy.records());
                // Once more, as over another link.
                prop_assert_eq!(keeper.apply(&told), Ok(()));
                prop_assert_eq!(keeper.records(), copy.records());
                // It tells the others the same.
                drop(keeper.admission.take_edits());
            }
            copy.check();
            keeper.check();
        }
    }

    #[test]
    fn what_is_refused_changes_nothing_and_what_is_not_is_done(
        shared in prop::collection::vec(op(), 0..12),
        here in prop::collection::vec(op(), 0..5),
        there in prop::collection::vec(op(), 1..5),
    ) {
        let (mut keeper, mut copy) = (List::of(&shared), List::of(&shared));
        here.iter().for_each(|op| drop(keeper.act(op)));
        let (before, mut edits) = (keeper.records(), Vec::new());
        there.iter().for_each(|op| merge(&mut edits, copy.act(op).0));
        if keeper.apply(&edits).is_err() {
            prop_assert_eq!(&keeper.records(), &before);
            prop_assert_eq!(keeper.admission.take_edits(), vec![]);
        } else {
            for Edit { record, .. } in &edits {
                prop_assert_eq!(&keeper.admission.record(record.id), record);
            }
            // Whatever else is changed is told to others.
            check_told(&before, &keeper.records(), &edits, &keeper.admission.take_edits());
        }
        keeper.check();
    }

    #[test]
    fn the_whole_list_of_one_makes_any_other_equal(
        one in prop::collection::vec(op(), 0..40),
        other in prop::collection::vec(op(), 0..40),
        page in 1..8_usize,
    ) {
        let (keeper, mut copy) = (List::of(&one), List::of(&other));
        let records = keeper.records();
        for page in records.chunks(page) {
            copy.put(page);
            copy.check();
        }
        let is_told = |id: &RecordId| records.iter().any(|record| record.id == *id);
        let ids = copy.records().into_iter().map(|record| record.id);
        let gone = ids.filter(|id| !is_told(id)).map(|id| Record { id, text: None });
        copy.put(&gone.collect::<Vec<_>>());
        copy.check();
        let revoked: BTreeSet<PublicKey> = copy.admission.members().revoked().collect();
        let stays = |record: &Record| !matches!(record.id, RecordId::Member(key) if revoked.contains(&key));
        let expected: Vec<Record> = records.iter().filter(|record| stays(record)).cloned().collect();
        prop_assert_eq!(copy.records(), expected, "those that are revoked here stay so");
    }

    /// As the keeper tells what has changed while the disk was busy: a record may be told several times.
    #[test]
    fn what_is_told_in_one_frame_is_as_good_as_one_by_one(
        shared in prop::collection::vec(op(), 0..12),
        ops in prop::collection::vec(op(), 1..12),
        frame in 1..30_usize,
    ) {
        let (mut keeper, mut copy) = (List::of(&shared), List::of(&shared));
        let mut told: Vec<Record> = Vec::new();
        for op in &ops {
            let (edits, revoked) = keeper.act(op);
            copy.keep_out(revoked);
            told.extend(edits.into_iter().map(|edit| edit.record));
        }
        for records in told.chunks(frame) {
            copy.put(records);
            copy.check();
        }
        prop_assert_eq!(copy.records(), keeper.records());
    }
}

/// Several changes of one record are one.
fn merge(edits: &mut Vec<Edit>, more: Vec<Edit>) {
    for edit in more {
        match edits.iter_mut().find(|earlier| earlier.record.id == edit.record.id) {
            Some(earlier) => earlier.record = edit.record,
            None => edits.push(edit),
        }
    }
    edits.retain(|edit| edit.record.text != edit.before);
}

/// What has changed beside what was asked for is noted, so that it is told.
fn check_told(before: &[Record], now: &[Record], asked: &[Edit], told: &[Edit]) {
    let is_noted = |id: &RecordId| {
        asked.iter().any(|edit| edit.record.id == *id) || told.iter().any(|edit| edit.record.id == *id)
    };
    let changed = now.iter().filter(|record| !before.contains(record));
    let gone = before.iter().filter(|record| !now.iter().any(|other| other.id == record.id));
    for record in changed.chain(gone) {
        assert!(is_noted(&record.id), "{record:?} is told to nobody");
    }
}

#[test]
fn two_that_change_places_do_so_in_one_batch() {
    let mut list = List::new();
    for seed in [1, 2] {
        list.act(&Op::Allow { key: seed, name: seed, ip: Some(1 + seed) });
    }
    let line = |seed: u8, named: u8| Record {
        id: RecordId::Member(key(seed)),
        text: Some(format!("{} m{named} 10.0.0.{}", key(seed), 1 + named)),
    };
    list.put(&[line(1, 2), line(2, 1)]);
    list.check();
    assert_eq!(list.records()[..2].iter().filter(|r| [line(1, 2), line(2, 1)].contains(r)).count(), 2);
    let edit = |seed: u8, named: u8| Edit { record: line(seed, named), before: line(seed, 3 - named).text };
    assert_eq!(list.apply(&[edit(1, 1), edit(2, 2)]), Ok(()));
    list.check();
    // One alone would have what the other has.
    assert!(list.apply(&[edit(1, 2)]).is_err());
    // The same twice in one.
    assert!(list.apply(&[edit(1, 2), edit(2, 1), edit(1, 2)]).is_err());
    list.check();
}

/// Each of two hubs lets one more in, as it has not heard of the other one's.
#[test]
fn of_two_hubs_that_are_the_last_for_which_there_is_room_one_is_agreed_to() {
    let key = |seed: usize| format!("{seed:A<42}A=").parse::<PublicKey>().unwrap();
    let edit = |seed: usize| {
        let text = format!("{} hub-{seed} - hub=192.0.2.1:5678", key(seed));
        Edit { record: Record { id: RecordId::Member(key(seed)), text: Some(text) }, before: None }
    };
    let mut list = List::new();
    let edits: Vec<Edit> = (1..MAX_HUBS).map(edit).collect();
    assert_eq!(list.apply(&edits), Ok(()));
    let more = [MAX_HUBS, MAX_HUBS + 1].map(edit);
    assert!(list.apply(&more).is_err());
    assert_eq!(list.apply(&more[..1]), Ok(()));
    assert!(list.apply(&more[1..]).is_err_and(|why| why.contains("hubs")));
    let none = edits[0].record.text.clone().map(|text| text.replace(" hub=192.0.2.1:5678", ""));
    let ends = Edit {
        record: Record { text: none, ..edits[0].record.clone() },
        before: edits[0].record.text.clone(),
    };
    assert_eq!(list.apply(&[ends, more[1].clone()]), Ok(()), "in its place");
    list.check();
}

/// One hub has let somebody in by an invite for two, or for one; another hub, which has not heard of it, does so, too.
#[test]
fn each_use_of_an_invite_counts_though_two_leave_the_same_behind() {
    for uses in [None, Some(2)] {
        let mut list = List::new();
        list.act(&Op::Invite { secret: 1, name: 4, ip: None, uses, is_hub: false });
        let invite =
            list.records().into_iter().find(|record| matches!(record.id, RecordId::Invite(_))).unwrap();
        let left = uses.map(|_| invite.text.clone().unwrap().replace("uses=2", "uses=1"));
        let used = Edit { record: Record { id: invite.id, text: left }, before: invite.text.clone() };
        let comes = |seed: u8| {
            let text = Some(format!("{} m{seed} 10.0.0.{}", key(seed), 1 + seed));
            Edit { record: Record { id: RecordId::Member(key(seed)), text }, before: None }
        };
        let first = [comes(1), used.clone()];
        assert_eq!(list.apply(&first), Ok(()));
        assert_eq!(list.apply(&first), Ok(()), "asked again over another link");
        // Nor where the first one is gone again.
        for op in [None, Some(Op::Forget(1))] {
            if let Some(op) = &op {
                list.act(op);
            }
            assert!(list.apply(&[comes(2), used.clone()]).is_err(), "{uses:?}");
        }
        list.check();
    }
}
