//! How a process notices that the one which started it has ended, also when that was killed.

use std::io::Read;

use tokio::sync::oneshot;

/// Returns at the end of the standard input, which a process of a [`Program`](crate::Program)
/// that [`ends_with_input`](crate::Program::ends_with_input) shares with its parent. It reads
/// on a thread of its own, which does not keep the process from ending.
pub async fn end_of_input() {
    let (ended, end) = oneshot::channel();
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while std::io::stdin()
            .read(&mut buffer)
            .is_ok_and(|bytes| bytes > 0)
        {}
        let _ = ended.send(());
    });
    let _ = end.await;
}
