"""Clients read past what compaction leaves of a log whose keys are all deleted: batches that only keep its producers.

Many producers write tombstones to a partition, five batches each. Once those have gone, two records stand behind them. Every
client reads from the beginning, prints what is there and nothing else, and ends: first this partition, all of which is passed
over by one answer, then another beside it, whose records fill each answer, so that of the first, one batch without records is
given now and then. Arguments: the program `milena`, then NAME=COMMAND for each client, which gets behind it the bootstrap
server, a topic, and the offset at which it ends in each partition.
"""
import pathlib
import shlex
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time

from nodes import Node, free_port, whole

PRODUCERS = 20_000
# As many as a log keeps of each.
BATCHES = 5
KEYS = 1_000
# Records of the other partition, of 1,000 bytes each.
BESIDE = 12_000
TOPIC = "emptied"
SEGMENT_MS = 1_000
# How long the cleaner may take, and each client.
SECONDS = 30
BATCH_HEADER = 61
# Of one partition in an answer: what clients ask for.
FETCH_BYTES = 1 << 20


def main(milena, clients):
    with tempfile.TemporaryDirectory() as directory:
        flags = ["--min-insync-replicas", "1", "--cleaner-backoff-ms", "100", "--producer-ids-max", str(PRODUCERS)]
        node = Node(milena, directory, 1, f"1@127.0.0.1:{free_port()}", *flags)
        try:
            where = ["--bootstrap", node.kafka, "--timeout", "60"]
            whole(milena, where)
            last = make(milena, node.kafka, where)
            kept = sum(file.stat().st_size for file in pathlib.Path(directory).glob("**/*.log"))
            if kept < PRODUCERS * BATCHES * BATCH_HEADER:
                sys.exit(f"{kept} bytes are left: not only records have gone")
            lines = "".join(f"{number}:{number:01000}\n" for number in range(BESIDE))
            write = [milena, "produce", TOPIC, "--partition", "1", "--key-separator", ":", *where]
            subprocess.run(write, input=lines, text=True, check=True, stdout=subprocess.DEVNULL)
            failed = read_all(milena, node.kafka, where, clients, last)
        finally:
            node.kill()
        if failed:
            sys.exit(f"failed: {', '.join(failed)}")


