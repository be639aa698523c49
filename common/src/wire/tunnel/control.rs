//! The control frames that a tunnel takes, by its end and its state. Pure.

use std::time::Instant;

use super::settling::SETTLE;
use super::{Error, State, Tunnel};
use crate::wire::frame::{ControlFrame, LaneNote};
use crate::wire::noise::Role;

impl Tunnel {
    /// Handles pings and changes of state, and returns the other frames that are valid in this state.
    pub(super) fn handle_control(
        &mut self,
        control: ControlFrame,
        now: Instant,
    ) -> Result<Option<ControlFrame>, Error> {
        match (self.role, &control) {
            (_, ControlFrame::Ping(token)) => {
                if token & SETTLE == 0 {
                    self.rest();
                }
                self.control(&ControlFrame::Pong(*token))?;
                if self.is_kept_alive() && self.liveness.is_measure_due(now) {
                    self.ping(now)?;
                }
                Ok(None)
            }
            (_, ControlFrame::Pong(token)) if token & SETTLE != 0 => {
                self.settling.answer(*token);
                Ok(None)
            }
            (_, ControlFrame::Pong(token)) => {
                self.liveness.pong(*token, now);
                if let Some(shortest) = self.liveness.shortest() {
                    self.outbound.set_round_trip(shortest);
                }
                Ok(None)
            }
            (Role::Spoke, ControlFrame::Pending) if matches!(self.state, State::Joining) => {
                self.wait(now);
                Ok(Some(control))
            }
            (Role::Spoke, ControlFrame::Welcome(_)) if self.is_asking() => {
                self.open_up(now);
                Ok(Some(control))
            }
            (Role::Spoke, ControlFrame::Lane(LaneNote::Attached))
                if matches!(self.state, State::Attaching) =>
            {
                self.open_lane(now);
                Ok(Some(control))
            }
            (Role::Spoke, ControlFrame::Refused { .. })
                if self.is_asking() || matches!(self.state, State::Attaching) =>
            {
                self.state = State::Closing;
                Ok(Some(control))
            }
            (_, ControlFrame::Bye(_)) => {
                self.state = State::Closing;
                Ok(Some(control))
            }
            (
                Role::Spoke,
                ControlFrame::Routes { .. } | ControlFrame::Members { .. } | ControlFrame::MembersChanged,
            ) if self.is_on_lan() => Ok(Some(control)),
            (
                _,
                ControlFrame::Online(_)
                | ControlFrame::Offline(_)
                | ControlFrame::Revoked(_)
                | ControlFrame::Keeper { .. }
                | ControlFrame::Records { .. }
                | ControlFrame::Ask { .. }
                | ControlFrame::Answer { .. },
            ) if self.is_on_lan() && self.is_between_hubs => Ok(Some(control)),
            (Role::Spoke, ControlFrame::Hubs(_)) if self.is_on_lan() => Ok(Some(control)),
            (Role::Hub, ControlFrame::AskMembers { .. }) if self.is_on_lan() => Ok(Some(control)),
            (Role::Spoke, ControlFrame::Lane(LaneNote::Offered))
            | (_, ControlFrame::Lane(LaneNote::Closed))
                if self.is_on_lan() =>
            {
                Ok(Some(control))
            }
            // Of a later version.
            (_, ControlFrame::Lane(LaneNote::Other(_))) => Ok(None),
            _ => Err(Error::Frame),
        }
    }
}
