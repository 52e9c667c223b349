"""kafka-python's producer as it comes: idempotent."""
import sys
import time

from kafka import KafkaProducer

bootstrap, topic, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
producer = KafkaProducer(bootstrap_servers=bootstrap.split(","))
assert producer.config["enable_idempotence"], "idempotence is the default"
sent = []
for i in range(count):
    sent.append(producer.send(topic, str(i).encode(), partition=i % 3))
    time.sleep(0.0005)
producer.flush(120)
failed = [future.exception for future in sent if future.failed() or not future.is_done]
if failed:
    sys.exit(f"{len(failed)} failed: {failed[:3]}")
