//! When tunnels ping, and what they conclude.

use super::*;
use crate::wire::tunnel::liveness::FIRST_PING;

fn ms(time: u64) -> Duration {
    Duration::from_millis(time)
}

impl Pair {
    /// The pings that this end has sent now; the other end answers them, which takes this long in all.
    fn pings(&mut self, is_hub: bool, round_trip: Duration) -> bool {
        let now = self.now;
        let (end, other) =
            if is_hub { (&mut self.hub, &mut self.spoke) } else { (&mut self.spoke, &mut self.hub) };
        end.tunnel.handle_timeout(now).unwrap();
        let ping = end.write(usize::MAX, now);
        other.read(&ping, usize::MAX, now + round_trip / 2).unwrap();
        let pong = other.write(usize::MAX, now + round_trip / 2);
        end.read(&pong, usize::MAX, now + round_trip).unwrap();
        !ping.is_empty()
    }

    /// When the spoke pings within this time, with a clock of 50 ms; it sends a packet at these times.
    fn spoke_pings(&mut self, time: Duration, packets: &[u64]) -> Vec<u64> {
        let (start, mut at) = (self.now, Vec::new());
        while self.now - start < time {
            let since = (self.now - start).as_millis() as u64;
            if packets.contains(&since) {
                self.spoke.enqueue(&[0; VNET_LEN + 20], self.now);
            }
            self.spoke.tunnel.handle_timeout(self.now).unwrap();
            if self.spoke.tunnel.waiting_control() > 0 {
                at.push(since);
            }
            self.exchange();
            self.now += ms(50);
        }
        at
    }
}

#[test]
fn each_end_pings_soon_after_the_welcome_and_knows_the_round_trip_and_then_the_spoke_does_every_4_s() {
    let mut pair = Pair::open();
    assert_eq!(pair.hub.tunnel.round_trip(), None);
    for end in [&pair.hub.tunnel, &pair.spoke.tunnel] {
        assert_eq!(end.deadline(), pair.now + FIRST_PING);
    }
    assert!(!pair.pings(true, ms(30)) && !pair.pings(false, ms(30)));
    pair.now += FIRST_PING;
    assert!(pair.pings(true, ms(30)));
    assert_eq!(pair.hub.tunnel.round_trip(), Some(ms(30)));
    let start = pair.now;
    assert!(pair.pings(false, ms(30)));
    for _ in 0..3 {
        let at = pair.spoke.tunnel.deadline();
        assert_eq!(at, pair.now + PING_EVERY);
        pair.now = at - ms(15);
        assert!(!pair.pings(true, ms(30)) && !pair.pings(false, ms(30)));
        pair.now = at;
        assert!(pair.pings(false, ms(30)) && !pair.pings(true, ms(30)), "the hub hears it");
        assert_eq!(pair.spoke.tunnel.round_trip(), Some(ms(30)));
    }
    // The hub pings one that it does not hear, and one to which it sends anything else.
    let heard_at = pair.hub.tunnel.heard_at();
    assert_eq!(pair.hub.tunnel.deadline(), heard_at + ms(5_000));
    pair.hub.enqueue(&[0; VNET_LEN + 20], pair.now);
    assert_eq!(pair.hub.tunnel.deadline(), start + PING_EVERY);
    assert!(pair.hub.got.is_empty() && pair.spoke.got.is_empty());
}

#[test]
fn a_hub_measures_the_round_trip_now_and_then_with_an_answer_that_goes_out_anyway() {
    let mut pair = Pair::open();
    pair.now += FIRST_PING;
    assert!(pair.pings(true, ms(30)) && pair.pings(false, ms(30)));
    let mut measured = Vec::new();
    for ping in 1..20 {
        pair.now += PING_EVERY;
        pair.hub.tunnel.handle_timeout(pair.now).unwrap();
        assert!(!pair.hub.tunnel.wants_write());
        pair.spoke.tunnel.handle_timeout(pair.now).unwrap();
        let asked = pair.spoke.write(usize::MAX, pair.now);
        pair.hub.read(&asked, usize::MAX, pair.now).unwrap();
        if pair.hub.tunnel.silent_since().is_some() {
            measured.push(ping);
        }
        pair.exchange();
    }
    assert_eq!(measured, [8, 16]);
}

#[test]
fn a_spoke_that_watches_pings_behind_what_it_sends_and_else_as_usual() {
    let mut pair = Pair::open();
    pair.spoke.tunnel.set_watch(Watch::Sending);
    assert_eq!(pair.spoke_pings(ms(9_000), &[]), [250, 4_250, 8_250]);
    // At once after a pause, and not twice for what goes along.
    assert_eq!(pair.spoke_pings(ms(5_000), &[1_000, 1_050, 3_000]), [1_000, 1_700, 3_000]);
    let always: Vec<u64> = (0..60).map(|at| at * 50).collect();
    assert_eq!(pair.spoke_pings(ms(3_000), &always), [0, 700, 1_400, 2_100, 2_800]);
    pair.spoke.tunnel.set_watch(Watch::Always);
    assert_eq!(pair.spoke_pings(ms(2_000), &[]), [500, 1_200, 1_900]);
    pair.spoke.tunnel.set_watch(Watch::Usual);
    assert_eq!(pair.spoke_pings(ms(4_000), &always), [3_900]);
}

