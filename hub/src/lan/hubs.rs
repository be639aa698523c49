//! Which hubs the LAN has, as their members are told. Pure.
//!
//! A hub is a member whose line has `hub=HOST:PORT`; a hub's own line says where spokes reach it.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use common::wire::frame::{HubInfo, MAX_TOLD_HUBS};
use common::wire::key::PublicKey;
use common::wire::place::Place;

use crate::ids::{MemberId, SessionId};
use crate::lan::members::{MAX_HUBS, Member, Members};

/// A hub that drains sends so many members away at once, and the next ones after this time: the hubs that take them need
/// half a millisecond for each, and have members of their own.
pub(crate) const PORTION: usize = 3;
const PORTION_EVERY: Duration = Duration::from_millis(10);

/// So many of those that a member is told of are the nearest ones. The others may be anywhere: where a whole region is
/// lost, it knows some elsewhere.
const NEAREST: usize = MAX_TOLD_HUBS / 2;
/// Below this round trip one hub is as near as another.
const NEAR: Duration = Duration::from_millis(8);
/// The distance of a hub without a link; one whose round trip is not known is just before that.
const UNLINKED: u32 = u32::MAX;

/// The hubs of the LAN.
#[derive(Default)]
pub(crate) struct Hubs {
    /// All of them, this one first.
    known: Vec<HubInfo>,
    is_draining: bool,
    /// The members that are still to be told that this hub is draining.
    untold: Option<Untold>,
    /// Whether the list has a line of this hub.
    is_listed: bool,
    /// The state of [`Members::parties`] that they were read from.
    parties: Option<u64>,
    /// The addresses on the device that this hub has alone, beside those that each hub has.
    pub(crate) own_addresses: Vec<IpAddr>,
    /// Where this hub is reached, as it was started, until the list says so.
    pub(crate) wanted_place: Option<WantedPlace>,
}

/// Where this hub is reached, as it was started.
pub(crate) struct WantedPlace {
    pub(crate) place: Place,
    /// When whoever keeps the list is asked to agree, once that can be reached.
    pub(crate) ask_at: Instant,
    /// What the list has said, if it was asked to say another one.
    pub(crate) before: Option<Place>,
}

/// Members that are told something by and by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Untold {
    /// Their sessions begin with this one.
    pub(crate) from: SessionId,
    /// When to go on.
    pub(crate) at: Instant,
}

/// The members that are hubs, by name.
pub(crate) fn of(members: &Members) -> Vec<&Member> {
    let hubs = members.iter().map(|(_, member)| member).filter(|member| member.hub.is_some());
    let mut hubs: Vec<&Member> = hubs.collect();
    hubs.sort_by(|one, other| one.name.cmp(&other.name));
    hubs
}

/// How far another hub is from this one, the less, the nearer: steps of a factor of two in the round trip. One without a
/// link comes last.
pub(crate) fn distance(is_linked: bool, round_trip: Option<Duration>) -> u32 {
    match round_trip.filter(|_| is_linked) {
        Some(time) => (time.as_millis() / NEAR.as_millis()).checked_ilog2().map_or(0, |step| step + 1),
        None if is_linked => UNLINKED - 1,
        None => UNLINKED,
    }
}

