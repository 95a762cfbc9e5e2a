//! A service VM under test: the hardened kernel, the base as its root, layers over it, data on a share.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use serde_json::Value;

use super::made;
use crate::{
    guest::Guest,
    network::{GUEST, Network},
    vm::{Running, Vm, run},
};

/// A boot of systemd takes a minute in the lab, and more beside other work.
const BOOT: Duration = Duration::from_secs(240);

/// Whose the directory of a `shifted` share is, and the guest's root's files on it.
pub const SHIFTED: u32 = 4_000_000;

/// What is on the root below the layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Root {
    /// The base's image, as the first disk.
    Volume,
    /// The base's files, on a share.
    Share,
}

/// A VM's files, and what its configuration says so far.
pub struct Service {
    vm: Vm,
    memory: u32,
    vcpus: u8,
    root: Root,
    layers: Vec<PathBuf>,
    share: Option<String>,
    credentials: Vec<(String, Vec<u8>)>,
    words: String,
    toml: String,
}

#[allow(dead_code, reason = "the tests of the services use all of it")]
impl Service {
    /// One vCPU, 384 MiB, the base on a volume and nothing else: no data, no network, a console that shows what systemd does.
    pub fn new(root: Root) -> Result<Self> {
        let guest = Guest {
            kernel: made("service-kernel/bzImage")?,
            initrd: None,
            entry: None,
        };
        Ok(Self {
            vm: Vm::without_share()?.guest(guest),
            memory: 384,
            vcpus: 1,
            root,
            layers: Vec::new(),
            share: None,
            credentials: Vec::new(),
            words: "systemd.show_status=true".to_owned(),
            toml: String::new(),
        })
    }

    /// Lays the image of this name over the base: `adguard`.
    pub fn layer(self, name: &str) -> Result<Self> {
        let image = super::image(name)?;
        Ok(self.layer_of(&image))
    }

    /// Lays an image over the base.
    pub fn layer_of(mut self, image: &Path) -> Self {
        self.layers.push(image.to_owned());
        self
    }

    /// Shares [`data`](Self::data) on /data; `ids` is `host`, `shifted` or `squash`. With `shifted` its directory must be given
    /// to [`SHIFTED`] first.
    pub fn data(mut self, ids: &str) -> Self {
        let base = match ids {
            "shifted" => format!("ids_base = {SHIFTED}\n"),
            _ => String::new(),
        };
        self.share = Some(format!("ids = \"{ids}\"\n{base}"));
        self
    }

    /// Gives it the tap and the address of a test's network. The VM runs in that network's namespace of the host.
    pub fn network(mut self, network: &Network) -> Self {
        self.toml.push_str(&Network::toml());
        self.by(["ip", "netns", "exec", &network.host])
    }

    /// Runs `minivmm` by another program.
    pub fn by<const N: usize>(mut self, words: [&str; N]) -> Self {
        self.vm = self.vm.by(words);
        self
    }

    /// Gives it a credential.
    pub fn credential(mut self, name: &str, content: impl Into<Vec<u8>>) -> Self {
        self.credentials.push((name.to_owned(), content.into()));
        self
    }

    /// Has systemd run a shell script as root when it has started everything, and waits for that with being ready. What it
    /// prints goes to the console, or wherever it says.
    pub fn script(self, script: &str) -> Self {
        let unit = "[Unit]\nAfter=multi-user.target\n\
             [Service]\nType=oneshot\nTimeoutStartSec=infinity\n\
             ImportCredential=test.sh\nNoNewPrivileges=no\nLockPersonality=no\nRestrictRealtime=no\n\
             ExecStart=/bin/sh ${CREDENTIALS_DIRECTORY}/test.sh\n\
             StandardOutput=tty\nStandardError=inherit\nTTYPath=/dev/console\n";
        self.credential("systemd.extra-unit.test.service", unit)
            .credential("test.sh", script)
            .words("systemd.wants=test.service")
    }

    /// The size of its memory in MiB.
    pub fn memory(mut self, size: u32) -> Self {
        self.memory = size;
        self
    }

    /// The number of vCPUs.
    pub fn vcpus(mut self, count: u8) -> Self {
        self.vcpus = count;
        self
    }

    /// Adds words to the kernel's command line.
    pub fn words(mut self, words: &str) -> Self {
        self.words.push(' ');
        self.words.push_str(words);
        self
    }

    /// Adds TOML at the end of the configuration.
    pub fn toml(mut self, text: &str) -> Self {
        self.toml.push_str(text);
        self
    }

    /// The share's directory on the host.
    pub fn data_directory(&self) -> PathBuf {
        self.vm.data()
    }

    /// The directory in which `minivmm` runs.
    pub fn directory(&self) -> &Path {
        self.vm.directory()
    }

