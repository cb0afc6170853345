use std::str::FromStr;

use bytes::{Bytes, BytesMut};
use iggy_binary_protocol::codes::SEND_MESSAGES_CODE;
use iggy_binary_protocol::consensus::Operation;
use iggy_binary_protocol::requests::messages::{RawMessage, SendMessagesEncoder};
use iggy_binary_protocol::requests::streams::CreateStreamRequest;
use iggy_binary_protocol::requests::topics::CreateTopicRequest;
use iggy_binary_protocol::requests::users::{LoginRegisterRequest, LoginRegisterWithPatRequest};
use iggy_binary_protocol::responses::streams::GetStreamResponse;
use iggy_binary_protocol::responses::system::ClusterMetadataResponse;
use iggy_binary_protocol::responses::topics::get_topic::GetTopicResponse;
use iggy_binary_protocol::version::ClientVersionInfo;
use iggy_binary_protocol::{
    COMMAND_TABLE, WireDecode, WireEncode, WireIdentifier, WireName, WireOptions, WirePartitioning,
};
use iggy_common::{
    ClusterMetadata, IggyExpiry, MaxTopicSize, StreamDetails, TopicCreateOptions, TopicDetails,
    TopicUpdateOptions,
};
use proptest::prelude::*;

use super::*;
use crate::error_code::{ErrorCode, code};
use crate::metadata::{ClientOperation, Identifier, Name, Options, TopicInfo};
use crate::wire::{Credentials, Partitioning, Request};
use crate::wire::{NodeView, TopicSettings};
use partitions::Durability;

/// A request as the client writes it.
fn frame(operation: Operation, code: u32, body: &[u8]) -> Vec<u8> {
    let mut out = vec![0; HEADER_BYTES];
    out[48..52].copy_from_slice(&((HEADER_BYTES + body.len()) as u32).to_le_bytes());
    out[60] = 5;
    out[128] = 7;
    out[176] = operation as u8;
    if operation != Operation::Register {
        out[168] = 3;
        out[184] = 9;
    }
    if operation == Operation::NonReplicated {
        out[196..200].copy_from_slice(&code.to_le_bytes());
    }
    out.extend_from_slice(body);
    out
}

fn number(code: u32) -> ErrorCode {
    ErrorCode::from_number(code)
}

fn parse(frame: &[u8]) -> Result<RequestHeader, FrameError> {
    let header = frame[..HEADER_BYTES].try_into().unwrap();
    RequestHeader::parse(header, 1 << 20)
}

fn decoded(operation: Operation, code: u32, body: &[u8]) -> Result<Request, ErrorCode> {
    let frame = frame(operation, code, body);
    let header = parse(&frame).unwrap();
    decode(&header, &Bytes::copy_from_slice(body))
}

#[test]
fn a_header_names_its_client_and_its_operation() {
    let header = parse(&frame(Operation::CreateStream, 0, b"body")).unwrap();
    let expected = RequestHeader {
        body_bytes: 4,
        client: 7,
        checksum: 0,
        request: 3,
        operation: Operation::CreateStream,
        session: 9,
        code: 202,
    };
    assert_eq!(header, expected);
}

#[test]
fn headers_that_contradict_themselves_are_refused() {
    let good = frame(Operation::CreateStream, 0, b"");
    let with = |at: usize, byte: u8| {
        let mut frame = good.clone();
        frame[at] = byte;
        parse(&frame)
    };
    assert_eq!(with(60, 8), Err(FrameError::NotARequest));
    assert_eq!(with(49, 0), Err(FrameError::NotARequest));
    for (what, at) in [("client 0", 128), ("request 0", 168), ("session 0", 184)] {
        assert!(
            matches!(with(at, 0), Err(FrameError::Invalid { .. })),
            "{what}"
        );
    }
    for operation in [0, 64, 68, 250] {
        assert!(
            matches!(with(176, operation), Err(FrameError::Invalid { .. })),
            "{operation}"
        );
    }
}

#[test]
fn a_frame_that_is_too_large_can_be_answered() {
    for (operation, code, answer) in [
        (
            Operation::NonReplicated,
            SEND_MESSAGES_CODE,
            "too_big_message_payload",
        ),
        (Operation::CreateStream, 0, "invalid_size_bytes"),
    ] {
        let mut frame = frame(operation, code, b"");
        frame[48..52].copy_from_slice(&((1_u32 << 20) + 1).to_le_bytes());
        let Err(FrameError::TooLarge { header, code, max }) = parse(&frame) else {
            panic!("accepted");
        };
        assert!(code.to_string().contains(answer), "{code}");
        assert_eq!((header.request, max), (3, 1 << 20));
        assert_eq!(header.body_bytes + HEADER_BYTES, max + 1);
    }
}

