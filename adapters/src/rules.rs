//! Rules of this crate that the simulator leaves out, one at a time.

consensus::rules! {
    RequestExecutedOnce: "a repeated request is executed again",
    ReplyKept: "the session does not keep the reply of its last request",
    SessionsInSnapshot: "snapshots contain no sessions",
    LastRequestInSnapshot: "snapshots contain sessions without their last request number",
    EveryFieldInSnapshot: "snapshots lose a field, on all replicas alike",
    TimeMonotonic: "the state's time moves backwards when the leader's clock does",
    ReplacedSessionEnded: "requests of a replaced session are executed",
    RequestContentCompared: "a different request under the last number is answered with the last reply",
    OlderRequestRefused: "a request older than the last is answered with the last reply",
    OldestSessionEvicted: "a full table evicts the most recently used session",
    FencedNodeOpensNoSession: "a fenced node opens sessions",
    SessionsEndWithFence: "sessions survive the fencing of their node",
}
