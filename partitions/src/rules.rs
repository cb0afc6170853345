//! Rules of this crate that a model leaves out, one at a time.

consensus::rules! {
    CommitsOwnEpochOnly: "records of former epochs are committed by counting copies",
    CommitsOnMinInSync: "a record is committed on fewer copies than min_in_sync",
    CommitsOnOpenSets: "the in-sync sets that the leader has proposed are not counted",
    UntrustedNotCounted: "a copy that may have lost its tail counts",
    ElectsByQuorum: "a leader starts with one answer too few",
    LargestLastWins: "a leader completes its log from the longest log, whatever its epochs",
    LeaderCompletesLog: "a leader starts with its own log",
    EpochOfMetadataOnly: "appends of former epochs are accepted",
    PredecessorMatches: "an append is accepted whatever precedes it",
    AckOnlyMatched: "a follower acknowledges records that it has not compared in this epoch",
    AdoptedBeforeAck: "a follower acknowledges in an epoch before its adoption is durable",
    UnsyncedBounded: "a follower acknowledges any number of messages that are not on the disk",
    SetProvenBeforeProposal: "an in-sync set is proposed that may lack committed records",
    SetNotBelowMin: "an in-sync set is proposed that is smaller than min_in_sync",
    TrustAfterCatchUp: "an untrusted copy is trusted with its leader's first answer",
    OffsetGapAfterRecovery: "offsets that were lost are given to other messages",
    RecoversWithAllAnswers: "a leader recovers while an in-sync copy has not answered",
}
