//! The `iggy-cluster` command.
fn main() {}
