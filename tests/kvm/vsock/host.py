# host.py ask SOCKET PORT STREAMS COUNT | host.py answer PATH STREAMS
import sys

from exchange import *


def connect(path, port):
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.connect(path)
    sock.sendall(b"CONNECT %d\n" % port)
    line = b""
    while not line.endswith(b"\n"):
        byte = sock.recv(1)
        if not byte:
            break
        line += byte
    if not line.startswith(b"OK "):
        raise ValueError(line)
    return sock


verb, path, *numbers = sys.argv[1:]
numbers = [int(number) for number in numbers]
if verb == "ask":
    port, streams, count = numbers
    good = in_parallel([lambda n=n: ask(connect(path, port), 10 * n, count) for n in range(streams)])
else:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(path)
    listener.listen(64)
    print("listening", flush=True)
    good = answer_all(listener, numbers[0])
print("good=%d" % good)
