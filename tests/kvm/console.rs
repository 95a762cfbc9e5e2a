//! The guest's console: which device it uses, what is shown of it, and what is typed to it.

mod attached;

use std::{
    fs::{self, File},
    io::Write,
    os::unix::fs::OpenOptionsExt,
    time::Instant,
};

use anyhow::{Result, ensure};
use rustix::process::Signal;

use crate::{
    Test, depth,
    guest::Guest,
    tiny::{self, Last},
    vm::{PATIENCE, Vm, value},
};
use attached::{Attached, OnTerminal, outcome};

pub const TESTS: &[Test] = &[
    Test {
        name: "console::every_kernel_finds_its_console_and_each_message_is_shown_once",
        run: kernels,
    },
    Test {
        name: "console::a_megabyte_is_shown_again_and_who_does_not_read_costs_nothing",
        run: megabyte,
    },
    Test {
        name: "console::a_shell_on_the_serial_port_is_typed_to",
        run: serial,
    },
    Test {
        name: "console::a_log_that_nobody_reads_and_a_full_disk_hold_up_nobody",
        run: nobody_reads,
    },
];

/// What the test of a kernel expects.
struct Expected {
    kernel: &'static str,
    words: &'static str,
    toml: &'static str,
    /// The active consoles, the last one being /dev/console.
    active: &'static str,
}

const KERNELS: [Expected; 5] = [
    // Built in.
    Expected {
        kernel: "6.12-cloud",
        words: "",
        toml: "",
        active: "ttyS0 hvc0",
    },
    // A module that the initrd has.
    Expected {
        kernel: "6.1",
        words: "",
        toml: "",
        active: "ttyS0 hvc0",
    },
    // A module that it does not have.
    Expected {
        kernel: "6.1",
        words: "module_blacklist=virtio_console",
        toml: "",
        active: "ttyS0",
    },
    Expected {
        kernel: "6.1-cloud",
        words: "",
        toml: "",
        active: "ttyS0 hvc0",
    },
    Expected {
        kernel: "6.12-cloud",
        words: "",
        toml: "[console]\ndevice = \"serial\"\n",
        active: "ttyS0",
    },
];

fn kernels() -> Result<()> {
    for expected in depth(&KERNELS[..3], &KERNELS[..]) {
        kernel(expected)?;
    }
    Ok(())
}

fn kernel(expected: &Expected) -> Result<()> {
    let Expected {
        kernel,
        words,
        toml,
        active,
    } = expected;
    let script = "echo active=$(cat /sys/class/tty/console/active)\n\
         echo /dev/console is written >/dev/console\n\
         echo /dev/ttyS0 is written >/dev/ttyS0\n\
         if [ -c /dev/hvc0 ]; then echo /dev/hvc0 is written >/dev/hvc0; fi\n\
         echo '<2>an important message' >/dev/kmsg\n\
         echo '<6>a message for the log' >/dev/kmsg\n\
         dmesg -n 7\n\
         echo '<6>a message for everybody' >/dev/kmsg\n";
    let vm = Vm::with_script(script)?
        .guest(Guest::of_kernel(kernel)?)
        .cmdline(words)
        .toml(toml);
    let (code, output) = vm.run()?;
    ensure!(code == 0, "{kernel}: exit code {code}:\n{output}");
    let consoles = value(&output, "active=")?;
    ensure!(consoles == *active, "{kernel}: {consoles}:\n{output}");
    let count = |text: &str| output.lines().filter(|line| line.contains(text)).count();
    let hvc0 = usize::from(active.contains("hvc0"));
    for (text, times) in [
        ("/dev/console is written", 1),
        ("/dev/ttyS0 is written", 1),
        ("/dev/hvc0 is written", hvc0),
        ("] an important message", 1),
        ("] a message for the log", 0),
        ("] a message for everybody", 1),
    ] {
        ensure!(
            count(text) == times,
            "{kernel}: `{text}` is shown {} times:\n{output}",
            count(text)
        );
    }
    Ok(())
}

/// A shell on the guest's console, which reads what is typed there.
const SHELL: &str = "echo a shell follows\nexec sh </dev/console >/dev/console 2>&1\n";
/// Lines of the output that is too much for every buffer but the ring, with eight bytes each.
const LINES: std::ops::Range<u32> = 100_000..227_000;

