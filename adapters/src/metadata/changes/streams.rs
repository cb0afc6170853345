//! Changes of streams.

use std::sync::Arc;

use partitions::PartitionKey;

use crate::metadata::error::MetadataError;
use crate::metadata::options::Options;
use crate::metadata::state::{MetadataState, STREAMS_MAX, Stream};
use crate::metadata::types::{Identifier, Name};

impl MetadataState {
    pub(in crate::metadata) fn create_stream(
        &mut self,
        name: Name,
        options: Options,
    ) -> Result<Arc<Stream>, MetadataError> {
        if self.stream_names.contains_key(&name) {
            return Err(MetadataError::StreamNameAlreadyExists);
        }
        let id = self
            .free_stream_ids
            .first()
            .copied()
            .unwrap_or(self.streams.len() as u32);
        if id >= STREAMS_MAX {
            return Err(MetadataError::TooManyStreams);
        }
        self.free_stream_ids.remove(&id);
        self.stream_names.insert(name.clone(), id);
        let stream = Arc::new(Stream::new(id, name, self.now, options));
        self.streams.insert(id, Arc::clone(&stream));
        Ok(stream)
    }

    pub(in crate::metadata) fn update_stream(
        &mut self,
        stream: &Identifier,
        name: Name,
        options: &Options,
    ) -> Result<(), MetadataError> {
        let id = self.stream_id(stream)?;
        if self
            .stream_names
            .get(&name)
            .is_some_and(|other| *other != id)
        {
            return Err(MetadataError::StreamNameAlreadyExists);
        }
        let stream = self.stream_mut(id)?;
        let former = std::mem::replace(&mut stream.name, name.clone());
        stream.options.patch(options);
        self.stream_names.remove(&former);
        self.stream_names.insert(name, id);
        Ok(())
    }

    /// Returns the partitions that are gone.
    pub(in crate::metadata) fn delete_stream(
        &mut self,
        stream: &Identifier,
    ) -> Result<Vec<PartitionKey>, MetadataError> {
        let id = self.stream_id(stream)?;
        let stream = self
            .streams
            .remove(&id)
            .ok_or(MetadataError::StreamNotFound)?;
        self.stream_names.remove(&stream.name);
        self.free_stream_ids.insert(id);
        // Ids above the highest in use are free anyway, and a restored state does not
        // list them.
        self.free_stream_ids.split_off(&self.stream_ids_end());
        for topic in stream.topics() {
            self.count_removed(topic.partitions.iter());
        }
        self.forget_groups(id, stream.topics());
        self.users.forget_stream(id);
        Ok(stream.keys())
    }

    /// Returns the generations of partitions that are gone.
    pub(in crate::metadata) fn purge_stream(
        &mut self,
        stream: &Identifier,
    ) -> Result<Vec<PartitionKey>, MetadataError> {
        let id = self.stream_id(stream)?;
        let generation = self.command_id;
        let topics = self.stream_mut(id)?.topics_mut();
        Ok(topics
            .flat_map(|topic| topic.purge(id, generation))
            .collect())
    }
}