#[test]
fn a_body_that_was_changed_on_its_way_is_noticed() {
    let mut header = parse(&frame(Operation::CreateStream, 0, b"body")).unwrap();
    assert!(body_matches(&header, b"anything"), "no checksum was given");
    header.checksum = u128::from(iggy_common::calculate_checksum(b"body"));
    assert!(body_matches(&header, b"body"));
    assert!(!body_matches(&header, b"bode"));
}

/// Every command of the protocol has an outcome, whatever its body.
#[test]
fn every_command_is_served_or_refused_by_code() {
    for command in COMMAND_TABLE {
        let operation = command.operation.unwrap_or(Operation::NonReplicated);
        for body in [&b""[..], &[0xff; 40], &[0; 40]] {
            match decoded(operation, command.code, body) {
                Ok(_) => {}
                Err(code) => assert!(
                    [
                        code::INVALID_COMMAND,
                        code::FEATURE_UNAVAILABLE,
                        number(2015)
                    ]
                    .contains(&code),
                    "{}: {code}",
                    command.name
                ),
            }
        }
    }
}

/// The codes of Iggy's server: 5 for replicated commands in a frame that is not replicated,
/// and for the flush that it does not have either; 3 for what no version of it knows.
#[test]
fn commands_that_are_not_served_are_refused_as_on_the_server() {
    let read = |code| decoded(Operation::NonReplicated, code, b"").err();
    let replicated = COMMAND_TABLE
        .iter()
        .filter(|command| command.is_replicated());
    let unavailable = replicated.map(|command| command.code).chain([102]);
    for code in unavailable {
        assert_eq!(read(code), Some(code::FEATURE_UNAVAILABLE), "{code}");
    }
    for code in [0, 2, 99, 206, 404, 9_999, u32::MAX] {
        assert_eq!(read(code), Some(code::INVALID_COMMAND), "{code}");
    }
}

#[test]
fn logins_are_distinguished_by_their_shape() {
    let version_info = ClientVersionInfo {
        protocol_version: IGGY_PROTOCOL_VERSION,
        sdk_name: WireName::new("rust").unwrap(),
        sdk_version: WireName::new("0.11.0").unwrap(),
    };
    let password = LoginRegisterRequest {
        version_info: version_info.clone(),
        username: WireName::new("iggy").unwrap(),
        password: "secret".into(),
        client_context: None,
    };
    match decoded(Operation::Register, 0, &password.to_bytes()) {
        Ok(Request::Login {
            version,
            credentials: Credentials::Password { username, .. },
        }) => assert_eq!(
            (version, username.as_str()),
            (IGGY_PROTOCOL_VERSION, "iggy")
        ),
        other => panic!("{other:?}"),
    }
    let token = LoginRegisterWithPatRequest {
        version_info,
        token: "a-long-token".into(),
        client_context: None,
    };
    assert!(matches!(
        decoded(Operation::Register, 0, &token.to_bytes()),
        Ok(Request::Login {
            credentials: Credentials::Token(_),
            ..
        })
    ));
}

