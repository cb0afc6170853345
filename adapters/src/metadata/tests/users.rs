//! Users, tokens and permissions in the state machine.

use super::*;
use crate::metadata::permissions::{global, stream, topic};

const ROOT_SESSION: u128 = CLIENT;
const OTHER_USER: u128 = 79;

impl Bench {
    fn user(&mut self, operation: UserOperation) -> Reply {
        self.client(ClientOperation::User(operation))
    }

    fn create_user(&mut self, text: &str, permissions: Option<Permissions>) -> u32 {
        let reply = self.user(UserOperation::Create {
            name: name(text),
            password_hash: "hash".into(),
            active: true,
            permissions,
        });
        match reply {
            Reply::UserCreated { id, .. } => id,
            other => panic!("{other:?}"),
        }
    }

    fn log_in(&mut self, client: u128, user_id: u32, proof: Proof) -> Reply {
        self.apply(&Command::Register {
            client,
            user_id,
            proof,
            node: ReplicaId(1),
            registration: 1,
        })
    }

    /// A user with these grants, in session; the session.
    fn member(&mut self, text: &str, permissions: Option<Permissions>) -> u64 {
        let id = self.create_user(text, permissions);
        match self.log_in(OTHER_USER, id, Proof::Password(1)) {
            Reply::Registered { session } => session,
            other => panic!("{other:?}"),
        }
    }

    fn create_token(&mut self, text: &str, hash: u8, expiry_micros: u64) -> Reply {
        self.user(UserOperation::CreateToken {
            name: name(text),
            hash: [hash; 32],
            expiry_micros,
        })
    }
}

fn some(text: &str) -> Identifier {
    named(text)
}

#[test]
fn users_are_created_changed_and_deleted_with_the_codes_of_iggy() {
    let mut bench = Bench::new();
    assert_eq!(bench.create_user("alice", None), 1);
    let create = |text: &str| UserOperation::Create {
        name: name(text),
        password_hash: String::new(),
        active: true,
        permissions: None,
    };
    assert_eq!(bench.user(create("al")), refused(43));
    assert_eq!(bench.user(create(&"a".repeat(51))), refused(43));
    assert_eq!(bench.user(create("alice")), refused(46));
    assert_eq!(bench.user(create("iggy")), refused(46));

    let rename = |user: Identifier, text: &str| UserOperation::Update {
        user,
        name: Some(name(text)),
        active: None,
    };
    assert_eq!(bench.user(rename(some("bob"), "carol")), refused(20));
    assert_eq!(bench.user(rename(some("alice"), "iggy")), refused(46));
    assert_eq!(bench.user(rename(some("alice"), "alice")), Reply::Done);
    assert_eq!(bench.user(rename(Identifier::Id(1), "bob")), Reply::Done);
    assert_eq!(
        bench.user(create("alice")),
        Reply::UserCreated {
            id: 2,
            created_at: bench.reader.read().now,
            name: name("alice"),
            active: true,
            permissions: None,
        }
    );

    let delete = |user| UserOperation::Delete { user };
    assert_eq!(bench.user(delete(Identifier::Id(0))), refused(48));
    assert_eq!(bench.user(delete(some("alice"))), Reply::Done);
    assert_eq!(bench.user(delete(some("alice"))), refused(20));
    // Ids are not reused.
    assert_eq!(bench.create_user("alice", None), 3);

    let grants = |user| UserOperation::SetPermissions {
        user,
        permissions: Some(Permissions::all()),
    };
    assert_eq!(bench.user(grants(some("iggy"))), refused(49));
    assert_eq!(bench.user(grants(some("missing"))), refused(20));
    assert_eq!(bench.user(grants(some("bob"))), Reply::Done);
    let state = bench.reader.read();
    assert!(state.allows(1, Rule::ManageUsers));
    assert!(!state.allows(3, Rule::ManageUsers));
}

