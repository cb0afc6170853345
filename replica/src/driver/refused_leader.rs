//! Whether this replica refuses what its leader sends.
//!
//! A leader never sends what a replica refuses. Where one does, their logs contradict each
//! other, or they run versions that do not understand each other: the replica answers,
//! and does not follow.

use consensus::{RefusedMessage, ReplicaId, Tick};

/// A leader repeats what is not acknowledged with every heartbeat: after so long without a
/// refusal the replica follows it again.
const FORGET_TICKS: u64 = 500;

/// The newest message of a leader that was refused.
#[derive(Default)]
pub(super) struct RefusedLeader(Option<(Tick, RefusedMessage)>);

impl RefusedLeader {
    /// A message was refused.
    pub(super) fn refused(
        &mut self,
        message: &RefusedMessage,
        leader: Option<ReplicaId>,
        now: Tick,
    ) {
        if leader == Some(message.from) {
            self.0 = Some((now, message.clone()));
        }
    }

    /// The newest that was refused of this leader lately.
    pub(super) fn newest(&self, leader: Option<ReplicaId>, now: Tick) -> Option<RefusedMessage> {
        let (at, message) = self.0.as_ref()?;
        let lately = now.0 < at.0 + FORGET_TICKS && leader == Some(message.from);
        lately.then(|| message.clone())
    }
}

#[cfg(test)]
mod tests {
    use consensus::RefusalReason;

    use super::*;

    #[test]
    fn what_a_leader_sent_counts_as_long_as_it_leads_and_repeats_it() {
        let message = RefusedMessage {
            from: ReplicaId(2),
            kind: "AppendEntries",
            reason: RefusalReason::Impossible("it differs".into()),
        };
        let mut refused = RefusedLeader::default();
        let (leader, other) = (Some(ReplicaId(2)), Some(ReplicaId(3)));
        refused.refused(&message, other, Tick(5));
        assert_eq!(refused.newest(leader, Tick(5)), None, "it did not lead");
        refused.refused(&message, leader, Tick(10));
        let last = Tick(9 + FORGET_TICKS);
        assert_eq!(refused.newest(leader, last), Some(message));
        assert_eq!(refused.newest(other, last), None);
        assert_eq!(refused.newest(None, last), None);
        assert_eq!(refused.newest(leader, Tick(last.0 + 1)), None);
    }
}
