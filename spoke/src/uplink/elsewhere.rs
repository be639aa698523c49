//! Which hub this spoke is at, where there are several: the first contact, a silent hub, one that wants its members gone,
//! and one that is nearer. Pure; what it decides by is in [`super::choice`].

use std::time::{Duration, Instant};

use common::node::way::Way;
use common::wire::frame::HubInfo;
use common::wire::key::PublicKey;
use common::wire::place::Place;
use common::wire::target::Target;

use super::choice::patience;
use super::linked::{Goal, Step, Trial, Trials};
use super::watching::{ASK_EVERY, LATE, Watching};
use super::{Effect, Notice, Phase, Uplink, advice};

/// How long after one hub the next one is tried, where there is no link.
const NEXT_AFTER: Duration = Duration::from_millis(50);
/// The same while the link is silent: mostly the first one answers.
const NEXT_SPARE_AFTER: Duration = Duration::from_millis(150);
/// For how long one that does not answer keeps others from being tried while the link is silent, and where there is none.
const UNANSWERED: Duration = Duration::from_millis(450);
const UNANSWERED_FIRST: Duration = Duration::from_secs(1);
/// How long packets wait at the hub that takes the place of a silent one: those who were at that one, too, arrive within
/// moments, and what arrives before them is lost.
const OTHERS_WITHIN: Duration = Duration::from_millis(100);
/// How soon all are tried again, while the link is silent.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

impl Uplink {
    // ---- which hubs there are

    /// The hub tells which hubs there are, itself among them.
    pub(super) fn handle_hubs(&mut self, hubs: Vec<HubInfo>, now: Instant) {
        let Phase::Linked(linked) = &self.phase else { return };
        let own = linked.tunnel.remote();
        let is_draining = hubs.iter().any(|hub| Some(hub.key) == own && hub.is_draining);
        let told: Vec<(Place, PublicKey)> =
            hubs.into_iter().filter_map(|hub| Some((hub.place?, hub.key))).collect();
        self.pin.set_told(told.iter().map(|&(_, key)| key).collect());
        self.take_told(&told);
        self.effects.push_back(Effect::RememberHubs(told));
        if let Some(own) = own {
            self.ways.set_hub(self.ways.current_number(), own);
        }
        let random = self.retry.random();
        self.trials.choice.set_leaving(is_draining, random, now);
        self.watch_link(now);
    }

    /// Takes over the ways to hubs that were told: by TCP, through the proxy of the first way; by pings where a person has
    /// named such a way, too, as the sockets for them are opened at the start.
    pub(super) fn take_told(&mut self, told: &[(Place, PublicKey)]) {
        let proxy = self.config.ways.first().and_then(|way| way.proxy.clone());
        let has_pings = self.config.ways.iter().any(Way::is_ping);
        let way = |place: &Place| {
            let direct = Way::from(Target::from(place.clone()));
            Way { proxy: proxy.clone().filter(|_| !direct.is_ping()), ..direct }
        };
        let told = told.iter().map(|(place, key)| (way(place), *key));
        let before: Vec<Option<Way>> = self.trials.slots.iter().map(|trial| self.way_of(trial)).collect();
        if self.ways.tell(told.filter(|(way, _)| has_pings || !way.is_ping()).collect()) {
            // What is tried is known by the number of its way.
            for (slot, way) in before.iter().enumerate() {
                let number = way.as_ref().and_then(|way| self.ways.number(way));
                match (&mut self.trials.slots[slot], number) {
                    (Some(trial), Some(number)) => trial.way = number,
                    (Some(_), None) => self.end_trial(slot),
                    (None, _) => {}
                }
            }
        }
        self.trials.choice.keep(&self.ways.hubs());
    }

    fn way_of(&self, trial: &Option<Trial>) -> Option<Way> {
        trial.as_ref().map(|trial| self.ways.get(trial.way).clone())
    }

    // ---- how closely the hub is watched

    /// Has the hub watched as closely as it is worth while: where there is another one to go to.
    pub(super) fn watch_link(&mut self, now: Instant) {
        let are_several = self.ways.are_several_hubs();
        let is_direct = self.ways.current().is_direct();
        let random = self.retry.random();
        let Phase::Linked(linked) = &mut self.phase else { return };
        if linked.joined_at.is_none() {
            return;
        }
        linked.watching = match (linked.watching, are_several) {
            (Watching::Begun | Watching::ByKernel(_), false) => {
                self.effects.push_back(Effect::AskKernel(false));
                Watching::Idle
            }
            (_, false) => Watching::Idle,
            (Watching::Idle, true) if is_direct => {
                self.effects.push_back(Effect::AskKernel(true));
                Watching::Begun
            }
            (Watching::Idle, true) => Watching::ByPings,
            (watching, true) => watching,
        };
        linked.tunnel.set_watch(linked.watching.pings());
        self.trials.choice.schedule(are_several, random, now);
    }

