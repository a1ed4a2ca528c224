#!/usr/bin/env python3
"""Holds a verified copy of the factors: follows the topics, and checks the digest of each generation.

    pip install confluent-kafka blake3
    python3 examples/reader.py localhost:9092 --user u7        # follows until it is interrupted
    python3 examples/reader.py localhost:9092 --once           # exit code 0: the newest generation is verified
"""

import argparse
import json
import struct
import sys

import blake3
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, TopicPartition

LANES = 1024


class LtHash:
    """A sum of rows, lane by lane modulo 2^16; even and odd lanes apart, so that a carry stays in the gap above its lane."""

    LOW = int.from_bytes(b"\xff\xff\x00\x00" * (LANES // 2), "little")
    CARRY = int.from_bytes(b"\x00\x00\x01\x00" * (LANES // 2), "little")

    def __init__(self):
        self.even = self.odd = 0

    @staticmethod
    def lanes(key, value):
        stream = blake3.blake3(struct.pack("<I", len(key)) + key + value).digest(length=2 * LANES)
        row = int.from_bytes(stream, "little")
        return row & LtHash.LOW, (row >> 16) & LtHash.LOW

    def add(self, key, value):
        even, odd = self.lanes(key, value)
        self.even, self.odd = (self.even + even) & self.LOW, (self.odd + odd) & self.LOW

    def remove(self, key, value):
        even, odd = self.lanes(key, value)
        self.even = ((self.even | self.CARRY) - even) & self.LOW
        self.odd = ((self.odd | self.CARRY) - odd) & self.LOW

    def hex(self):
        return blake3.blake3((self.even | self.odd << 16).to_bytes(2 * LANES, "little")).hexdigest()


class Copy:
    """The rows of one generation, as bytes, and their digest."""

    def __init__(self):
        self.rows, self.digest = {}, LtHash()

    def apply(self, key, value):
        old = self.rows.pop(key, None)
        if old is not None:
            self.digest.remove(key, old)
        if value is not None:
            self.rows[key] = value
            self.digest.add(key, value)

    def count(self, side):
        return sum(key.startswith(side) for key in self.rows)

    def vector(self, key):
        row = self.rows[key]
        return struct.unpack(f"<{len(row) // 4}f", row)

    def top(self, user, n):
        mine = self.vector(b"u/" + user.encode())
        score = lambda key: sum(x * y for x, y in zip(mine, self.vector(key)))
        items = ((score(key), key[2:].decode()) for key in self.rows if key.startswith(b"i/"))
        return sorted(items, reverse=True)[:n]


class Reader:
    def __init__(self, brokers, factors, generations):
        # No group takes part: each reader wants every partition, from its beginning. Whole generations only.
        settings = {
            "bootstrap.servers": brokers, "group.id": "unused", "enable.auto.commit": False,
            "isolation.level": "read_committed", "enable.partition.eof": True}
        self.rows, self.manifests = Consumer(settings), Consumer(settings)
        self.factors = factors
        self.open = self.start(self.manifests, generations)
        self.begin()

    def begin(self):
        self.copy, self.next = Copy(), {}

    @staticmethod
    def start(consumer, topic):
        found = consumer.list_topics(topic, timeout=30).topics[topic]
        if found.error or not found.partitions:
            sys.exit(f"{topic}: {found.error or 'no partitions'}")
        consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in found.partitions])
        return set(found.partitions)

    def newest(self):
        """The manifest of the newest generation; waits until there is one that was not returned before."""
        manifest = None
        while manifest is None or self.open:
            message = self.manifests.poll(1.0)
            if message is None:
                continue
            if not message.error():
                self.open.add(message.partition())
                manifest = json.loads(message.value()) if message.value() else manifest
            elif message.error().code() == KafkaError._PARTITION_EOF:
                self.open.discard(message.partition())
            else:
                sys.exit(str(message.error()))
        return manifest

    def apply(self, manifest):
        """Brings the copy to this generation; does it match the manifest's digest?"""
        upto = {int(partition): end for partition, end in manifest["upto"].items()}
        behind = {partition for partition, end in upto.items() if self.next.get(partition, 0) < end}
        self.rows.assign([TopicPartition(self.factors, at, self.next.get(at, OFFSET_BEGINNING)) for at in behind])
        while behind:
            message = self.rows.poll(1.0)
            if message is None or message.partition() not in behind:
                continue
            partition = message.partition()
            if not message.error():
                if message.offset() < upto[partition]:
                    self.copy.apply(message.key(), message.value())
                # Compaction leaves holes: a record behind the end, or the end of the partition, is as good as the last one.
                if message.offset() + 1 >= upto[partition]:
                    behind.discard(partition)
            elif message.error().code() == KafkaError._PARTITION_EOF:
                behind.discard(partition)
            else:
                sys.exit(str(message.error()))
        self.next.update(upto)
        return self.copy.digest.hex() == manifest["digest"]


def main():
    options = argparse.ArgumentParser(description="Holds a verified copy of the factors.")
    options.add_argument("brokers")
    options.add_argument("--factors", default="nepenthe.factors")
    options.add_argument("--generations", default="nepenthe.generations")
    options.add_argument("--user", help="also print the five best items of this user")
    options.add_argument("--once", action="store_true", help="end after the first generation that is verified")
    options = options.parse_args()
    reader, failures = Reader(options.brokers, options.factors, options.generations), 0
    manifest = reader.newest()
    while True:
        if not reader.apply(manifest):
            # Compaction may have taken rows of this generation, because newer ones replaced them while we read.
            failures += 1
            if failures == 3:
                sys.exit("the rows are not what the manifest says: ask `nepenthe verify`, and who else writes to the topic")
            reader.begin()
            continue
        failures = 0
        copy = reader.copy
        print(f"generation {manifest['generation']}: {copy.count(b'u/')} users, {copy.count(b'i/')} items, digest as published", flush=True)
        if options.user and b"u/" + options.user.encode() in copy.rows:
            for score, item in copy.top(options.user, 5):
                print(f"  {score + manifest['model'].get('mean', 0.0):8.4f}  {item}", flush=True)
        if options.once:
            return
        manifest = reader.newest()


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        pass