def make(milena, address, where):
    """Makes the log, waits until all but two records have gone, and gives the offset of the last one.

    Each of those two ended the segment before: the active one is never cleaned, and its keys count for nothing yet, so that
    the one before keeps its record, too.
    """
    configs = [
        "cleanup.policy=compact", "delete.retention.ms=0", "min.cleanable.dirty.ratio=0", "segment.bytes=1048576",
        f"segment.ms={SEGMENT_MS}",
    ]
    create = [milena, "topic", "create", TOPIC, "--partitions", "2", *where, *(f"--config={config}" for config in configs)]
    subprocess.run(create, check=True, stdout=subprocess.DEVNULL)
    began, now = time.time(), int(time.time() * 1000)
    keys = [f"key {number}".encode() for number in range(KEYS)]
    count = PRODUCERS * BATCHES
    produce(address, (batch(-1, -1, now, key, b"value") for key in keys))
    produce(address, (batch(n % PRODUCERS, n // PRODUCERS, now, keys[n % KEYS], None) for n in range(count)))
    written, last, left = time.time(), KEYS + count - 1, None
    while left != expected(last):
        if time.time() > written + SECONDS:
            sys.exit(f"more is left than should be: {left[:3]}")
        last, now = last + 1, now + 2 * SEGMENT_MS
        produce(address, [batch(-1, -1, now, b"new", b"value")])
        time.sleep(0.3)
        read = subprocess.run(by_milena(milena, where), check=True, capture_output=True, text=True)
        left = read.stdout.splitlines()
    print(f"{count} batches written in {written - began:.1f} s, emptied in {time.time() - written:.1f} s", flush=True)
    return last


def read_all(milena, address, where, clients, last):
    """Has every client read one partition and both, and names those that did not do it well."""
    answers = emptied_answers(address, last - 1)
    failed = [] if answers else ["no answer gives a batch without records"]
    for ends in [last + 1], [last + 1, BESIDE]:
        only = ["-p", "0"] if len(ends) == 1 else []
        kcat = ["kcat", "-b", address, "-C", "-t", TOPIC, "-o", "beginning", "-e", "-q", "-f", "%p %o %k\\n", *only]
        commands = {"milena": by_milena(milena, where, *only), "kcat": kcat}
        commands |= {name: [*command, address, TOPIC, *map(str, ends)] for name, command in clients}
        lines = expected(last, *ends[1:])
        said = {name: reads(command, lines) for name, command in commands.items()}
        what = f"with another beside it, {answers} batches without records" if ends[1:] else "alone"
        print(f"read {what}: " + ", ".join(f"{name} {how}" for name, (_, how) in said.items()), flush=True)
        failed += [name for name, (right, _) in said.items() if not right]
    return failed


def by_milena(milena, where, *only):
    return [milena, "consume", TOPIC, "-f", "%p %o %k\\n", *where, *only]


def expected(last, beside=0):
    """What there is to be read: of each record its partition, offset and key."""
    return [f"0 {offset} new" for offset in (last - 1, last)] + [f"1 {number} {number}" for number in range(beside)]


def reads(command, lines):
    """Whether a client prints these lines, in the order of each partition, and how long it took."""
    began = time.time()
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired as expired:
        return False, f"does not end: {expired.stdout} {expired.stderr}"
    if sorted(done.stdout.splitlines(), key=lambda line: line[:1]) != lines or done.returncode:
        return False, f"ended with {done.returncode}: {done.stdout[-500:]} {done.stderr[-500:]}"
    return True, f"{time.time() - began:.1f} s"


def emptied_answers(address, end):
    """How many answers give nothing of the emptied partition but one batch without records, where the other fills them."""
    count, at, beside = 0, 0, 0
    with connected(address) as connection, connection.makefile("rb") as answers:
        while at < end:
            # Fetch 4.
            asked = struct.pack(">iiqiiqi", 2, 0, at, FETCH_BYTES, 1, beside, FETCH_BYTES)
            connection.sendall(request(1, 4, struct.pack(">iiiibi", -1, 500, 1, 8 * FETCH_BYTES, 0, 1) + named(TOPIC) + asked))
            rest = answer(answers)[4 + 4 + 4 + 2 + len(TOPIC) + 4:]
            for _ in range(2):
                index, error, _, _, _, size = struct.unpack_from(">ihqqii", rest)
                records, rest = rest[30:30 + size], rest[30 + size:]
                if error:
                    sys.exit(f"Fetch is answered with error {error}")
                sizes = list(batches(records))
                if index == 0 and sizes:
                    count += sizes == [(sizes[0][0], 0)]
                    at = sizes[-1][0]
                    if len(sizes) > 1 and any(in_batch == 0 for _, in_batch in sizes):
                        sys.exit(f"an answer up to offset {at} gives batches without records beside others")
                elif sizes:
                    beside = sizes[-1][0]
    return count


def batches(records):
    """Of each batch the offset behind it, and how many records it holds."""
    while records:
        base, length = struct.unpack_from(">qi", records)
        delta, = struct.unpack_from(">i", records, 23)
        yield base + delta + 1, struct.unpack_from(">i", records, 57)[0]
        records = records[12 + length:]


def produce(address, batches):
    """Sends each batch in a request of its own, Produce 3 with acks=all, without waiting for answers between."""
    before = struct.pack(">hhii", -1, -1, SECONDS * 1000, 1) + named(TOPIC)
    requests = [request(0, 3, before + struct.pack(">iii", 1, 0, len(batch)) + batch) for batch in batches]
    with connected(address) as connection, connection.makefile("rb") as answers:
        sender = threading.Thread(target=connection.sendall, args=(b"".join(requests),))
        sender.start()
        for _ in requests:
            error, = struct.unpack_from(">h", answer(answers), 4 + 4 + 2 + len(TOPIC) + 4 + 4)
            if error:
                sys.exit(f"Produce is answered with error {error}")
        sender.join()


def connected(address):
    host, port = address.split(":")
    return socket.create_connection((host, int(port)), SECONDS)


def request(api, version, body):
    return struct.pack(">ihhih", len(body) + 10, api, version, 0, -1) + body


def answer(answers):
    size, = struct.unpack(">i", answers.read(4))
    return answers.read(size)


def named(text):
    return struct.pack(">h", len(text)) + text.encode()


def batch(producer, sequence, timestamp, key, value):
    """A batch of one record."""
    record = b"\0\0\0" + sized(key) + sized(value) + b"\0"
    epoch = 0 if producer >= 0 else -1
    fields = struct.pack(">hiqqqhii", 0, 0, timestamp, timestamp, producer, epoch, sequence, 1) + sized(record)
    rest = struct.pack(">iBI", -1, 2, crc32c(fields)) + fields
    return struct.pack(">qi", 0, len(rest)) + rest


def sized(text):
    """Bytes behind their length, a varint of which one byte is enough."""
    return b"\x01" if text is None else bytes([2 * len(text)]) + text


def crc32c_table():
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F6_3B78 if byte & 1 else 0)
        yield byte


TABLE = list(crc32c_table())


def crc32c(text):
    crc = 0xFFFF_FFFF
    for byte in text:
        crc = TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFF_FFFF


if __name__ == "__main__":
    main(sys.argv[1], [(name, shlex.split(command)) for name, command in (arg.split("=", 1) for arg in sys.argv[2:])])
