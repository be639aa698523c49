//! The ways to the hubs: in which order they are tried, and what came of each. Pure.
//!
//! A way is an address and what is spoken there; a hub is known by its key, and several ways may lead to one hub. Which
//! hub a way leads to is known once that hub has proved its key there, or another one has told of it.
//!
//! A round tries each way once, the one that worked on this network first. The starts of the first round are short, so
//! that a network that swallows packets costs seconds; later ones have all the time that a slow network needs.

use common::node::way::Way;
use common::transport::proxy::ProxyUrl;
use common::wire::key::PublicKey;
use common::wire::target::{Scheme, Target};

/// The port of HTTPS, which most networks let through.
const HTTPS_PORT: u16 = 443;

/// The ways to the hubs of a LAN.
#[derive(Debug)]
pub(super) struct Ways {
    /// One at least.
    all: Vec<Tried>,
    current: usize,
    /// The one that worked last on this network: it, or its hub, is tried first.
    preferred: usize,
    /// Whether the current one is tried now, or in use.
    is_used: bool,
    /// Rounds in a row in which none worked.
    failed_rounds: usize,
}

#[derive(Debug)]
struct Tried {
    way: Way,
    /// Why it did not work the last time, if that is so.
    answer: Option<String>,
    /// Whether it was tried in this round.
    is_tried: bool,
    /// The hub that it leads to, if that is known.
    hub: Option<PublicKey>,
    /// Whether a hub told of it, and no person.
    is_told: bool,
}

impl Tried {
    fn new(way: Way, hub: Option<PublicKey>, is_told: bool) -> Tried {
        Tried { way, answer: None, is_tried: false, hub, is_told }
    }
}

/// What follows from a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Another way is to be tried at once.
    Another,
    /// None of them works: this round is over.
    Pause,
}

/// The ways that a person has named: each as it is, and for `auto://` those that there are, in this order.
pub fn named(hubs: &[(Target, Option<ProxyUrl>)]) -> Vec<Way> {
    let mut all: Vec<Way> = Vec::new();
    for (hub, proxy) in hubs {
        let targets = match hub.scheme {
            Scheme::Auto => automatic(hub, proxy.is_some()),
            Scheme::Tcp | Scheme::Tls | Scheme::Wss | Scheme::Ws | Scheme::Icmp => vec![hub.clone()],
        };
        for hub in targets {
            let way = Way { hub, proxy: proxy.clone() };
            if !all.contains(&way) {
                all.push(way);
            }
        }
    }
    all
}

fn is_at(way: &Way, place: &Target) -> bool {
    let is_same_port = way.hub.port == place.port || place.scheme == Scheme::Auto;
    way.hub.host == place.host && is_same_port
}

/// Pings come last, as they are the slowest; around a proxy, there are none.
fn automatic(hub: &Target, has_proxy: bool) -> Vec<Target> {
    let by = |scheme, port| Target { scheme, port, ..hub.clone() };
    let all = [
        by(Scheme::Tcp, hub.port),
        by(Scheme::Tcp, HTTPS_PORT),
        by(Scheme::Wss, HTTPS_PORT),
        by(Scheme::Icmp, 0),
    ];
    all.into_iter().filter(|hub| hub.scheme != Scheme::Icmp || !has_proxy).collect()
}

impl Ways {
    /// `all`: one at least.
    pub(super) fn new(all: Vec<Way>) -> Ways {
        let all = all.into_iter().map(|way| Tried::new(way, None, false)).collect();
        Ways { all, current: 0, preferred: 0, is_used: false, failed_rounds: 0 }
    }

    /// The one in use, or to try now.
    pub(super) fn current(&self) -> &Way {
        &self.all[self.current].way
    }

    /// The one of this number.
    pub(super) fn get(&self, way: usize) -> &Way {
        &self.all[way].way
    }

    /// The number of this way, if it is one of them.
    pub(super) fn number(&self, way: &Way) -> Option<usize> {
        self.all.iter().position(|known| known.way == *way)
    }

    /// The number of the first way from this one on that comes before the one in use, and leads to no other hub. One by
    /// pings is not tried beside a link, as it would be slower than any.
    pub(super) fn better(&self, from: usize) -> Option<usize> {
        let hub = self.all[self.current].hub;
        let is_same = |way: usize| self.hub(way).is_none_or(|other| hub.is_none_or(|hub| hub == other));
        (from..self.current).find(|&way| !self.get(way).is_ping() && is_same(way))
    }

    // ---- hubs

