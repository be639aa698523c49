//! Joins a LAN that has a hub already, before anything of this one is opened: asks that hub once, and waits for it. IO.
//!
//! What it learns is written, so that the next start needs no other hub.

use std::fmt;
use std::path::Path;
use std::time::{Duration, Instant};

use common::linux::sandbox::User;
use common::node::cli;
use common::node::event_loop::{EventLoop, Ready, Source};
use common::node::link::{Link, Outcome as Read};
use common::node::outbound::Outbound;
use common::node::state::{self, State};
use common::node::text::Printable;
use common::queue::Pool;
use common::wire::frame::{ControlFrame, Join, Term, Welcome};
use common::wire::inbox::Inbox;
use common::wire::key::{PrivateKey, PublicKey};
use common::wire::place::Place;
use common::wire::tunnel::{self, Event, Tunnel, outbox};
use ipnetwork::IpNetwork;
use log::{info, warn};

use super::dials::{Connected, Dials, Outcome};
use super::files::{self, LAN, LOCKED, MEMBERS};
use crate::lan::keeper::LanFile;
use crate::options::ToJoin;

/// How long the other hub may take, and its addresses together.
const PATIENCE: Duration = Duration::from_secs(10);

/// The LAN that a hub has joined: its prefixes, and its largest packet.
pub type Joined = (Vec<IpNetwork>, u32);

/// Why a hub has not joined.
#[derive(Clone, Debug)]
pub enum JoinError {
    /// A setting is missing or wrong: a sentence that says which.
    Setting(String),
    /// It did not come about: a sentence that says why.
    Failed(String),
}

impl fmt::Display for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (JoinError::Setting(text) | JoinError::Failed(text)) = self;
        f.write_str(text)
    }
}

impl std::error::Error for JoinError {}

impl From<String> for JoinError {
    fn from(text: String) -> JoinError {
        JoinError::Failed(text)
    }
}

/// Whether this state directory is that of a hub that shares its list of members with others, as far as it can be read.
pub fn shares_list(state: &Path) -> bool {
    let text = cli::read_text(&state::inner(state).join(LAN)).unwrap_or_default();
    LanFile::parse(&text).is_ok_and(|lan| lan.term.is_some())
}

/// Joins, unless that was done before and the list is there that it was told.
///
/// # Errors
/// A sentence that says what to do.
pub fn join(
    state: &Path,
    user: Option<&User>,
    to_join: &ToJoin,
    outbound: &Outbound,
) -> Result<Joined, JoinError> {
    let state = State::open_as(state, user.map(User::uid)).map_err(text)?;
    let known = files::read_lan(&state).map_err(text)?;
    let has_list = files::has_lines(&state.read(MEMBERS).map_err(text)?.unwrap_or_default());
    if let (false, Some(mtu)) = (known.subnets.is_empty(), known.mtu) {
        if has_list {
            return Ok((known.subnets, mtu));
        }
        warn!("the list of members is lost: this hub joins anew to be told it");
    } else if has_list {
        return Err(JoinError::Setting(format!(
            "{} has members of a LAN of its own: give the hub that joins another --state, or remove that file",
            state.path().join(MEMBERS).display()
        )));
    }
    let Some(hub_key) = to_join.hub_key else {
        let text =
            "say which key the other hub has: --hub-key, as in the line that `hub invite --hub` prints";
        return Err(JoinError::Setting(text.to_owned()));
    };
    let key = state.key().map_err(text)?;
    let welcome = ask(&key, hub_key, to_join, outbound)?;
    let lan = LanFile {
        // The first list that is told counts, whoever tells it.
        term: Some(Term { number: 0, keeper: hub_key }),
        is_stored: false,
        subnets: welcome.addresses.clone(),
        mtu: Some(welcome.mtu),
    };
    let line = format!("{hub_key} {} - hub={}\n", welcome.name, to_join.hub);
    // Nobody is let in before the list is told. Where not all of it gets written, the next start joins anew.
    state.write(LOCKED, files::LOCKED_TEXT).map_err(text)?;
    state.write(LAN, &lan.to_text()).map_err(text)?;
    state.write(MEMBERS, &line).map_err(text)?;
    state.give_to_owner().map_err(text)?;
    info!("joined the LAN of the hub {} at {}", welcome.name, to_join.hub);
    Ok((welcome.addresses, welcome.mtu))
}

fn text(error: impl ToString) -> String {
    error.to_string()
}

