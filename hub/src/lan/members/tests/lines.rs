//! What of the list is in its file after each write, and after one that was cut off.

use common::wire::frame::Join;
use common::wire::key::{PrivateKey, PublicKey};
use proptest::prelude::*;

use crate::lan::members::{Access, BadLine, Members, Patch};
use crate::lan::saving::without_torn_line;
use crate::lan::subnets::Subnets;

fn key(seed: u8) -> PublicKey {
    PrivateKey::from_random([seed; 32]).public()
}

fn subnets() -> Subnets {
    Subnets::new(&["10.0.0.0/28".parse().unwrap()]).unwrap()
}

fn parse(text: &str) -> Result<Members, BadLine> {
    let mut members = Members::parse(text, subnets())?;
    members.append_from(0, 0);
    Ok(members)
}

/// As the hub reads it at start.
fn start(text: &str) -> Members {
    match parse(text) {
        Ok(members) => members,
        Err(bad) => parse(without_torn_line(text, bad.line).expect(&bad.why)).unwrap(),
    }
}

fn texts(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = start(text).to_text().lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

#[derive(Clone, Debug)]
enum Op {
    Admit(u8, Option<u8>),
    Routes(u8, bool),
    Tag(u8),
    Revoke(u8),
    KeepOut(u8),
    Remove(u8),
    Swap(u8, u8),
    Rekey(u8, u8),
    Save,
    Fold,
    Fail,
}

fn op() -> impl Strategy<Value = Op> {
    let seed = || 1..12_u8;
    prop_oneof![
        6 => (seed(), proptest::option::of(2..14_u8)).prop_map(|(seed, ip)| Op::Admit(seed, ip)),
        2 => (seed(), any::<bool>()).prop_map(|(seed, is)| Op::Routes(seed, is)),
        1 => seed().prop_map(Op::Tag),
        1 => seed().prop_map(Op::Revoke),
        1 => (20..24_u8).prop_map(Op::KeepOut),
        2 => seed().prop_map(Op::Remove),
        2 => (seed(), seed()).prop_map(|(one, other)| Op::Swap(one, other)),
        1 => (seed(), 12..16_u8).prop_map(|(one, other)| Op::Rekey(one, other)),
        6 => Just(Op::Save),
        1 => Just(Op::Fold),
        1 => Just(Op::Fail),
    ]
}

fn apply(members: &mut Members, op: &Op) {
    let id = |seed: u8, members: &Members| members.by_key(&key(seed));
    match *op {
        Op::Admit(seed, ip) => {
            let addresses = ip.map(|ip| std::net::IpAddr::from([10, 0, 0, ip])).into_iter().collect();
            let join = Join { addresses, ..Join::new(format!("m{}", seed % 5).parse().unwrap()) };
            members.admit(key(seed), &join, Access::Open, &[]);
        }
        Op::Routes(seed, is) => {
            let routes = is.then(|| "192.168.5.0/24".parse().unwrap());
            id(seed, members).iter().for_each(|&id| members.set_routes(id, routes.as_slice()));
        }
        Op::Tag(seed) => {
            id(seed, members).iter().for_each(|&id| members.set_tags(id, &["x".parse().unwrap()]));
        }
        Op::Revoke(seed) => drop(id(seed, members).map(|id| members.revoke(id))),
        Op::KeepOut(seed) => drop(members.keep_out(key(seed))),
        Op::Remove(seed) => drop(id(seed, members).map(|id| members.remove(id))),
        Op::Rekey(one, other) => drop(id(one, members).map(|id| members.rekey(id, key(other)))),
        Op::Swap(one, other) => {
            if let (Some(one), Some(other)) = (id(one, members), id(other, members)) {
                let (mut first, mut second) = (members.member(one).clone(), members.member(other).clone());
                std::mem::swap(&mut first.addresses, &mut second.addresses);
                std::mem::swap(&mut first.name, &mut second.name);
                let puts = if one == other { vec![first] } else { vec![first, second] };
                members.put(puts, &[]);
            }
        }
        Op::Save | Op::Fold | Op::Fail => {}
    }
}

proptest! {
    /// After each write the file says what the list is; cut off at any byte, it says what it was before, or part of
    /// what is new, of which nobody has heard.
    #[test]
    fn the_file_says_what_the_list_is_and_torn_at_any_byte_what_it_was(
        ops in proptest::collection::vec(op(), 1..60),
    ) {
        let mut file = "# ours\n\n".to_owned();
        let mut members = parse(&file).unwrap();
        for op in ops {
            apply(&mut members, &op);
            let patch = match op {
                Op::Save => members.begin_save(),
                Op::Fold => members.begin_fold(),
                Op::Fail => {
                    members.begin_save();
                    members.set_damaged();
                    continue;
                }
                Op::Admit(..)|Op::Routes(..)|Op::Tag(_)|Op::Revoke(_)|Op::KeepOut(_)|Op::Remove(_)|Op::Swap(..)|Op::Rekey(..) => continue,
            };
            members.set_saved(members.version());
            match patch {
                Patch::Replace(text) => file = text,
                Patch::Append(lines) => {
                    let (before, all) = (texts(&file), file.clone() + &lines);
                    let after = texts(&all);
                    for cut in 0..lines.len() {
                        let torn = texts(&(file.clone() + &lines[..cut]));
                        let known = |line: &String| before.contains(line) || after.contains(line);
                        // The last one may be cut off where it makes sense.
                        let strange = torn.iter().filter(|line| !known(line)).count();
                        prop_assert!(strange <= usize::from(!lines[..cut].ends_with('\n')), "{torn:#?}");
                        // Who was taken off and came back may be off.
                        let is_removed = |line: &str| lines.contains(&format!("{} - - removed", &line[..44]));
                        let is_lost = |line: &&String| {
                            after.contains(line) && !torn.contains(line) && !line.get(..44).is_some_and(is_removed)
                        };
                        prop_assert_eq!(before.iter().find(is_lost), None, "at {}", cut);
                    }
                    file = all;
                }
            }
            prop_assert_eq!(start(&file).to_text(), members.to_text());
        }
    }
}

#[test]
fn a_changed_line_of_a_long_text_comes_behind_it_until_that_is_folded() {
    let text = format!("# ours\n{} a 10.0.0.2\n{} b 10.0.0.3\n", key(1), key(2));
    let many: String = (100..120).map(|seed| format!("{} m{seed} -\n", key(seed))).collect();
    let mut members = parse(&(text.clone() + &many)).unwrap();
    members.set_tags(members.by_key(&key(1)).unwrap(), &["x".parse().unwrap()]);
    members.remove(members.by_key(&key(2)).unwrap());
    let behind = format!("{} a 10.0.0.2 tag=x and instead\n{} - - removed instead\n", key(1), key(2));
    assert!(members.is_changed() && !members.is_costly() && !members.has_instead());
    assert_eq!(members.begin_save(), Patch::Append(behind.clone()));
    members.set_saved(members.version());
    let file = text.clone() + &many + &behind;
    let mut read = parse(&file).unwrap();
    assert!(read.has_instead() && !read.is_changed());
    let whole = format!("# ours\n{} a 10.0.0.2 tag=x\n{many}", key(1));
    assert_eq!((read.to_text(), read.begin_fold()), (whole.clone(), Patch::Replace(whole)));
    assert!(!read.has_instead());
    // Without the second one the first one does not count, and is left out of the file.
    let cut = text.clone() + &many + behind.lines().next().unwrap() + "\n";
    assert!(parse(&cut).is_err(), "a person may have deleted the other one");
    assert_eq!(start(&cut).to_text(), text.clone() + &many);
    // A short text is written as a whole.
    let mut members = Members::parse(&text, subnets()).unwrap();
    members.remove(members.by_key(&key(2)).unwrap());
    assert!(matches!(members.begin_save(), Patch::Replace(_)));
}

#[test]
fn lines_that_cannot_take_the_place_of_one_are_named() {
    let line = format!("{} a 10.0.0.2", key(1));
    for (text, number) in [
        (format!("{line} instead\n"), 1),
        (format!("{line}\n{} b - instead\n", key(2)), 2),
        (format!("{line}\n{line} and instead\n{} b -\n", key(2)), 3),
        (format!("{line}\n{} - - removed instead\n{line} instead\n", key(1)), 3),
        (format!("{line}\n{} a 10.0.0.77 instead\n", key(1)), 2),
    ] {
        assert_eq!(parse(&text).map(drop).unwrap_err().line, number, "{text}");
    }
    // It is the name of a member, and a word of a comment.
    let text = format!("# {line} instead\n{} instead\n{} b - tag=instead\n", key(3), key(4));
    assert_eq!(parse(&text).unwrap().to_text(), text);
}
