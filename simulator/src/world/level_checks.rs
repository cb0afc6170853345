//! What changes when all nodes know feature level 0.2, which the cluster had not reached
//! until then.
//!
//! Like the checks of sessions: the whole cluster is well, so every answer is known.

use adapters::metadata::{Command, FeatureLevel, MetadataError, Reply};
use consensus::ReplicaId;

use super::World;
use super::session_checks::{HOME, Session, is, node_info, stream};

/// All nodes that have registered.
const NODES: [ReplicaId; 3] = [HOME, ReplicaId(2), ReplicaId(3)];
/// Later than those of the checks before.
const INCARNATION: u64 = 3;

impl World {
    /// The level rises with the last node; then clients log in again and repeat.
    pub(super) fn check_levels(&mut self) -> Result<(), String> {
        let mut home = 0;
        for node in NODES {
            self.raise()?;
            if self.level() != Some(FeatureLevel::V0_1) {
                return Err(format!("the level rises before {node} knows it"));
            }
            let registration = self.register_version(node, INCARNATION, "0.2.0")?;
            home = if node == HOME { registration } else { home };
        }
        self.raise()?;
        if self.level() != Some(FeatureLevel::V0_2) {
            return Err("the level does not rise although all nodes know it".into());
        }
        let mut former = node_info(ReplicaId(2), INCARNATION + 1);
        former.version = "0.1.0".into();
        let refused = self.settle(&Command::RegisterNode(former))?;
        let expected = Reply::from(MetadataError::VersionTooLow);
        is("a node below the level", &refused, &expected)?;
        self.check_repetitions(home)
    }

    /// A client logs in again, while its session is open and after it has ended.
    fn check_repetitions(&mut self, registration: u64) -> Result<(), String> {
        let mut session = self.open_session(6, HOME, registration)?;
        for (way, text) in [(0, "reopened"), (1, "ended"), (2, "fenced")] {
            let request = 3 + way;
            let first = self.request(session, request, 7, stream(text)?)?;
            if !matches!(first, Reply::StreamCreated { .. }) {
                return Err(format!(
                    "a change of a client that logs in again: {first:?}"
                ));
            }
            let registration = self.end(session, way, registration)?;
            session = self.open_session(6, HOME, registration)?;
            let again = self.request(session, request, 7, stream(text)?)?;
            is("a repetition in a new session", &again, &first)?;
        }
        let other = self.request(session, 5, 8, stream("other-content")?)?;
        match other {
            Reply::StreamCreated { .. } => Ok(()),
            reply => Err(format!("another change in a new session: {reply:?}")),
        }
    }

    /// Ends a session in one of three ways; returns the registration of its node after that.
    fn end(&mut self, session: Session, way: u64, registration: u64) -> Result<u64, String> {
        match way {
            0 => Ok(registration),
            1 => {
                self.settle(&session.end())?;
                Ok(registration)
            }
            _ => self.register_version(HOME, INCARNATION + 1, "0.2.0"),
        }
    }

    fn raise(&mut self) -> Result<(), String> {
        self.settle(&Command::RaiseFeatureLevel(FeatureLevel::V0_2))?;
        Ok(())
    }

    fn level(&self) -> Option<FeatureLevel> {
        self.in_newest_state(|state| Some(state.feature_level()))
    }
}
