//! One replica without its threads: write-ahead log, snapshots, superblock and the step-persist-send-commit loop.
