use proptest::prelude::*;

use super::*;

const GLOBAL: [(&str, u16); 10] = [
    ("manage_servers", global::MANAGE_SERVERS),
    ("read_servers", global::READ_SERVERS),
    ("manage_users", global::MANAGE_USERS),
    ("read_users", global::READ_USERS),
    ("manage_streams", global::MANAGE_STREAMS),
    ("read_streams", global::READ_STREAMS),
    ("manage_topics", global::MANAGE_TOPICS),
    ("read_topics", global::READ_TOPICS),
    ("poll_messages", global::POLL),
    ("send_messages", global::SEND),
];
const STREAM: [(&str, u8); 6] = [
    ("manage_stream", stream::MANAGE),
    ("read_stream", stream::READ),
    ("manage_topics", stream::MANAGE_TOPICS),
    ("read_topics", stream::READ_TOPICS),
    ("poll_messages", stream::POLL),
    ("send_messages", stream::SEND),
];
const TOPIC: [(&str, u8); 4] = [
    ("manage_topic", topic::MANAGE),
    ("read_topic", topic::READ),
    ("poll_messages", topic::POLL),
    ("send_messages", topic::SEND),
];

const S: u32 = 3;
const T: u32 = 5;

/// Which single grants allow each rule, as Iggy's server has it.
const TABLE: [(Rule, &str, &str, &str); 13] = [
    (Rule::Servers, "manage_servers read_servers", "", ""),
    (Rule::ReadUsers, "manage_users read_users", "", ""),
    (Rule::ManageUsers, "manage_users", "", ""),
    (Rule::ListStreams, "manage_streams read_streams", "", ""),
    (
        Rule::ReadStream(S),
        "manage_streams read_streams",
        "manage_stream read_stream",
        "",
    ),
    (Rule::CreateStream, "manage_streams", "", ""),
    (Rule::ManageStream(S), "manage_streams", "manage_stream", ""),
    (
        Rule::ListTopics(S),
        "manage_streams read_streams manage_topics read_topics",
        "manage_stream read_stream manage_topics read_topics",
        "",
    ),
    (
        Rule::ReadTopic(S, T),
        "manage_streams read_streams manage_topics read_topics",
        "manage_stream read_stream manage_topics read_topics",
        "manage_topic read_topic",
    ),
    (
        Rule::CreateTopic(S),
        "manage_streams manage_topics",
        "manage_stream manage_topics",
        "",
    ),
    (
        Rule::ManageTopic(S, T),
        "manage_streams manage_topics",
        "manage_stream manage_topics",
        "manage_topic",
    ),
    (
        Rule::Poll(S, T),
        "manage_streams read_streams manage_topics read_topics poll_messages",
        "manage_stream read_stream manage_topics read_topics poll_messages",
        "manage_topic read_topic poll_messages",
    ),
    (
        Rule::Send(S, T),
        "manage_streams manage_topics send_messages",
        "manage_stream manage_topics send_messages",
        "manage_topic send_messages",
    ),
];

fn on_server(bit: u16) -> Permissions {
    Permissions {
        global: bit,
        streams: BTreeMap::new(),
    }
}

fn on_stream(id: u32, bit: u8) -> Permissions {
    let grants = StreamPermissions {
        grants: bit,
        topics: BTreeMap::new(),
    };
    Permissions {
        global: 0,
        streams: BTreeMap::from([(id, grants)]),
    }
}

fn on_topic(stream: u32, id: u32, bit: u8) -> Permissions {
    let grants = StreamPermissions {
        grants: 0,
        topics: BTreeMap::from([(id, bit)]),
    };
    Permissions {
        global: 0,
        streams: BTreeMap::from([(stream, grants)]),
    }
}

#[test]
fn each_grant_allows_what_it_allows_on_iggys_server() {
    for (rule, server, stream, topic) in TABLE {
        let named = |names: &str, name| names.split(' ').any(|one| one == name);
        for (name, bit) in GLOBAL {
            let allowed = on_server(bit).allow(rule);
            assert_eq!(allowed, named(server, name), "{rule:?} {name}");
        }
        for (name, bit) in STREAM {
            let allowed = on_stream(S, bit).allow(rule);
            assert_eq!(
                allowed,
                named(stream, name),
                "{rule:?} of the stream {name}"
            );
            assert!(!on_stream(S + 1, bit).allow(rule), "another stream");
        }
        for (name, bit) in TOPIC {
            let allowed = on_topic(S, T, bit).allow(rule);
            assert_eq!(allowed, named(topic, name), "{rule:?} of the topic {name}");
            assert!(!on_topic(S, T + 1, bit).allow(rule), "another topic");
            assert!(!on_topic(S + 1, T, bit).allow(rule), "of another stream");
        }
        assert!(Permissions::all().allow(rule));
        assert!(!Permissions::default().allow(rule));
    }
}

fn permissions() -> impl Strategy<Value = Permissions> {
    let topics = prop::collection::btree_map(0..9u32, 0..=topic::ALL, 0..4);
    let streams =
        (0..=stream::ALL, topics).prop_map(|(grants, topics)| StreamPermissions { grants, topics });
    let streams = prop::collection::btree_map(0..9u32, streams, 0..4);
    (0..=global::ALL, streams).prop_map(|(global, streams)| Permissions { global, streams })
}

proptest! {
    /// Grants add up: together they allow what one of them allows.
    #[test]
    fn grants_are_alternatives(permissions in permissions()) {
        for (rule, ..) in TABLE {
            let mut alone = GLOBAL.iter().any(|(_, bit)| {
                permissions.global & bit != 0 && on_server(*bit).allow(rule)
            });
            for (id, stream) in &permissions.streams {
                alone |= on_stream(*id, stream.grants).allow(rule);
                alone |= stream.topics.iter().any(|(topic, bits)| on_topic(*id, *topic, *bits).allow(rule));
            }
            prop_assert_eq!(permissions.allow(rule), alone);
        }
    }

    #[test]
    fn what_is_written_is_read_again(permissions in permissions()) {
        let mut out = Vec::new();
        permissions.write(&mut out);
        let mut reader = Reader::new(&out);
        prop_assert_eq!(Permissions::read(&mut reader).unwrap(), permissions);
        reader.end().unwrap();
    }
}

#[test]
fn unknown_grants_are_refused() {
    for permissions in [
        on_server(1 << 10),
        on_stream(1, 1 << 6),
        on_topic(1, 1, 1 << 4),
    ] {
        let mut out = Vec::new();
        permissions.write(&mut out);
        assert!(Permissions::read(&mut Reader::new(&out)).is_err());
    }
}
