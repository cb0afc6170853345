use std::sync::Arc;

use adapters::metadata::{ClientOperation, Command, Name, Options};
use adapters::storage::{EmbeddedStorage, EmbeddedStorageConfig};
use tempfile::TempDir;

use super::super::Server;
use super::super::connection::Bound;
use super::*;
use crate::cluster::testing::{FakeLog, Fate};
use crate::config::ClusterConfig;
use crate::metrics::Metrics;
use crate::partitions::{LocalPartitions, Partitions};

const CLIENT: u128 = 7;

struct Bench {
    log: Arc<FakeLog>,
    connection: Connection,
    _data: TempDir,
}

impl Bench {
    /// A connection in session, on a node that tries for so long.
    fn new(timeout: Duration) -> Self {
        let data = TempDir::new().unwrap();
        let (log, metadata) = FakeLog::start(timeout);
        let storage = EmbeddedStorage::new(data.path(), EmbeddedStorageConfig::default());
        let local = LocalPartitions::new(Arc::clone(&metadata), Arc::new(storage.unwrap()));
        let partitions = Partitions::new(
            Arc::clone(&metadata),
            Arc::new(local),
            std::collections::BTreeMap::new(),
        );
        let server = Server::new(
            ClusterConfig::default(),
            metadata,
            Arc::new(partitions),
            Arc::new(Metrics::new()),
            Vec::new(),
        )
        .unwrap();
        let mut connection = Connection::new(Arc::new(server), ([127, 0, 0, 1], 1).into());
        connection.bound = Some(Bound {
            client: CLIENT,
            session: log.register(CLIENT),
            user_id: 0,
        });
        Self {
            log,
            connection,
            _data: data,
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

    fn refusal(&self, code: u32) -> Bytes {
        Reply::refused(&self.header(), self.connection.commit, code).joined()
    }

    fn end_of_session(&self) -> Command {
        Command::Unregister {
            client: CLIENT,
            session: self.connection.bound.unwrap().session,
        }
    }
}

/// A client takes `NoSession` for leave to send the request in a new session.
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

/// A client takes `TRANSIENT_NOT_ACCEPTED` for the same.
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
    let reply = Reply::ok(&bench.header(), bench.connection.commit, vec![created]);
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
