//! The list of members, read from the hub page by page for this spoke and for commands. Pure.
//!
//! The hub answers requests in order. This spoke itself has at most one request open: it reads the list from the first
//! page to the last, and once more if the hub announced a change meanwhile. Pages of two readings therefore never mix,
//! and the number of requests is bounded whatever the hub sends.

use std::collections::VecDeque;
use std::time::Instant;

use common::node::request::{MAX_CONNECTIONS, Ticket};
use common::wire::frame::Peer;
use common::wire::name::Name;

use crate::control::{MAX_MEMBERS, PATIENCE};

/// A question to the hub: the page of members after this name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The last name of the page before.
    pub after: Option<Name>,
    /// Whether to hear of changes from now on.
    pub watch: bool,
}

/// The recipient of a page, and the next step.
#[derive(Debug, PartialEq, Eq)]
pub enum PageOutcome {
    /// A person asked for it.
    Person(Ticket, Vec<Peer>),
    /// It is a part of the list, and this is the next question.
    GoOn(Asked),
    /// The list is whole; where it has changed since the first page, it is to be asked for again.
    Whole(Vec<Peer>, Option<Asked>),
    /// The command has given up, or there was no request.
    Nobody,
}

/// How far this spoke has read the list for itself.
#[derive(Debug, Default, PartialEq, Eq)]
enum Reading {
    /// It does not read.
    #[default]
    Idle,
    /// A question is open; these came before.
    Pages(Vec<Peer>),
    /// As above, and the list has changed since the first page was asked for.
    Outdated(Vec<Peer>),
}

/// Questions to the hub that are not answered yet.
#[derive(Debug, Default)]
pub struct MemberList {
    questions: VecDeque<Question>,
    reading: Reading,
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
        Ok(Asked { after, watch: false })
    }

    /// The list is to be read anew: the question for its first page, unless one of its pages is awaited already.
    pub fn refresh(&mut self) -> Option<Asked> {
        match std::mem::take(&mut self.reading) {
            Reading::Idle => Some(self.begin()),
            Reading::Pages(peers) | Reading::Outdated(peers) => {
                self.reading = Reading::Outdated(peers);
                None
            }
        }
    }

    fn begin(&mut self) -> Asked {
        self.reading = Reading::Pages(Vec::new());
        self.questions.push_back(Question::Own);
        Asked { after: None, watch: true }
    }

    /// Takes a page from the hub.
    pub fn handle_page(&mut self, page: Vec<Peer>, last: bool) -> PageOutcome {
        match self.questions.pop_front() {
            Some(Question::Person(ticket, _)) => PageOutcome::Person(ticket, page),
            Some(Question::Abandoned) | None => PageOutcome::Nobody,
            Some(Question::Own) => self.handle_own_page(page, last),
        }
    }

    fn handle_own_page(&mut self, mut page: Vec<Peer>, last: bool) -> PageOutcome {
        let (mut peers, is_outdated) = match std::mem::take(&mut self.reading) {
            Reading::Idle => return PageOutcome::Nobody,
            Reading::Pages(peers) => (peers, false),
            Reading::Outdated(peers) => (peers, true),
        };
        // A page without a member would be asked for again and again, and a hub may have no end of others.
        let is_last = last || page.is_empty() || peers.len() + page.len() >= MAX_MEMBERS;
        peers.append(&mut page);
        if is_last {
            let again = is_outdated.then(|| self.begin());
            return PageOutcome::Whole(peers, again);
        }
        let after = peers.last().map(|peer| peer.name.clone());
        self.questions.push_back(Question::Own);
        self.reading = if is_outdated { Reading::Outdated(peers) } else { Reading::Pages(peers) };
        PageOutcome::GoOn(Asked { after, watch: true })
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
        self.reading = Reading::Idle;
        std::mem::take(&mut self.questions).into_iter().filter_map(|question| match question {
            Question::Person(ticket, _) => Some(ticket),
            Question::Own | Question::Abandoned => None,
        })
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "virtual time has to start somewhere")]
mod tests {
    use std::time::Duration;

    use super::*;

    fn page(names: std::ops::Range<usize>) -> Vec<Peer> {
        let name = |at| format!("m{at:04}").parse().unwrap();
        names.map(|at| Peer { name: name(at), addresses: vec![], online: true }).collect()
    }

    #[test]
    fn pages_go_to_those_who_asked_in_order_and_not_to_those_who_gave_up() {
        let start = Instant::now();
        let [a, b, c] = [1, 2, 3].map(Ticket::for_test);
        let mut list = MemberList::default();
        assert_eq!(list.handle_page(page(0..1), true), PageOutcome::Nobody, "unasked");
        list.ask_for(a, None, start).unwrap();
        list.refresh().unwrap();
        list.ask_for(b, None, start + Duration::from_millis(1)).unwrap();
        list.ask_for(c, None, start + Duration::from_millis(500)).unwrap();
        assert_eq!(list.deadline(), Some(start + PATIENCE));
        assert_eq!(list.poll_late(start + PATIENCE), Some(a));
        assert_eq!(list.poll_late(start + PATIENCE), None);
        assert_eq!(list.deadline(), Some(start + PATIENCE + Duration::from_millis(1)));
        assert_eq!(
            list.handle_page(page(0..1), true),
            PageOutcome::Nobody,
            "that was for the one who gave up"
        );
        assert_eq!(list.handle_page(page(0..2), true), PageOutcome::Whole(page(0..2), None));
        assert_eq!(list.handle_page(page(0..3), true), PageOutcome::Person(b, page(0..3)));
        list.refresh();
        assert_eq!(list.end_link().collect::<Vec<_>>(), [c]);
        assert_eq!(list.deadline(), None);
        assert_eq!(list.handle_page(page(0..1), true), PageOutcome::Nobody);
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
        assert_eq!(list.refresh(), Some(Asked { after: None, watch: true }));
        let after = page(3..4)[0].name.clone();
        assert_eq!(
            list.handle_page(page(0..4), false),
            PageOutcome::GoOn(Asked { after: Some(after), watch: true })
        );
        assert_eq!(list.refresh(), None, "one question at a time");
        assert_eq!(list.refresh(), None);
        let again = Some(Asked { after: None, watch: true });
        assert_eq!(list.handle_page(page(4..6), true), PageOutcome::Whole(page(0..6), again));
        assert_eq!(list.handle_page(page(0..2), true), PageOutcome::Whole(page(0..2), None));
        assert_eq!(list.handle_page(page(0..2), true), PageOutcome::Nobody);
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
        assert_eq!(
            list.handle_page(vec![], false),
            PageOutcome::Whole(vec![], None),
            "an empty page is the last"
        );
        list.refresh();
        let pages =
            (0..).take_while(|_| matches!(list.handle_page(page(0..400), false), PageOutcome::GoOn(_)));
        assert_eq!(pages.count(), MAX_MEMBERS / 400 - 1);
    }
}
