//! Sessions and the nodes that they are at.

use super::*;

#[test]
fn a_repeated_request_takes_effect_once() {
    let mut bench = Bench::new();
    let request = Command::Client(ClientRequest {
        client: CLIENT,
        session: bench.session,
        request: 5,
        checksum: 9,
        operation: ClientOperation::CreateStream {
            name: name("once"),
            options: Options::default(),
        },
    });
    let first = bench.apply(&request);
    assert!(matches!(first, Reply::StreamCreated { .. }));
    for _ in 0..3 {
        assert_eq!(bench.apply(&request), first);
    }
    assert_eq!(bench.reader.read().streams().len(), 1);
}

#[test]
fn a_fenced_node_opens_no_sessions_until_it_registers_again() {
    let mut bench = Bench::new();
    bench.apply(&Command::FenceNode {
        node: ReplicaId(1),
        registration: 99,
    });
    assert!(
        bench.reader.read().node(ReplicaId(1)).unwrap().live,
        "another registration"
    );
    bench.apply(&Command::FenceNode {
        node: ReplicaId(1),
        registration: 1,
    });
    assert_eq!(bench.create_stream("s"), refused(40), "its sessions ended");
    assert_eq!(bench.apply(&register(8, 1, 1)), refused(58));
    let again = bench.apply(&Command::RegisterNode(node_info(1, 1)));
    let Reply::NodeRegistered { registration } = again else {
        panic!("{again:?}");
    };
    assert_eq!(bench.apply(&register(8, 1, 1)), refused(58), "the old one");
    assert!(matches!(
        bench.apply(&register(8, 1, registration)),
        Reply::Registered { .. }
    ));
    assert_eq!(
        bench.apply(&Command::RegisterNode(node_info(1, 0))),
        refused(58),
        "an earlier incarnation"
    );
}

#[test]
fn a_login_with_outdated_credentials_opens_no_session() {
    let mut bench = Bench::new();
    for (user_id, credential_version) in [(1, 1), (0, 2)] {
        let reply = bench.apply(&Command::Register {
            client: 8,
            user_id,
            proof: Proof::Password(credential_version),
            node: ReplicaId(1),
            registration: 1,
        });
        assert_eq!(reply, refused(42));
    }
}

/// Clients choose their ids themselves: an id does not end the session of another user.
#[test]
fn a_login_with_the_id_of_another_users_client_is_not_proposed() {
    let mut bench = Bench::new();
    bench.client(ClientOperation::User(UserOperation::Create {
        name: name("alice"),
        password_hash: "hash".into(),
        active: true,
        permissions: None,
    }));
    let login = |client, user_id| Intent::Register {
        client,
        user_id,
        proof: Proof::Password(1),
        node: ReplicaId(1),
        registration: 1,
    };
    let nothing = BTreeMap::new();
    let other = decide(login(CLIENT, 1), &bench.reader, &nothing);
    assert_eq!(other, Err(DecisionError::ClientOfAnotherUser));
    // The same user may replace its session, and an id is free when its session has ended.
    assert!(decide(login(CLIENT, 0), &bench.reader, &nothing).is_ok());
    assert!(decide(login(8, 1), &bench.reader, &nothing).is_ok());
    bench.apply(&Command::Unregister {
        client: CLIENT,
        session: bench.session,
    });
    assert!(decide(login(CLIENT, 1), &bench.reader, &nothing).is_ok());
}

/// A client that was connected to node 1 and logs in again at node 2.
struct Restarting {
    bench: Bench,
    session: u64,
}

impl Restarting {
    /// Its request 5 has created a stream.
    fn new(mut bench: Bench) -> (Self, Reply) {
        let session = bench.session;
        // The test of a request numbers it itself.
        bench.request = 100;
        let mut client = Self { bench, session };
        let first = client.create("once", 5, 9);
        assert!(matches!(first, Reply::StreamCreated { .. }), "{first:?}");
        (client, first)
    }

    fn create(&mut self, text: &str, request: u64, checksum: u64) -> Reply {
        self.bench.apply(&Command::Client(ClientRequest {
            client: CLIENT,
            session: self.session,
            request,
            checksum,
            operation: ClientOperation::CreateStream {
                name: name(text),
                options: Options::default(),
            },
        }))
    }

    fn log_in(&mut self) {
        match self.bench.apply(&register(CLIENT, 2, 2)) {
            Reply::Registered { session } => self.session = session,
            other => panic!("{other:?}"),
        }
    }

    /// The session ends in one of the ways in which it can.
    fn end(&mut self, way: u32) {
        match way {
            // The connection is still open when the client logs in again.
            0 => {}
            1 => {
                let session = self.session;
                self.bench.apply(&Command::Unregister {
                    client: CLIENT,
                    session,
                });
            }
            2 => {
                self.bench.apply(&Command::FenceNode {
                    node: ReplicaId(1),
                    registration: 1,
                });
            }
            _ => {
                let snapshot = self.bench.machine.freeze().encode();
                self.end(1);
                let digest = self.bench.reader.digest();
                let after = self.bench.machine.freeze().encode();
                assert_ne!(after, snapshot);
                self.bench.machine.restore(&after).unwrap();
                assert_eq!(self.bench.reader.digest(), digest);
            }
        }
    }
}

