//! The list of members, read from the hub page by page for this spoke and for commands. Pure.
//!
//! The hub answers requests in order. This spoke itself has at most one request open: it reads the list from the first
//! page to the last, and then, each time that the hub announces a change, what has changed since; all of it again where
//! the hub does not tell that. Pages of two readings therefore never mix, and the number of requests is bounded whatever
//! the hub sends.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use common::node::request::{MAX_CONNECTIONS, Ticket};
use common::wire::frame::{PageKind, Peer};
use common::wire::name::Name;

use crate::control::{MAX_MEMBERS, PATIENCE};

/// A question to the hub: the page of members after this name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The last name of the page before.
    pub after: Option<Name>,
    /// Whether to hear of changes from now on.
    pub watch: bool,
    /// The state of the list since which the changes are enough.
    pub since: Option<u64>,
}

/// The recipient of a page, and the next step.
#[derive(Debug, PartialEq, Eq)]
pub enum PageOutcome {
    /// A person asked for it; whether it is the last one.
    Person(Ticket, Vec<Peer>, bool),
    /// It is a part of the list, and this is the next question.
    GoOn(Asked),
    /// The list is whole, here without those who have no address; where it has changed since the first page, the question
    /// for that.
    Whole(Vec<Peer>, Option<Asked>),
    /// The command has given up, or there was no request.
    Nobody,
}

/// How far this spoke has read the list for itself.
#[derive(Debug, Default)]
struct Reading {
    /// Those that came before, by name.
    peers: BTreeMap<Name, Peer>,
    /// The state that the list had at the first of these pages.
    state: Option<u64>,
    /// Whether the list has changed since the question was asked that is open.
    is_outdated: bool,
}

/// Questions to the hub that are not answered yet, and the list as this spoke has read it.
#[derive(Debug, Default)]
pub struct MemberList {
    questions: VecDeque<Question>,
    /// While a question of its own is open.
    reading: Option<Reading>,
    /// What was read last, if what changes in it can be asked for.
    whole: Option<Reading>,
}

#[derive(Debug)]
enum Question {
    /// This spoke's own.
    Own,
    /// A person's, who waits until then.
    Person(Ticket, Instant),
    /// A person's who gave up: the answer still comes.
    Abandoned,
}

