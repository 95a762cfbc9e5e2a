import sys
import time

sys.path.insert(0, "/data")
from exchange import *

AGAIN = sys.argv[1] == "again"
STREAMS, COUNT, NOTIFIES = (0, 0, 0) if AGAIN else (int(word) for word in sys.argv[1:])
HOST = 2


def connect(port):
    sock = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
    sock.settimeout(100)
    sock.connect((HOST, port))
    return sock


def listen(port):
    listener = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
    listener.bind((socket.VMADDR_CID_ANY, port))
    listener.listen(64)
    return listener


def refused(port):
    try:
        connect(port).close()
        return False
    except OSError:
        return True


def notify():
    """The longest and the middle time until the host has closed a stream with which systemd would tell of itself."""
    times = []
    for n in range(NOTIFIES):
        sock = connect(8888)
        sock.sendall(b"X_TEST=%d\n" % n)
        start = time.monotonic()
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(1) == b"", "something was said"
        times.append(time.monotonic() - start)
        sock.close()
    times.sort()
    return times[-1], times[len(times) // 2]


def half_closes():
    """The guest ends its direction and hears the answer; then the host does, and hears the guest's."""
    sock = connect(9000)
    sock.sendall(b"guest ends")
    sock.shutdown(socket.SHUT_WR)
    first = sock.makefile().read()
    sock.close()
    sock = connect(9000)
    asked = sock.makefile().read()
    sock.sendall(b"after " + asked.encode())
    sock.close()
    return first


def flood():
    """More streams than there may be; those that are refused hurt no other."""
    streams = []
    try:
        while len(streams) < 1000:
            streams.append(connect(9002))
    except OSError:
        pass
    for stream in streams:
        stream.close()
    return len(streams)


def hello():
    """Answers a line."""
    sock = lines.accept()[0]
    print("line=" + sock.makefile().readline().strip(), flush=True)
    sock.sendall(b"hello\n")
    sock.close()


exchanges, lines = listen(5000), listen(22)
if AGAIN:
    print("again: listening", flush=True)
    hello()
    sys.exit()
print("cid=%d" % struct.unpack("I", __import__("fcntl").ioctl(open("/dev/vsock"), 0x7B9, bytes(4))), flush=True)
print("allowed: listening", flush=True)
print("from-host=%d" % answer_all(exchanges, STREAMS), flush=True)
print("to-host=%d" % in_parallel([lambda n=n: ask(connect(9001), 10 * n, COUNT // 8) for n in range(STREAMS)]), flush=True)
print("half=" + half_closes(), flush=True)
print("refused=%s" % all(refused(port) for port in (1, 9003, 9004)), flush=True)
print("nobody: refused=%s" % refused(9005), flush=True)
print("flood=%d" % flood(), flush=True)
print("after-flood=%s" % (not refused(9002)), flush=True)
longest, middle = notify()
print("notify-longest=%.1f" % (longest * 1000), flush=True)
print("notify-middle=%.1f" % (middle * 1000), flush=True)
print("last: listening", flush=True)
hello()
print("after-all=%d" % answer_all(exchanges, 1), flush=True)
