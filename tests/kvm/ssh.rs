//! `minivmm ssh`: Debian's ssh to a guest's sshd on vsock. In the long test it is the one that systemd binds there, the key
//! comes as a credential, and the guest's watchdog ends a systemd that such a visitor has hung.

use std::{
    fs,
    io::Write,
    path::PathBuf,
    process::{Command, Output, Stdio},
};

use anyhow::{Context, Result, ensure};

use crate::{
    Test,
    vm::{Vm, run},
};

pub const TESTS: &[Test] = &[Test {
    name: "ssh::a_key_opens_a_guest_whose_sshd_listens_on_vsock_and_another_does_not",
    run: script,
}];

/// A boot of all of Debian.
pub const LONG: &[Test] = &[Test {
    name: "ssh::a_key_that_came_as_a_credential_opens_debian_and_its_watchdog_ends_a_systemd_that_hangs",
    run: debian,
}];

/// What the guest sends, in MiB: more than all buffers on the way.
const SENT: usize = 16;

/// systemd's crash handler freezes PID 1: nobody feeds the watchdog from then on. A unit of its own does it, as nothing of a
/// visit outlives it.
const HANG: &str = "systemd-run --quiet --on-active=1 kill -SEGV 1";

/// Has an sshd for each of three who come.
const SERVE: &str = "import os, socket, subprocess
listener = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
listener.bind((socket.VMADDR_CID_ANY, 22))
listener.listen(4)
print('sshd: listening', flush=True)
for _ in range(3):
    with listener.accept()[0] as stream:
        subprocess.run(['/usr/sbin/sshd', '-i'], stdin=stream, stdout=stream)
";

fn script() -> Result<()> {
    let vm = Vm::debian_script(
        "mkdir -p /run/sshd /root/.ssh\n\
         chmod 700 /root/.ssh\n\
         cp /data/key.pub /root/.ssh/authorized_keys\n\
         python3 /data/serve.py\n",
    )?
    .toml("[vsock]\ncid = 78\nsocket = \"streams\"\nallow = [\"ssh\"]\n");
    let (key, other) = (Visitor::new(&vm, "key")?, Visitor::new(&vm, "other")?);
    fs::copy(vm.directory().join("key.pub"), vm.data().join("key.pub"))?;
    fs::write(vm.data().join("serve.py"), SERVE)?;
    let mut running = vm.start()?;
    running.wait_for("sshd: listening")?;
    visits(&vm, &key, &other)?;
    let (code, output) = running.wait()?;
    ensure!(code == 0, "exit code {code}:\n{output}");
    vm.nothing_left()
}

/// Three: one that types, one that is not let in, and one by systemd's way that takes much away.
fn visits(vm: &Vm, key: &Visitor, other: &Visitor) -> Result<()> {
    let said = key.says("id -u; cat; exit 7", "typed")?;
    ensure!(
        said.status.code() == Some(7) && said.stdout == b"0\ntyped",
        "{said:?}"
    );
    let hosts = fs::read_to_string(vm.directory().join("hosts"))?;
    ensure!(hosts.starts_with("minivmm/test "), "{hosts:?}");

    let said = other.says("true", "")?;
    ensure!(
        said.status.code() == Some(255) && stderr(&said).contains("Permission denied (publickey"),
        "{said:?}"
    );

    let script =
        format!("head -c {SENT}M /dev/urandom >/tmp/sent; cat /tmp/sent; sha256sum /tmp/sent >&2");
    let said = key.says_by_systemd(&script)?;
    ensure!(
        said.status.success() && said.stdout.len() == SENT << 20,
        "{} bytes: {}",
        said.stdout.len(),
        stderr(&said)
    );
    let received = vm.directory().join("received");
    fs::write(&received, &said.stdout)?;
    let sum = run(["sha256sum", &received.display().to_string()])?;
    let sum = sum.split_whitespace().next().context("no sum")?;
    ensure!(stderr(&said).contains(sum), "{sum}: {}", stderr(&said));
    Ok(())
}

