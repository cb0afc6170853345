#!/usr/bin/env python3
"""Drives the Python client (apache-iggy 0.9.0) through what it can do.

    pip install apache-iggy==0.9.0
    cargo run --release -- dev                    # in another terminal
    integration-tests/clients/python.py [HOST:PORT]

It needs the root user iggy with the password iggy, and removes what it creates. It
stops at the first reply that is not as expected; the last line is `passed`.
"""

import asyncio
import sys

from apache_iggy import (
    Consumer,
    GlobalPermissions,
    IggyClient,
    Permissions,
    PollingStrategy,
    SendMessage,
)

STREAM, TOPIC, PARTITIONS, EACH = "python-stream", "topic", 3, 10


def step(what):
    print(f"- {what}", flush=True)


async def client(address, user="iggy", password="iggy"):
    made = IggyClient.from_connection_string(f"iggy://{user}:{password}@{address}")
    await made.connect()
    return made


def sent():
    return [f"{p}-{i}" for p in range(PARTITIONS) for i in range(EACH)]


async def streams_and_topics(iggy):
    step("streams, topics, partitions")
    await iggy.create_stream(STREAM)
    await iggy.create_topic(STREAM, "first", PARTITIONS)
    await iggy.update_topic(STREAM, "first", TOPIC)
    assert await iggy.get_topic(STREAM, "first") is None
    await iggy.create_partitions(STREAM, TOPIC, 1)
    assert (await iggy.get_topic(STREAM, TOPIC)).partitions_count == PARTITIONS + 1
    await iggy.delete_partitions(STREAM, TOPIC, 1)
    assert (await iggy.get_topic(STREAM, TOPIC)).partitions_count == PARTITIONS
    assert STREAM in [stream.name for stream in await iggy.get_streams()]
    step(f"{len(await iggy.describe_options('topic'))} options of a topic")


async def messages(iggy):
    step("messages, offsets committed with a poll")
    for partition in range(PARTITIONS):
        batch = [SendMessage(f"{partition}-{i}") for i in range(EACH)]
        await iggy.send_messages(STREAM, TOPIC, partition, batch)
    for partition in range(PARTITIONS):

        async def poll():
            return await iggy.poll_messages(
                STREAM,
                TOPIC,
                consumer=Consumer.Single("me"),
                polling_strategy=PollingStrategy.Next(),
                count=EACH,
                auto_commit=True,
                partition_id=partition,
            )

        got = [message.payload().decode() for message in await poll()]
        assert got == [f"{partition}-{i}" for i in range(EACH)], got
        assert not await poll(), "the offset was not stored"


async def groups(iggy):
    step("consumer groups")
    await iggy.create_consumer_group(STREAM, TOPIC, "group")
    assert [g.name for g in await iggy.get_consumer_groups(STREAM, TOPIC)] == ["group"]
    assert (await iggy.get_consumer_group(STREAM, TOPIC, "group")).name == "group"
    await iggy.delete_consumer_group(STREAM, TOPIC, "group")

    step("the consumer of the library, as a group")
    consumer = await iggy.consumer_group(
        "readers", STREAM, TOPIC, None, PollingStrategy.Next(), 10
    )
    got, enough = [], asyncio.Event()

    async def take(message):
        got.append(message.payload().decode())
        if len(got) == PARTITIONS * EACH:
            enough.set()

    await asyncio.wait_for(consumer.consume_messages(take, enough), 60)
    assert sorted(got) == sent(), got


async def users(iggy, address):
    step("users, permissions, passwords")
    await iggy.create_user("python-user", "secret99")
    assert "python-user" in [user.username for user in await iggy.get_users()]
    other = await client(address, "python-user", "secret99")
    try:
        await other.create_stream("forbidden")
    except RuntimeError as refused:
        step(f"without permission: {refused}")
    else:
        raise AssertionError("a stream was created without permission")
    may = Permissions(GlobalPermissions(manage_streams=True))
    await iggy.update_permissions("python-user", may)
    await other.create_stream("allowed")
    await other.delete_stream("allowed")
    await other.change_password("python-user", "secret99", "secret98")
    await iggy.update_user("python-user", username="renamed")
    await client(address, "renamed", "secret98")
    await iggy.delete_user("renamed")


async def main(address):
    iggy = await client(address)
    await iggy.ping()
    await streams_and_topics(iggy)
    await messages(iggy)
    await groups(iggy)
    await users(iggy, address)
    step("purge, stats, deletion")
    await iggy.purge_topic(STREAM, TOPIC)
    await iggy.purge_stream(STREAM)
    assert (await iggy.get_stats()).streams_count >= 1
    await iggy.delete_topic(STREAM, TOPIC)
    await iggy.delete_stream(STREAM)
    await iggy.logout_user()
    print("passed")


asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:8090"))