#[test]
fn a_password_changes_only_where_the_current_one_was_right() {
    let mut bench = Bench::new();
    let id = bench.create_user("alice", None);
    let change = |verified| UserOperation::ChangePassword {
        user: Identifier::Id(id),
        verified,
        password_hash: "other".into(),
    };
    assert_eq!(bench.user(change(None)), refused(42));
    assert_eq!(bench.user(change(Some(2))), refused(42));
    assert_eq!(bench.user(change(Some(1))), Reply::Done);
    // Verified against the one before: another change came first.
    assert_eq!(bench.user(change(Some(1))), refused(42));
    assert_eq!(
        bench.log_in(OTHER_USER, id, Proof::Password(1)),
        refused(42)
    );
    assert!(matches!(
        bench.log_in(OTHER_USER, id, Proof::Password(2)),
        Reply::Registered { .. }
    ));
    let unknown = UserOperation::ChangePassword {
        user: some("missing"),
        verified: None,
        password_hash: String::new(),
    };
    assert_eq!(bench.user(unknown), refused(20));
}

#[test]
fn sessions_end_with_their_user_and_with_its_right_to_log_in() {
    let mut bench = Bench::new();
    let active = |active| UserOperation::Update {
        user: some("alice"),
        name: None,
        active: Some(active),
    };
    bench.member("alice", None);
    assert_eq!(bench.user(active(true)), Reply::Done);
    assert!(bench.reader.read().sessions().get(OTHER_USER).is_some());
    assert_eq!(bench.user(active(false)), Reply::Done);
    assert!(bench.reader.read().sessions().get(OTHER_USER).is_none());
    assert_eq!(bench.log_in(OTHER_USER, 1, Proof::Password(2)), refused(42));
    assert_eq!(bench.user(active(true)), Reply::Done);
    assert!(matches!(
        bench.log_in(OTHER_USER, 1, Proof::Password(3)),
        Reply::Registered { .. }
    ));
    bench.user(UserOperation::Delete {
        user: some("alice"),
    });
    assert!(bench.reader.read().sessions().get(OTHER_USER).is_none());
    assert!(bench.reader.read().sessions().get(ROOT_SESSION).is_some());
    let deactivate_root = UserOperation::Update {
        user: Identifier::Id(0),
        name: None,
        active: Some(false),
    };
    assert_eq!(bench.user(deactivate_root), refused(45));
}

#[test]
fn tokens_log_their_owner_in_until_they_expire() {
    let mut bench = Bench::new();
    assert_eq!(
        bench.create_token("t", 1, 0),
        Reply::TokenCreated { hash: [1; 32] }
    );
    assert_eq!(bench.create_token("t", 2, 0), refused(51));
    assert!(matches!(
        bench.log_in(OTHER_USER, 0, Proof::Token([1; 32])),
        Reply::Registered { .. }
    ));
    assert_eq!(
        bench.log_in(OTHER_USER, 1, Proof::Token([1; 32])),
        refused(42)
    );
    assert_eq!(
        bench.log_in(OTHER_USER, 0, Proof::Token([2; 32])),
        refused(42)
    );
    // An entry's time is a millisecond here.
    bench.create_token("short", 3, 1_500);
    assert!(matches!(
        bench.log_in(OTHER_USER, 0, Proof::Token([3; 32])),
        Reply::Registered { .. }
    ));
    assert_eq!(
        bench.log_in(OTHER_USER, 0, Proof::Token([3; 32])),
        refused(42)
    );
    bench.create_token("for ever", 4, u64::MAX);
    bench.apply(&Command::ExpireTokens);
    {
        let state = bench.reader.read();
        let names: Vec<_> = state
            .user_by_id(0)
            .unwrap()
            .tokens
            .keys()
            .cloned()
            .collect();
        assert_eq!(names, [name("for ever"), name("t")]);
        assert_eq!(state.users().next_expiry(), None);
    }
    let delete = || UserOperation::DeleteToken { name: name("t") };
    assert_eq!(bench.user(delete()), Reply::Done);
    assert_eq!(bench.user(delete()), refused(20));
    assert_eq!(
        bench.log_in(OTHER_USER, 0, Proof::Token([1; 32])),
        refused(42)
    );
    for hash in 5..104 {
        let created = bench.create_token(&format!("t{hash}"), hash, 0);
        assert_eq!(created, Reply::TokenCreated { hash: [hash; 32] });
    }
    assert_eq!(bench.create_token("more", 200, 0), refused(52));
}

#[test]
fn a_users_tokens_go_with_it() {
    let mut bench = Bench::new();
    let session = bench.member("alice", None);
    let token = UserOperation::CreateToken {
        name: name("t"),
        hash: [7; 32],
        expiry_micros: 0,
    };
    bench.request_of(OTHER_USER, session, ClientOperation::User(token));
    assert!(bench.reader.read().users().by_token(&[7; 32]).is_some());
    bench.user(UserOperation::Delete {
        user: some("alice"),
    });
    assert!(bench.reader.read().users().by_token(&[7; 32]).is_none());
}

