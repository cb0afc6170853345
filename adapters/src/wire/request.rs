//! What clients ask, free of any generation of the wire.

use bytes::Bytes;
use secrecy::SecretString;

use crate::metadata::{ClientOperation, Identifier, Name, Permissions};

/// A client's request.
#[derive(Clone, Debug)]
pub enum Request {
    /// Are you there?
    Ping,
    /// Figures of the whole system.
    Stats,
    /// The roster of the cluster.
    ClusterMetadata,
    /// Which options there are.
    DescribeOptions {
        /// 1 topics, 2 streams, 3 users.
        scope: u8,
    },
    /// This connection speaks for a session that another one opened.
    AttachConsumerSession {
        /// The client's id.
        client: u128,
        /// Its session.
        session: u64,
        /// What the client has seen of the metadata log.
        watermark: u64,
    },
    /// Who am I?
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
        /// Who it claims to be.
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
        /// Which.
        topic: Identifier,
    },
    /// All topics of a stream.
    Topics(Identifier),
    /// A change of metadata.
    Change(ClientOperation),
    /// Messages for a topic.
    Send(SendRequest),
    /// Messages from a partition, wherever it is.
    Poll(PollRequest),
    /// Messages from a partition that this node owns.
    PollOnPrimary(PollRequest),
    /// Which node owns the partition that such a poll would read?
    PollRouting(OffsetTarget),
    /// Which node owns the partition that holds such an offset?
    OffsetRouting(OffsetTarget),
    /// A consumer's offset.
    Offset(OffsetTarget),
    /// Stores a consumer's offset.
    StoreOffset {
        /// Whose, and where.
        target: OffsetTarget,
        /// The offset.
        offset: u64,
    },
    /// Forgets a consumer's offset.
    DeleteOffset(OffsetTarget),
    /// A diagnostic archive with these sections.
    Archive(Vec<ArchiveSection>),
    /// Removes the oldest segments of a partition.
    DeleteSegments {
        /// Which partition.
        target: PartitionTarget,
        /// How many segments.
        count: u32,
    },
    /// One user.
    User(Identifier),
    /// All users.
    Users,
    /// The client's own tokens.
    Tokens,
    /// A change of users that holds a secret, or makes one.
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
    /// What the client reads as a member of a group.
    SyncGroup(GroupTarget),
    /// A command of the protocol that is not served.
    Unserved,
}

/// Who a client claims to be.
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
    /// Which partition.
    pub partitioning: Partitioning,
    /// The batch, as the client encoded it.
    pub batch: Bytes,
}

/// How a partition is chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Partitioning {
    /// By the server, in turn.
    Balanced,
    /// By the client.
    Partition(u32),
    /// By the hash of a key.
    Key(Vec<u8>),
}

/// A change of users that the node which serves the client turns into one that can
/// be replicated.
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
        /// Whose.
        user: Identifier,
        /// The password until now.
        current: SecretString,
        /// The password from now on.
        new: SecretString,
    },
    /// Makes a token of the client's user.
    CreateToken {
        /// Its name.
        name: Name,
        /// How long it can be used, in microseconds; 0 and `u64::MAX` for ever.
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

/// Who reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Consumer {
    /// A consumer of its own, by number.
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
    /// What this process uses, and what there is.
    Resources,
    /// A word, to see that it works.
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

/// Whose offset, in which partition.
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
    /// For whom, from where.
    pub target: OffsetTarget,
    /// From which message on.
    pub start: PollStart,
    /// How many at most.
    pub count: u32,
    /// Whether to store the offset of the last message returned.
    pub auto_commit: bool,
}

/// Where a poll begins.
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
    /// Behind the consumer's stored offset.
    Next,
}
