//! Rules of this crate that the simulator leaves out, one at a time.

consensus::rules! {
    AnswerAfterSync: "votes and acknowledgements leave before they are durable",
    AnswerAfterEarlierWrites: "an answer waits for its own write only, not for those before it",
    VoteStored: "the vote is not stored",
    TermStored: "term and vote are stored only along with entries",
    PersistedWhenDurable: "raft-rs is told that a write is durable when it begins",
    PersistedInOrder: "one durable write stands for all that are under way",
    ReadNamedOnce: "a question that arrives twice has one name (found by the simulator)",
    LostProposalsAnswered: "proposals of a lost leadership are never answered",
    ReadIndexTimesOut: "a read that is not confirmed in time is never answered",
    ReadIndexByQuorum: "reads trust the leader's clock instead of a quorum",
    VoteRecovered: "a restart forgets whom it voted for",
    ReadOfThisIncarnation: "an answer to an earlier life of the replica confirms its reads",
    LeaderStepsDownWithoutQuorum: "a leader that hears nobody goes on",
    InstalledSnapshotApplied: "raft-rs is not told that a snapshot is applied",
}
