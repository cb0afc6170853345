//! A thousand nodes and ten thousand partitions: half of the nodes leave and return.
//! One command for all partitions, and one command for each.

use std::time::Instant;

use anyhow::Context;
use bytes::BufMut;

use super::{BACKENDS, Bench, Scenario};
use crate::client::Client;
use crate::cluster::{Cluster, Setup};
use crate::options::Options;
use crate::replica::{COMMAND_BYTES, Durability, Machine, OwnershipCommand};
use crate::results::{Rebalance, Results, Spread};

const NODES: u32 = 1_000;
const PARTITIONS: u32 = 10_000;
/// In-flight commands, when there is one for each partition.
const IN_FLIGHT: usize = 1_024;
/// One command after the other is slow: a quick run measures a part of them.
const ONE_BY_ONE_QUICK: u32 = 500;

pub(super) fn steps(options: &Options) -> usize {
    BACKENDS.len() * options.rounds()
}

pub(super) async fn run(bench: &Bench, results: &mut Results) -> anyhow::Result<()> {
    for backend in BACKENDS {
        let setup = Setup {
            machine: Machine::Ownership,
            ..bench.setup(backend, Durability::Fsync)
        };
        let mut cluster = Cluster::start(&setup).await?;
        let leader = cluster.leader().await?;
        let mut client = Client::connect(&cluster.address(leader), 0).await?;
        let create = OwnershipCommand::Create {
            nodes: NODES,
            partitions: PARTITIONS,
        };
        one(&mut client, create).await?;
        let one_by_one = match bench.options.quick {
            true => ONE_BY_ONE_QUICK,
            false => PARTITIONS,
        };
        let mut took = [Vec::new(), Vec::new(), Vec::new()];
        for round in 0..bench.options.rounds() {
            bench.report(Scenario::Rebalance, backend.name());
            for to in [NODES / 2, NODES] {
                let started = Instant::now();
                one(&mut client, OwnershipCommand::Rebalance { from: 0, to }).await?;
                took[0].push(started.elapsed().as_secs_f64() * 1e3);
            }
            for (way, (partitions, in_flight)) in [(PARTITIONS, IN_FLIGHT), (one_by_one, 1)]
                .into_iter()
                .enumerate()
            {
                let started = Instant::now();
                let moves = |tag: u64, frame: &mut bytes::BytesMut| {
                    let partition = (tag % u64::from(PARTITIONS)) as u32;
                    let node = (partition + round as u32) % NODES;
                    frame.put_slice(&OwnershipCommand::Move { partition, node }.encode());
                };
                let count = u64::from(partitions);
                client
                    .execute_with(count, in_flight, COMMAND_BYTES, moves)
                    .await?;
                let millis = started.elapsed().as_secs_f64() * 1e3;
                let all = f64::from(PARTITIONS) / f64::from(partitions);
                took[way + 1].push(millis * all);
            }
            bench.step();
        }
        let ways = [
            ("one command", 1),
            ("a command for each, 1,024 in flight", u64::from(PARTITIONS)),
            ("a command for each, one by one", u64::from(PARTITIONS)),
        ];
        for ((how, commands), took) in ways.into_iter().zip(took) {
            let spread = Spread::of(took).context("no rounds")?;
            results.rebalance.push(Rebalance {
                system: backend.name().into(),
                nodes: u64::from(NODES),
                partitions: u64::from(PARTITIONS),
                how: how.into(),
                commands,
                millis: spread.median,
                low_millis: Some(spread.low),
                high_millis: Some(spread.high),
            });
        }
    }
    Ok(())
}

async fn one(client: &mut Client, command: OwnershipCommand) -> anyhow::Result<()> {
    let encoded = command.encode();
    client
        .execute_with(1, 1, COMMAND_BYTES, |_, frame| frame.put_slice(&encoded))
        .await
}