    /// The outcome of [`Effect::AskKernel`]: whether the kernel asks from now on, and says what it hears.
    pub fn handle_asked(&mut self, does_ask: bool, now: Instant) {
        let Phase::Linked(linked) = &mut self.phase else { return };
        if linked.watching == Watching::Begun {
            linked.watching =
                if does_ask { Watching::ByKernel(now + ASK_EVERY + LATE) } else { Watching::ByPings };
            linked.tunnel.set_watch(linked.watching.pings());
        }
    }

    /// Whether to look at the connection of the link now, by [`Uplink::handle_health`].
    pub fn wants_look(&self, now: Instant) -> bool {
        matches!(&self.phase, Phase::Linked(linked) if linked.watching.look_at().is_some_and(|at| at <= now))
    }

    /// The kernel has heard nothing for so long.
    pub(super) fn note_unheard(&mut self, unheard: Duration, now: Instant) {
        let Phase::Linked(linked) = &mut self.phase else { return };
        if let Some(since) = linked.watching.looked(unheard, linked.tunnel.round_trip(), now)
            && let Err(error) = linked.tunnel.doubt(since, now)
        {
            self.fail_link(error, now);
        }
    }

    // ---- time

    /// When there is something to do here.
    pub(super) fn elsewhere_deadline(&self) -> Option<Instant> {
        let Trials { next_at, held_until, .. } = self.trials;
        let mut times = [self.trials.tunnels_due(), next_at, held_until, None, None, None];
        if let Phase::Linked(linked) = &self.phase {
            times[5] = self.trials.better_at;
            if linked.joined_at.is_some() && self.ways.are_several_hubs() {
                let (doubt, lost) = patience(linked.tunnel.round_trip());
                let is_ready = self.ready_spare().is_some() && self.trials.find(Trial::has_joined).is_none();
                times[3] = match (self.trials.is_in_doubt, is_ready) {
                    (false, _) => linked.tunnel.silent_since().map(|since| since + doubt),
                    (true, true) => linked.tunnel.silent_since().map(|since| since + lost),
                    (true, false) => None,
                };
                let is_idle = self.trials.iter().next().is_none() && !self.trials.is_in_doubt;
                let choice =
                    self.trials.choice.leave_at().into_iter().chain(self.trials.choice.measure_at()).min();
                times[4] = choice.filter(|_| is_idle);
            }
        }
        times.into_iter().flatten().min()
    }

    pub(super) fn poll_elsewhere(&mut self, now: Instant) {
        for slot in 0..self.trials.slots.len() {
            if let Some(Trial { step: Step::Linked(linked), .. }) = &mut self.trials.slots[slot]
                && let Err(error) = linked.tunnel.handle_timeout(now)
            {
                self.fail_trial_link(slot, &error, now);
            }
        }
        match &self.phase {
            Phase::Linked(_) => self.poll_beside_link(now),
            Phase::Racing => self.poll_race(now),
            Phase::Paused(_) | Phase::Resolving | Phase::Dialling => {}
        }
    }

    fn poll_beside_link(&mut self, now: Instant) {
        if self.trials.held_until.take_if(|until| *until <= now).is_some() {
            self.hold_packets(false, now);
        }
        if self.trials.better_at.is_some_and(|at| at <= now) {
            self.try_better(0, now);
        }
        if !self.is_on_lan() || !self.ways.are_several_hubs() {
            return;
        }
        self.poll_silence(now);
        if self.trials.is_in_doubt || self.trials.iter().next().is_some() {
            return;
        }
        if self.trials.choice.leave_at().is_some_and(|at| at <= now) {
            self.leave(now);
        } else if self.trials.choice.measure_at().is_some_and(|at| at <= now) {
            self.measure_next(now);
        }
    }

    // ---- the first contact