/// A number for a member and a hub, the same at each hub: members spread evenly over what they are told.
fn mixed(member: &PublicKey, hub: &PublicKey) -> u64 {
    let first = |key: &PublicKey| key.as_bytes().first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
    // The finalizer of SplitMix64.
    let mixed = first(member) ^ first(hub).rotate_left(32);
    let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// What a member is told of all hubs, which are given with their distances, this one first: this one, the nearest ones,
/// and some of the others. Of those that are equally near each member is told in an order of its own, as it goes to the
/// first that it has not measured.
pub(crate) fn told_to(member: &PublicKey, all: &[(HubInfo, u32)]) -> Vec<HubInfo> {
    let Some(((this, _), others)) = all.split_first() else { return Vec::new() };
    let mut others: Vec<(u32, u64, &HubInfo)> =
        others.iter().map(|(hub, distance)| (*distance, mixed(member, &hub.key), hub)).collect();
    let by_distance = |&(distance, number, _): &(u32, u64, &HubInfo)| (distance, number);
    others.sort_unstable_by_key(by_distance);
    if let Some(behind) =
        others.get_mut(NEAREST..).filter(|behind| behind.len() > MAX_TOLD_HUBS - 1 - NEAREST)
    {
        behind.sort_unstable_by_key(|&(distance, number, _)| (distance == UNLINKED, number));
    }
    others.truncate(MAX_TOLD_HUBS - 1);
    // A near one and another one in turn: what is near may be lost together.
    let (near, rest) = others.split_at(NEAREST.min(others.len()));
    let rest = rest.iter().map(Some).chain(std::iter::repeat(None));
    let turns = near.iter().zip(rest).flat_map(|(near, other)| std::iter::once(near).chain(other));
    std::iter::once(this).chain(turns.map(|(_, _, hub)| *hub)).cloned().collect()
}

impl Hubs {
    /// All hubs, this one first.
    pub(crate) fn known(&self) -> &[HubInfo] {
        &self.known
    }

    /// This hub's line in the list of members, if it has one.
    #[inline]
    pub(crate) fn own(&self, members: &Members) -> Option<MemberId> {
        self.known.first().filter(|_| self.is_listed).and_then(|this| members.by_key(&this.key))
    }

    /// Whether there is another one than this.
    pub(crate) fn are_several(&self) -> bool {
        self.known.len() > 1
    }

    /// Whether this hub sends its members to the others.
    pub(crate) fn is_draining(&self) -> bool {
        self.is_draining
    }

    /// Sends the members away from now on, or takes them again; whether that is news.
    pub(crate) fn set_draining(&mut self, is_draining: bool) -> bool {
        for this in self.known.iter_mut().take(1) {
            this.is_draining = is_draining;
        }
        std::mem::replace(&mut self.is_draining, is_draining) != is_draining
    }

    /// All members are to be told, from now on; those of a hub that does not drain at once.
    pub(crate) fn begin_telling(&mut self, now: Instant) {
        self.untold = self.is_draining.then_some(Untold { from: SessionId::new(0), at: now });
    }

    /// When the next members are to be told.
    pub(crate) fn tell_at(&self) -> Option<Instant> {
        self.untold.map(|untold| untold.at)
    }

    /// The session to go on with, if it is time; to be followed by `told`.
    pub(crate) fn poll_untold(&mut self, now: Instant) -> Option<SessionId> {
        self.untold.take_if(|untold| untold.at <= now).map(|untold| untold.from)
    }

    /// Members were told; the first that was not.
    pub(crate) fn told(&mut self, next: Option<SessionId>, now: Instant) {
        self.untold = next.map(|from| Untold { from, at: now + PORTION_EVERY });
    }

    /// Reads the list of members again if it may name other hubs; whether it does. `own`: this hub's key.
    pub(crate) fn refresh(&mut self, members: &Members, own: PublicKey) -> bool {
        let parties = members.parties();
        if self.parties.replace(parties) == Some(parties) {
            return false;
        }
        let hubs = of(members);
        let place = hubs.iter().find(|hub| hub.key == own).and_then(|hub| hub.hub.clone());
        self.is_listed = members.by_key(&own).is_some();
        let this = HubInfo { key: own, place, is_draining: self.is_draining };
        let others = hubs.into_iter().filter(|hub| hub.key != own);
        let others = others.map(|hub| HubInfo { key: hub.key, place: hub.hub.clone(), is_draining: false });
        let known: Vec<HubInfo> = std::iter::once(this).chain(others).take(MAX_HUBS).collect();
        let is_news = known != self.known;
        self.known = known;
        is_news
    }
}

#[cfg(test)]
mod tests {
    use common::wire::key::PrivateKey;

    use super::*;
    use crate::lan::members::Rights;
    use crate::lan::subnets::Subnets;

    fn key(seed: u8) -> PublicKey {
        PrivateKey::from_random([seed; 32]).public()
    }

    fn members(text: &str) -> Result<Members, String> {
        let subnets = Subnets::new(&["10.0.0.0/24".parse().unwrap()]).unwrap();
        Members::parse(text, subnets).map_err(|bad| bad.why)
    }

    fn told(hubs: &Hubs) -> Vec<(PublicKey, String, bool)> {
        let one = |hub: &HubInfo| {
            let place = hub.place.as_ref().map(ToString::to_string).unwrap_or_default();
            (hub.key, place, hub.is_draining)
        };
        hubs.known().iter().map(one).collect()
    }

    #[test]
    fn a_line_with_a_place_is_a_hub_and_stays_one_when_the_list_is_written() {
        let text = format!("{} hub-b - tag=x hub=b.example.org:80\n{} a 10.0.0.2\n", key(2), key(1));
        let mut list = members(&text).unwrap();
        assert_eq!(of(&list).iter().map(|hub| hub.name.as_str()).collect::<Vec<_>>(), ["hub-b"]);
        let id = list.by_key(&key(2)).unwrap();
        list.set_tags(id, &[]);
        assert_eq!(
            list.to_text(),
            format!("{} hub-b - hub=b.example.org:80\n{} a 10.0.0.2\n", key(2), key(1))
        );
        for (bad, why) in [
            ("hub=", "is no place of a hub"),
            ("hub=auto://b", "say one way by which all reach it"),
            ("hub=quic://b", "there is no way quic://"),
            ("hub=b hub=c", "hub= twice"),
        ] {
            let said = members(&format!("{} b - {bad}\n", key(2))).map(drop).unwrap_err();
            assert!(said.contains(why), "{bad}: {said}");
        }
    }

    #[test]
    fn a_hub_may_be_reached_by_a_web_server() {
        let text = format!("{} hub-b - hub=wss://b.example.org/lan\n", key(2));
        let list = members(&text).unwrap();
        assert_eq!(list.to_text(), text);
        let mut hubs = Hubs::default();
        assert!(hubs.refresh(&list, key(1)));
        assert_eq!(told(&hubs)[1], (key(2), "wss://b.example.org:443/lan".to_owned(), false));
    }

    #[test]
    fn this_hub_is_told_first_and_what_is_new_is_told_once() {
        let mut hubs = Hubs::default();
        let list = members(&format!("{} hub-b - hub=b\n{} hub-a - hub=a\n", key(2), key(1))).unwrap();
        assert!(hubs.refresh(&list, key(1)) && !hubs.refresh(&list, key(1)) && hubs.are_several());
        let expected = [(key(1), "a:5678".to_owned(), false), (key(2), "b:5678".to_owned(), false)];
        assert_eq!(told(&hubs), expected);
        assert!(hubs.set_draining(true) && !hubs.set_draining(true));
        assert!(told(&hubs)[0].2 && !told(&hubs)[1].2);
        // A hub that is not in its own list can drain all the same.
        let mut list = list;
        list.replace(members(&format!("{} hub-b - hub=b\n", key(2))).unwrap());
        assert!(hubs.refresh(&list, key(1)) && hubs.are_several());
        assert_eq!(told(&hubs)[0], (key(1), String::new(), true));
        list.revoke(list.by_key(&key(2)).unwrap());
        assert!(hubs.refresh(&list, key(1)) && !hubs.are_several(), "a hub that is revoked is told no more");
        let many: String = (10..160).map(|seed| format!("{} h{seed} - hub=h{seed}\n", key(seed))).collect();
        list.replace(members(&many).unwrap());
        assert!(hubs.refresh(&list, key(1)) && hubs.known().len() == MAX_HUBS);
        let place = || "h".parse().unwrap();
        let mut one_more =
            |seed| list.list_hub(key(seed), "one".parse().unwrap(), Rights::default(), place());
        assert!(one_more(200).is_err_and(|why| why.contains("the LAN has 128 hubs")));
        assert!(one_more(20).is_ok(), "it is one already");
    }

    #[test]
    fn a_member_is_told_of_the_nearest_hubs_and_of_others_and_members_spread_over_them() {
        let hub = |seed: u8| HubInfo { key: key(seed), place: "h".parse().ok(), is_draining: false };
        let ms = |time| distance(true, Some(Duration::from_millis(time)));
        assert!(ms(0) == ms(7) && ms(7) < ms(9) && ms(15) == ms(9) && ms(40) < ms(80));
        assert!(ms(100_000) < distance(true, None) && distance(true, None) < distance(false, None));
        assert_eq!(distance(false, Some(Duration::ZERO)), UNLINKED, "what it was does not count");
        // Of a hundred ten are near, and thirty are not linked.
        let far = |seed: u8| match seed {
            0 => 0,
            1..=10 => ms(1),
            11..=70 => ms(100 + u64::from(seed)),
            _ => UNLINKED,
        };
        let all: Vec<(HubInfo, u32)> = (0..100).map(|seed| (hub(seed), far(seed))).collect();
        let mut first = [0; 100];
        for member in 100..=250 {
            let told = told_to(&key(member), &all);
            let seeds: Vec<usize> =
                told.iter().map(|hub| all.iter().position(|(other, _)| other == hub).unwrap()).collect();
            assert_eq!((seeds.len(), seeds[0]), (MAX_TOLD_HUBS, 0), "the one that tells comes first");
            let near = |at: &usize| (1..=10).contains(at);
            assert!(seeds.iter().filter(|seed| near(seed)).count() >= NEAREST, "{seeds:?}");
            assert!(near(&seeds[1]) && near(&seeds[3]) && seeds[1..].iter().all(|at| (1..=70).contains(at)));
            assert!(seeds.iter().filter(|&&seed| seed > 10).count() >= 5, "some are elsewhere");
            assert_eq!(told_to(&key(member), &all), told, "the same each time");
            first[seeds[1]] += 1;
        }
        assert!(first[1..=10].iter().all(|&times| times > 4), "{first:?}");
        // Few are told, all of them.
        let few = told_to(&key(200), &all[..4]);
        assert!(few.len() == 4 && all[..4].iter().all(|(hub, _)| few.contains(hub)));
        assert_eq!(told_to(&key(200), &[]), []);
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "virtual time has to start somewhere")]
    fn members_are_told_at_once_that_hubs_are_there_and_by_and_by_that_this_one_drains() {
        let (now, mut hubs) = (Instant::now(), Hubs::default());
        hubs.begin_telling(now);
        assert_eq!(hubs.tell_at(), None);
        hubs.set_draining(true);
        hubs.begin_telling(now);
        assert_eq!(hubs.poll_untold(now), Some(SessionId::new(0)));
        hubs.told(Some(SessionId::new(70)), now);
        assert_eq!((hubs.poll_untold(now), hubs.tell_at()), (None, Some(now + PORTION_EVERY)));
        assert_eq!(hubs.poll_untold(now + PORTION_EVERY), Some(SessionId::new(70)));
        hubs.told(None, now);
        assert_eq!(hubs.tell_at(), None);
        // It takes members again, and nobody waits for that.
        hubs.told(Some(SessionId::new(9)), now);
        hubs.set_draining(false);
        hubs.begin_telling(now);
        assert_eq!(hubs.tell_at(), None);
    }
}