#[test]
fn a_batch_is_forwarded_without_a_copy() {
    let mut body = BytesMut::new();
    let message = RawMessage {
        id: 1,
        origin_timestamp: 1,
        headers: None,
        payload: b"payload",
    };
    let stream = WireIdentifier::named("s").unwrap();
    let partitioning = WirePartitioning::messages_key(b"key".to_vec()).unwrap();
    SendMessagesEncoder::encode(
        &mut body,
        &stream,
        &WireIdentifier::numeric(4),
        &partitioning,
        &[message],
    )
    .unwrap();
    let body = body.freeze();
    let frame = frame(Operation::SendMessages, 0, &body);
    match decode(&parse(&frame).unwrap(), &body) {
        Ok(Request::Send(send)) => {
            assert_eq!(send.stream, Identifier::Name(Name::new("s").unwrap()));
            assert_eq!(send.topic, Identifier::Id(4));
            assert_eq!(send.partitioning, Partitioning::Key(b"key".to_vec()));
            let inside = body.as_ptr_range();
            assert!(inside.contains(&send.batch.as_ptr()));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn options_are_checked_completed_and_returned() {
    let options = TopicCreateOptions {
        message_expiry: Some(iggy_common::IggyExpiry::from(5_000_000)),
        durability: iggy_common::Durability::Persisted,
        raw: [("segment_size".to_owned(), "2 MiB".to_owned())].into(),
        ..TopicCreateOptions::default()
    };
    let options = create_topic_options(&options.to_wire().unwrap(), 1).unwrap();
    let settings = TopicSettings::of(&options);
    assert_eq!(settings.message_expiry_micros, 5_000_000);
    assert_eq!(settings.max_topic_bytes, u64::MAX);
    assert_eq!(settings.partitions.segment_bytes_max, 2 << 20);
    assert_eq!(settings.partitions.durability, Durability::Synced);
    assert_eq!(settings.partitions.offset_durability, Durability::Written);
    let explicit = |key| options.get(key).is_some_and(|entry| entry.explicit);
    assert!(explicit("segment_size") && explicit("message_expiry"));
    assert!(!explicit("max_topic_size"));
    // What was written as text is kept in the canonical kind.
    assert_eq!(
        &*options.get("segment_size").unwrap().value,
        (2_u64 << 20).to_le_bytes()
    );
}

#[test]
fn options_that_iggy_refuses_are_refused_with_its_codes() {
    let with = |key: &str, value: &str| TopicCreateOptions {
        raw: [(key.to_owned(), value.to_owned())].into(),
        ..TopicCreateOptions::default()
    };
    for (key, value, expected) in [
        ("colour", "blue", 4041),
        ("segment_size", "7 B", 4042),
        ("segment_size", "many", 4042),
        ("max_topic_size", "1 MiB", 1019),
    ] {
        let wire = with(key, value).to_wire().unwrap();
        assert_eq!(
            create_topic_options(&wire, 1),
            Err(number(expected)),
            "{key} = {value}"
        );
    }
    assert_eq!(
        create_topic_options(&WireOptions::empty(), 1001),
        Err(number(2015))
    );
    let segment = with("segment_size", "2 MiB").to_wire().unwrap();
    assert_eq!(
        update_topic_options(&segment),
        Err(number(4041)),
        "it cannot be changed"
    );
    assert_eq!(
        create_stream_options(&segment),
        Err(number(4041)),
        "streams have none"
    );
}

#[test]
fn preallocated_bytes_are_bounded() {
    let preallocated = TopicCreateOptions {
        preallocate_segments: Some(true),
        ..TopicCreateOptions::default()
    };
    let wire = preallocated.to_wire().unwrap();
    assert!(create_topic_options(&wire, 64).is_ok());
    assert_eq!(create_topic_options(&wire, 65), Err(number(4042)));
    assert!(create_topic_options(&WireOptions::empty(), 65).is_ok());
}

#[test]
fn an_update_keeps_what_is_zero_and_leaves_room_for_a_segment() {
    let update = |expiry: u64, size: u64| {
        let options = TopicUpdateOptions {
            message_expiry: Some(IggyExpiry::from(expiry)),
            max_topic_size: Some(MaxTopicSize::from(size)),
            ..TopicUpdateOptions::default()
        };
        update_topic_options(&options.to_wire().unwrap()).unwrap()
    };
    assert_eq!(update(0, 0), Options::default());
    let size = update(0, 2 << 20);
    assert!(size.get("message_expiry").is_none());
    assert!(size.get("max_topic_size").is_some());
    assert_eq!(check_topic_update(&size, 2 << 20), Ok(()));
    assert_eq!(check_topic_update(&size, 3 << 20), Err(number(1019)));
    assert_eq!(check_topic_update(&update(7, u64::MAX), 3 << 20), Ok(()));
    assert_eq!(check_topic_update(&Options::default(), 3 << 20), Ok(()));
}

/// What the client's own conversions make of our replies.
#[test]
fn created_resources_read_as_the_client_expects() {
    let name = |text| Name::new(text).unwrap();
    let body = created_stream(4, 99, &name("s"), &Options::default());
    let stream = StreamDetails::try_from(GetStreamResponse::decode(&body).unwrap().0).unwrap();
    assert_eq!(
        (stream.id, stream.name.as_str(), stream.topics_count),
        (4, "s", 0)
    );
    let options = create_topic_options(&WireOptions::empty(), 3).unwrap();
    let body = created_topic(&TopicInfo {
        id: 2,
        created_at: 99,
        name: name("t"),
        options,
        partitions: vec![0, 1, 2],
    });
    let topic = TopicDetails::try_from(GetTopicResponse::decode(&body).unwrap().0).unwrap();
    assert_eq!((topic.id, topic.partitions_count), (2, 3));
    assert_eq!(topic.partitions.len(), 3);
    assert_eq!(topic.max_topic_size, iggy_common::MaxTopicSize::Unlimited);
}

#[test]
fn the_roster_reads_as_the_client_expects() {
    let node = |number: u16, leader, healthy| NodeView {
        name: format!("node-{number}"),
        host: "127.0.0.1".into(),
        tcp_port: 8090 + number,
        leader,
        healthy,
    };
    let body = cluster("c", &[node(0, true, true), node(1, false, false)]);
    let roster =
        ClusterMetadata::try_from(ClusterMetadataResponse::decode(&body).unwrap().0).unwrap();
    let seen: Vec<_> = roster
        .nodes
        .iter()
        .map(|node| {
            (
                node.endpoints.tcp,
                node.role.to_string(),
                node.status.to_string(),
            )
        })
        .collect();
    let expected = [
        (8090, "leader", "healthy"),
        (8091, "follower", "unreachable"),
    ];
    for (seen, expected) in seen.iter().zip(expected) {
        assert_eq!((seen.0, seen.1.as_str(), seen.2.as_str()), expected);
    }
}

/// Where each operation carries its failures, by the client's own rule.
#[test]
fn failures_travel_where_the_client_looks() {
    for command in COMMAND_TABLE {
        let operation = command.operation.unwrap_or(Operation::NonReplicated);
        let header = parse(&frame(operation, command.code, b"")).unwrap();
        let reply = Reply::refused(&header, 5, number(1009)).joined();
        let status = u32::from_le_bytes(reply[216..220].try_into().unwrap());
        let body = &reply[HEADER_BYTES..];
        let code = match operation.is_result_framed() {
            true => iggy_binary_protocol::consensus::result_code(body).unwrap(),
            false => status,
        };
        assert_eq!(code, 1009, "{}", command.name);
        let ok = Reply::ok(&header, 5, vec![Bytes::from_static(b"payload")]).joined();
        assert_eq!(
            ok.len(),
            u32::from_le_bytes(ok[48..52].try_into().unwrap()) as usize
        );
        assert!(ok.ends_with(b"payload"));
        assert_eq!(u64::from_le_bytes(ok[184..192].try_into().unwrap()), 5);
    }
}

#[test]
fn all_topic_options_are_described() {
    let described = describe_options(1, 3).unwrap();
    let count = u32::from_le_bytes(described[..4].try_into().unwrap());
    // And those of copies.
    assert_eq!(count as usize, iggy_common::TOPIC_OPTION_KEYS.len() + 2);
    assert_eq!(describe_options(9, 3), Err(code::INVALID_COMMAND));
    assert!(iggy_common::OptionsScope::from_str("topic").is_ok());
}

proptest! {
    #[test]
    fn random_headers_and_bodies_do_no_harm(
        bytes in prop::collection::vec(any::<u8>(), HEADER_BYTES),
        body in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        if let Ok(header) = RequestHeader::parse(bytes.as_slice().try_into().unwrap(), 1 << 20) {
            let _ = decode(&header, &body.into());
        }
    }

    #[test]
    fn changed_bodies_do_no_harm(
        command in prop::sample::select(COMMAND_TABLE),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        cut in any::<prop::sample::Index>(),
    ) {
        let create = CreateTopicRequest {
            stream_id: WireIdentifier::named("stream").unwrap(),
            partitions_count: 3,
            name: WireName::new("topic").unwrap(),
            options: TopicCreateOptions::default().to_wire().unwrap(),
        };
        let mut body = create.to_bytes().to_vec();
        let at = at.index(body.len());
        body[at] = byte;
        body.truncate(cut.index(body.len() + 1));
        let operation = command.operation.unwrap_or(Operation::NonReplicated);
        let _ = decoded(operation, command.code, &body);
    }

    #[test]
    fn names_of_any_kind_arrive(name in "\\PC{1,60}") {
        let create = CreateStreamRequest {
            name: WireName::new(name.clone()).unwrap(),
            options: WireOptions::empty(),
        };
        match decoded(Operation::CreateStream, 0, &create.to_bytes()) {
            Ok(Request::Change(ClientOperation::CreateStream { name: arrived, .. })) => {
                prop_assert_eq!(arrived.as_str(), name.as_str());
            }
            other => prop_assert!(false, "{:?}", other),
        }
    }
}
