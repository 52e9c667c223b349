"""confluent-kafka's producer; librdkafka has idempotence off unless it is asked for."""
import sys
import time

from confluent_kafka import Producer

bootstrap, topic, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
producer = Producer({"bootstrap.servers": bootstrap, "enable.idempotence": True})
failed = []
for i in range(count):
    producer.produce(topic, str(i), partition=i % 3, on_delivery=lambda error, _: failed.append(error) if error else None)
    producer.poll(0)
    time.sleep(0.0005)
left = producer.flush(120)
if left or failed:
    sys.exit(f"{left} left, {len(failed)} failed: {failed[:3]}")