    /// There is no link: tries the hubs, and joins the first that proves its key.
    pub(super) fn begin_race(&mut self, now: Instant) {
        self.phase = Phase::Racing;
        if self.trials.iter().next().is_none() {
            self.outer.hub_addresses.clear();
        }
        // A hub that was tried for another reason is there already.
        for trial in self.trials.slots.iter_mut().flatten() {
            trial.goal = Goal::First;
        }
        self.trials.next_at = Some(now);
        if let Some(slot) = self.trials.find(|trial| trial.proved().is_some()) {
            self.adopt(slot, now);
        }
    }

    fn poll_race(&mut self, now: Instant) {
        while self.trials.next_at.is_some_and(|at| at <= now) {
            let next = self.next_hub(None, now);
            let slot = next.and_then(|_| self.room_for_trial(UNANSWERED_FIRST, now));
            if let Some((way, slot)) = next.zip(slot) {
                self.trials.next_at = Some(now + NEXT_AFTER);
                self.begin_trial(slot, way, Goal::First, now);
            } else if next.is_none() {
                self.trials.next_at = None;
            }
        }
        if self.trials.next_at.is_none() && self.trials.iter().next().is_none() {
            self.end_race(now);
        }
    }

    /// None of them has proved its key.
    fn end_race(&mut self, now: Instant) {
        if self.ways.take_left() {
            self.phase = Phase::Resolving;
            return self.resolve();
        }
        let (pause, notice) = self.retry.failed(advice::no_way(self.ways.len()), now);
        self.effects.extend(notice.map(Effect::Log));
        self.phase = Phase::Paused(now + pause);
        self.set_routes();
    }

    /// A slot for the next one to try: where all are in use, that of one that has found nobody for so long, which is given
    /// up, or none, until then. Several hubs may be gone at once.
    fn room_for_trial(&mut self, unanswered: Duration, now: Instant) -> Option<usize> {
        self.trials.next_at = None;
        if let Some(slot) = self.trials.free() {
            return Some(slot);
        }
        let (slot, since) = self.trials.unanswered()?;
        if now < since + unanswered {
            self.trials.next_at = Some(since + unanswered);
            return None;
        }
        self.fail_trial(slot, "nobody has answered there yet, and others may", now);
        self.trials.free()
    }

    /// The way to the hub that is to be tried next, other than `but`.
    fn next_hub(&self, but: Option<PublicKey>, now: Instant) -> Option<usize> {
        let mut busy: Vec<Option<PublicKey>> =
            self.trials.iter().map(|(_, trial)| self.ways.hub(trial.way)).collect();
        busy.extend(but.map(Some));
        let preferred = self.ways.preferred_hub();
        self.ways.next_beside(&busy, |hub| self.trials.choice.rank(hub, preferred, now))
    }

    /// Makes what is tried in this slot the link, and asks to join.
    fn adopt(&mut self, slot: usize, now: Instant) {
        self.ask_to_join(slot, now);
        let Some(Trial { way, step: Step::Linked(linked), .. }) = self.trials.slots[slot].take() else {
            return;
        };
        self.effects.push_back(Effect::Switch(slot));
        self.end_trials(|_| true);
        self.ways.switch_to(way);
        self.begin_link(linked, now);
    }

    // ---- what is tried

    /// A read of the connection in this slot is over: its hub may have proved its key.
    pub(super) fn handle_proved(&mut self, slot: usize, now: Instant) {
        let Some(trial @ Trial { way, goal, step: Step::Linked(linked), .. }) = &self.trials.slots[slot]
        else {
            return;
        };
        let Some(key) = trial.proved() else { return };
        let (way, goal, time) = (*way, *goal, now.saturating_duration_since(linked.begun_at));
        self.ways.set_hub(way, key);
        self.trials.choice.note(key, time);
        match goal {
            Goal::First => self.adopt(slot, now),
            Goal::Move if linked_key(&self.phase) == Some(key) => {
                self.fail_trial(slot, "the same hub is there", now);
            }
            Goal::Move => self.ask_to_join(slot, now),
            Goal::Better if self.ways.hub(self.ways.current_number()).is_none_or(|own| own == key) => {
                self.ask_to_join(slot, now);
            }
            // It leads to another hub.
            Goal::Better => self.fail_trial(slot, "another hub of the LAN is there", now),
            Goal::Measure => {
                self.end_trial(slot);
                self.measured(now);
            }
            Goal::Spare => self.poll_silence(now),
            Goal::Lane => self.attach_lane(slot, now),
        }
    }

