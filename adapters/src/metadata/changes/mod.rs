//! Changes of the state. Each checks everything before it changes anything, and
//! returns what the observer of the state machine has to know.

mod copies;
mod groups;
mod restore;
mod streams;
mod topics;
mod users;
