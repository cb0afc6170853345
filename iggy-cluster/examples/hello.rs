//! A stock Iggy client against a running cluster: a stream, a topic with three
//! partitions, messages in, messages out.
//!
//! ```sh
//! cargo run --release -- dev
//! cargo run --release --example hello [ADDRESS]
//! ```
//! Any node of the cluster will do; the default is 127.0.0.1:8090. When that one
//! does not reply, the example fails after three attempts.

#![allow(clippy::print_stdout, reason = "an example that shows what it does")]

use std::str::FromStr;

use iggy::prelude::*;

const PER_PARTITION: u32 = 3;
const PARTITIONS: u32 = 3;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1);
    let address = address.unwrap_or_else(|| "127.0.0.1:8090".into());
    let client = IggyClient::from_connection_string(&format!(
        "iggy://iggy:iggy@{address}?reconnection_retries=2&reconnection_interval=1s"
    ))?;
    client.connect().await.map_err(|error| {
        format!(
            "{address}: {error}; is that node up? Give another: --example hello -- 127.0.0.1:8190"
        )
    })?;

    let (stream, topic) = (Identifier::named("hello")?, Identifier::named("greetings")?);
    if client.get_stream(&stream).await?.is_none() {
        client.create_stream("hello").await?;
    }
    if client.get_topic(&stream, &topic).await?.is_none() {
        let options = TopicCreateOptions {
            partitions_count: Some(PARTITIONS),
            ..TopicCreateOptions::default()
        };
        client.create_topic(&stream, "greetings", &options).await?;
    }
    for partition in 0..PARTITIONS {
        let mut messages = (0..PER_PARTITION)
            .map(|number| {
                IggyMessage::from_str(&format!("hello {number} of partition {partition}"))
            })
            .collect::<Result<Vec<_>, _>>()?;
        let partitioning = Partitioning::partition_id(partition);
        client
            .send_messages(&stream, &topic, &partitioning, &mut messages)
            .await?;
    }
    for partition in 0..PARTITIONS {
        let polled = client
            .poll_messages(
                &stream,
                &topic,
                Some(partition),
                &Consumer::default(),
                &PollingStrategy::first(),
                PER_PARTITION,
                false,
            )
            .await?;
        for message in polled.messages {
            let text = String::from_utf8_lossy(&message.payload);
            println!(
                "partition {partition} offset {}: {text}",
                message.header.offset
            );
        }
    }
    client.shutdown().await?;
    Ok(())
}