    /// What was tried by this way for this does not work.
    pub(super) fn handle_trial_failed(&mut self, way: usize, goal: Goal, now: Instant) {
        if self.trials.is_in_doubt || matches!(self.phase, Phase::Racing) {
            // There is room for the next one.
            self.trials.next_at = Some(now);
        }
        match goal {
            Goal::First | Goal::Spare | Goal::Lane => {}
            Goal::Move if self.trials.choice.leave_at().is_some() => self.leave_next(now),
            Goal::Move => {}
            Goal::Better => self.try_better(way + 1, now),
            Goal::Measure => self.measured(now),
        }
    }

    // ---- a silent hub

    /// Prepares another hub while nothing is heard of the one in use, and joins there once it is lost.
    fn poll_silence(&mut self, now: Instant) {
        let Phase::Linked(linked) = &self.phase else { return };
        let (doubt, lost) = patience(linked.tunnel.round_trip());
        let silent =
            linked.tunnel.silent_since().map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        let unanswered = linked.tunnel.round_trip().map_or(UNANSWERED, |time| UNANSWERED.max(time * 2));
        self.doubt(silent >= doubt, now);
        if !self.trials.is_in_doubt {
            return;
        }
        if self.trials.find(Trial::has_joined).is_some() {
            self.trials.next_at = None;
            return;
        }
        if silent >= lost
            && let Some(slot) = self.ready_spare()
        {
            self.note_leaving("nothing is heard from it", now);
            return self.ask_to_join(slot, now);
        }
        let own = linked_key(&self.phase);
        while self.trials.next_at.is_some_and(|at| at <= now) {
            let next = self.next_hub(own, now);
            self.trials.next_at = match next {
                Some(way) => match self.room_for_trial(unanswered, now) {
                    Some(slot) => {
                        self.begin_trial(slot, way, Goal::Spare, now);
                        Some(now + NEXT_SPARE_AFTER)
                    }
                    None => self.trials.next_at.filter(|&at| at > now),
                },
                // Each of them was tried.
                None if self.trials.iter().next().is_none() => {
                    self.begin_tries();
                    Some(now + AGAIN_AFTER)
                }
                None => None,
            };
        }
    }

    /// The hub is in doubt from now on, or has spoken: packets wait meanwhile, as they would be lost with the link.
    fn doubt(&mut self, is_in_doubt: bool, now: Instant) {
        if self.trials.is_in_doubt == is_in_doubt {
            return;
        }
        self.trials.is_in_doubt = is_in_doubt;
        self.hold_packets(is_in_doubt, now);
        if is_in_doubt {
            self.trials.held_until = None;
            self.end_trials(|trial| matches!(trial.goal, Goal::Better | Goal::Measure));
            self.begin_tries();
            self.trials.next_at = Some(now);
        } else {
            self.trials.next_at = None;
            self.end_trials(|trial| trial.goal == Goal::Spare && !trial.has_joined());
        }
    }

    fn hold_packets(&mut self, is_held: bool, now: Instant) {
        if let Phase::Linked(linked) = &mut self.phase {
            linked.tunnel.hold_packets(is_held, now, &mut self.buffers.pool);
        }
    }

    /// The link has taken the place of a silent one: waits for those who were at that hub, too.
    pub(super) fn await_others(&mut self, now: Instant) {
        self.trials.held_until = Some(now + OTHERS_WITHIN);
        self.hold_packets(true, now);
    }

    /// A read of the link is over: the hub may have spoken.
    pub(super) fn note_heard(&mut self, now: Instant) {
        if self.trials.is_in_doubt {
            self.poll_silence(now);
        }
    }

    /// One that can be joined at once.
    fn ready_spare(&self) -> Option<usize> {
        let can_join =
            |trial: &Trial| matches!(trial.goal, Goal::Spare | Goal::Move) && trial.proved().is_some();
        self.trials.find(can_join)
    }

    /// Each way to another hub may be tried, once.
    fn begin_tries(&mut self) {
        self.ways.forget_tries();
        self.ways.leave_out(linked_key(&self.phase));
    }

    // ---- leaving

    /// The hub wants its members gone: the new one first, then the old.
    fn leave(&mut self, now: Instant) {
        self.begin_tries();
        if self.trials.choice.tries_to_leave() {
            self.note_leaving("it is draining", now);
        } else {
            self.avoid_hub(now);
        }
        self.leave_next(now);
    }

    fn leave_next(&mut self, now: Instant) {
        let next = self.next_hub(linked_key(&self.phase), now);
        // Two hubs that both want their members gone do not send them to and fro.
        let next = next.filter(|&way| !self.trials.choice.is_avoided(self.ways.hub(way), now));
        match next.zip(self.trials.free()) {
            Some((way, slot)) => self.begin_trial(slot, way, Goal::Move, now),
            None => self.trials.choice.leave_later(now),
        }
    }