fn megabyte() -> Result<()> {
    let vm = Vm::with_script(SHELL)?;
    let mut running = vm.start()?;
    // What is typed earlier is the serial port's, and nobody reads it there.
    running.wait_for("a shell follows")?;
    let mut first = Attached::new(&vm, &[])?;
    first.line("echo sum=$((40+2))")?;
    first.wait_for("sum=42")?;

    let (code, said) = outcome(vm.command(["console", "test"]))?;
    ensure!(
        code == Some(6)
            && said.contains("types on this console already")
            && said.contains("--force"),
        "{code:?}: {said}"
    );
    let looking = Attached::new(&vm, &["--read-only"])?;
    looking.wait_for("sum=42")?;

    // One with a pipe that nobody reads.
    let (_unread, pipe) = std::io::pipe()?;
    let mut unread = vm.command(["console", "test", "--read-only"]);
    let mut unread = unread.stdout(pipe).spawn()?;

    let expected: String = LINES.map(|n| format!("n{n}\n")).collect();
    let start = Instant::now();
    // Without its treatment of ends of lines the kernel hands a page at a time to the device, and not half a line.
    first.line(&format!(
        "stty -opost; seq {} {} | sed s/^/n/ | cat; stty opost; echo end=$((1+1))",
        LINES.start,
        LINES.end - 1
    ))?;
    let seen = first.wait_for("end=2")?;
    println!("a megabyte in {:?}", start.elapsed());
    ensure!(seen.contains(&expected), "not every line was shown");
    ensure!(
        looking.wait_for("end=2")?.contains(&expected),
        "not every line was shown to the one who looks on"
    );
    first.leave()?;
    unread.kill()?;
    unread.wait()?;

    // Its standard input is at its end from the beginning.
    let (code, again) = outcome(vm.command(["console", "test"]))?;
    ensure!(code == Some(0), "{code:?}");
    ensure!(again.contains("sum=42"), "the beginning is lost");
    ensure!(again.contains(&expected), "something of the ring is lost");
    let (_, lines) = outcome(vm.command(["logs", "test"]))?;
    ensure!(
        lines.contains(&expected),
        "something of the ring is not in the log"
    );
    let (_, last) = outcome(vm.command(["logs", "test", "-n", "3"]))?;
    ensure!(
        last.lines().count() == 3 && last.contains("end=2"),
        "{last}"
    );

    on_terminals(&vm)?;
    let mut typing = Attached::new(&vm, &["--history", "none"])?;
    let mut followed = vm.command(["logs", "test", "--follow", "--lines", "1"]);
    let followed = followed.stdout(std::process::Stdio::piped()).spawn()?;
    typing.line("echo c >/proc/sysrq-trigger")?;
    let (code, output) = running.wait()?;
    ensure!(code == 12, "exit code {code}");
    let last_lines: Vec<&str> = output
        .lines()
        .filter(|line| line.contains("ERROR the guest's last words: "))
        .collect();
    ensure!(
        (1..=30).contains(&last_lines.len())
            && last_lines
                .iter()
                .any(|line| line.contains("] Kernel panic - not syncing")),
        "{last_lines:#?}"
    );
    let end = "[minivmm: the VM has ended: the guest's kernel panicked: its console says why]\r\n";
    for shown in [typing.end()?, looking.end()?] {
        ensure!(shown.ends_with(end), "{}", &shown[shown.len() - 100..]);
    }
    let followed = followed.wait_with_output()?;
    let followed = String::from_utf8(followed.stdout)?;
    ensure!(
        followed.trim_end().ends_with(end.trim_end()) && followed.contains("Kernel panic"),
        "{followed}"
    );
    vm.nothing_left()
}

/// Keys, the key that leaves, taking over, and signals.
fn on_terminals(vm: &Vm) -> Result<()> {
    let mut first = OnTerminal::new(vm, &["--history", "1"])?;
    first.wait_for("connected to `test`; Ctrl-] leaves")?;
    first.keys(b"echo product=$((6*7))\r")?;
    first.wait_for("product=42")?;
    first.is_raw()?;

    let mut second = OnTerminal::new(vm, &["--history", "none", "--force"])?;
    first.wait_for("types now, and you look on]")?;
    first.keys(b"echo nobody=$((1+1))\r")?;
    second.keys(b"echo taken=$((1+2))\r")?;
    second.wait_for("taken=3")?;
    let seen = first.wait_for("taken=3")?;
    ensure!(!seen.contains("nobody="), "{seen}");
    first.keys(b"\x1d")?;
    let left = first.end()?;
    ensure!(left.contains("detached from `test`"), "{left}");
    second.is_raw()?;
    second.signal(Signal::TERM)?;
    second.end()?;
    Ok(())
}

fn serial() -> Result<()> {
    let vm = Vm::with_script(SHELL)?.toml("[console]\ndevice = \"serial\"\n");
    let mut running = vm.start()?;
    // What is typed earlier is the serial port's, and nobody reads it there.
    running.wait_for("a shell follows")?;
    let mut typing = Attached::new(&vm, &[])?;
    // More than the port's FIFO holds.
    let words = "word ".repeat(30);
    typing.line(&format!("echo {words}sum=$((40+2))"))?;
    typing.wait_for(&format!("\n{words}sum=42"))?;
    typing.line("exec >/dev/null; poweroff -f")?;
    let (code, output) = running.wait()?;
    ensure!(code == 0, "exit code {code}:\n{output}");
    typing.end()?;
    Ok(())
}

fn nobody_reads() -> Result<()> {
    full_disk()?;
    // The init of the DNS guest obeys the power button.
    let vm = Vm::new()?.by(["sh", "-c", "exec \"$@\" >/dev/full 2>log", "sh"]);
    let log = vm.directory().join("log");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &log,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )?;
    let mut log = File::options()
        .read(true)
        .write(true)
        .custom_flags(rustix::fs::OFlags::NONBLOCK.bits() as i32)
        .open(&log)?;
    while log.write(&[b'x'; 4096]).is_ok() {}
    let running = vm.start()?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (_, lines) = outcome(vm.command(["logs", "test"]))?;
        if lines.contains("dns ready") {
            break;
        }
        ensure!(Instant::now() < deadline, "not ready; seen:\n{lines}");
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
    running.signal(Signal::TERM)?;
    let (code, _) = running.wait()?;
    ensure!(code == 0, "exit code {code}");
    Ok(())
}

/// Standard output is a file on a full disk: said once, and the guest goes on to its own end.
fn full_disk() -> Result<()> {
    let vm = Vm::new()?.by(["sh", "-c", "exec \"$@\" >/dev/full", "sh"]);
    let directory = vm.directory().join("tiny");
    fs::create_dir(&directory)?;
    fs::write(directory.join("vmlinuz"), tiny::kernel(Last::TripleFault)?)?;
    let vm = vm.guest(Guest::new(&directory).without_initrd());
    let (code, output) = vm.run()?;
    ensure!(code == 11, "exit code {code}:\n{output}");
    let said = output
        .lines()
        .filter(|line| line.contains("standard output: "));
    let said: Vec<_> = said.collect();
    ensure!(
        said.len() == 1 && said[0].contains("the guest goes on"),
        "{output}"
    );
    Ok(())
}