impl MemberList {
    /// A person asks for the page after a name. An error says why not.
    ///
    /// # Errors
    /// Where too many wait already.
    pub fn ask_for(
        &mut self,
        ticket: Ticket,
        after: Option<Name>,
        now: Instant,
    ) -> Result<Asked, &'static str> {
        if self.questions.len() > MAX_CONNECTIONS {
            return Err("too many wait for the hub's answer");
        }
        self.questions.push_back(Question::Person(ticket, now + PATIENCE));
        Ok(Asked { after, watch: false, since: None })
    }

    /// The list is to be read anew: the question for it, unless one of its pages is awaited already.
    pub fn refresh(&mut self) -> Option<Asked> {
        if let Some(reading) = &mut self.reading {
            reading.is_outdated = true;
            return None;
        }
        self.reading = Some(Reading::default());
        self.questions.push_back(Question::Own);
        let since = self.whole.as_ref().and_then(|whole| whole.state);
        Some(Asked { after: None, watch: true, since })
    }

    /// Takes a page from the hub, with the state that its list is in.
    pub fn handle_page(&mut self, page: Vec<Peer>, kind: PageKind, state: Option<u64>) -> PageOutcome {
        match self.questions.pop_front() {
            Some(Question::Person(ticket, _)) => PageOutcome::Person(ticket, page, kind != PageKind::Part),
            Some(Question::Abandoned) | None => PageOutcome::Nobody,
            Some(Question::Own) => self.handle_own_page(page, kind, state),
        }
    }

    fn handle_own_page(&mut self, page: Vec<Peer>, kind: PageKind, state: Option<u64>) -> PageOutcome {
        let Some(mut reading) = self.reading.take() else { return PageOutcome::Nobody };
        let is_first = reading.peers.is_empty();
        if is_first {
            reading.state = state;
            // What has changed, of what was read before.
            let whole = self.whole.take().filter(|_| kind == PageKind::Changes);
            reading.peers = whole.map(|whole| whole.peers).unwrap_or_default();
        }
        // A page that leads no further would be asked for again and again, and a hub may have no end of others.
        let last = page.last().map(|peer| peer.name.clone());
        let is_last = kind != PageKind::Part || last.as_ref() <= reading.peers.keys().next_back();
        for peer in page {
            if kind == PageKind::Changes && peer.addresses.is_empty() {
                reading.peers.remove(&peer.name);
            } else {
                reading.peers.insert(peer.name.clone(), peer);
            }
        }
        let is_full = reading.peers.len() >= MAX_MEMBERS;
        if is_last || is_full {
            let peers = reading.peers.values().filter(|peer| !peer.addresses.is_empty()).cloned().collect();
            let is_outdated = reading.is_outdated;
            self.whole = Some(reading).filter(|whole| whole.state.is_some() && !is_full);
            return PageOutcome::Whole(peers, is_outdated.then(|| self.refresh()).flatten());
        }
        self.questions.push_back(Question::Own);
        self.reading = Some(reading);
        PageOutcome::GoOn(Asked { after: last, watch: true, since: None })
    }

    /// Someone who has waited for too long.
    pub fn poll_late(&mut self, now: Instant) -> Option<Ticket> {
        self.questions.iter_mut().find_map(|question| match *question {
            Question::Person(ticket, until) if until <= now => {
                *question = Question::Abandoned;
                Some(ticket)
            }
            Question::Own | Question::Person(..) | Question::Abandoned => None,
        })
    }

    /// When `poll_late` has someone.
    pub fn deadline(&self) -> Option<Instant> {
        let until = self.questions.iter().filter_map(|question| match question {
            Question::Person(_, until) => Some(*until),
            Question::Own | Question::Abandoned => None,
        });
        until.min()
    }

    /// The link is gone, and with it all answers: the persons who wait in vain.
    pub fn end_link(&mut self) -> impl Iterator<Item = Ticket> + use<> {
        (self.reading, self.whole) = (None, None);
        std::mem::take(&mut self.questions).into_iter().filter_map(|question| match question {
            Question::Person(ticket, _) => Some(ticket),
            Question::Own | Question::Abandoned => None,
        })
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "virtual time has to start somewhere")]
mod tests {
    use std::net::IpAddr;
    use std::time::Duration;

    use super::*;

    fn page(names: std::ops::Range<usize>) -> Vec<Peer> {
        let name = |at| format!("m{at:06}").parse().unwrap();
        let address = IpAddr::from([10, 0, 0, 9]);
        names.map(|at| Peer { name: name(at), addresses: vec![address], online: true }).collect()
    }

    fn asked(after: Option<Name>, since: Option<u64>) -> Asked {
        Asked { after, watch: true, since }
    }

    /// Takes the last page from a hub of an earlier version.
    fn last_page(list: &mut MemberList, names: std::ops::Range<usize>) -> PageOutcome {
        list.handle_page(page(names), PageKind::Last, None)
    }

    #[test]
    fn pages_go_to_those_who_asked_in_order_and_not_to_those_who_gave_up() {
        let start = Instant::now();
        let [a, b, c] = [1, 2, 3].map(Ticket::for_test);
        let mut list = MemberList::default();
        assert_eq!(last_page(&mut list, 0..1), PageOutcome::Nobody, "unasked");
        list.ask_for(a, None, start).unwrap();
        list.refresh().unwrap();
        list.ask_for(b, None, start + Duration::from_millis(1)).unwrap();
        list.ask_for(c, None, start + Duration::from_millis(500)).unwrap();
        assert_eq!(list.deadline(), Some(start + PATIENCE));
        assert_eq!(list.poll_late(start + PATIENCE), Some(a));
        assert_eq!(list.poll_late(start + PATIENCE), None);
        assert_eq!(list.deadline(), Some(start + PATIENCE + Duration::from_millis(1)));
        assert_eq!(last_page(&mut list, 0..1), PageOutcome::Nobody, "that was for the one who gave up");
        assert_eq!(last_page(&mut list, 0..2), PageOutcome::Whole(page(0..2), None));
        assert_eq!(last_page(&mut list, 0..3), PageOutcome::Person(b, page(0..3), true));
        list.refresh();
        assert_eq!(list.end_link().collect::<Vec<_>>(), [c]);
        assert_eq!(list.deadline(), None);
        assert_eq!(last_page(&mut list, 0..1), PageOutcome::Nobody);
    }

