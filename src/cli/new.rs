//! `minivmm new`.

mod text;

use std::{
    fs::{self, File},
    io::{self, ErrorKind, Write},
    path::{self, Path, PathBuf},
    process::ExitCode,
};

use clap::Args;
use minivmm_net::name::NAME_MAX;
use minivmm_vmm::config::default_uuid;
use rustix::process::geteuid;
use uuid::Uuid;

use super::{places, say};
use crate::{failure::Failure, machine_id::machine_id};
use text::Wanted;

const IMAGES: &str = "/var/lib/minivmm/images";
/// The bridge of docs/network.md.
const BRIDGE: &str = "vms";
/// What a tap's name begins with, in docs/network.md too.
const TAP: &str = "vm-";
/// Digits that make a tap's name the only one where it says not all of the VM's.
const TAP_DIGITS: usize = 4;

/// What the new VM is to be.
#[derive(Args)]
pub struct NewArgs {
    /// Its name
    #[arg(value_name = "NAME")]
    name: String,
    /// Where it is written to, instead of NAME.toml
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Replace a file that is there
    #[arg(long)]
    force: bool,
    /// Number of vCPUs
    #[arg(long, value_name = "N", default_value_t = 2)]
    vcpu: u8,
    /// Memory in MiB
    #[arg(long, value_name = "MIB", default_value_t = 1024)]
    mem: u32,
    /// The kernel
    #[arg(
        long,
        value_name = "FILE",
        default_value = "/var/lib/minivmm/kernel/bzImage"
    )]
    kernel: String,
    /// The image of the root
    #[arg(
        long,
        value_name = "FILE",
        default_value = "/var/lib/minivmm/images/base.erofs"
    )]
    image: String,
    /// An image that is laid over it, several times for several [default: /var/lib/minivmm/images/NAME.erofs]
    #[arg(long = "layer", value_name = "FILE")]
    layers: Vec<String>,
    /// Only the root, and nothing laid over it
    #[arg(long, conflicts_with = "layers")]
    no_layer: bool,
    /// The directory of the host that the guest has as /data [default: data in the VM's state directory]
    #[arg(long, value_name = "DIR")]
    share: Option<String>,
    /// The tap on the host; without --bridge it is one that exists [default: vm-NAME in the bridge `vms`]
    #[arg(long, value_name = "NAME")]
    tap: Option<String>,
    /// The bridge of the host that the tap is put into; the tap is made then and goes with the VM
    #[arg(long, value_name = "NAME")]
    bridge: Option<String>,
    /// The guest's MAC address [default: made of the name and this host]
    #[arg(long, value_name = "MAC")]
    mac: Option<String>,
    /// The guest's address with its prefix length, as 192.168.83.2/24 [default: it asks by DHCP]
    #[arg(long, value_name = "ADDRESS")]
    address: Option<String>,
    /// The guest's default gateway
    #[arg(long, value_name = "ADDRESS")]
    gateway: Option<String>,
    /// A name server of the guest, twice for two
    #[arg(long, value_name = "ADDRESS")]
    dns: Vec<String>,
}

/// Writes the configuration of a new VM, and says what to do next.
pub fn new(args: &NewArgs) -> Result<ExitCode, Failure> {
    let wanted = args.wanted()?;
    let text = wanted.text()?;
    let default = || format!("{}.toml", args.name).into();
    let output = args.output.clone().unwrap_or_else(default);
    write(&output, &text, args.force)?;
    let bridge = match &wanted.bridge {
        Some(bridge) => format!(" in the bridge `{bridge}`"),
        None => String::new(),
    };
    say(format_args!(
        "wrote {}: VM `{}`, MAC {}, tap `{}`{bridge}",
        output.display(),
        wanted.name,
        wanted.mac,
        wanted.tap
    ));
    let missing = missing(&wanted);
    if !missing.is_empty() {
        say("not there yet:");
        for what in missing {
            say(format_args!("  {what}"));
        }
    }
    say("next:");
    for (command, purpose) in steps(&wanted, &output) {
        say(format_args!("  {command:<56}  # {purpose}"));
    }
    Ok(ExitCode::SUCCESS)
}

impl NewArgs {
    fn wanted(&self) -> Result<Wanted, Failure> {
        let name = &self.name;
        let id = default_uuid(machine_id(), name);
        let layers = match (self.no_layer, self.layers.is_empty()) {
            (true, _) => Vec::new(),
            (false, true) => vec![format!("{IMAGES}/{name}.erofs")],
            (false, false) => self.layers.clone(),
        };
        let share = match &self.share {
            Some(share) => absolute(share)?,
            None => {
                let state = places::working_directory(name)?;
                state.join("data").to_string_lossy().into_owned()
            }
        };
        let bridge = match (&self.bridge, &self.tap) {
            (None, None) => Some(BRIDGE.to_owned()),
            (bridge, _) => bridge.clone(),
        };
        Ok(Wanted {
            name: name.clone(),
            vcpu: self.vcpu,
            mem: self.mem,
            kernel: absolute(&self.kernel)?,
            image: absolute(&self.image)?,
            layers: layers.iter().map(absolute).collect::<Result<_, _>>()?,
            tap: self.tap.clone().unwrap_or_else(|| tap(name, id)),
            mac: self.mac.clone().unwrap_or_else(|| mac(id)),
            bridge,
            address: self.address.clone(),
            gateway: self.gateway.clone(),
            dns: self.dns.clone(),
            share,
        })
    }
}