#[test]
fn silence_counts_from_what_was_heard_while_it_is_watched_and_else_from_the_question() {
    let mut pair = Pair::open();
    pair.spoke.tunnel.set_watch(Watch::Sending);
    pair.spoke_pings(ms(3_000), &[]);
    assert_eq!(pair.spoke.tunnel.silent_since(), None, "nothing was asked");
    pair.spoke.enqueue(&[0; VNET_LEN + 20], pair.now);
    pair.spoke.tunnel.handle_timeout(pair.now).unwrap();
    assert_eq!(pair.spoke.tunnel.silent_since(), Some(pair.now));
    pair.exchange();
    assert_eq!(pair.spoke.tunnel.silent_since(), None);
    // One that sends all the time has it counted from the last answer.
    let always: Vec<u64> = (0..60).map(|at| at * 50).collect();
    pair.spoke_pings(ms(2_150), &always);
    let heard_at = pair.spoke.tunnel.heard_at();
    for _ in 0..30 {
        pair.now += ms(50);
        pair.spoke.enqueue(&[0; VNET_LEN + 20], pair.now);
        pair.spoke.tunnel.handle_timeout(pair.now).unwrap();
    }
    assert!(pair.now - heard_at > ms(1_400));
    assert_eq!(pair.spoke.tunnel.silent_since(), Some(heard_at));
}

#[test]
fn a_kernel_that_does_not_answer_is_a_reason_to_ask_and_counts_as_silence_since_then() {
    let mut pair = Pair::open();
    pair.spoke.tunnel.set_watch(Watch::Sending);
    pair.spoke_pings(ms(3_000), &[]);
    let since = pair.now - ms(700);
    pair.spoke.tunnel.doubt(since, pair.now).unwrap();
    assert_eq!(pair.spoke.tunnel.silent_since(), Some(since));
    let asked = pair.spoke.tunnel.waiting_control();
    pair.spoke.tunnel.doubt(since, pair.now).unwrap();
    assert_eq!(pair.spoke.tunnel.waiting_control(), asked, "an answer is due");
    // The usual ping in between does not begin anew.
    pair.now = pair.spoke.tunnel.deadline();
    pair.spoke.tunnel.handle_timeout(pair.now).unwrap();
    assert!(pair.spoke.tunnel.waiting_control() > asked);
    assert_eq!(pair.spoke.tunnel.silent_since(), Some(since));
    pair.exchange();
    assert_eq!(pair.spoke.tunnel.silent_since(), None);
}

#[test]
fn a_round_trip_that_is_longer_than_the_time_between_pings_is_measured() {
    let mut pair = Pair::open();
    pair.spoke.tunnel.set_watch(Watch::Always);
    let (far, step) = (ms(1_900), ms(50));
    let mut on_the_way: Vec<(Instant, Vec<u8>)> = Vec::new();
    for _ in 0..100 {
        pair.now += step;
        pair.spoke.tunnel.handle_timeout(pair.now).unwrap();
        let ping = pair.spoke.write(usize::MAX, pair.now);
        pair.hub.read(&ping, usize::MAX, pair.now).unwrap();
        on_the_way.push((pair.now + far, pair.hub.write(usize::MAX, pair.now)));
        for (_, pong) in on_the_way.extract_if(.., |(at, _)| *at <= pair.now) {
            pair.spoke.read(&pong, usize::MAX, pair.now).unwrap();
        }
    }
    assert_eq!(pair.spoke.tunnel.round_trip(), Some(far));
    assert!(pair.now - pair.spoke.tunnel.answered().unwrap() < far * 2 + ms(750));
}

#[test]
fn a_pong_that_answers_nothing_is_ignored() {
    let mut pair = Pair::open();
    pair.hub.tunnel.ping(pair.now).unwrap();
    let pong = pair.spoke.control_record(&ControlFrame::Pong(999));
    pair.hub.read(&pong, usize::MAX, pair.now).unwrap();
    assert_eq!(pair.hub.tunnel.round_trip(), None);
}

#[test]
fn an_end_that_was_not_heard_for_10_s_is_dead_and_never_has_a_deadline_in_the_past() {
    for mut end in [Pair::open().hub, Pair::open().spoke] {
        let start = end.tunnel.heard_at();
        let dead_at = start + DEAD_AFTER;
        loop {
            let now = end.tunnel.deadline();
            assert!(now <= dead_at);
            let outcome = end.tunnel.handle_timeout(now);
            assert_eq!(outcome, if now < dead_at { Ok(()) } else { Err(Error::Silent) });
            if outcome.is_err() {
                break;
            }
            assert!(end.tunnel.deadline() > now);
            end.write(usize::MAX, now);
        }
    }
}