/// A change of something that is missing is refused for that before it is refused for a
/// missing permission, except for users.
#[test]
fn changes_without_permission_have_no_effect() {
    let mut bench = Bench::new();
    bench.create_stream("s");
    bench.create_topic(named("s"), "t", 1);
    let session = bench.member("alice", None);
    let (stream, topic) = (|| named("s"), || named("t"));
    let group = |stream, topic| {
        ClientOperation::Group(GroupOperation {
            stream,
            topic,
            change: GroupChange::Create(name("g")),
        })
    };
    let digest = {
        let state = bench.reader.read();
        format!(
            "{:?} {:?}",
            state.streams().collect::<Vec<_>>(),
            state.users()
        )
    };
    let create = |text: &str| ClientOperation::CreateStream {
        name: name(text),
        options: Options::default(),
    };
    for (operation, code) in [
        (create("other"), 41),
        (ClientOperation::DeleteStream { stream: stream() }, 41),
        (ClientOperation::DeleteStream { stream: named("x") }, 1009),
        (ClientOperation::PurgeStream { stream: stream() }, 41),
        (
            ClientOperation::DeleteTopic {
                stream: stream(),
                topic: topic(),
            },
            41,
        ),
        (
            ClientOperation::DeleteTopic {
                stream: stream(),
                topic: named("x"),
            },
            2010,
        ),
        (
            ClientOperation::CreatePartitions {
                stream: stream(),
                topic: topic(),
                partitions: PartitionCount(1),
            },
            41,
        ),
        (group(stream(), topic()), 41),
        (group(stream(), named("x")), 2010),
        (
            ClientOperation::User(UserOperation::Delete {
                user: named("missing"),
            }),
            41,
        ),
        (
            ClientOperation::User(UserOperation::ChangePassword {
                user: Identifier::Id(0),
                verified: Some(1),
                password_hash: String::new(),
            }),
            41,
        ),
    ] {
        let reply = bench.request_of(OTHER_USER, session, operation.clone());
        assert_eq!(reply, refused(code), "{operation:?}");
    }
    let state = bench.reader.read();
    let after = format!(
        "{:?} {:?}",
        state.streams().collect::<Vec<_>>(),
        state.users()
    );
    assert_eq!(after, digest);
}

/// Ids of streams and topics are reused; grants are not.
#[test]
fn grants_go_with_what_they_were_for() {
    let mut bench = Bench::new();
    bench.create_stream("s");
    bench.create_topic(named("s"), "t", 1);
    let grants = Permissions {
        global: global::READ_SERVERS,
        streams: BTreeMap::from([(
            0,
            StreamPermissions {
                grants: stream::SEND,
                topics: BTreeMap::from([(0, topic::POLL)]),
            },
        )]),
    };
    let id = bench.create_user("alice", Some(grants));
    let allowed = |bench: &Bench| {
        let state = bench.reader.read();
        (
            state.allows(id, Rule::Send(0, 0)),
            state.allows(id, Rule::Poll(0, 0)),
        )
    };
    assert_eq!(allowed(&bench), (true, true));
    bench.client(ClientOperation::DeleteTopic {
        stream: named("s"),
        topic: named("t"),
    });
    bench.create_topic(named("s"), "t", 1);
    assert_eq!(allowed(&bench), (true, false));
    bench.client(ClientOperation::DeleteStream { stream: named("s") });
    bench.create_stream("s");
    assert_eq!(allowed(&bench), (false, false));
    assert!(bench.reader.read().allows(id, Rule::Servers));
}

#[test]
fn a_snapshot_keeps_users_tokens_and_grants() {
    let mut bench = Bench::new();
    bench.create_token("t", 1, 77_000_000);
    bench.create_user("alice", Some(Permissions::all()));
    bench.create_user("bob", None);
    bench.user(UserOperation::Delete { user: some("bob") });
    let snapshot = bench.machine.freeze().encode();
    let mut restored = Bench::empty();
    restored.machine.restore(&snapshot).unwrap();
    assert_eq!(
        restored.reader.read().users(),
        bench.reader.read().users(),
        "what is derived too"
    );
}
