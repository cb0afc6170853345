//! How a node registers itself, and its encoding.

use consensus::ReplicaId;

use crate::codec::{Reader, Result, Writer};

const TEXT_BYTES_MAX: usize = 1024;

/// What a node publishes about itself when it registers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeInfo {
    /// Its id in the replicated log.
    pub node: ReplicaId,
    /// Its name in the configuration.
    pub name: String,
    /// Rises with every start of the process.
    pub incarnation: u64,
    /// The host that clients connect to.
    pub host: String,
    /// The port of Iggy's TCP protocol.
    pub tcp_port: u16,
    /// `host:port` of its admin endpoint.
    pub admin: String,
    /// The version of its software.
    pub version: String,
}

impl NodeInfo {
    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self> {
        Ok(Self {
            node: ReplicaId(reader.u64()?),
            name: reader.text(TEXT_BYTES_MAX)?.into(),
            incarnation: reader.u64()?,
            host: reader.text(TEXT_BYTES_MAX)?.into(),
            tcp_port: reader.u16()?,
            admin: reader.text(TEXT_BYTES_MAX)?.into(),
            version: reader.text(TEXT_BYTES_MAX)?.into(),
        })
    }

    pub(crate) fn write(&self, out: &mut impl Writer) {
        out.put_u64_le(self.node.0);
        out.put_text(&self.name);
        out.put_u64_le(self.incarnation);
        out.put_text(&self.host);
        out.put_u16_le(self.tcp_port);
        out.put_text(&self.admin);
        out.put_text(&self.version);
    }
}
