//! The command line of `spoke`.

fn main() {}