fn debian() -> Result<()> {
    let vm = Vm::debian()?
        .cmdline("overlay systemd.show_status=true systemd.watchdog_sec=40")
        .toml(
            "[vsock]\ncid = 78\nsocket = \"streams\"\nallow = [\"ssh\"]\n\
             [[credentials]]\nname = \"ssh.authorized_keys.root\"\npath = \"key.pub\"\n\
             [lifecycle]\nwatchdog = \"60s\"\n",
        );
    let (key, other) = (Visitor::new(&vm, "key")?, Visitor::new(&vm, "other")?);
    let mut running = vm.start()?;
    for reached in ["data.mount", "sshd-vsock.socket", "multi-user.target"] {
        running.wait_for(reached)?;
    }
    visits(&vm, &key, &other)?;
    let said = key.says(HANG, "")?;
    ensure!(said.status.success(), "{said:?}");
    let (code, output) = running.wait()?;
    ensure!(code == 15, "exit code {code}:\n{output}");
    ensure!(
        output.contains("the guest hung: its watchdog has run out"),
        "{output}"
    );
    vm.nothing_left()
}

/// Who comes with a key of their own.
struct Visitor<'a> {
    vm: &'a Vm,
    key: PathBuf,
}

impl<'a> Visitor<'a> {
    fn new(vm: &'a Vm, name: &str) -> Result<Self> {
        let key = vm.directory().join(name);
        let file = key.display().to_string();
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", &file])?;
        Ok(Self { vm, key })
    }

    /// What root's shell in the guest answers, through `minivmm ssh`.
    fn says(&self, script: &str, input: &str) -> Result<Output> {
        let mut command = self.vm.command(["ssh", "test", "--login", "root", "--"]);
        command.args(self.options()).arg(script);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        child
            .stdin
            .take()
            .context("it has an input")?
            .write_all(input.as_bytes())?;
        Ok(child.wait_with_output()?)
    }

    /// The same, through the program that systemd configures ssh to use. It knows nothing of minivmm but the VM's socket.
    fn says_by_systemd(&self, script: &str) -> Result<Output> {
        // This machine's systemd may be too old to have it: that of the guest, with its libraries.
        let root = std::env::var("MINIVMM_GUEST_DEBIAN").context("MINIVMM_GUEST_DEBIAN")?;
        let libraries = format!("{root}/usr/lib/x86_64-linux-gnu");
        let proxy = format!(
            "{root}/usr/lib64/ld-linux-x86-64.so.2 --library-path {libraries}:{libraries}/systemd \
             {root}/usr/lib/systemd/systemd-ssh-proxy vsock-mux/{} 22",
            self.vm.directory().join("streams").display()
        );
        let mut command = Command::new("ssh");
        command
            .args(["-o", &format!("ProxyCommand={proxy}")])
            .args(["-o", "ProxyUseFdpass=yes"])
            .args(["-o", "HostKeyAlias=minivmm/test"])
            .args(self.options())
            .args(["-l", "root", "test", script])
            .stdin(Stdio::null());
        Ok(command.output()?)
    }

    /// Nothing of who runs the test is used.
    fn options(&self) -> Vec<String> {
        let hosts = self.vm.directory().join("hosts");
        let mut options: Vec<String> = [
            format!("IdentityFile={}", self.key.display()),
            "IdentitiesOnly=yes".to_owned(),
            "IdentityAgent=none".to_owned(),
            "BatchMode=yes".to_owned(),
            format!("UserKnownHostsFile={}", hosts.display()),
            "ConnectTimeout=100".to_owned(),
        ]
        .into_iter()
        .flat_map(|option| ["-o".to_owned(), option])
        .collect();
        options.splice(0..0, ["-F".to_owned(), "none".to_owned()]);
        options
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
