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
    let placed = place(&bench.reader.read(), &BTreeMap::new(), 1, 1);
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
                partitions: Placement::single(&owners).unwrap(),
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

/// Nodes with these numbers of copies, and of partitions that they lead.
fn loads(bench: &Bench) -> Vec<(u64, u64)> {
    let state = bench.reader.read();
    state.nodes().map(|it| (it.partitions, it.leads)).collect()
}

impl Bench {
    fn create_placed(&mut self, text: &str, placement: Placement) -> Reply {
        self.request += 1;
        self.apply(&Command::Client(ClientRequest {
            client: CLIENT,
            session: self.session,
            request: self.request,
            checksum: 0,
            operation: ClientOperation::CreateTopic {
                stream: named("s"),
                name: name(text),
                options: Options::default(),
                partitions: placement,
            },
        }))
    }

    fn place(&mut self, text: &str, count: u32, copies: usize) {
        let placement = place(&self.reader.read(), &BTreeMap::new(), count, copies).unwrap();
        let created = self.create_placed(text, placement);
        assert!(matches!(created, Reply::TopicCreated(_)), "{created:?}");
    }
}

#[test]
fn copies_are_on_distinct_nodes_and_leaders_are_balanced() {
    for (nodes, copies) in [(3, 3), (5, 3), (4, 2), (7, 7), (3, 1)] {
        let mut bench = Bench::new();
        bench.start_all(nodes);
        bench.place("t", 7 * nodes as u32, copies);
        let expected = vec![(7 * copies as u64, 7); nodes as usize];
        assert_eq!(loads(&bench), expected, "{copies} copies on {nodes} nodes");
        let state = bench.reader.read();
        let (_, topic) = state.topic(&named("s"), &named("t")).unwrap();
        for partition in &topic.partitions {
            assert_eq!(partition.replicas.len(), copies);
            assert_eq!(partition.leader(), Some(partition.replicas.preferred()));
            assert!(partition.in_sync().eq(partition.replicas.iter()));
        }
        check_counts(&state);
    }
}

/// No other node gets all that a failed one led.
#[test]
fn a_failed_leader_is_replaced_by_all_others_alike() {
    let mut bench = Bench::new();
    bench.start_all(4);
    bench.place("t", 24, 4);
    let registration = bench.reader.read().node(ReplicaId(4)).unwrap().registration;
    bench.apply(&Command::FenceNode {
        node: ReplicaId(4),
        registration,
    });
    assert_eq!(loads(&bench), [(24, 8), (24, 8), (24, 8), (24, 0)]);
}

#[test]
fn nodes_that_are_down_get_copies_only_where_there_are_too_few_others() {
    let mut bench = Bench::new();
    bench.start_all(4);
    let registration = bench.reader.read().node(ReplicaId(3)).unwrap().registration;
    bench.apply(&Command::FenceNode {
        node: ReplicaId(3),
        registration,
    });
    bench.place("t", 6, 3);
    assert_eq!(loads(&bench)[2], (0, 0));
    bench.place("u", 6, 4);
    assert_eq!(loads(&bench)[2], (6, 0));
    let placed = place(&bench.reader.read(), &BTreeMap::new(), 1, 5);
    let too_few = PlacementError::TooFewNodes {
        copies: 5,
        nodes: 4,
    };
    assert_eq!(placed, Err(too_few));
}

/// Concurrent commands are placed one after the other.
#[test]
fn what_is_in_flight_counts() {
    let mut bench = Bench::new();
    bench.start_all(3);
    let busy = |copies, leads| (ReplicaId(1), Load { copies, leads });
    let first = |in_flight| {
        let placed = place(&bench.reader.read(), &in_flight, 1, 2).unwrap();
        placed.0[0].iter().map(|node| node.0).collect::<Vec<_>>()
    };
    assert_eq!(first(BTreeMap::new()), [1, 2]);
    assert_eq!(first([busy(1, 1)].into()), [2, 3]);
    assert_eq!(first([busy(0, 1)].into()), [2, 1]);
}

/// Between the decision and its turn in the log, a node may be fenced.
#[test]
fn new_partitions_are_led_by_a_live_node() {
    let mut bench = Bench::new();
    bench.start_all(3);
    let placement = place(&bench.reader.read(), &BTreeMap::new(), 3, 2).unwrap();
    for id in [2, 3] {
        let registration = bench
            .reader
            .read()
            .node(ReplicaId(id))
            .unwrap()
            .registration;
        bench.apply(&Command::FenceNode {
            node: ReplicaId(id),
            registration,
        });
    }
    bench.create_placed("t", placement);
    let leaders: Vec<_> = {
        let state = bench.reader.read();
        let (_, topic) = state.topic(&named("s"), &named("t")).unwrap();
        topic
            .partitions
            .iter()
            .map(|it| it.leader().map(|it| it.0))
            .collect()
    };
    assert_eq!(leaders, [Some(1), Some(1), None]);
    check_counts(&bench.reader.read());
}

/// The encoding of partitions with several copies, written down.
#[test]
fn several_copies_have_an_encoding_of_their_own() {
    let copies = Replicas::new(&[ReplicaId(3), ReplicaId(1)]).unwrap();
    let command = Command::Client(ClientRequest {
        client: 1,
        session: 2,
        request: 3,
        checksum: 4,
        operation: ClientOperation::CreatePartitions {
            stream: Identifier::Id(5),
            topic: Identifier::Id(6),
            partitions: Placement(vec![copies]),
        },
    });
    let bytes = command.encode();
    assert_eq!(
        bytes[42..],
        [14, 1, 5, 0, 0, 0, 1, 6, 0, 0, 0, 1, 0, 0, 0, 2, 2, 0]
    );
    assert_eq!(Command::decode(&bytes), Ok(command));
    // Where leaders do not change yet, version 0.1 may be among the nodes.
    let mut bench = Bench::new();
    bench.create_stream("s");
    let refused_copies = bench.create_placed("t", Placement(vec![copies]));
    assert_eq!(refused_copies, refused(3));
}