/// The service runs in a directory of its own, where a relative path would lead elsewhere.
fn absolute(path: impl AsRef<str>) -> Result<String, Failure> {
    let path = path.as_ref();
    let found = path::absolute(path)
        .map_err(|error| Failure::config(format!("the path `{path}`: {error}")))?;
    found
        .into_os_string()
        .into_string()
        .map_err(|path| Failure::config(format!("{path:?} is not UTF-8, which TOML is")))
}

/// A card's address that is given by nobody else: the second bit of the first byte says that it is administered locally.
fn mac(id: Uuid) -> String {
    let [a, b, c, d, e, ..] = *id.as_bytes();
    format!("02:{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}")
}

/// `vm-NAME`, or as much of it as an interface's name has room for. A point would be another thing in sysctl's names.
fn tap(name: &str, id: Uuid) -> String {
    let plain = format!("{TAP}{name}");
    if plain.len() <= NAME_MAX && !name.contains('.') {
        return plain;
    }
    let room = NAME_MAX - TAP.len() - TAP_DIGITS - 1;
    let part: String = name.chars().filter(|c| *c != '.').take(room).collect();
    let digits = id.simple().to_string();
    format!("{TAP}{part}-{}", &digits[..TAP_DIGITS])
}

/// Writes a whole file or none.
fn write(path: &Path, text: &str, force: bool) -> Result<(), Failure> {
    let failed = |error: io::Error| {
        let path = path.display();
        Failure::host(match error.kind() {
            ErrorKind::AlreadyExists => {
                format!("{path} exists: say --force to replace it, or --output FILE")
            }
            _ => format!("{path} cannot be written: {error}"),
        })
    };
    if !force {
        let mut file = File::create_new(path).map_err(failed)?;
        return file.write_all(text.as_bytes()).map_err(|error| {
            // An error was said already; half a file is of use to nobody.
            let _ = fs::remove_file(path);
            failed(error)
        });
    }
    if path.is_dir() {
        return Err(failed(ErrorKind::IsADirectory.into()));
    }
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}", std::process::id()));
    fs::write(&beside, text)
        .and_then(|()| fs::rename(&beside, path))
        .map_err(|error| {
            let _ = fs::remove_file(&beside);
            failed(error)
        })
}

/// What the VM needs and this host has not.
fn missing(wanted: &Wanted) -> Vec<String> {
    let files = [&wanted.kernel, &wanted.image].into_iter();
    let files = files
        .chain(&wanted.layers)
        .filter(|f| !Path::new(f).exists());
    let mut missing: Vec<String> = files.cloned().collect();
    let (what, link) = match &wanted.bridge {
        Some(bridge) => ("bridge", bridge),
        None => ("tap", &wanted.tap),
    };
    if !Path::new("/sys/class/net").join(link).exists() {
        missing.push(format!("the {what} `{link}`: docs/network.md"));
    }
    missing
}

/// Commands, and what they are for.
fn steps(wanted: &Wanted, output: &Path) -> Vec<(String, &'static str)> {
    let name = &wanted.name;
    let file = shell(&output.to_string_lossy());
    let mut steps = vec![
        (
            format!("mkdir -p {}", shell(&wanted.share)),
            "what is to last",
        ),
        (
            format!("minivmm config check --config {file}"),
            "is it right, and is all there?",
        ),
        (
            format!("minivmm run --config {file}"),
            "by hand; ^C shuts it down",
        ),
    ];
    if !geteuid().is_root() {
        steps.push((
            format!("minivmm start --config {file}"),
            "in the background",
        ));
        return steps;
    }
    let installed = places::system_configs().join(format!("{name}.toml"));
    if path::absolute(output).is_ok_and(|output| output != installed) {
        steps.push((
            format!("install -D -m 0644 {file} {}", installed.display()),
            "where its unit finds it",
        ));
    }
    steps.push((
        "minivmm install-units && systemctl daemon-reload".to_owned(),
        "once, if it was not done",
    ));
    steps.push((
        format!("systemctl enable --now minivmm@{name}"),
        "as a service, now and at each boot",
    ));
    steps
}

/// A word of a command line, in quotation marks if it needs them.
fn shell(word: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "/._-+:@%=,".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests;
