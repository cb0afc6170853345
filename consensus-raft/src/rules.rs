//! The rules of this crate that the simulator disables, one at a time.

consensus::rules! {
    ResponseAfterDurable: "votes and acknowledgements are sent before they are durable",
    ResponseAfterEarlierWrites: "a response waits for its own write only, not for earlier ones",
    VoteStored: "the vote is not written",
    TermStored: "term and vote are written only together with entries",
    PersistedWhenDurable: "raft-rs counts a write as durable when it starts",
    PersistedInOrder: "one durable write counts for all that are in flight",
    ReadIndexContextUnique: "a read-index request that arrives twice keeps one context (found by the simulator)",
    LostProposalsAnswered: "proposals of a lost leadership are never answered",
    ReadIndexTimesOut: "a read that is not confirmed in time is never answered",
    ReadIndexByQuorum: "reads trust the leader's clock instead of a quorum",
    VoteRecovered: "a restart forgets the vote",
    ReadOfThisIncarnation: "a response to an earlier incarnation confirms reads of this one",
    LeaderStepsDownWithoutQuorum: "a leader without a quorum keeps leading",
    InstalledSnapshotApplied: "an installed snapshot does not count as applied in raft-rs",
    LeaderStepsDownWithoutDisk: "a leader whose disk hangs keeps leading",
    SnapshotOfferExpires: "an offer of a snapshot that is not answered never expires",
    UncommittedBytesBounded: "proposals are accepted whatever is uncommitted",
    LeaderMessagesAfterTerm: "a single voter sends entries of a term that is not durable",
}
