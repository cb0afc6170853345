use std::sync::Arc;

use ::partitions::EmbeddedStorage;
use adapters::metadata::{
    ClientOperation, ClientRequest, Command, ErrorCode, Identifier, Name, Options, Placement,
    Proof, Reply as Answer, UserOperation,
};
use adapters::wire::{
    Consumer, Credentials, OffsetTarget, Partitioning, PollRequest, PollStart, SendRequest,
};

use super::super::connection::Bound;
use super::super::testing::TestServer;
use super::*;
use crate::cluster::Metadata;
use crate::cluster::testing::{FakeLog, Fate, ME};
use crate::password::hash_password;

mod owners;

const CLIENT: u128 = 7;

struct Bench {
    log: Arc<FakeLog>,
    connection: Connection,
    storage: Arc<EmbeddedStorage>,
    _server: TestServer,
}

impl Bench {
    /// A connection with a session, on a node with this request timeout.
    fn new(timeout: Duration) -> Self {
        Self::with(FakeLog::start(timeout))
    }

    fn with(log: (Arc<FakeLog>, Arc<Metadata>)) -> Self {
        let server = TestServer::with(log, 64 << 20);
        Self {
            log: Arc::clone(&server.log),
            connection: server.bound(CLIENT),
            storage: Arc::clone(&server.storage),
            _server: server,
        }
    }

    fn header(&self) -> RequestHeader {
        RequestHeader {
            body_bytes: 0,
            client: CLIENT,
            checksum: 0,
            request: 1,
            operation: Operation::CreateStream,
            session: self.connection.bound.unwrap().session,
            code: 0,
        }
    }

    async fn create_stream(&mut self) -> Bytes {
        let header = self.header();
        let operation = ClientOperation::CreateStream {
            name: Name::new("s").unwrap(),
            options: Options::default(),
        };
        match self.connection.change(&header, operation).await {
            Outcome::Reply(reply) => reply.joined(),
            Outcome::Evict(frame) => frame,
        }
    }

    fn refusal(&self, code: ErrorCode) -> Bytes {
        Reply::refused(&self.header(), self.connection.watermark, code).joined()
    }

    fn end_of_session(&self) -> Command {
        Command::Unregister {
            client: CLIENT,
            session: self.connection.bound.unwrap().session,
        }
    }
}

/// A client that receives `NoSession` sends the request again in a new session.
#[tokio::test]
async fn a_session_that_ends_before_an_outcome_is_known_is_not_denied() {
    let mut bench = Bench::new(Duration::from_secs(5));
    let end = bench.end_of_session();
    bench.log.expect(Fate::Lost(vec![end]));
    let unknown = bench.create_stream().await;
    assert_eq!(unknown, bench.refusal(code::TRANSIENT_NOT_COMMITTED));
    let repeated = bench.create_stream().await;
    assert_eq!(repeated, Eviction::StaleClient.encode(CLIENT));
}

/// A client that receives `TRANSIENT_NOT_ACCEPTED` does the same.
#[tokio::test]
async fn an_outcome_that_was_unknown_stays_so_until_it_is_known() {
    let mut bench = Bench::new(Duration::ZERO);
    bench.log.expect(Fate::Lost(Vec::new()));
    bench.log.expect(Fate::NotLeader);
    for _ in 0..2 {
        let answer = bench.create_stream().await;
        assert_eq!(answer, bench.refusal(code::TRANSIENT_NOT_COMMITTED));
    }
    let first_reply = bench.create_stream().await;
    let name = Name::new("s").unwrap();
    let created = wire::created_stream(0, 0, &name, &Options::default());
    let reply = Reply::ok(&bench.header(), bench.connection.watermark, vec![created]);
    assert_eq!(first_reply, reply.joined());
}

#[tokio::test]
async fn a_change_without_a_session_had_no_effect() {
    let mut bench = Bench::new(Duration::ZERO);
    let end = bench.end_of_session();
    bench.log.apply(&end);
    assert_eq!(
        bench.create_stream().await,
        Eviction::NoSession.encode(CLIENT)
    );
    bench = Bench::new(Duration::ZERO);
    bench.log.expect(Fate::NotLeader);
    let answer = bench.create_stream().await;
    assert_eq!(answer, bench.refusal(code::TRANSIENT_NOT_ACCEPTED));
}

const BOB: u128 = 8;

impl Bench {
    /// From now on the connection has the session of a user without any permission.
    fn as_bob(&mut self) {
        let create = ClientOperation::User(UserOperation::Create {
            name: Name::new("bob").unwrap(),
            password_hash: String::new(),
            active: true,
            permissions: None,
        });
        self.log.apply(&self.by_root(1, create));
        let register = Command::Register {
            client: BOB,
            user_id: 1,
            proof: Proof::Password(1),
            node: ME,
            registration: 1,
        };
        let reply = Answer::decode(&self.log.apply(&register).reply);
        let Ok(Answer::Registered { session }) = reply else {
            panic!("{reply:?}");
        };
        self.connection.bound = Some(Bound {
            client: BOB,
            session,
            user_id: 1,
        });
    }

    fn by_root(&self, request: u64, operation: ClientOperation<Placement>) -> Command {
        Command::Client(ClientRequest {
            client: CLIENT,
            session: 1,
            request,
            checksum: 0,
            operation,
        })
    }

    async fn ask(&mut self, request: Request) -> Body {
        let header = self.header();
        self.connection.authorize(&request).await?;
        self.connection.serve_request(&header, request).await
    }
}