#[test]
fn a_client_that_logs_in_again_and_repeats_its_last_request_gets_the_first_reply() {
    for way in 0..4 {
        let (mut client, first) = Restarting::new(Bench::at_level_0_2());
        client.end(way);
        client.log_in();
        for checksum in [9, 9, 0] {
            assert_eq!(client.create("once", 5, checksum), first, "way {way}");
        }
        // It restarts once more before it has done anything else.
        client.log_in();
        assert_eq!(client.create("once", 5, 9), first, "way {way}");
        let next = client.create("twice", 6, 10);
        assert!(matches!(next, Reply::StreamCreated { .. }), "way {way}");
        assert_eq!(client.create("once", 5, 9), refused(59), "way {way}");
        assert_eq!(client.create("twice", 6, 10), next, "way {way}");
    }
}

/// Clients choose their ids and numbers themselves.
#[test]
fn a_new_session_executes_whatever_is_not_the_last_request_of_the_former() {
    for (request, checksum) in [(1, 9), (5, 10), (6, 9)] {
        let (mut client, _) = Restarting::new(Bench::at_level_0_2());
        client.log_in();
        let fresh = client.create("fresh", request, checksum);
        assert!(matches!(fresh, Reply::StreamCreated { .. }), "{fresh:?}");
        // Its number is the last from now on.
        assert_eq!(client.create("fresh", request, checksum), fresh);
    }
}

#[test]
fn at_level_0_1_a_client_that_logs_in_again_starts_afresh() {
    let (mut client, first) = Restarting::new(Bench::new());
    client.log_in();
    let again = client.create("once", 5, 9);
    assert_ne!(again, first);
    assert_eq!(again, Reply::from(MetadataError::StreamNameAlreadyExists));
}

#[test]
fn another_user_does_not_get_the_reply_of_a_former_session() {
    let (mut client, _) = Restarting::new(Bench::at_level_0_2());
    let create = ClientOperation::User(UserOperation::Create {
        name: name("alice"),
        password_hash: "hash".into(),
        active: true,
        permissions: None,
    });
    client.bench.session = client.session;
    assert!(matches!(
        client.bench.client(create),
        Reply::UserCreated { .. }
    ));
    let last = client.bench.request;
    client.end(1);
    let login = client.bench.apply(&Command::Register {
        client: CLIENT,
        user_id: 1,
        proof: Proof::Password(1),
        node: ReplicaId(2),
        registration: 2,
    });
    let Reply::Registered { session } = login else {
        panic!("{login:?}");
    };
    client.session = session;
    assert_eq!(client.create("stolen", last, last), refused(41));
    // Nor does the first user any more: that was not its last request.
    client.end(1);
    client.log_in();
    let fresh = client.create("own", last, last);
    assert!(matches!(fresh, Reply::StreamCreated { .. }), "{fresh:?}");
}

#[test]
fn the_last_requests_of_ended_sessions_are_bounded_and_end_with_their_user() {
    let mut bench = Bench::at_level_0_2();
    let alice = ClientOperation::User(UserOperation::Create {
        name: name("alice"),
        password_hash: "hash".into(),
        active: true,
        permissions: None,
    });
    assert!(matches!(bench.client(alice), Reply::UserCreated { .. }));
    let bytes = |bench: &Bench| bench.machine.freeze().encode().len();
    let before = bytes(&bench);
    let run = |bench: &mut Bench, client: u128| {
        let login = bench.apply(&Command::Register {
            client,
            user_id: 1,
            proof: Proof::Password(1),
            node: ReplicaId(1),
            registration: 1,
        });
        let Reply::Registered { session } = login else {
            panic!("{login:?}");
        };
        let create = ClientOperation::CreateStream {
            name: name("s"),
            options: Options::default(),
        };
        assert_eq!(bench.request_of(client, session, create), refused(41));
        bench.apply(&Command::Unregister { client, session });
    };
    run(&mut bench, 1_000);
    let one = bytes(&bench) - before;
    assert!(one > 0);
    let most = history::HISTORY_MAX;
    for client in 1_001..1_000 + most as u128 {
        run(&mut bench, client);
    }
    assert_eq!(bytes(&bench), before + one * most);
    run(&mut bench, 1_000_000);
    assert_eq!(bytes(&bench), before + one * most);
    let delete = ClientOperation::User(UserOperation::Delete {
        user: Identifier::Id(1),
    });
    assert_eq!(bench.client(delete), Reply::Done);
    assert!(bytes(&bench) <= before);
}
