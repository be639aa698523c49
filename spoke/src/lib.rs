//! The spoke: the tunnel to the hub, kept up for ever.
