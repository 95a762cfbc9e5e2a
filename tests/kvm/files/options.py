# Mounts every share beside /data and sees what it can do there.
import errno, mmap, os, subprocess, time

for tag in ["read-only", "plain", "uncached", "mapped", "tuned", "late"]:
    os.mkdir(f"/tmp/{tag}")
    subprocess.run(["mount", "-t", "virtiofs", tag, f"/tmp/{tag}"], check=True)
os.chdir("/tmp")


def say(line):
    print(line, flush=True)


def attempt(work, *arguments):
    try:
        work(*arguments)
        return "ok"
    except OSError as error:
        return errno.errorcode[error.errno]


def wait_for(name):
    while not os.path.exists(f"/data/{name}"):
        time.sleep(0.05)


def share_mapping(path):
    with open(path, "wb") as file:
        file.truncate(4096)
    with open(path, "r+b") as file:
        with mmap.mmap(file.fileno(), 4096) as mapping:
            mapping[:5] = b"hello"
    if open(path, "rb").read(5) != b"hello":
        raise OSError(errno.EIO, "what was mapped is not there")


read_only = [
    attempt(open, "read-only/file", "r+"),
    attempt(open, "read-only/new", "w"),
    attempt(os.unlink, "read-only/file"),
    attempt(os.mkdir, "read-only/new"),
    attempt(os.rename, "read-only/file", "read-only/new"),
    attempt(os.chmod, "read-only/file", 0o600),
    attempt(os.setxattr, "read-only/file", "user.x", b"x"),
]
kind = "file" if open("read-only/file").read() == "as it was\n" else "nothing"
say(f"read-only={kind} {' '.join(read_only)}")

open("plain/file", "w").close()
say(f"plain={attempt(os.setxattr, 'plain/file', 'user.x', b'x').replace('ENOTSUP', 'EOPNOTSUPP')}")
say(f"uncached={attempt(share_mapping, 'uncached/file')}")
say(f"mapped={attempt(share_mapping, 'mapped/file')}")

for tag in ["tuned", "uncached"]:
    open(f"{tag}/direct", "w").close()
direct = [os.open(f"{tag}/direct", os.O_RDWR | os.O_DIRECT) for tag in ["tuned", "uncached"]]
say("direct=open")
wait_for("closed")

late, soon = open("late/file", "wb", buffering=0), open("/data/soon", "wb", buffering=0)
late.write(b"later")
soon.write(b"later")
say("late=written")
wait_for("seen")
os.fsync(late.fileno())
say("late=synced")
wait_for("done")
for file in direct:
    os.close(file)
late.close()
os.chdir("/")
for tag in ["read-only", "plain", "uncached", "mapped", "tuned", "late"]:
    subprocess.run(["umount", f"/tmp/{tag}"], check=True)
