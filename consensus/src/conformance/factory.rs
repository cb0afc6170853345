//! What a scenario runs on.

use crate::Consensus;
use crate::testing::{Build, Group};

/// Builds a core of the backend under test.
pub type Factory = Build<Box<dyn Consensus>>;
/// The group that the scenarios run over.
pub(super) type Cluster = Group<Box<dyn Consensus>>;
