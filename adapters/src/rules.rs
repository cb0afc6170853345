//! Rules of this crate that the simulator leaves out, one at a time.

consensus::rules! {
    RequestExecutedOnce: "a request that is repeated is executed again",
    ReplyKept: "the reply of a request is not kept",
    SessionsInSnapshot: "snapshots are taken without the sessions",
    LastRequestInSnapshot: "snapshots hold sessions without the last request",
    EveryFieldInSnapshot: "snapshots leave out a field, on all replicas alike",
    TimeMonotonic: "the time of the state follows the leader's clock",
    ReplacedSessionEnded: "a session that was replaced is still served",
    RequestContentCompared: "other content under a number in use is answered with the former reply",
    OlderRequestRefused: "an older request is answered with the last reply",
    OldestSessionEvicted: "the session that was used last makes room",
    FencedNodeOpensNoSession: "a node that was fenced opens sessions",
    SessionsEndWithFence: "sessions stay when their node is fenced",
}
