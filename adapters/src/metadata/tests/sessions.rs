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
