//! Length-prefixed frames.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::memory::{CountedBuffer, MemoryBudget};

/// A frame must be complete this long after its length has arrived. Otherwise the connection
/// is closed.
pub(super) const TIMEOUT: Duration = Duration::from_secs(30);
/// Frames of up to this size are not counted in the memory of requests and replies.
const UNCOUNTED_BYTES_MAX: usize = 64 << 10;

/// Reads one frame, or `None` at a clean end of the stream. It waits for the start of a frame
/// without a limit, and then for its end as long as [`TIMEOUT`]. The memory for a frame grows
/// with what arrives and is counted; the frame waits while there is none.
pub(super) async fn read(
    reader: &mut (impl AsyncRead + Unpin),
    bytes_max: usize,
    memory: &MemoryBudget,
) -> io::Result<Option<Bytes>> {
    let mut length = [0; 4];
    match reader.read_exact(&mut length).await {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let length = u32::from_le_bytes(length) as usize;
    if length > bytes_max {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("a frame of {length} bytes is larger than the {bytes_max} allowed"),
        ));
    }
    let mut frame = CountedBuffer::new(length, UNCOUNTED_BYTES_MAX);
    let complete = async {
        while frame.missing() > 0 {
            frame.grow(memory).await;
            frame.read(reader).await?;
        }
        io::Result::Ok(())
    };
    match tokio::time::timeout(TIMEOUT, complete).await {
        Ok(complete) => complete?,
        Err(_) => return Err(io::ErrorKind::TimedOut.into()),
    }
    Ok(Some(frame.finish()))
}

/// The same for a short frame, which is not counted.
pub(super) async fn read_short(
    reader: &mut (impl AsyncRead + Unpin),
    bytes_max: usize,
) -> io::Result<Option<Bytes>> {
    debug_assert!(bytes_max <= UNCOUNTED_BYTES_MAX);
    read(reader, bytes_max, &MemoryBudget::new(0)).await
}

/// Writes one frame of several parts, without flushing.
pub(super) async fn write(
    writer: &mut (impl AsyncWrite + Unpin),
    parts: &[&[u8]],
) -> io::Result<()> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let length = u32::try_from(length)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "frame of 4 GiB or more"))?;
    writer.write_all(&length.to_le_bytes()).await?;
    for part in parts {
        writer.write_all(part).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    const MIB: usize = 1 << 20;

    async fn write_half(writer: &mut (impl AsyncWrite + Unpin), announced: usize) {
        let length = u32::try_from(announced).unwrap().to_le_bytes();
        writer.write_all(&length).await.unwrap();
        writer.write_all(&vec![7; announced / 2]).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn half_a_frame_is_given_up_after_the_timeout_and_its_memory_is_free_again() {
        let memory = MemoryBudget::new(8 * MIB);
        let (mut near, mut far) = tokio::io::duplex(4 * MIB);
        write_half(&mut near, 6 * MIB).await;
        let started = Instant::now();
        let error = read(&mut far, 6 * MIB, &memory).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(started.elapsed(), TIMEOUT);
        assert_eq!(memory.reserved_bytes(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_frame_waits_for_memory() {
        let memory = MemoryBudget::new(MIB);
        let others = memory.try_reserve(MIB).unwrap();
        let (mut near, mut far) = tokio::io::duplex(MIB);
        write(&mut near, &[&vec![7; MIB / 2]]).await.unwrap();
        let mut reading = Box::pin(read(&mut far, MIB, &memory));
        let waits = tokio::time::timeout(TIMEOUT / 2, &mut reading).await;
        assert!(waits.is_err());
        drop(others);
        assert_eq!(reading.await.unwrap().unwrap().len(), MIB / 2);
    }
}
