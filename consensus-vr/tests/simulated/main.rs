//! Groups of replicas in one thread: exhaustive models of small ones, and a million
//! view changes.

mod group;
mod model;
mod view_changes;
