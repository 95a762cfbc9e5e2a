//! `minivmm top` on a terminal: what it shows, and the terminal as it was in the end.

use anyhow::Result;

use crate::{Test, vm};

pub const TESTS: &[Test] = &[Test {
    name: "top::the_terminal_is_as_it_was_after_a_key_a_signal_and_a_lost_reader",
    run: on_a_terminal,
}];

const SCRIPT: &str = r#"
import fcntl, os, pty, select, signal, struct, sys, termios, time

program, root = sys.argv[1:3]

def start():
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ["MINIVMM_RUNTIME_ROOT"] = root
        os.environ["TERM"] = "xterm"
        # The terminal's size is there before it is asked for.
        os.read(0, 1)
        os.execv(program, [program, "top"])
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 10, 60, 0, 0))
    before = termios.tcgetattr(terminal)
    os.write(terminal, b"\n")
    return pid, terminal, before

def until(terminal, text, seen=b""):
    deadline = time.monotonic() + 60
    while text not in seen:
        if not select.select([terminal], [], [], deadline - time.monotonic())[0]:
            sys.exit(f"no {text!r} in {seen!r}")
        seen += os.read(terminal, 4096)
    return seen

def ends_well(pid, terminal, before, status):
    # The other screen is left, and the cursor is there.
    until(terminal, b"\x1b[?7h\x1b[?25h\x1b[?1049l")
    ended = os.waitpid(pid, 0)[1]
    if ended != status: sys.exit(f"ended with {ended}")
    if termios.tcgetattr(terminal) != before: sys.exit("the terminal is not as it was")

for end in ["q", "\x03", signal.SIGTERM, signal.SIGHUP]:
    pid, terminal, before = start()
    seen = until(terminal, b"0 VMs")
    if b"\x1b[?1049h" not in seen: sys.exit(f"{seen!r}")
    if termios.tcgetattr(terminal)[3] & (termios.ICANON | termios.ECHO): sys.exit("keys are echoed")
    # Another size is another image.
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 6, 20, 0, 0))
    until(terminal, "q quit   n name  c …".encode())
    if isinstance(end, str):
        os.write(terminal, end.encode())
    else:
        os.kill(pid, end)
    ends_well(pid, terminal, before, 0)

# Suspended and continued.
pid, terminal, before = start()
until(terminal, b"0 VMs")
os.write(terminal, b"\x1a")
until(terminal, b"\x1b[?1049l")
if not os.WIFSTOPPED(os.waitpid(pid, os.WUNTRACED)[1]): sys.exit("it was not stopped")
if termios.tcgetattr(terminal) != before: sys.exit("the terminal is not the shell's")
os.kill(pid, signal.SIGCONT)
until(terminal, b"\x1b[?1049h")
os.write(terminal, b"q")
ends_well(pid, terminal, before, 0)

# A terminal that goes away.
pid, terminal, _ = start()
until(terminal, b"0 VMs")
os.close(terminal)
os.waitpid(pid, 0)
print("well")
"#;

fn on_a_terminal() -> Result<()> {
    let directory = vm::directory()?;
    let script = directory.path().join("terminal.py");
    std::fs::write(&script, SCRIPT)?;
    vm::run([
        "timeout",
        "300",
        "python3",
        &script.to_string_lossy(),
        &vm::program().to_string_lossy(),
        &directory.path().to_string_lossy(),
    ])?;
    Ok(())
}
