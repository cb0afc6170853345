//! Requests for metadata and for the sizes of partitions.

use adapters::metadata::{Identifier, PartitionKey, Rule};
use adapters::wire::v0_11::{self as wire};

use super::Body;
use crate::server::connection::Connection;

impl Connection {
    pub(super) async fn stream(&self, stream: &Identifier) -> Body {
        self.server.metadata.barrier().await?;
        let found = {
            let state = self.server.metadata.reader.read();
            let found = state.stream(stream).cloned();
            self.may(&state, found.as_ref().map(|it| Rule::ReadStream(it.id)))?;
            found
        };
        let Some(stream) = found else {
            return Ok(Vec::new());
        };
        let keys = stream.topics().flat_map(|topic| topic.keys(stream.id));
        let stats = self.server.partitions.stats_of(keys.collect()).await;
        let of = |key: &PartitionKey| stats.get(key).copied().unwrap_or_default();
        Ok(vec![wire::stream(&stream, &of)])
    }

    pub(super) async fn streams(&self) -> Body {
        self.server.metadata.barrier().await?;
        let stats = self.server.partitions.stats_of(self.all_keys()).await;
        let of = |key: &PartitionKey| stats.get(key).copied().unwrap_or_default();
        let state = self.server.metadata.reader.read();
        self.may(&state, Some(Rule::ListStreams))?;
        Ok(vec![wire::streams(&state, &of)])
    }

    fn all_keys(&self) -> Vec<PartitionKey> {
        let state = self.server.metadata.reader.read();
        state
            .streams()
            .flat_map(|stream| stream.topics().flat_map(|topic| topic.keys(stream.id)))
            .collect()
    }

    pub(super) async fn topic(&self, stream: &Identifier, topic: &Identifier) -> Body {
        self.server.metadata.barrier().await?;
        let found = {
            let state = self.server.metadata.reader.read();
            let found = state.topic(stream, topic).ok();
            let rule = found.map(|(stream, topic)| Rule::ReadTopic(stream.id, topic.id));
            self.may(&state, rule)?;
            found.map(|(stream, topic)| (stream.clone(), topic.clone()))
        };
        let Some((stream, topic)) = found else {
            return Ok(Vec::new());
        };
        let keys = topic.keys(stream.id).collect();
        let stats = self.server.partitions.stats_of(keys).await;
        let of = |key: &PartitionKey| stats.get(key).copied().unwrap_or_default();
        Ok(vec![wire::topic(&stream, &topic, &of)])
    }

    pub(super) async fn topics(&self, stream: &Identifier) -> Body {
        self.server.metadata.barrier().await?;
        let found = {
            let state = self.server.metadata.reader.read();
            let found = state.stream(stream).cloned();
            self.may(&state, found.as_ref().map(|it| Rule::ListTopics(it.id)))?;
            found
        };
        // As on Iggy's server, a stream that does not exist has no topics.
        let Some(stream) = found else {
            return Ok(vec![wire::no_topics()]);
        };
        let keys = stream.topics().flat_map(|topic| topic.keys(stream.id));
        let stats = self.server.partitions.stats_of(keys.collect()).await;
        let of = |key: &PartitionKey| stats.get(key).copied().unwrap_or_default();
        Ok(vec![wire::topics(&stream, &of)])
    }

    pub(super) async fn stats(&self) -> Body {
        self.server.metadata.barrier().await?;
        let stats = self.server.partitions.stats_of(self.all_keys()).await;
        let of = |key: &PartitionKey| stats.get(key).copied().unwrap_or_default();
        let clients = self.server.clients.all().len() as u32;
        let system = self.server.system.read(clients);
        let state = self.server.metadata.reader.read();
        self.may(&state, Some(Rule::Servers))?;
        Ok(vec![wire::stats(&state, system, &of)])
    }
}
