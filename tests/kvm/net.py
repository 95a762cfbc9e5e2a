"""Both ends of a network test: `serve BYTES` in the guest, `ask ADDRESS BYTES UDP_MAX` on the host."""

import hashlib
import select
import socket
import sys
import time

TCP, UDP = 7000, 7001


def stream(size):
    """Bytes in which every block is another."""
    block = bytes(i * 7 & 0xFF for i in range(65521))
    for number in range(size // len(block) + 1):
        part = (number.to_bytes(8, "big") + block)[: min(len(block), size)]
        size -= len(part)
        yield part


def send(connection, size):
    digest = hashlib.sha256()
    for part in stream(size):
        digest.update(part)
        connection.sendall(part)
    connection.shutdown(socket.SHUT_WR)
    return digest.hexdigest()


def receive(connection):
    digest, size = hashlib.sha256(), 0
    while part := connection.recv(1 << 18):
        digest.update(part)
        size += len(part)
    return f"{size} {digest.hexdigest()}"


def expected(size):
    digest = hashlib.sha256()
    for part in stream(size):
        digest.update(part)
    return f"{size} {digest.hexdigest()}"


def serve(size):
    listener = socket.create_server(("", TCP))
    datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    datagrams.bind(("", UDP))
    print("net.py: ready", flush=True)
    while True:
        for ready in select.select([listener, datagrams], [], [])[0]:
            if ready is datagrams:
                data, sender = datagrams.recvfrom(1 << 16)
                datagrams.sendto(data, sender)
                continue
            connection, _ = listener.accept()
            command = connection.recv(1)
            if command == b"q":
                return
            if command == b"p":
                connection.sendall(receive(connection).encode())
            else:
                send(connection, size)
            connection.close()


def connect(address, command):
    connection = socket.create_connection((address, TCP), timeout=60)
    connection.sendall(command)
    return connection


def rate(size, since):
    return f"{size * 8 / (time.monotonic() - since) / 1e6:.0f} Mb/s"


def echo(address, largest):
    """Datagrams of every size, eight at a time; gives how many came back unchanged, and how many only when repeated."""
    peer = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    peer.connect((address, UDP))
    peer.settimeout(5)
    pattern = bytes(i * 13 & 0xFF for i in range(largest + 1))
    good = repeated = 0
    for first in range(0, largest + 1, 8):
        missing = set(range(first, min(first + 8, largest + 1)))
        for attempt in range(3):
            for size in sorted(missing):
                peer.send(pattern[:size])
            repeated += len(missing) if attempt else 0
            try:
                while missing:
                    data = peer.recv(1 << 16)
                    if len(data) in missing and data == pattern[: len(data)]:
                        missing.discard(len(data))
                        good += 1
            except TimeoutError:
                continue
            break
    return good, repeated


def ask(address, size, largest):
    connection = connect(address, b"p")
    since = time.monotonic()
    send(connection, size)
    answer = connection.recv(200).decode()
    print("to-guest:", "good" if answer == expected(size) else answer, rate(size, since))
    connection = connect(address, b"g")
    since = time.monotonic()
    answer = receive(connection)
    print("from-guest:", "good" if answer == expected(size) else answer, rate(size, since))
    if largest:
        good, repeated = echo(address, largest)
        print(f"udp: {good} of {largest + 1}, {repeated} repeated")
    connect(address, b"q").close()


if sys.argv[1] == "serve":
    serve(int(sys.argv[2]))
else:
    ask(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