    #[test]
    fn those_who_wait_are_few() {
        let start = Instant::now();
        let mut list = MemberList::default();
        let asked = (0..1_000).filter(|&serial| list.ask_for(Ticket::for_test(serial), None, start).is_ok());
        assert_eq!(asked.count(), MAX_CONNECTIONS + 1);
    }

    #[test]
    fn a_list_that_changes_while_it_is_read_is_read_again_and_pages_do_not_mix() {
        let mut list = MemberList::default();
        assert_eq!(list.refresh(), Some(asked(None, None)));
        let after = page(3..4)[0].name.clone();
        let outcome = list.handle_page(page(0..4), PageKind::Part, None);
        assert_eq!(outcome, PageOutcome::GoOn(asked(Some(after), None)));
        assert_eq!(list.refresh(), None, "one question at a time");
        assert_eq!(list.refresh(), None);
        assert_eq!(last_page(&mut list, 4..6), PageOutcome::Whole(page(0..6), Some(asked(None, None))));
        assert_eq!(last_page(&mut list, 0..2), PageOutcome::Whole(page(0..2), None));
        assert_eq!(last_page(&mut list, 0..2), PageOutcome::Nobody);
    }

    #[test]
    fn of_a_list_that_was_read_only_what_changes_is_asked_for() {
        let mut list = MemberList::default();
        list.refresh();
        list.handle_page(page(0..4), PageKind::Part, Some(7));
        list.refresh();
        // The second page is of a later state, and the first one may lack what that one has.
        let again = Some(asked(None, Some(7)));
        assert_eq!(
            list.handle_page(page(4..6), PageKind::Last, Some(9)),
            PageOutcome::Whole(page(0..6), again)
        );
        let gone = Peer { addresses: vec![], ..page(1..2).remove(0) };
        let changes = [vec![gone], page(6..7)].concat();
        let whole = [page(0..1), page(2..7)].concat();
        let outcome = list.handle_page(changes, PageKind::Changes, Some(9));
        assert_eq!(outcome, PageOutcome::Whole(whole, None));
        assert_eq!(list.refresh(), Some(asked(None, Some(9))));
        // The hub does not know what has changed since, and tells all.
        let after = page(2..3)[0].name.clone();
        let outcome = list.handle_page(page(0..3), PageKind::Part, Some(12));
        assert_eq!(outcome, PageOutcome::GoOn(asked(Some(after), None)));
        let outcome = list.handle_page(page(3..4), PageKind::Last, Some(12));
        assert_eq!(outcome, PageOutcome::Whole(page(0..4), None));
        // States are those of one link.
        drop(list.end_link());
        assert_eq!(list.refresh(), Some(asked(None, None)));
    }

    #[test]
    fn a_hub_that_announces_changes_and_never_answers_is_asked_once() {
        let mut list = MemberList::default();
        assert_eq!((0..10_000).filter_map(|_| list.refresh()).count(), 1);
        assert_eq!(list.questions.len(), 1);
    }

    #[test]
    fn a_list_without_end_is_cut_off() {
        let mut list = MemberList::default();
        list.refresh();
        let outcome = list.handle_page(vec![], PageKind::Part, None);
        assert_eq!(outcome, PageOutcome::Whole(vec![], None), "an empty page is the last");
        let pages = |list: &mut MemberList, page_of: &dyn Fn(usize) -> Vec<Peer>| {
            list.refresh();
            let goes_on = |&at: &usize| {
                let outcome = list.handle_page(page_of(at), PageKind::Part, Some(1));
                matches!(outcome, PageOutcome::GoOn(_))
            };
            (0..).take_while(goes_on).count()
        };
        assert_eq!(pages(&mut list, &|_| page(0..400)), 1, "the same again");
        assert_eq!(pages(&mut list, &|at| page(at * 400..(at + 1) * 400)), MAX_MEMBERS.div_ceil(400) - 1);
        // And a hub that always tells of others has them all told again.
        let mut most = 0;
        for at in 0..MAX_MEMBERS / 400 + 10 {
            list.refresh();
            list.handle_page(page(at * 400..(at + 1) * 400), PageKind::Changes, Some(1));
            most = most.max(list.whole.as_ref().map_or(0, |whole| whole.peers.len()));
        }
        assert!(most > 400 && most < MAX_MEMBERS, "{most}");
    }
}
