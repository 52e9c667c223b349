"""confluent-kafka against a running cluster: admin, produce with keys and headers, consume by offset and by time."""
import sys
import time

from confluent_kafka import KafkaError, Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

bootstrap = {"bootstrap.servers": sys.argv[1]}
admin = AdminClient(bootstrap)
for future in admin.create_topics([NewTopic("written", 3, 3)]).values():
    future.result(30)

delivered = []
producer = Producer({**bootstrap, "acks": "all", "compression.type": "lz4", "linger.ms": 5})
for i in range(1000):
    producer.produce(
        "written", f"value {i}", f"key {i}", partition=i % 3, timestamp=1_700_000_000_000 + i, headers=[("n", str(i))],
        on_delivery=lambda error, message: delivered.append((error, message.partition(), message.offset())),
    )
    producer.poll(0)
assert producer.flush(60) == 0, "not everything was sent"
assert len(delivered) == 1000 and all(error is None for error, _, _ in delivered), delivered[:3]

consumer = Consumer({**bootstrap, "group.id": "none", "enable.auto.commit": False})
consumer.assign([TopicPartition("written", p, 0) for p in range(3)])
seen, end = {}, time.time() + 30
while len(seen) < 1000 and time.time() < end:
    for message in consumer.consume(500, 0.5):
        # Said once of the group, which nothing here needs: there is no coordinator yet.
        if message.error() and message.error().code() == KafkaError.UNSUPPORTED_VERSION:
            continue
        assert message.error() is None, message.error()
        seen[(message.partition(), message.offset())] = message
assert len(seen) == 1000, len(seen)
for (partition, offset), message in seen.items():
    i = offset * 3 + partition
    assert message.value() == f"value {i}".encode() and message.key() == f"key {i}".encode()
    assert message.timestamp()[1] == 1_700_000_000_000 + i and message.headers() == [("n", str(i).encode())]
found = consumer.offsets_for_times([TopicPartition("written", 1, 1_700_000_000_000 + 500)], 10)
assert found[0].offset == 167, found
for future in admin.delete_topics(["written"]).values():
    future.result(30)
print("confluent-kafka: 1000 records went in and came back, by offset and by time; topics made and deleted")