    /// This spoke goes to another hub than the one in use, which comes last for a while.
    fn note_leaving(&mut self, why: &'static str, now: Instant) {
        self.avoid_hub(now);
        let hub = self.ways.current().hub.to_string();
        self.effects.push_back(Effect::Log(Notice::Leaving(hub, why)));
    }

    /// The hub in use comes last for a while.
    fn avoid_hub(&mut self, now: Instant) {
        if let Some(own) = linked_key(&self.phase) {
            self.trials.choice.avoid(own, now);
        }
    }

    /// The link is lost: another hub is tried at once, where there is one.
    pub(super) fn fail_over(&mut self, why: String, now: Instant) {
        let was_on_lan = self.is_on_lan();
        if let Some(own) = linked_key(&self.phase).filter(|_| was_on_lan) {
            self.trials.choice.avoid(own, now);
        }
        self.try_again(why, now);
        if was_on_lan {
            self.race_at_once(now);
        }
    }

    /// The hub has ended the link so that this spoke joins again: it is tried first, and others once it does not answer.
    pub(super) fn join_again(&mut self, why: String, now: Instant) {
        let is_leaving = self.trials.choice.leave_at().is_some();
        if is_leaving || !self.is_on_lan() {
            return self.fail_over(why, now);
        }
        self.try_again(why, now);
        if self.race_at_once(now) {
            self.trials.next_at = Some(now + UNANSWERED_FIRST);
        }
    }

    /// Tries the hubs without a pause, where there are several and this spoke is at none; whether it does.
    fn race_at_once(&mut self, now: Instant) -> bool {
        let begins = self.ways.are_several_hubs() && matches!(self.phase, Phase::Paused(_));
        if begins {
            self.begin_race(now);
            self.poll_elsewhere(now);
        }
        begins && matches!(self.phase, Phase::Racing)
    }

    // ---- measuring

    /// Has the next hub prove its key, to see how far it is.
    fn measure_next(&mut self, now: Instant) {
        let hubs = self.ways.hubs();
        while let Some(key) = self.trials.choice.next_to_measure(|| hubs.clone()) {
            if let Some((way, slot)) = self.ways.first_to(key).zip(self.trials.free()) {
                return self.begin_trial(slot, way, Goal::Measure, now);
            }
            // It can be reached by pings alone.
            if !self.trials.choice.is_measuring() {
                return self.measured(now);
            }
        }
        self.measured(now);
    }

    /// A hub is measured, or cannot be: goes to one that is much nearer, once all are.
    fn measured(&mut self, now: Instant) {
        if self.trials.choice.is_measuring() {
            return;
        }
        let nearer = linked_key(&self.phase).and_then(|own| self.trials.choice.judge(own, now));
        let random = self.retry.random();
        self.trials.choice.schedule(self.ways.are_several_hubs(), random, now);
        let way = nearer.and_then(|key| self.ways.first_to(key));
        if let Some((way, slot)) = way.zip(self.trials.free()) {
            self.note_leaving("that one is nearer", now);
            self.begin_trial(slot, way, Goal::Move, now);
        }
    }

    // ---- packets

    /// Keeps the packets that wait at the link for the next one, which leads to this hub.
    pub(super) fn keep_packets(&mut self, next: Option<PublicKey>, now: Instant) {
        let Phase::Linked(linked) = &mut self.phase else { return };
        if self.buffers.kept.is_some() {
            return;
        }
        let mut queue = linked.tunnel.take_queue();
        if linked.tunnel.remote() != next {
            queue.carry_over(now, &mut self.buffers.pool);
        }
        self.buffers.kept = Some(queue);
    }

    /// Hands the packets that waited to the link.
    pub(super) fn release_packets(&mut self, now: Instant) {
        let Phase::Linked(linked) = &mut self.phase else { return };
        if let Some(mut queue) = self.buffers.kept.take() {
            if self.ways.are_several_hubs() {
                queue.carry_over(now, &mut self.buffers.pool);
            }
            linked.tunnel.set_queue(queue);
        }
    }
}

/// The key of the hub that the link leads to.
fn linked_key(phase: &Phase) -> Option<PublicKey> {
    match phase {
        Phase::Linked(linked) => linked.tunnel.remote(),
        Phase::Paused(_) | Phase::Resolving | Phase::Dialling | Phase::Racing => None,
    }
}
