//! What the log is applied to.

use bytes::Bytes;
use thiserror::Error;

use crate::Index;

/// Where in the log a command stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ApplyContext {
    /// Index of the entry that holds the command.
    pub index: Index,
    /// Position inside the entry's batch, counted from zero.
    pub position: u32,
    /// Microseconds since the Unix epoch, as the leader read them when it formed the
    /// batch, or less where its clock was far ahead of the log. Not monotonic.
    pub timestamp_micros: u64,
}

/// A deterministic state machine: equal commands in equal order give equal
/// states and equal replies on every replica.
pub trait StateMachine: Send {
    /// Applies one command and returns its reply. A command that cannot be carried out
    /// has an error as its reply, alike on all replicas.
    ///
    /// # Errors
    /// When this program does not know the command: a newer one wrote it. The replica
    /// stops before it, and continues with it under a program that knows it. To skip it
    /// would leave this replica with another state than those that know it. So that one
    /// caller cannot stop all replicas, submit only what the program itself encoded.
    fn apply(&mut self, context: ApplyContext, command: &[u8]) -> Result<Bytes, UnknownCommand>;

    /// The newest timestamp of the commands that are applied, those in a restored state
    /// included; 0 where there is none, or where the machine does not keep it. A leader
    /// compares its clock with it before it writes the first timestamp of its own.
    fn timestamp_micros(&self) -> u64 {
        0
    }

    /// A view of the state at this moment that can be encoded on another thread
    /// while further commands are applied. Cheap.
    fn freeze(&self) -> Box<dyn FrozenState>;

    /// Replaces the state by an encoded one.
    ///
    /// # Errors
    /// When the bytes are not a state of a version that is understood; the state
    /// is then unchanged.
    fn restore(&mut self, encoded: &[u8]) -> Result<(), RestoreError>;
}

/// An immutable state.
pub trait FrozenState: Send {
    /// The canonical encoding: equal states give equal bytes.
    fn encode(&self) -> Vec<u8>;
}

/// A command that this program does not know, and what of it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct UnknownCommand(pub String);

/// Why an encoded state was refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RestoreError {
    /// Written by a newer program.
    #[error("snapshot format {found} is newer than this program understands ({max}); upgrade it")]
    Version {
        /// The version found.
        found: u32,
        /// The newest that is understood.
        max: u32,
    },
    /// The bytes do not decode.
    #[error("snapshot does not decode: {0}")]
    Malformed(String),
}