    /// The hub that a way leads to, if that is known.
    pub(super) fn hub(&self, way: usize) -> Option<PublicKey> {
        self.all[way].hub
    }

    /// The number of the way in use, or to try now.
    pub(super) fn current_number(&self) -> usize {
        self.current
    }

    /// The hub at the end of this way has proved its key.
    pub(super) fn set_hub(&mut self, way: usize, hub: PublicKey) {
        self.all[way].hub = Some(hub);
    }

    /// The hubs of which it is known that a way leads there, each once.
    pub(super) fn hubs(&self) -> Vec<PublicKey> {
        let mut hubs: Vec<PublicKey> = Vec::new();
        for hub in self.all.iter().filter_map(|tried| tried.hub) {
            if !hubs.contains(&hub) {
                hubs.push(hub);
            }
        }
        hubs
    }

    /// Whether there is a choice between hubs.
    pub(super) fn are_several_hubs(&self) -> bool {
        let mut hubs = self.all.iter().filter_map(|tried| tried.hub);
        let first = hubs.next();
        hubs.any(|hub| Some(hub) != first)
    }

    /// Takes over the ways to hubs that were told, in the place of those that were told before; the one in use stays.
    /// Whether the numbers of ways are others now.
    pub(super) fn tell(&mut self, told: Vec<(Way, PublicKey)>) -> bool {
        for (way, hub) in &told {
            if let Some(known) = self.all.iter_mut().find(|known| known.way == *way) {
                known.hub = Some(*hub);
            }
        }
        let is_new = |all: &[Tried], way: &Way| all.iter().all(|known| known.way != *way);
        let is_over = |number: usize, known: &Tried| {
            known.is_told && number != self.current && told.iter().all(|(way, _)| *way != known.way)
        };
        let is_changed = told.iter().any(|(way, _)| is_new(&self.all, way))
            || self.all.iter().enumerate().any(|(number, known)| is_over(number, known));
        if !is_changed {
            return false;
        }
        let (current, preferred) = (self.current().clone(), self.get(self.preferred).clone());
        let over: Vec<bool> =
            self.all.iter().enumerate().map(|(number, known)| is_over(number, known)).collect();
        let mut over = over.into_iter();
        self.all.retain(|_| !over.next().unwrap_or(false));
        for (way, hub) in told {
            if is_new(&self.all, &way) {
                self.all.push(Tried::new(way, Some(hub), true));
            }
        }
        (self.current, self.preferred) =
            (self.number(&current).unwrap_or(0), self.number(&preferred).unwrap_or(0));
        true
    }

    /// The way to try next beside others: the first one that was not tried in this round to the hub that comes first by
    /// its rank, and to none that is `busy`. None by pings.
    pub(super) fn next_beside<R: Ord>(
        &self,
        busy: &[Option<PublicKey>],
        rank: impl Fn(Option<PublicKey>) -> R,
    ) -> Option<usize> {
        let is_open = |&way: &usize| {
            let Tried { way, is_tried, hub, .. } = &self.all[way];
            !is_tried && !way.is_ping() && !busy.contains(hub)
        };
        (0..self.all.len()).filter(is_open).min_by_key(|&way| (rank(self.hub(way)), way))
    }

    /// None counts as tried in this round.
    pub(super) fn forget_tries(&mut self) {
        self.all.iter_mut().for_each(|tried| tried.is_tried = false);
    }

    /// The ways to this hub.
    pub(super) fn to(&self, hub: PublicKey) -> impl Iterator<Item = &Way> {
        self.all.iter().filter(move |tried| tried.hub == Some(hub)).map(|tried| &tried.way)
    }

    /// The first way to this hub that can be tried beside others.
    pub(super) fn first_to(&self, hub: PublicKey) -> Option<usize> {
        self.all.iter().position(|tried| tried.hub == Some(hub) && !tried.way.is_ping())
    }

    /// The ways to a place that a person named lead to this hub.
    pub(super) fn set_hub_of(&mut self, place: &Target, hub: PublicKey) {
        let is_there = |tried: &&mut Tried| !tried.is_told && is_at(&tried.way, place);
        self.all.iter_mut().filter(is_there).for_each(|tried| tried.hub = Some(hub));
    }

    /// Whether a place that a person named is known to be another hub's.
    pub(super) fn is_of_another(&self, place: &Target, hub: PublicKey) -> bool {
        let mut there = self.all.iter().filter(|tried| !tried.is_told && is_at(&tried.way, place));
        there.any(|tried| tried.hub.is_some_and(|known| known != hub))
    }

