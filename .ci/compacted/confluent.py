"""confluent-kafka prints what partitions have from their beginnings up to an offset each: partition, offset, key."""
import sys

from confluent_kafka import Consumer, KafkaError, TopicPartition

bootstrap, topic, ends = sys.argv[1], sys.argv[2], dict(enumerate(map(int, sys.argv[3:])))
consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "none", "enable.auto.commit": False})
consumer.assign([TopicPartition(topic, partition, 0) for partition in ends])
while ends:
    for record in consumer.consume(500, 0.5):
        # Said once of the group, which nothing here needs: there is no coordinator yet.
        if record.error() and record.error().code() == KafkaError.UNSUPPORTED_VERSION:
            continue
        assert record.error() is None, record.error()
        print(record.partition(), record.offset(), record.key().decode())
        if record.offset() + 1 == ends[record.partition()]:
            del ends[record.partition()]
