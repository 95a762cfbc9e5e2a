//! The guest's console: which device it uses, what is shown of it, and what is typed to it.

use anyhow::{Result, ensure};

use crate::{
    Test, depth,
    guest::Guest,
    vm::{Vm, value},
};

pub const TESTS: &[Test] = &[Test {
    name: "console::every_kernel_finds_its_console_and_each_message_is_shown_once",
    run: kernels,
}];

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