fn ask(
    key: &PrivateKey,
    hub_key: PublicKey,
    to_join: &ToJoin,
    outbound: &Outbound,
) -> Result<Welcome, JoinError> {
    let at = &to_join.hub;
    let mut call = Call::make(hub_key, at, outbound)?;
    let place = match (&to_join.host, call.connected.from) {
        (Some(place), _) => place.clone(),
        (None, Some(own)) => {
            let place = Place::tcp(own.to_string(), to_join.port);
            info!("others will reach this hub at {place}: say --host where that is wrong");
            place
        }
        (None, None) => {
            let text = "say where others reach this hub: --host HOST[:PORT]";
            return Err(JoinError::Setting(text.to_owned()));
        }
    };
    let invite = to_join.invite.clone().map(cli::invite).transpose()?;
    let join = Join {
        is_hub: true,
        invite: invite.map(|secret| secret.0),
        place: Some(place),
        ..Join::new(cli::host_name())
    };
    let (mut pool, mut inbox, mut outbox) = (Pool::new(0), Inbox::default(), outbox());
    let ephemeral = state::random().map_err(text)?;
    let mut tunnel = Tunnel::spoke(key, ephemeral, Some(hub_key), &join, &mut pool, call.now);
    loop {
        let (now, link) = (call.now, &mut call.connected.link);
        let refused = |error: tunnel::Error| refused(at, hub_key, &error);
        let flushed = link.flush(now, |write| tunnel.flush(&mut outbox, &mut pool, now, write));
        let failed = |error: std::io::Error| format!("lost the hub at {at}: {error}");
        flushed.map_err(failed)?.transpose().map_err(refused)?;
        let read = link.read(now, |read| {
            tunnel.fill(&mut inbox, &mut pool, now, read);
        });
        while let Some(event) = tunnel.open(&mut inbox, &mut pool, now).map_err(refused)? {
            match event {
                Event::Control(ControlFrame::Welcome(welcome)) if welcome.is_hub => return Ok(welcome),
                Event::Control(ControlFrame::Welcome(_)) => {
                    let text = "is of an earlier version, which makes no links to other hubs";
                    return Err(format!("the hub at {at} {text}").into());
                }
                Event::Control(ControlFrame::Refused { text, .. }) => {
                    let why = Printable(&text);
                    return Err(format!("the hub at {at} does not take this one in: {why}").into());
                }
                // Nothing else comes before.
                Event::Control(_) | Event::Packet(_) | Event::Join { .. } | Event::Attach { .. } => {}
            }
        }
        let has_more = read.map_err(failed)? == Read::More || tunnel.wants_write();
        call.wait(has_more)?;
    }
}

/// A connection to the hub.
struct Call<'a> {
    at: &'a Place,
    events: EventLoop,
    turn: Vec<Ready>,
    connected: Connected,
    now: Instant,
    give_up_at: Instant,
}

impl Call<'_> {
    /// Makes the connection, and waits until the tunnel's bytes may flow.
    fn make<'a>(hub: PublicKey, at: &'a Place, outbound: &Outbound) -> Result<Call<'a>, String> {
        let mut events = EventLoop::new(16).map_err(text)?;
        let mut dials = Dials::new(outbound.clone(), &[at], PATIENCE).map_err(text)?;
        dials.set_waker(events.waker().map_err(text)?);
        dials.register(&events).map_err(text)?;
        dials.announce(&[at]);
        let (mut turn, mut now) = (Vec::new(), Instant::now());
        dials.start(hub, at, now)?;
        loop {
            match dials.poll(events.registry(), now) {
                Some((_, _, Outcome::Connected(connected))) => {
                    return Ok(Call { at, events, turn, connected, now, give_up_at: now + PATIENCE });
                }
                Some((_, _, Outcome::Failed(why))) => return Err(why),
                None => {}
            }
            now = events.wait(dials.deadline(), &mut turn).map_err(text)?;
            for ready in &turn {
                if let Source::Dial(attempt) = ready.source {
                    dials.set_ready(attempt, ready);
                }
            }
        }
    }

    /// Waits for the hub, but not where there is more to do.
    fn wait(&mut self, has_more: bool) -> Result<(), String> {
        let until = match self.connected.link.deadline() {
            _ if has_more => self.now,
            Some(at) => at.min(self.give_up_at),
            None => self.give_up_at,
        };
        self.now = self.events.wait(Some(until), &mut self.turn).map_err(text)?;
        for ready in self.turn.iter().filter(|ready| matches!(ready.source, Source::Dial(_))) {
            if let Link::Tcp(stream) = &mut self.connected.link {
                stream.set_ready(ready.is_writable, ready.is_closed);
            }
        }
        if self.now >= self.give_up_at {
            return Err(format!("the hub at {} has not answered within {} s", self.at, PATIENCE.as_secs()));
        }
        Ok(())
    }
}

fn refused(at: &Place, key: PublicKey, error: &tunnel::Error) -> String {
    if let tunnel::Error::HubKey { seen } = error {
        return format!(
            "the hub at {at} has the key {seen}, not {key}: copy the line that `hub invite --hub` printed"
        );
    }
    format!("the hub at {at} does not take this one in: {error}")
}