    /// The ways to this hub are not to be tried in this round.
    pub(super) fn leave_out(&mut self, hub: Option<PublicKey>) {
        self.all.iter_mut().filter(|tried| tried.hub == hub).for_each(|tried| tried.is_tried = true);
    }

    /// The hub of the way that worked last on this network.
    pub(super) fn preferred_hub(&self) -> Option<PublicKey> {
        self.all[self.preferred].hub
    }

    /// All ways that can be tried beside others were tried in this round: whether one that cannot is left, which is the
    /// current one then.
    pub(super) fn take_left(&mut self) -> bool {
        let left = self.all.iter().position(|tried| !tried.is_tried);
        match left {
            Some(left) => self.current = left,
            None => {
                self.failed_rounds += 1;
                self.begin_round();
            }
        }
        left.is_some()
    }

    /// Whether a way to another hub than the current one was not tried in this round.
    pub(super) fn has_other_hub_left(&self) -> bool {
        let hub = self.all[self.current].hub;
        self.are_several_hubs() && self.all.iter().any(|tried| !tried.is_tried && tried.hub != hub)
    }

    // ---- rounds

    /// This one does not work, as was tried beside the link: whether that is news.
    pub(super) fn trial_failed(&mut self, way: usize, why: &str) -> bool {
        let tried = &mut self.all[way];
        let is_news = tried.answer.as_deref() != Some(why);
        (tried.answer, tried.is_tried) = (Some(why.to_owned()), true);
        is_news
    }

    /// This one is in use from now on.
    pub(super) fn switch_to(&mut self, way: usize) {
        self.current = way;
    }

    /// Whether there are several.
    pub(super) fn are_several(&self) -> bool {
        self.all.len() > 1
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    /// Each way, why it did not work the last time, and whether it is the current one.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Way, Option<&str>, bool)> {
        self.all
            .iter()
            .enumerate()
            .map(|(index, tried)| (&tried.way, tried.answer.as_deref(), index == self.current))
    }

    /// Whether an attempt is to be given up soon, as there are others.
    pub(super) fn is_hasty(&self) -> bool {
        self.are_several() && self.failed_rounds == 0
    }

    /// The way that worked on this network before, by its text: the next round begins with it.
    pub(super) fn prefer(&mut self, way: Option<&str>) {
        let known = way.and_then(|text| self.all.iter().position(|tried| tried.way.to_string() == text));
        self.preferred = known.unwrap_or(0);
        if self.all.iter().all(|tried| !tried.is_tried) && !self.is_used {
            self.current = self.preferred;
        }
    }

    /// Begins a round.
    pub(super) fn begin_round(&mut self) {
        self.forget_tries();
        self.current = self.preferred;
        self.is_used = false;
    }

    /// The current one is tried from now on.
    pub(super) fn begin(&mut self) -> &Way {
        self.is_used = true;
        self.current()
    }

    /// Begins as if none had been tried: the machine is in another network.
    pub(super) fn begin_anew(&mut self) {
        self.failed_rounds = 0;
        self.begin_round();
    }

    /// The current one works.
    pub(super) fn worked(&mut self) {
        self.all[self.current].answer = None;
        self.preferred = self.current;
        self.failed_rounds = 0;
    }

