"""kafka-python prints what partitions have from their beginnings up to an offset each: partition, offset, key."""
import sys

from kafka import KafkaConsumer, TopicPartition

bootstrap, topic, ends = sys.argv[1], sys.argv[2], dict(enumerate(map(int, sys.argv[3:])))
consumer = KafkaConsumer(bootstrap_servers=bootstrap.split(","), group_id=None)
consumer.assign([TopicPartition(topic, partition) for partition in ends])
consumer.seek_to_beginning()
while ends:
    for records in consumer.poll(500).values():
        for record in records:
            print(record.partition, record.offset, record.key.decode())
            if record.offset + 1 == ends[record.partition]:
                del ends[record.partition]
