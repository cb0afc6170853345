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
