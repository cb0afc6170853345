//! How a node registers itself, and its encoding.

use consensus::ReplicaId;

use crate::codec::{Malformed, Reader, Result, Writer};

const TEXT_BYTES_MAX: usize = 1024;

/// What the storage of a node may have lost of what it acknowledged, as of its last start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogState {
    /// Nothing.
    #[default]
    Intact,
    /// What was not on the disk when the machine stopped.
    TailLost,
    /// Everything: it is another storage.
    Lost,
}

impl LogState {
    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self> {
        match reader.u8()? {
            0 => Ok(Self::Intact),
            1 => Ok(Self::TailLost),
            2 => Ok(Self::Lost),
            _ => Err(Malformed("unknown state of a log")),
        }
    }

    pub(crate) fn write(self, out: &mut impl Writer) {
        out.put_u8(match self {
            Self::Intact => 0,
            Self::TailLost => 1,
            Self::Lost => 2,
        });
    }
}

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
