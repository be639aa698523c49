//! Joins a LAN that has a hub already, before anything of this one is opened: asks that hub once, and waits for it. IO.
//!
//! What it learns is written, so that the next start needs no other hub.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _};
use std::time::{Duration, Instant};

use common::linux::sandbox::User;
use common::node::cli;
use common::node::state::{self, State};
use common::node::text::Printable;
use common::queue::Pool;
use common::wire::frame::{ControlFrame, Join, Term, Welcome};
use common::wire::inbox::Inbox;
use common::wire::key::{PrivateKey, PublicKey};
use common::wire::place::Place;
use common::wire::tunnel::{self, Event, Tunnel, outbox};
use ipnetwork::IpNetwork;
use log::info;

use super::files::{self, LAN, LOCKED, MEMBERS};
use crate::lan::keeper::LanFile;
use crate::options::ToJoin;

/// How long the other hub, and each of its addresses, may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// The LAN that a hub has joined: its prefixes, and its largest packet.
pub type Joined = (Vec<IpNetwork>, u32);

/// Joins, unless that was done before.
///
/// # Errors
/// A sentence that says what to do.
pub fn join(state: &std::path::Path, user: Option<&User>, to_join: &ToJoin) -> Result<Joined, String> {
    let state = State::open_as(state, user.map(User::uid)).map_err(text)?;
    let known = files::read_lan(&state).map_err(text)?;
    if let (false, Some(mtu)) = (known.subnets.is_empty(), known.mtu) {
        return Ok((known.subnets, mtu));
    }
    let list = state.read(MEMBERS).map_err(text)?.unwrap_or_default();
    if list.lines().any(|line| !line.trim().is_empty() && !line.trim_start().starts_with('#')) {
        return Err(format!(
            "{} has members of a LAN of its own: give the hub that joins another --state, or remove that file",
            state.path().join(MEMBERS).display()
        ));
    }
    let Some(hub_key) = to_join.hub_key else {
        return Err(
            "say which key the other hub has: --hub-key, as in the line that `hub invite --hub` prints"
                .to_owned(),
        );
    };
    let key = state.key().map_err(text)?;
    let welcome = ask(&key, hub_key, to_join)?;
    let lan = LanFile {
        // The first list that is told counts, whoever tells it.
        term: Some(Term { number: 0, keeper: hub_key }),
        is_stored: false,
        subnets: welcome.addresses.clone(),
        mtu: Some(welcome.mtu),
    };
    let line = format!("{hub_key} {} - hub={}\n", welcome.name, to_join.hub);
    // Nobody is let in before the list is told.
    state.write(LOCKED, files::LOCKED_TEXT).map_err(text)?;
    state.write(MEMBERS, &line).map_err(text)?;
    state.write(LAN, &lan.to_text()).map_err(text)?;
    state.give_to_owner().map_err(text)?;
    info!("joined the LAN of the hub {} at {}", welcome.name, to_join.hub);
    Ok((welcome.addresses, welcome.mtu))
}

fn text(error: impl ToString) -> String {
    error.to_string()
}

fn ask(key: &PrivateKey, hub_key: PublicKey, to_join: &ToJoin) -> Result<Welcome, String> {
    let at = &to_join.hub;
    let failed = |error: io::Error| format!("cannot reach the hub at {at}: {error}");
    let mut stream = connect(at).map_err(failed)?;
    let place = match &to_join.host {
        Some(place) => place.clone(),
        None => {
            let own = stream.local_addr().map_err(failed)?.ip().to_canonical();
            let place = Place { host: own.to_string(), port: to_join.port };
            info!("others will reach this hub at {place}: say --host where that is wrong");
            place
        }
    };
    let invite = to_join.invite.clone().map(cli::invite).transpose()?;
    let join = Join {
        is_hub: true,
        invite: invite.map(|secret| secret.0),
        place: Some(place),
        ..Join::new(cli::host_name())
    };
    let start = Instant::now();
    let (mut pool, mut inbox, mut outbox) = (Pool::new(0), Inbox::default(), outbox());
    let mut tunnel =
        Tunnel::spoke(key, state::random().map_err(text)?, Some(hub_key), &join, &mut pool, start);
    loop {
        let now = Instant::now();
        if now > start + PATIENCE {
            return Err(format!("the hub at {at} has not answered within {} s", PATIENCE.as_secs()));
        }
        let mut unsent = Vec::new();
        let refused = |error: tunnel::Error| refused(at, hub_key, &error);
        tunnel
            .flush(&mut outbox, &mut pool, now, |bytes| {
                unsent.extend_from_slice(bytes);
                bytes.len()
            })
            .map_err(refused)?;
        stream.write_all(&unsent).map_err(failed)?;
        let mut read = Ok(0);
        tunnel.fill(&mut inbox, &mut pool, now, |space| {
            read = stream.read(space);
            *read.as_ref().unwrap_or(&0)
        });
        match read {
            Ok(0) => return Err(format!("the hub at {at} closed the connection")),
            Ok(_) => {}
            Err(error) => return Err(failed(error)),
        }
        while let Some(event) = tunnel.open(&mut inbox, &mut pool, now).map_err(refused)? {
            match event {
                Event::Control(ControlFrame::Welcome(welcome)) if welcome.is_hub => return Ok(welcome),
                Event::Control(ControlFrame::Welcome(_)) => {
                    return Err(format!(
                        "the hub at {at} is of an earlier version, which makes no links to other hubs"
                    ));
                }
                Event::Control(ControlFrame::Refused { text, .. }) => {
                    return Err(format!("the hub at {at} does not take this one in: {}", Printable(&text)));
                }
                // Nothing else comes before.
                Event::Control(_) | Event::Packet(_) | Event::Join { .. } | Event::Attach { .. } => {}
            }
        }
    }
}

fn connect(at: &Place) -> io::Result<TcpStream> {
    let addresses: Vec<SocketAddr> = (at.host.as_str(), at.port).to_socket_addrs()?.collect();
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for address in addresses {
        match TcpStream::connect_timeout(&address, PATIENCE) {
            Ok(stream) => {
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.set_write_timeout(Some(PATIENCE))?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn refused(at: &Place, key: PublicKey, error: &tunnel::Error) -> String {
    if let tunnel::Error::HubKey { seen } = error {
        return format!(
            "the hub at {at} has the key {seen}, not {key}: copy the line that `hub invite --hub` printed"
        );
    }
    format!("the hub at {at} does not take this one in: {error}")
}
