//! The article whose claims are judged.

/// Its title.
pub(crate) const TITLE: &str =
    "Viewstamped Replication Revisited: Determinism, Throughput, and Practical Distributed Systems";
/// What kind of text it is.
pub(crate) const ABOUT: &str = "an essay by a contributor to Apache Iggy, of 2025, that asks under which conditions Viewstamped Replication (VR) has material advantages over Paxos and Raft, and advises Iggy to start with Raft";
/// What it is not: the paper of a similar title.
pub(crate) const NOT: &str = "It is not the paper \"Viewstamped Replication Revisited\" by Liskov and Cowling, which it discusses";

/// A claim of the article. The numbers are this project's: the article has none.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cited {
    pub(crate) number: u8,
    /// What it is about, in a few words.
    pub(crate) subject: &'static str,
    /// As the article words it.
    pub(crate) quote: &'static str,
}

const fn cited(number: u8, subject: &'static str, quote: &'static str) -> Cited {
    Cited {
        number,
        subject,
        quote,
    }
}

/// Every claim, in the order of its number.
pub(crate) const CLAIMS: [Cited; 28] = [
    cited(
        1,
        "Throughput of ZooKeeper and etcd",
        "ZooKeeper: ~10K-40K writes/sec, etcd (Raft): ~10K-30K writes/sec",
    ),
    cited(
        2,
        "Throughput of VR beside them",
        "TigerBeetle (VR): ~1M+ TPS. The ~10-100x difference is real",
    ),
    cited(
        3,
        "VR and Raft, both without fsync",
        "VR might achieve 2-5x higher throughput than Raft in this scenario",
    ),
    cited(
        4,
        "From which load on VR pays",
        "Throughput requirement exceeds 100K consensus ops/sec under realistic load",
    ),
    cited(
        5,
        "Who leads after a failure",
        "Given the view number at the time of failure, you know exactly which broker became leader",
    ),
    cited(
        6,
        "Attempts to reproduce three leaders in order",
        "Expected attempts to reproduce: ~125. In VR: 100% deterministic, 1 attempt",
    ),
    cited(
        7,
        "Failover after a crash of the leader",
        "VR: Faster, deterministic. Raft: Slower but may select better-positioned leader",
    ),
    cited(
        8,
        "Network partitions",
        "Equivalent: both require majority quorum",
    ),
    cited(
        9,
        "A slow disk",
        "No impact if async checkpointing; Raft: directly impacts write latency if fsync enabled",
    ),
    cited(
        10,
        "Memory pressure",
        "VR disadvantage: requires sufficient RAM for working set",
    ),
    cited(
        11,
        "Clock skew",
        "Deterministic leader selection prevents split brain even with skew",
    ),
    cited(
        12,
        "Power loss of a whole data centre",
        "Total data loss if no checkpoints to durable storage",
    ),
    cited(
        13,
        "A configuration change during a partition",
        "Underspecified in VR; well-specified joint consensus in Raft",
    ),
    cited(
        14,
        "Corner cases of reconfiguration",
        "Overlapping configuration changes; removing a replica that's currently primary; ensuring quorum overlap during transition",
    ),
    cited(
        15,
        "State transfer by Merkle trees",
        "For small to medium state sizes (<10GB), simple snapshot transfers may actually be faster and simpler",
    ),
    cited(
        16,
        "Checkpoints",
        "This bounds log size and enables fast recovery without replaying the full history",
    ),
    cited(
        17,
        "The role of the disk",
        "Neither normal operation nor view changes require disk writes for correctness",
    ),
    cited(
        18,
        "Cost in a cloud",
        "VR isn't necessarily cheaper in cloud environments because you need larger instances",
    ),
    cited(
        19,
        "Several regions",
        "VR's determinism becomes a liability unless you build region-aware leader selection",
    ),
    cited(
        20,
        "Rebalance storms",
        "Rebalancing operations generate thousands of ZooKeeper writes per second",
    ),
    cited(
        21,
        "Less coordination instead of a faster one",
        "Should your coordination layer handle 100K+ ops/sec, or should you redesign to reduce coordination frequency?",
    ),
    cited(
        22,
        "Consumers during changes of leadership",
        "Consumers became stuck in an infinite rebalance loop",
    ),
    cited(
        23,
        "When to revisit the choice",
        "Profiling shows Raft consensus is a measurable bottleneck (>5% of latency)",
    ),
    cited(
        24,
        "Raft with batching and without fsync",
        "You'll get 70% of VR's throughput benefit with 10% of the implementation risk",
    ),
    cited(
        25,
        "One consensus group for everything",
        "A consensus bug or performance issue affects everything",
    ),
    cited(
        26,
        "What simulation does not validate",
        "Performance under realistic workloads, hardware failure modes, operational concerns, cross-version upgrade scenarios",
    ),
    cited(
        27,
        "The ecosystem of VR",
        "With VR, you're mostly on your own",
    ),
    cited(
        28,
        "Migrating later",
        "Migrating from Raft to VR is rarely worth the effort",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_in_order() {
        assert!(CLAIMS.iter().map(|claim| claim.number).eq(1..=28));
    }
}
