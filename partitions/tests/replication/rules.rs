//! Rules that those around a copy keep: the metadata, the node, its disks. The protocol
//! relies on them.

consensus::rules! {
    ActsAfterRegistration: "a copy takes part before its metadata has the registration of its start",
    RestartStartsEpoch: "a leader that has started again continues in its epoch",
    DownKeepsInSync: "the metadata removes a node from the in-sync set when it is down",
    LostDiskUntrusted: "a copy on an empty disk counts as one that has lost nothing",
    PowerLossUntrusted: "a copy whose machine has stopped counts as one that has lost nothing",
}
