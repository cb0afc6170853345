//! Where partitions are, and what becomes of them.

use super::*;

#[test]
fn partitions_are_balanced_over_live_nodes() {
    let mut bench = Bench::new();
    bench.create_stream("s");
    bench.create_topic(named("s"), "t", 9);
    let owned = |bench: &Bench| {
        let state = bench.reader.read();
        state
            .nodes()
            .map(|node| node.partitions)
            .collect::<Vec<_>>()
    };
    assert_eq!(owned(&bench), [3, 3, 3]);
    bench.apply(&Command::FenceNode {
        node: ReplicaId(2),
        registration: 2,
    });
    bench.create_topic(named("s"), "u", 4);
    assert_eq!(owned(&bench), [5, 3, 5]);
    bench.client(ClientOperation::DeleteTopic {
        stream: named("s"),
        topic: named("t"),
    });
    assert_eq!(owned(&bench), [2, 0, 2]);
    for node in [1, 3] {
        bench.apply(&Command::FenceNode {
            node: ReplicaId(node),
            registration: node,
        });
    }
    let placed = place(&bench.reader.read(), &BTreeMap::new(), 1);
    assert_eq!(placed, Err(PlacementError::NoLiveNode));
}

/// The partitions stay where they are, and what was in them is gone.
#[test]
fn a_purge_gives_partitions_another_generation_and_leaves_the_rest() {
    let mut bench = Bench::new();
    bench.create_stream("s");
    bench.create_topic(named("s"), "t", 2);
    bench.create_topic(named("s"), "u", 1);
    let keys = |bench: &Bench, topic: &str| -> Vec<PartitionKey> {
        let state = bench.reader.read();
        let (stream, topic) = state.topic(&named("s"), &named(topic)).unwrap();
        topic.keys(stream.id).collect()
    };
    let generations = |bench: &Bench| (keys(bench, "t"), keys(bench, "u"));
    let owners = |bench: &Bench| {
        let state = bench.reader.read();
        let nodes = state.nodes().map(|node| node.partitions);
        (nodes.collect::<Vec<_>>(), state.partitions_count())
    };
    let (before, (t, u)) = (owners(&bench), generations(&bench));
    let purged = bench.client(ClientOperation::PurgeTopic {
        stream: named("s"),
        topic: named("t"),
    });
    assert_eq!(purged, Reply::Done);
    let (t2, u2) = generations(&bench);
    assert_eq!((&u2, owners(&bench)), (&u, before.clone()));
    for (old, new) in t.iter().zip(&t2) {
        assert!(bench.reader.read().partition(old).is_none());
        assert!(new.generation > old.generation);
    }
    let removed = bench.events.lock().unwrap().pop();
    assert_eq!(removed, Some(MetadataEvent::PartitionsRemoved(t)));
    bench.client(ClientOperation::PurgeStream { stream: named("s") });
    let gone = [t2, u2].concat();
    let removed = bench.events.lock().unwrap().pop();
    assert_eq!(removed, Some(MetadataEvent::PartitionsRemoved(gone)));
    assert_eq!(owners(&bench), before);
    let missing = bench.client(ClientOperation::PurgeTopic {
        stream: named("s"),
        topic: named("none"),
    });
    assert_eq!(missing, refused(2010));
}

#[test]
fn unplaced_or_misplaced_partitions_are_refused() {
    let mut bench = Bench::new();
    bench.create_stream("s");
    for owners in [vec![], vec![ReplicaId(9)], vec![ReplicaId(1); 2]] {
        bench.request += 1;
        let count = owners.len() as u8;
        let command = Command::Client(ClientRequest {
            client: CLIENT,
            session: bench.session,
            request: bench.request,
            checksum: 0,
            operation: ClientOperation::CreateTopic {
                stream: named("s"),
                name: name("t"),
                options: Options::default(),
                partitions: Owners(owners),
            },
        });
        // One partition, whatever the number of owners: no type has room for that.
        let mut bytes = command.encode().to_vec();
        let count_at = bytes.len() - 8 * usize::from(count) - 8;
        assert_eq!(bytes[count_at], count);
        bytes[count_at] = 1;
        match (count, bench.try_bytes(&bytes)) {
            // A node that does not exist: the command is one.
            (1, replied) => assert_eq!(replied, Ok(refused(3))),
            (_, replied) => assert!(replied.is_err()),
        }
    }
    let state = bench.reader.read();
    assert_eq!(state.partitions_count(), 0);
}

#[test]
fn a_partition_of_another_generation_is_not_found() {
    let mut bench = Bench::new();
    let mut keys = Vec::new();
    for _ in 0..2 {
        bench.create_stream("s");
        bench.create_topic(named("s"), "t", 1);
        let key = {
            let state = bench.reader.read();
            let (stream, topic) = state.topic(&named("s"), &named("t")).unwrap();
            topic.key(stream.id, 0).unwrap()
        };
        keys.push(key);
        if keys.len() == 1 {
            bench.client(ClientOperation::DeleteStream { stream: named("s") });
        }
    }
    assert_ne!(keys[0], keys[1]);
    assert!(bench.reader.read().partition(&keys[0]).is_none());
    assert!(bench.reader.read().partition(&keys[1]).is_some());
    let events = bench.events.lock().unwrap();
    assert!(events.contains(&MetadataEvent::PartitionsRemoved(vec![keys[0]])));
}

/// The files of the first are removed while the second is in use.
#[test]
fn a_partition_that_is_created_again_in_the_same_entry_is_another() {
    let mut bench = Bench::new();
    bench.create_stream("s");
    let create = || ClientOperation::CreateTopic {
        stream: named("s"),
        name: name("t"),
        options: Options::default(),
        partitions: PartitionCount(1),
    };
    let key = |bench: &Bench| {
        let state = bench.reader.read();
        let (stream, topic) = state.topic(&named("s"), &named("t")).unwrap();
        topic.key(stream.id, 0).unwrap()
    };
    bench.client(create());
    let first = key(&bench);
    let deleted = bench.client_in_same_entry(ClientOperation::DeleteTopic {
        stream: named("s"),
        topic: named("t"),
    });
    assert_eq!(deleted, Reply::Done);
    bench.client_in_same_entry(create());
    let removed = MetadataEvent::PartitionsRemoved(vec![first]);
    assert_eq!(bench.events.lock().unwrap().last(), Some(&removed));
    assert_ne!(key(&bench), first);
    assert!(bench.reader.read().partition(&first).is_none());
}
