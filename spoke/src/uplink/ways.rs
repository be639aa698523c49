//! The ways to the hub: in which order they are tried, and what came of each. Pure.
//!
//! A round tries each way once, the one that worked on this network first. The starts of the first round are short, so
//! that a network that swallows packets costs seconds; later ones have all the time that a slow network needs.

use common::transport::proxy::ProxyUrl;

use super::target::{Scheme, Target};
use super::way::Way;

/// The port of HTTPS, which most networks let through.
const HTTPS_PORT: u16 = 443;

/// The ways to one hub.
#[derive(Debug)]
pub(super) struct Ways {
    /// One at least.
    all: Vec<Tried>,
    current: usize,
    /// The one that worked last on this network: it is tried first.
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
        let all = all.into_iter().map(|way| Tried { way, answer: None, is_tried: false }).collect();
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

    /// The number of the first way from this one on that comes before the one in use. One by pings is not tried beside a
    /// link, as two tunnels in pings would take each other's.
    pub(super) fn better(&self, from: usize) -> Option<usize> {
        (from..self.current).find(|&way| !self.get(way).is_ping())
    }

    /// This one does not work, as was tried beside the link: whether that is news.
    pub(super) fn trial_failed(&mut self, way: usize, why: &str) -> bool {
        let answer = &mut self.all[way].answer;
        let is_news = answer.as_deref() != Some(why);
        *answer = Some(why.to_owned());
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
        self.all.iter_mut().for_each(|tried| tried.is_tried = false);
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
    fn one_way_has_all_the_time() {
        let mut ways = Ways::new(ways(&["a"]));
        assert!(!ways.is_hasty() && !ways.are_several());
        assert_eq!(ways.failed("no"), (true, Next::Pause));
        assert_eq!(ways.current().hub.host, "a");
    }
}