    /// The current one does not: whether that is news, and what follows.
    pub(super) fn failed(&mut self, why: &str) -> (bool, Next) {
        let tried = &mut self.all[self.current];
        let is_news = tried.answer.as_deref() != Some(why);
        tried.answer = Some(why.to_owned());
        tried.is_tried = true;
        match self.all.iter().position(|tried| !tried.is_tried) {
            Some(next) => {
                self.current = next;
                (is_news, Next::Another)
            }
            None => {
                self.failed_rounds += 1;
                self.begin_round();
                (is_news, Next::Pause)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ways(hubs: &[&str]) -> Vec<Way> {
        named(&hubs.iter().map(|hub| (hub.parse().unwrap(), None)).collect::<Vec<_>>())
    }

    fn texts(ways: &[Way]) -> Vec<String> {
        ways.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn auto_stands_for_the_ways_that_there_are_each_once() {
        assert_eq!(texts(&ways(&["auto://hub"])), ["hub:5678", "hub:443", "wss://hub:443", "icmp://hub"]);
        assert_eq!(
            texts(&ways(&["wss://hub/lan", "hub:443", "auto://hub:443"])),
            ["wss://hub:443/lan", "hub:443", "wss://hub:443", "icmp://hub"]
        );
    }

    #[test]
    fn a_round_tries_each_once_and_begins_with_the_one_that_worked() {
        let mut ways = Ways::new(ways(&["a", "b", "c"]));
        ways.begin_round();
        let mut order = Vec::new();
        for round in 0..3 {
            assert_eq!(ways.is_hasty(), round == 0);
            loop {
                order.push(ways.current().hub.host.clone());
                let (is_news, next) = ways.failed("no");
                assert_eq!(is_news, round == 0);
                if next == Next::Pause {
                    break;
                }
            }
        }
        assert_eq!(order.concat(), "abcabcabc");
        ways.prefer(Some("c:5678"));
        ways.begin_anew();
        assert!(ways.is_hasty());
        assert_eq!(ways.current().hub.host, "c");
        assert_eq!(ways.failed("no"), (false, Next::Another));
        assert_eq!(ways.current().hub.host, "a");
        assert_eq!(ways.failed("other"), (true, Next::Another));
        ways.worked();
        let found: Vec<_> =
            ways.iter().map(|(way, answer, is)| (way.hub.host.as_str(), answer, is)).collect();
        assert_eq!(found, [("a", Some("other"), false), ("b", None, true), ("c", Some("no"), false)]);
        ways.begin_round();
        assert_eq!(ways.current().hub.host, "b");
        ways.prefer(Some("unknown"));
        ways.begin_round();
        assert_eq!(ways.current().hub.host, "a");
    }

    #[test]
    fn a_better_way_is_one_before_that_in_use_and_none_by_pings() {
        let mut ways = Ways::new(ways(&["icmp://a", "b", "c", "d"]));
        assert_eq!(ways.better(0), None, "the first is in use");
        ways.switch_to(3);
        assert_eq!([0, 1, 2, 3, 4].map(|from| ways.better(from)), [Some(1), Some(1), Some(2), None, None]);
        assert!(ways.trial_failed(1, "no") && !ways.trial_failed(1, "no") && ways.trial_failed(1, "other"));
        ways.switch_to(1);
        assert_eq!((ways.better(0), ways.current().to_string()), (None, "b:5678".to_owned()));
    }

    #[test]
    fn what_is_told_is_taken_over_and_a_way_in_use_stays() {
        let key = |seed: u8| common::wire::key::PrivateKey::from_random([seed; 32]).public();
        let told = |hubs: &[(&str, u8)]| {
            hubs.iter().map(|(way, seed)| (ways(&[way]).remove(0), key(*seed))).collect::<Vec<_>>()
        };
        let shown = |all: &Ways| texts(&all.all.iter().map(|tried| tried.way.clone()).collect::<Vec<_>>());
        let mut all = Ways::new(ways(&["icmp://a", "a"]));
        all.switch_to(1);
        assert!(!all.are_several_hubs());
        assert!(all.tell(told(&[("a", 1), ("b", 2), ("c", 3)])));
        assert_eq!(shown(&all), ["icmp://a", "a:5678", "b:5678", "c:5678"]);
        assert!(!all.tell(told(&[("a", 1), ("b", 2), ("c", 3)])), "no news");
        assert!(all.are_several_hubs() && all.hubs() == [1, 2, 3].map(key) && all.better(0).is_none());
        // The ways of one hub after the other, those of one that is busy later, and the nearest hub first.
        let rank = |hub: Option<PublicKey>| u8::from(hub != Some(key(3)));
        assert_eq!(all.next_beside(&[], rank), Some(3));
        assert_eq!(all.next_beside(&[Some(key(3))], rank), Some(1));
        all.leave_out(Some(key(1)));
        assert!(!all.trial_failed(3, "no") || all.next_beside(&[], rank) == Some(2));
        assert!(all.trial_failed(2, "no") && all.next_beside(&[], rank).is_none());
        assert!(all.take_left() && all.current().is_ping(), "the way by pings is left");
        all.switch_to(3);
        assert!(all.tell(told(&[("a", 1)])));
        assert_eq!(
            (shown(&all), all.current().to_string()),
            (texts(&ways(&["icmp://a", "a", "c"])), "c:5678".to_owned())
        );
        assert_eq!(all.better(0), None, "a better way leads to the same hub");
    }

    #[test]
    fn one_way_has_all_the_time() {
        let mut ways = Ways::new(ways(&["a"]));
        assert!(!ways.is_hasty() && !ways.are_several());
        assert_eq!(ways.failed("no"), (true, Next::Pause));
        assert_eq!(ways.current().hub.host, "a");
    }
}
