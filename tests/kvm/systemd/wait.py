# Keeps a guest from being up until the host has made /data/go, and all the while says to the host what only its own PID
# 1 should, and more than that may.

import os
import socket
import time

count = 0
while not os.path.exists("/data/go"):
    count += 1
    with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as host:
        host.connect((2, 8888))
        host.sendall(
            b"MAINPID=1\nMAINPIDFDID=1\nFDSTORE=1\nWATCHDOG=trigger\nSTATUS=round %d\nERRNO=5" % count
        )
        host.shutdown(socket.SHUT_WR)
        while host.recv(16):
            pass
    if count == 2:
        open("/data/waiting", "w").close()
    time.sleep(0.5)
open("/data/reached", "w").close()
