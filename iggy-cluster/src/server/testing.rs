//! A server on a log in memory, for tests.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ::partitions::{EmbeddedStorage, EmbeddedStorageConfig};
use adapters::metadata::{Identifier, Name, Options};
use replicated_log::MemoryBudget;
use tempfile::TempDir;

use super::Server;
use super::connection::{Bound, Connection};
use crate::cluster::Metadata;
use crate::cluster::testing::FakeLog;
use crate::config::ClusterConfig;
use crate::metrics::Metrics;
use crate::partitions::tests as partitions;
use crate::partitions::{Affected, DataReply, DataRequest, LocalPartitions, Partitions};

pub(super) struct TestServer {
    pub(super) log: Arc<FakeLog>,
    pub(super) server: Arc<Server>,
    pub(super) memory: MemoryBudget,
    pub(super) storage: Arc<EmbeddedStorage>,
    _data: TempDir,
}

impl TestServer {
    /// A server with this request timeout and memory.
    pub(super) fn new(timeout: Duration, memory_bytes: usize) -> Self {
        Self::with(FakeLog::start(timeout), memory_bytes)
    }

    /// The same on this log.
    pub(super) fn with(
        (log, metadata): (Arc<FakeLog>, Arc<Metadata>),
        memory_bytes: usize,
    ) -> Self {
        let data = TempDir::new().unwrap();
        let storage = EmbeddedStorage::new(data.path(), EmbeddedStorageConfig::default());
        let storage = Arc::new(storage.unwrap());
        let memory = MemoryBudget::new(memory_bytes);
        let local = LocalPartitions::new(Arc::clone(&metadata), Arc::clone(&storage) as _);
        let local = local.memory(memory.clone());
        let affected = Arc::new(Affected::default());
        let noting = Arc::clone(&affected);
        log.observe(Box::new(move |event| noting.note(&event)));
        let partitions = Partitions::new(
            Arc::clone(&metadata),
            Arc::new(local),
            replicated_log::links::RequestLinks::default(),
            affected,
        );
        let server = Server::new(
            ClusterConfig::default(),
            metadata,
            Arc::new(partitions),
            Arc::new(Metrics::new()),
            Vec::new(),
        );
        Self {
            log,
            server: Arc::new(server.unwrap()),
            memory,
            storage,
            _data: data,
        }
    }

    /// Stream `s` with topic `t`, whose only partition this node owns and has so many
    /// messages.
    pub(super) async fn create_topic(&self, messages: u32, payload_bytes: usize) {
        let operations = partitions::topic_here(Options::default(), 1);
        let session = self.log.register(partitions::CLIENT);
        for command in partitions::commands(session, operations) {
            self.log.apply(&command);
        }
        let local = &self.server.partitions.local;
        let key = {
            let state = self.server.metadata.reader.read();
            let name = |text| Identifier::Name(Name::new(text).unwrap());
            let (stream, topic) = state.topic(&name("s"), &name("t")).unwrap();
            topic.key(stream.id, 0).unwrap()
        };
        let payload = vec![7; payload_bytes];
        for _ in 0..messages {
            let batch = partitions::batch_of(1, &payload);
            let appended = local.serve(DataRequest::Append { key, batch }).await;
            assert!(matches!(appended, DataReply::Appended(_)));
        }
    }

    /// A connection without a login.
    pub(super) fn connection(&self) -> Connection {
        let address: SocketAddr = ([127, 0, 0, 1], 1).into();
        let place = self.server.without_login(address.ip());
        Connection::new(Arc::clone(&self.server), address, place)
    }

    /// A connection with a session of this client.
    pub(super) fn bound(&self, client: u128) -> Connection {
        let mut connection = self.connection();
        connection.bound = Some(Bound {
            client,
            session: self.log.register(client),
            user_id: 0,
        });
        connection
    }
}
