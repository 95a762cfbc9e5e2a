# Both ends of a stream at once send so many bytes that both know, and compare what comes with that. Used in the guest over
# AF_VSOCK and on the host over AF_UNIX.
import hashlib
import socket
import struct
import threading

HEADER = struct.Struct("<IQ")
BLOCK = 1 << 16


def blocks(seed, count):
    """What an end sends: every block has its own number in it."""
    base = hashlib.shake_128(b"%d" % seed).digest(BLOCK)
    for number in range((count + BLOCK - 1) // BLOCK):
        block = number.to_bytes(8, "little") + base[8:]
        yield block[: min(BLOCK, count - number * BLOCK)]


def receive(sock, length):
    buffer = bytearray(length)
    view = memoryview(buffer)
    done = 0
    while done < length:
        n = sock.recv_into(view[done:])
        if n == 0:
            break
        done += n
    return bytes(buffer[:done])


def send_all(sock, seed, count):
    for block in blocks(seed, count):
        sock.sendall(block)
    sock.shutdown(socket.SHUT_WR)


def both_ways(sock, sent, expected, count):
    sender = threading.Thread(target=send_all, args=(sock, sent, count))
    sender.start()
    for number, block in enumerate(blocks(expected, count)):
        got = receive(sock, len(block))
        if got != block:
            raise ValueError(f"block {number} is another one, or {len(got)} bytes short")
    if sock.recv(1):
        raise ValueError("more than was sent")
    sender.join()


def ask(sock, seed, count):
    sock.sendall(HEADER.pack(seed, count))
    both_ways(sock, seed, seed + 1, count)
    sock.close()


def answer(sock):
    seed, count = HEADER.unpack(receive(sock, HEADER.size))
    both_ways(sock, seed + 1, seed, count)
    sock.close()


def in_parallel(jobs):
    """Runs all, and says how many went well."""
    good = []

    def run(job):
        try:
            job()
            good.append(1)
        except Exception as error:
            print("exchange failed:", repr(error), flush=True)

    threads = [threading.Thread(target=run, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(good)


def answer_all(listener, streams):
    """Accepts so many streams, one after the other, and answers them at the same time."""
    sockets = [listener.accept()[0] for _ in range(streams)]
    return in_parallel([lambda s=s: answer(s) for s in sockets])
