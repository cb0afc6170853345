//! Streams and topics.

use super::*;

#[test]
fn ids_are_the_lowest_free_and_names_are_unique() {
    let mut bench = Bench::new();
    let id = |reply| match reply {
        Reply::StreamCreated { id, .. } => id,
        other => panic!("{other:?}"),
    };
    for (expected, text) in [(0, "a"), (1, "b"), (2, "c")] {
        assert_eq!(id(bench.create_stream(text)), expected);
    }
    assert_eq!(bench.create_stream("b"), refused(1012));
    bench.client(ClientOperation::DeleteStream { stream: named("b") });
    assert_eq!(id(bench.create_stream("d")), 1);
    assert_eq!(id(bench.create_stream("b")), 3);
}

/// Operations that are refused where the stream "s" has the topics "t", of three
/// partitions, and "u"; each with its code.
fn refused_operations() -> Vec<(u32, ClientOperation<PartitionCount>)> {
    let (s, t, gone) = (named("s"), named("t"), named("gone"));
    let options = Options::default;
    vec![
        (
            1009,
            ClientOperation::DeleteStream {
                stream: Identifier::Id(9),
            },
        ),
        (
            1009,
            ClientOperation::DeleteStream {
                stream: gone.clone(),
            },
        ),
        (
            1009,
            ClientOperation::UpdateStream {
                stream: gone.clone(),
                name: name("x"),
                options: options(),
            },
        ),
        (
            1009,
            ClientOperation::CreateTopic {
                stream: gone.clone(),
                name: name("x"),
                options: options(),
                partitions: PartitionCount(1),
            },
        ),
        (
            2013,
            ClientOperation::CreateTopic {
                stream: s.clone(),
                name: name("t"),
                options: options(),
                partitions: PartitionCount(1),
            },
        ),
        (
            2010,
            ClientOperation::UpdateTopic {
                stream: s.clone(),
                topic: gone.clone(),
                name: name("x"),
                options: options(),
            },
        ),
        (
            2013,
            ClientOperation::UpdateTopic {
                stream: s.clone(),
                topic: t.clone(),
                name: name("u"),
                options: options(),
            },
        ),
        (
            2010,
            ClientOperation::DeleteTopic {
                stream: s.clone(),
                topic: gone.clone(),
            },
        ),
        (
            2010,
            ClientOperation::CreatePartitions {
                stream: s.clone(),
                topic: gone.clone(),
                partitions: PartitionCount(1),
            },
        ),
        (
            2019,
            ClientOperation::DeletePartitions {
                stream: s,
                topic: t.clone(),
                partitions: 4,
            },
        ),
        (
            1009,
            ClientOperation::DeletePartitions {
                stream: gone,
                topic: t,
                partitions: 1,
            },
        ),
    ]
}

#[test]
fn refusals_carry_the_codes_of_iggys_server() {
    let mut bench = Bench::new();
    bench.create_stream("s");
    bench.create_topic(named("s"), "t", 3);
    bench.create_topic(named("s"), "u", 1);
    let before = bench
        .reader
        .read()
        .streams()
        .map(|s| (**s).clone())
        .collect::<Vec<_>>();
    for (code, operation) in refused_operations() {
        let reply = bench.client(operation.clone());
        assert_eq!(reply, refused(code), "{operation:?}");
    }
    let after = bench
        .reader
        .read()
        .streams()
        .map(|s| (**s).clone())
        .collect::<Vec<_>>();
    assert_eq!(before, after, "a refused command changed something");
}

#[test]
fn a_rename_keeps_the_id_and_frees_the_name() {
    let mut bench = Bench::new();
    bench.create_stream("old");
    bench.create_topic(named("old"), "topic", 1);
    bench.client(ClientOperation::UpdateStream {
        stream: named("old"),
        name: name("new"),
        options: Options::default(),
    });
    let state = bench.reader.read();
    assert!(state.stream(&named("old")).is_none());
    assert_eq!(state.stream(&named("new")).unwrap().id, 0);
    assert!(state.topic(&named("new"), &named("topic")).is_ok());
}

#[test]
fn options_are_patched_never_replaced() {
    let option = |value: &[u8], explicit| OptionEntry {
        kind: 2,
        value: value.into(),
        explicit,
    };
    let mut bench = Bench::new();
    bench.create_stream("s");
    let mut options = Options::default();
    options.set("a", option(b"1", true));
    options.set("b", option(b"2", false));
    let created = bench.client(ClientOperation::CreateTopic {
        stream: named("s"),
        name: name("t"),
        options: options.clone(),
        partitions: PartitionCount(1),
    });
    assert!(
        matches!(created, Reply::TopicCreated(TopicInfo { options: kept, .. }) if kept == options)
    );
    let mut change = Options::default();
    change.set("b", option(b"3", true));
    bench.client(ClientOperation::UpdateTopic {
        stream: named("s"),
        topic: named("t"),
        name: name("t"),
        options: change,
    });
    let state = bench.reader.read();
    let (_, topic) = state.topic(&named("s"), &named("t")).unwrap();
    assert_eq!(topic.options.get("a"), Some(&option(b"1", true)));
    assert_eq!(topic.options.get("b"), Some(&option(b"3", true)));
}
