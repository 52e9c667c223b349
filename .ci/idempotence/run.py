"""Idempotent producers of several libraries, by default or on request, while nodes are killed: each value is there once, in order.

Each producer is a process that writes the numbers from 0 on, number i to partition i % 3, at a steady rate, and ends once all
are acknowledged. Meanwhile each of three nodes is killed and started again, one after the other. Arguments: the program
`milena`, then NAME=COMMAND for each producer, which gets bootstrap servers, topic and count behind it.
"""
import collections
import shlex
import subprocess
import sys
import tempfile
import time

from nodes import Node, free_port, whole

COUNT = 20_000
PARTITIONS = 3


def main(milena, producers):
    with tempfile.TemporaryDirectory() as directory:
        cluster = ",".join(f"{number}@127.0.0.1:{free_port()}" for number in (1, 2, 3))
        nodes = [Node(milena, directory, number, cluster) for number in (1, 2, 3)]
        try:
            failed = [name for name, command in producers if not check(milena, nodes, name, command)]
        finally:
            for node in nodes:
                node.kill()
        if failed:
            sys.exit(f"failed: {', '.join(failed)}")


def check(milena, nodes, name, command):
    bootstrap = ",".join(node.kafka for node in nodes)
    where = ["--bootstrap", bootstrap, "--timeout", "60"]
    whole(milena, where)
    make = [milena, "topic", "create", name, "--partitions", str(PARTITIONS), "--replication-factor", "3", *where]
    subprocess.run(make, check=True, stdout=subprocess.DEVNULL)
    producer = subprocess.Popen([*command, bootstrap, name, str(COUNT)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    for node in nodes:
        time.sleep(2)
        node.kill()
        time.sleep(1)
        node.start()
        whole(milena, where)
    said, _ = producer.communicate(timeout=180)
    read = [milena, "consume", name, "--from", "beginning", "-f", "%p %s\\n", *where]
    lines = subprocess.run(read, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    found = collections.defaultdict(list)
    for line in lines:
        partition, value = line.split()
        found[int(partition)].append(int(value))
    right = all(found[partition] == list(range(partition, COUNT, PARTITIONS)) for partition in range(PARTITIONS))
    times = collections.Counter(value for values in found.values() for value in values)
    twice = sum(count > 1 for count in times.values())
    verdict = "each value once, in order" if right else f"{COUNT - len(times)} values are not there, {twice} more than once"
    print(f"{name}: {COUNT} values, ended with {producer.returncode}: {verdict}", flush=True)
    if not right or producer.returncode:
        print(said.decode(errors="replace")[-2000:], flush=True)
    return right and producer.returncode == 0


if __name__ == "__main__":
    main(sys.argv[1], [(name, shlex.split(command)) for name, command in (arg.split("=", 1) for arg in sys.argv[2:])])
