//! The command line of `hub`.

fn main() {}