    /// Writes its files and starts it.
    pub fn start(self) -> Result<Started> {
        let mut words = self.words.clone();
        let mut toml = String::new();
        let image = |toml: &mut String, image: &Path| {
            write!(toml, "[[volumes]]\nimage = {image:?}\nread_only = true\n")
        };
        let mut mounted = None;
        let first = match self.root {
            Root::Volume => {
                image(&mut toml, &super::image("base")?)?;
                words.push_str(" root=/dev/vda rootfstype=erofs ro");
                b'b'
            }
            Root::Share => {
                mounted = Some(Mounted::new(
                    &super::image("base")?,
                    &self.vm.directory().join("base"),
                )?);
                toml.push_str("[[shares]]\ntag = \"base\"\nsource = \"base\"\nread_only = true\n");
                words.push_str(" root=base rootfstype=virtiofs ro");
                b'a'
            }
        };
        words.push_str(" init=/usr/lib/minivmm/init");
        let mut disks = Vec::new();
        for (layer, letter) in self.layers.iter().zip(first..) {
            image(&mut toml, layer)?;
            disks.push(format!("/dev/vd{}", char::from(letter)));
        }
        if !disks.is_empty() {
            write!(words, " minivmm.layers={}", disks.join(","))?;
        }
        if let Some(ids) = &self.share {
            write!(
                toml,
                "[[shares]]\ntag = \"data\"\nsource = \"data\"\nmount_point = \"/data\"\n{ids}"
            )?;
        }
        for (name, content) in &self.credentials {
            let file = format!("credential-{name}");
            fs::write(self.vm.directory().join(&file), content)?;
            write!(toml, "[[credentials]]\nname = {name:?}\npath = {file:?}\n")?;
        }
        toml.push_str(
            "[lifecycle]\nready = \"guest\"\n\
             [vsock]\ncid = 83\nsocket = \"streams\"\nallow = [\"ssh\"]\n",
        );
        let vm = self
            .vm
            .memory(self.memory)
            .vcpus(self.vcpus)
            .cmdline(&words)
            .toml(&toml)
            .toml(&self.toml);
        let running = vm.start()?;
        Ok(Started {
            running,
            _base: mounted,
            vm,
        })
    }
}

/// One that runs.
pub struct Started {
    pub running: Running,
    _base: Option<Mounted>,
    pub vm: Vm,
}

/// An image that the host has mounted: its files, for a share.
struct Mounted(PathBuf);

impl Mounted {
    fn new(image: &Path, directory: &Path) -> Result<Self> {
        fs::create_dir(directory)?;
        let [image, on] = [image, directory].map(|path| path.display().to_string());
        run(["mount", "-t", "erofs", "-o", "loop,ro", &image, &on])?;
        Ok(Self(directory.to_owned()))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(error) = run(["umount", "--lazy", &self.0.display().to_string()]) {
            eprintln!("{error:#}");
        }
    }
}

impl Started {
    /// Waits until the guest's systemd has started all that it is to start. A failure says what the console said.
    pub fn wait_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + BOOT;
        loop {
            let status = self.vm.ask(["status", "--json", "test"])?;
            let status: Value = serde_json::from_slice(&status.stdout).unwrap_or_default();
            if status["ready"] == true {
                return Ok(());
            }
            ensure!(
                !self.running.has_ended()? && Instant::now() < deadline,
                "not ready within {BOOT:?}; {status}; seen:\n{}",
                self.running.seen()
            );
            thread::sleep(Duration::from_millis(300));
        }
    }

    /// Ends it by the power button; exit code and all that was printed.
    pub fn stop(self) -> Result<(i32, String)> {
        self.running.signal(Signal::TERM)?;
        self.running.wait()
    }
}

/// Who comes by ssh with a key, to whatever VM.
pub struct Visitor {
    key: PathBuf,
    hosts: PathBuf,
}

impl Visitor {
    /// One with a new key in `directory`, whose name is `name`.
    pub fn new(directory: &Path, name: &str) -> Result<Self> {
        let key = directory.join(name);
        let file = key.display().to_string();
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", &file])?;
        Ok(Self {
            key,
            hosts: directory.join("hosts"),
        })
    }

    /// The line that opens a VM for this one.
    pub fn public(&self) -> Result<String> {
        Ok(fs::read_to_string(self.key.with_extension("pub"))?)
    }

    /// What `script` answers in the guest, by vsock.
    pub fn by_vsock(&self, vm: &Vm, user: &str, script: &str) -> Result<Output> {
        let mut command = vm.command(["ssh", "test", "--login", user, "--"]);
        command.args(self.options()).arg(script);
        output(command)
    }

    /// The same by TCP, from the client's side of the network.
    pub fn by_tcp(&self, network: &Network, user: &str, script: &str) -> Result<Output> {
        self.by_tcp_with(network, user, script, &[])
    }

    /// The same with other options of ssh.
    pub fn by_tcp_with(
        &self,
        network: &Network,
        user: &str,
        script: &str,
        options: &[&str],
    ) -> Result<Output> {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &network.client, "ssh"])
            .args(options)
            .args(self.options())
            .args(["-o", "StrictHostKeyChecking=accept-new"])
            .args(["-l", user, GUEST, script])
            .stdin(Stdio::null());
        output(command)
    }

    /// Nothing of who runs the test is used.
    fn options(&self) -> Vec<String> {
        let options = [
            format!("IdentityFile={}", self.key.display()),
            "IdentitiesOnly=yes".to_owned(),
            "IdentityAgent=none".to_owned(),
            "BatchMode=yes".to_owned(),
            format!("UserKnownHostsFile={}", self.hosts.display()),
            "ConnectTimeout=100".to_owned(),
        ]
        .into_iter()
        .flat_map(|option| ["-o".to_owned(), option]);
        ["-F".to_owned(), "none".to_owned()]
            .into_iter()
            .chain(options)
            .collect()
    }
}

fn output(mut command: Command) -> Result<Output> {
    command
        .output()
        .with_context(|| format!("cannot run {command:?}"))
}
