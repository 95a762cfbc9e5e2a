# COUNT small files and MIB mebibytes each way; both are set by the test.
import fcntl, hashlib, mmap, os, sqlite3, sys, time

os.chdir("/data")


def say(line):
    print(line, flush=True)


def checksum(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def in_child(work):
    """Runs work in another process; says whether it went well."""
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(0 if work() else 1)
        finally:
            os._exit(2)
    return pid


def went_well(pid):
    return os.waitpid(pid, 0)[1] == 0


def ok(condition):
    return "ok" if condition else "no"


# Small files and a large one.
found = sum(open(f"host/{n}").read() == f"host {n}\n" for n in range(COUNT))
say(f"small={found if sorted(os.listdir('host')) == sorted(map(str, range(COUNT))) else 'names'}")
os.mkdir("guest")
for n in range(COUNT):
    with open(f"guest/{n}", "w") as file:
        file.write(f"guest {n}\n")
say(f"large-host={checksum('large-host')}")
with open("large-guest", "wb") as file:
    block = os.urandom(1 << 20)
    for n in range(MIB):
        file.write(n.to_bytes(8, "little") + block[8:])
    file.flush()
    os.fsync(file.fileno())
say(f"large-guest={checksum('large-guest')}")

# Names and attributes.
open("old", "w").write("old\n")
open("new", "w").write("new\n")
os.rename("old", "new")
say(f"renamed={ok(open('new').read() == 'old' + chr(10) and not os.path.exists('old'))}")
open("one", "w").write("one\n")
os.link("one", "other")
say(f"linked={ok(os.stat('one').st_nlink == 2 and os.path.samefile('one', 'other'))}")
os.setxattr("one", "user.minivmm", b"told")
os.setxattr("one", "user.gone", b"x")
os.removexattr("one", "user.gone")
say(f"xattr={ok(os.listxattr('other') == ['user.minivmm'] and os.getxattr('other', 'user.minivmm') == b'told')}")

# What is closed on one side is read on the other.
for round in range(5):
    with open("question", "w") as file:
        file.write(f"question {round}\n")
    say(f"asked {round}")
    while not os.path.exists("answer") or open("answer").read() != f"answer {round}\n":
        time.sleep(0.05)

# A mapping that two processes share.
with open("mapped", "wb") as file:
    file.truncate(8192)
with open("mapped", "r+b") as file:
    ours = mmap.mmap(file.fileno(), 8192)
words = b"from the child"


def write_in_mapping():
    with open("mapped", "r+b") as file:
        theirs = mmap.mmap(file.fileno(), 8192)
        theirs[: len(words)] = words
        return theirs[4096:4100] == b"here"


ours[4096:4100] = b"here"
done = went_well(in_child(write_in_mapping))
shared = ours[: len(words)] == words
ours.flush()
say(f"mmap={ok(done and shared and open('mapped', 'rb').read(len(words)) == words)}")


def locks(lock, unlock):
    """One process holds a lock that another does not get until it is given back."""
    held_read, held = os.pipe()
    go_read, go = os.pipe()

    def hold():
        with open("lock", "r+") as file:
            lock(file, False)
            os.write(held, b"x")
            os.read(go_read, 1)
            unlock(file)
            return True

    open("lock", "w").close()
    pid = in_child(hold)
    os.read(held_read, 1)
    with open("lock", "r+") as file:
        try:
            lock(file, True)
            refused = False
        except BlockingIOError:
            refused = True
        os.write(go, b"x")
        ended = went_well(pid)
        lock(file, True)
    return ok(refused and ended)


say("flock=" + locks(
    lambda file, now: fcntl.flock(file, fcntl.LOCK_EX | (fcntl.LOCK_NB if now else 0)),
    lambda file: fcntl.flock(file, fcntl.LOCK_UN)))
say("fcntl=" + locks(
    lambda file, now: fcntl.lockf(file, fcntl.LOCK_EX | (fcntl.LOCK_NB if now else 0)),
    lambda file: fcntl.lockf(file, fcntl.LOCK_UN)))


# A database that four processes write to at once.
def connect():
    return sqlite3.connect("db.sqlite", timeout=60)


with connect() as db:
    mode = db.execute("PRAGMA journal_mode = WAL").fetchone()[0]
    db.execute("CREATE TABLE t (writer INTEGER, n INTEGER)")
db.close()


def insert(writer):
    db = connect()
    for n in range(COUNT // 4):
        with db:
            db.execute("INSERT INTO t VALUES (?, ?)", (writer, n))
    db.close()
    return True


writers = [in_child(lambda writer=writer: insert(writer)) for writer in range(4)]
fine = all([went_well(pid) for pid in writers])
db = connect()
rows = db.execute("SELECT count(*) FROM t").fetchone()[0]
integrity = db.execute("PRAGMA integrity_check").fetchone()[0]
db.close()
say(f"sqlite={rows if fine else 'a writer failed'} {integrity} {mode}")
sys.exit(0)
