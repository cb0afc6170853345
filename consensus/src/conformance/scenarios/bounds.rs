//! Bounds, garbage and contradictions.

use bytes::Bytes;

use crate::conformance::factory::{Cluster, Factory};
use crate::testing::{Answer, ELECTION_TICKS};
use crate::{Input, Limits, ProposeError, RecoverError, Recovered, ReplicaId};

pub fn overload_pushes_back_and_passes(factory: Factory) {
    let limits = Limits {
        uncommitted_bytes_max: 10_000,
        message_bytes_max: 1_000,
        entry_bytes_max: 1_000,
        ..Limits::default()
    };
    let mut cluster = Cluster::with_limits(factory, 3, 0, &limits);
    let leader = cluster.elect();
    cluster.converge();
    // No replica acknowledges: proposals pile up until they are rejected.
    for id in cluster.ids() {
        cluster.set_manual_sync(id, true);
    }
    let numbers: Vec<_> = (0..50)
        .map(|_| cluster.propose(leader, &[7; 1_000]))
        .collect();
    let pushed_back = |cluster: &Cluster, number: &u64| {
        cluster.answers.get(number) == Some(&Answer::Rejected(ProposeError::Overloaded))
    };
    let refused = numbers.iter().filter(|n| pushed_back(&cluster, n)).count();
    assert!((38..=41).contains(&refused), "{refused} of 50 pushed back");
    for id in cluster.ids() {
        cluster.set_manual_sync(id, false);
        while cluster.sync(id) {}
    }
    cluster.converge();
    let accepted = numbers.iter().filter(|n| !pushed_back(&cluster, n));
    for number in accepted {
        assert!(matches!(
            cluster.answers.get(number),
            Some(Answer::Committed(_))
        ));
    }
    cluster.commit(b"the pressure is gone");
}

pub fn a_payload_that_is_too_large_is_refused(factory: Factory) {
    let limits = Limits {
        entry_bytes_max: 100,
        ..Limits::default()
    };
    let mut cluster = Cluster::with_limits(factory, 3, 0, &limits);
    let leader = cluster.elect();
    let number = cluster.propose(leader, &[0; 101]);
    assert_eq!(
        cluster.answers.get(&number),
        Some(&Answer::Rejected(ProposeError::TooLarge {
            bytes: 101,
            max: 100
        }))
    );
    cluster.commit(&[0; 100]);
}

/// Random bytes, and real messages with a few bytes changed or cut.
pub fn garbage_from_peers_is_an_error_and_nothing_else(factory: Factory) {
    let mut cluster = Cluster::new(factory, 3, 0);
    cluster.network.record = Some(Vec::new());
    cluster.elect();
    for number in 0..10_u8 {
        cluster.commit(&[number]);
    }
    cluster.converge();
    let samples = cluster.network.record.take().unwrap_or_default();
    let mut random = 0x1234_5678_9abc_def1_u64;
    let mut draw = |below: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random % below as u64) as usize
    };
    let mut refused = 0;
    for round in 0..20_000 {
        let sample = &samples[draw(samples.len())];
        let mut bytes = sample.message.to_vec();
        if round % 4 == 0 {
            bytes = (0..draw(200)).map(|_| draw(256) as u8).collect();
        } else if round % 4 == 1 {
            bytes.truncate(draw(bytes.len() + 1));
        }
        // One flipped bit leaves many messages well-formed: they must not be
        // believed either, so they come from a replica outside the group.
        let from = match round % 4 {
            0 | 1 => sample.from,
            _ => ReplicaId(9),
        };
        if !bytes.is_empty() {
            let at = draw(bytes.len());
            bytes[at] ^= 1 << draw(8);
        }
        let input = Input::Receive {
            from,
            message: Bytes::from(bytes),
        };
        refused += usize::from(cluster.input(sample.to, input).is_err());
    }
    assert!(refused > 15_000, "only {refused} of 20,000 were refused");
    cluster.run(5 * ELECTION_TICKS);
    cluster.commit(b"still here");
    cluster.converge();
}

pub fn a_contradictory_configuration_is_refused(factory: Factory) {
    let cluster = Cluster::new(factory, 3, 0);
    let mut stranger = cluster.config(ReplicaId(1));
    stranger.id = ReplicaId(9);
    let mut hasty = cluster.config(ReplicaId(1));
    hasty.election_ticks = hasty.heartbeat_ticks;
    for config in [stranger, hasty] {
        assert!(matches!(
            factory(&config, Recovered::default()).err(),
            Some(RecoverError::Config(_))
        ));
    }
}