/// Stock clients log in again, which is refused with *invalid credentials*.
#[tokio::test]
async fn a_session_of_a_deleted_user_is_unauthenticated() {
    let mut bench = Bench::new(Duration::from_secs(5));
    bench.as_bob();
    assert!(bench.ask(Request::Me).await.is_ok());
    let delete = ClientOperation::User(UserOperation::Delete {
        user: Identifier::Name(Name::new("bob").unwrap()),
    });
    bench.log.commit_unseen(bench.by_root(2, delete));
    let caught_up = bench.connection.server.metadata.barrier().await;
    caught_up.unwrap();
    let refused = bench.ask(Request::Me).await;
    assert_eq!(refused, Err(Failure::Refused(code::UNAUTHENTICATED)));
}

/// A name that exists only in a newer state is judged by the permissions in that state.
#[tokio::test]
async fn what_appears_while_it_is_looked_up_is_judged_as_well() {
    let name = |text: &str| Name::new(text).unwrap();
    let of = |text: &str| Identifier::Name(name(text));
    let send = Request::Send(SendRequest {
        stream: of("s"),
        topic: of("t"),
        partitioning: Partitioning::Partition(0),
        batch: Bytes::new(),
    });
    let target = OffsetTarget {
        stream: of("s"),
        topic: of("t"),
        partition: 0,
        consumer: Consumer::Single(1),
    };
    let poll = Request::Poll(PollRequest {
        target: target.clone(),
        start: PollStart::First,
        count: 1,
        auto_commit: false,
    });
    let topic = Request::Topic {
        stream: of("s"),
        topic: of("t"),
    };
    let requests = [
        send,
        poll,
        topic,
        Request::Offset(target.clone()),
        Request::StoreOffset { target, offset: 0 },
        Request::Stream(of("s")),
        Request::User(of("eve")),
    ];
    for request in requests {
        let mut bench = Bench::new(Duration::from_secs(5));
        bench.as_bob();
        let appear = [
            ClientOperation::CreateStream {
                name: name("s"),
                options: Options::default(),
            },
            ClientOperation::CreateTopic {
                stream: of("s"),
                name: name("t"),
                options: Options::default(),
                partitions: Placement::single(&[ME]).unwrap(),
            },
            ClientOperation::User(UserOperation::Create {
                name: name("eve"),
                password_hash: String::new(),
                active: true,
                permissions: None,
            }),
        ];
        for (number, operation) in (2..).zip(appear) {
            let unseen = bench.by_root(number, operation);
            bench.log.commit_unseen(unseen);
        }
        let what = format!("{request:?}");
        let refused = bench.ask(request).await;
        assert!(
            matches!(refused, Err(Failure::Refused(code::UNAUTHORIZED))),
            "{what}: {refused:?}"
        );
    }
}

/// A change is refused unless its session was compared with the connection's.
#[tokio::test]
async fn a_change_is_not_made_in_the_name_of_another_session() {
    let mut bench = Bench::new(Duration::from_secs(5));
    let admin = bench.header();
    bench.as_bob();
    let create = ClientOperation::CreateStream {
        name: Name::new("s").unwrap(),
        options: Options::default(),
    };
    bench.log.apply(&bench.by_root(2, create));
    let header = RequestHeader {
        operation: Operation::NonReplicated,
        code: iggy_binary_protocol::codes::DELETE_STREAM_CODE,
        request: 3,
        ..admin
    };
    // The stream with id 0.
    let body = Bytes::from_static(&[1, 4, 0, 0, 0, 0]);
    let Outcome::Reply(reply) = bench.connection.handle(&header, body).await else {
        panic!("no reply");
    };
    let denied = Reply::denied(&header, 0, code::FEATURE_UNAVAILABLE);
    assert_eq!(reply.joined(), denied.joined());
    let metadata = &bench.connection.server.metadata;
    assert_eq!(metadata.reader.read().streams().count(), 1);
}

/// An id ends a session of its own user only.
#[tokio::test]
async fn a_login_with_the_id_of_another_users_client_is_refused() {
    let mut bench = Bench::new(Duration::from_secs(5));
    let hash = hash_password("a password", &[7; 16]).unwrap();
    let create = ClientOperation::User(UserOperation::Create {
        name: Name::new("bob").unwrap(),
        password_hash: hash,
        active: true,
        permissions: None,
    });
    bench.log.apply(&bench.by_root(1, create));
    let victim = bench.connection.bound.take().unwrap();
    let credentials = || Credentials::Password {
        username: "bob".into(),
        password: "a password".into(),
    };
    let header = RequestHeader {
        operation: Operation::Register,
        session: 0,
        request: 0,
        body_bytes: 0,
        client: CLIENT,
        checksum: 0,
        code: 0,
    };
    let version = wire::IGGY_PROTOCOL_VERSION;
    let login = bench.connection.login(&header, version, credentials());
    let Outcome::Evict(refused) = login.await else {
        panic!("bob has the session of root's client");
    };
    assert_eq!(refused, Eviction::ClientOfAnotherUser.encode(CLIENT));
    assert!(bench.connection.bound.is_none());
    let metadata = Arc::clone(&bench.connection.server.metadata);
    let found = metadata.reader.read().sessions().get(CLIENT).cloned();
    assert_eq!(found.unwrap().session, victim.session);
    // On the connection of that session, its id is free once it has ended.
    bench.connection.bound = Some(victim);
    let login = bench.connection.login(&header, version, credentials());
    assert!(matches!(login.await, Outcome::Reply(_)));
    assert_eq!(bench.connection.bound.unwrap().user_id, 1);
}
