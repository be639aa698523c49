//! What a session asks of the hub. Pure.

use common::wire::frame::{BadFrame, ControlFrame, Join};
use common::wire::key::PublicKey;
use common::wire::lane::{Binding, Proof};

/// What a session asks of the hub; packets it does not have to ask for.
#[derive(Debug)]
pub enum Asked {
    /// To join, with the key that it proved.
    Join(PublicKey, Result<Join, BadFrame>),
    /// To be a lane of the session of this key, by this proof.
    Attach(PublicKey, Proof, Binding),
    /// Whatever a control frame says.
    Control(ControlFrame),
}
