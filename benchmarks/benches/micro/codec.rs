//! Encoding and decoding: batches of the log, commands of the metadata, requests of
//! Iggy's clients.

use adapters::metadata::{ClientOperation, ClientRequest, Command, Name, Options};
use adapters::wire::v0_11::{HEADER_BYTES, RequestHeader, decode};
use bytes::Bytes;
use consensus::{Batch, BatchBuilder};
use criterion::{BenchmarkId, Criterion, Throughput};
use iggy_binary_protocol::requests::streams::CreateStreamRequest;
use iggy_binary_protocol::{WireEncode, WireName, WireOptions, consensus as wire};

use crate::COMMAND_BYTES;

pub(crate) fn benchmark(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("codec/batch");
    for commands in [1_u64, 64, 2_048] {
        let command = Bytes::from(vec![b'v'; COMMAND_BYTES]);
        let build = || {
            let bytes = command.len() * commands as usize;
            let mut batch = BatchBuilder::with_capacity(commands as usize, bytes);
            for _ in 0..commands {
                batch.push(&command);
            }
            batch.finish(1)
        };
        group.throughput(Throughput::Elements(commands));
        group.bench_function(BenchmarkId::new("encode", commands), |bencher| {
            bencher.iter(build);
        });
        let payload = build();
        group.bench_function(BenchmarkId::new("decode", commands), |bencher| {
            bencher.iter(|| Batch::decode(payload.clone()).expect("it was encoded"));
        });
    }
    group.finish();

    let mut group = criterion.benchmark_group("codec/create stream");
    let command = Command::Client(ClientRequest {
        client: 77,
        session: 1,
        request: 1,
        checksum: 1,
        operation: ClientOperation::CreateStream {
            name: Name::new("orders").expect("a name"),
            options: Options::default(),
        },
    });
    group.bench_function("encode command", |bencher| {
        bencher.iter(|| command.encode());
    });
    let encoded = command.encode();
    group.bench_function("decode command", |bencher| {
        bencher.iter(|| Command::decode(&encoded).expect("it was encoded"));
    });
    let (header, body) = create_stream();
    group.bench_function("decode request", |bencher| {
        bencher.iter(|| {
            let header = RequestHeader::parse(&header, 1 << 20).expect("a header");
            decode(&header, &body).expect("a request")
        });
    });
    group.finish();
}

/// A request as a client encodes it.
fn create_stream() -> ([u8; HEADER_BYTES], Bytes) {
    let create = CreateStreamRequest {
        name: WireName::new("orders").expect("a name"),
        options: WireOptions::empty(),
    };
    let body = create.to_bytes();
    let mut header = [0; HEADER_BYTES];
    header[48..52].copy_from_slice(&((HEADER_BYTES + body.len()) as u32).to_le_bytes());
    header[60] = wire::Command::Request as u8;
    header[128] = 7; // the client
    header[168] = 3; // the request's number
    header[176] = wire::Operation::CreateStream as u8;
    header[184] = 9; // the session
    (header, body)
}
