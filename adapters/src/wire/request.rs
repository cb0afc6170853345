//! Requests of clients, independent of any generation of the wire.

use bytes::Bytes;
use secrecy::SecretString;

use crate::metadata::{ClientOperation, Identifier, Name, PartitionCount, Permissions};

/// A client's request.
#[derive(Clone, Debug)]
pub enum Request {
    /// A check of the connection.
    Ping,
    /// Figures of the whole system.
    Stats,
    /// The roster of the cluster.
    ClusterMetadata,
    /// The options that exist.
    DescribeOptions {
        /// 1 topics, 2 streams, 3 users.
        scope: u8,
    },
    /// Attaches this connection to a session that another one opened.
    AttachConsumerSession {
        /// The client's id.
        client: u128,
        /// Its session.
        session: u64,
        /// The position of the metadata log that the client has seen.
        watermark: u64,
    },
    /// The client that sends it.
    Me,
    /// One connected client.
    Client {
        /// Its number.
        id: u32,
    },
    /// All connected clients.
    Clients,
    /// Opens a session.
    Login {
        /// The protocol version that the client presents.
        version: u32,
        /// The user that it logs in as.
        credentials: Credentials,
    },
    /// A login of earlier protocols, which opens no session.
    LegacyLogin,
    /// Closes the session.
    Logout,
    /// One stream.
    Stream(Identifier),
    /// All streams.
    Streams,
    /// One topic.
    Topic {
        /// Its stream.
        stream: Identifier,
        /// The topic.
        topic: Identifier,
    },
    /// All topics of a stream.
    Topics(Identifier),
    /// A change of metadata.
    Change(ClientOperation<PartitionCount>),
    /// Messages for a topic.
    Send(SendRequest),
    /// Messages from a partition, wherever it is.
    Poll(PollRequest),
    /// Messages from a partition that this node owns.
    PollOnPrimary(PollRequest),
    /// The node that owns the partition of such a poll.
    PollRouting(OffsetTarget),
    /// The node that owns the partition of such an offset.
    OffsetRouting(OffsetTarget),
    /// A consumer's offset.
    Offset(OffsetTarget),
    /// Stores a consumer's offset.
    StoreOffset {
        /// The consumer and the partition.
        target: OffsetTarget,
        /// The offset.
        offset: u64,
    },
    /// Deletes a consumer's offset.
    DeleteOffset(OffsetTarget),
    /// A diagnostic archive with these sections.
    Archive(Vec<ArchiveSection>),
    /// Removes the oldest segments of a partition.
    DeleteSegments {
        /// The partition.
        target: PartitionTarget,
        /// The number of segments.
        count: u32,
    },
    /// One user.
    User(Identifier),
    /// All users.
    Users,
    /// The client's own tokens.
    Tokens,
    /// A change of users that contains a secret or needs a new one.
    ChangeUser(UserRequest),
    /// One consumer group.
    Group(GroupTarget),
    /// All consumer groups of a topic.
    Groups {
        /// Its stream.
        stream: Identifier,
        /// The topic.
        topic: Identifier,
    },
    /// Makes the client a member of a group. The node that serves it adds what it knows of
    /// the group's partitions.
    JoinGroup(GroupTarget),
    /// The partitions that the client reads as a member of a group.
    SyncGroup(GroupTarget),
}

/// The user that a client logs in as.
#[derive(Clone, Debug)]
pub enum Credentials {
    /// By name and password.
    Password {
        /// The name.
        username: String,
        /// The password.
        password: SecretString,
    },
    /// By a personal access token.
    Token(SecretString),
}

/// Messages for a topic.
#[derive(Clone, Debug)]
pub struct SendRequest {
    /// The stream.
    pub stream: Identifier,
    /// The topic.
    pub topic: Identifier,
    /// The choice of the partition.
    pub partitioning: Partitioning,
    /// The batch, as the client encoded it.
    pub batch: Bytes,
}

/// The choice of a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Partitioning {
    /// By the server, round-robin.
    Balanced,
    /// By the client.
    Partition(u32),
    /// By the hash of a key.
    Key(Vec<u8>),
}

/// A change of users that contains a secret or needs a new one. The node that serves the
/// client turns it into a change that can be replicated.
#[derive(Clone, Debug)]
pub enum UserRequest {
    /// Creates a user.
    Create {
        /// Its name.
        name: Name,
        /// Its password.
        password: SecretString,
        /// Whether it may log in.
        active: bool,
        /// What it may do.
        permissions: Option<Permissions>,
    },
    /// Changes a password.
    ChangePassword {
        /// The user.
        user: Identifier,
        /// The current password.
        current: SecretString,
        /// The new password.
        new: SecretString,
    },
    /// Creates a token of the client's user.
    CreateToken {
        /// Its name.
        name: Name,
        /// How long it can be used, in microseconds; 0 and `u64::MAX` forever.
        expiry_micros: u64,
    },
}

/// A consumer group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupTarget {
    /// The stream.
    pub stream: Identifier,
    /// The topic.
    pub topic: Identifier,
    /// The group.
    pub group: Identifier,
}

/// The reader of a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Consumer {
    /// A consumer without a group, by number.
    Single(u32),
    /// The members of a group.
    Group(Identifier),
}

/// A section of the diagnostic archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArchiveSection {
    /// Files and their sizes.
    Filesystem,
    /// Processes of the machine.
    Processes,
    /// Resources of the machine and the share of this process.
    Resources,
    /// A constant text, to test the archive.
    Test,
    /// The last lines of the log.
    Logs,
    /// The configuration, without secrets.
    Config,
}

/// A partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionTarget {
    /// The stream.
    pub stream: Identifier,
    /// The topic.
    pub topic: Identifier,
    /// The partition.
    pub partition: u32,
}

/// A consumer and a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OffsetTarget {
    /// The stream.
    pub stream: Identifier,
    /// The topic.
    pub topic: Identifier,
    /// The partition.
    pub partition: u32,
    /// The consumer.
    pub consumer: Consumer,
}

/// Messages from a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PollRequest {
    /// The consumer and the partition.
    pub target: OffsetTarget,
    /// The first message.
    pub start: PollStart,
    /// The most messages to return.
    pub count: u32,
    /// Whether to store the offset of the last message returned.
    pub auto_commit: bool,
}

/// Where a poll starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PollStart {
    /// At an offset.
    Offset(u64),
    /// At a time, in microseconds since the Unix epoch.
    Timestamp(u64),
    /// At the first message.
    First,
    /// With the last messages.
    Last,
    /// After the consumer's stored offset.
    Next,
}
