//! The hub: members, routing, and the one event loop that serves them.
