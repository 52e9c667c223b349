"""Nodes of Milena that are killed and started again."""
import socket
import subprocess
import sys
import time


def free_port():
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return bound.getsockname()[1]


class Node:
    def __init__(self, milena, directory, number, cluster, *flags):
        self.kafka = f"127.0.0.1:{free_port()}"
        self.arguments = [
            milena, "start", "--node-id", str(number), "--cluster", cluster, "--kafka", self.kafka, "--data",
            f"{directory}/node-{number}", *flags,
        ]
        self.log = open(f"{directory}/node-{number}.log", "ab")
        self.start()

    def start(self, *flags):
        self.process = subprocess.Popen([*self.arguments, *flags], stdout=self.log, stderr=self.log)

    def kill(self):
        self.process.kill()
        self.process.wait()


def whole(milena, where):
    """Waits until all replicas of every partition are in sync."""
    end = time.time() + 60
    status = [milena, "cluster", "status", "--check", *where]
    while subprocess.run(status, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode:
        if time.time() > end:
            sys.exit("the cluster does not become whole")
        time.sleep(0.2)
