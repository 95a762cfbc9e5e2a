//! `minivmm config check -v`: the machine that a configuration makes, as a table or as JSON.

use std::{
    borrow::Cow,
    fmt::Display,
    io::{self, Write},
    path::Path,
};

use anstyle::Style;
use minivmm_boot::Placement;
use minivmm_fs::Program;
use minivmm_vmm::plan::{Kind, Plan};
use serde::Serialize;
use serde_json::Value;

use crate::config_file::ConfigFile;
use crate::{
    failure::Failure,
    supervisor::{Checked, virtiofsd},
};

const HEADING: Style = Style::new().bold();
const QUIET: Style = Style::new().dimmed();

/// All that is said; serialised, it is the object of `--json`.
#[derive(Serialize)]
pub struct Report<'a> {
    /// The configuration; JSON has no path that is not UTF-8.
    file: Cow<'a, str>,
    #[serde(flatten)]
    plan: Plan,
    kernel: Kernel<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    initrd: Option<Initrd<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    virtiofsd: Option<Virtiofsd>,
    /// What is right and may surprise all the same.
    notices: Vec<String>,
}

#[derive(Serialize)]
struct Kernel<'a> {
    path: &'a Path,
    #[serde(flatten)]
    image: Option<Image>,
}

/// What only the file itself says.
#[derive(Serialize)]
struct Image {
    format: String,
    version: Option<String>,
    /// Where it is loaded.
    start: u64,
    /// The first address that it leaves alone before it reads the memory map.
    end: u64,
}

#[derive(Serialize)]
struct Initrd<'a> {
    path: &'a Path,
    #[serde(flatten)]
    at: Option<InitrdRange>,
}

#[derive(Serialize)]
struct InitrdRange {
    start: u32,
    size: u32,
}

/// The one that would serve the shares.
#[derive(Serialize)]
#[serde(untagged)]
enum Virtiofsd {
    Found { path: String, version: String },
    Missing { error: String },
}

impl<'a> Report<'a> {
    pub fn new(
        file: &'a ConfigFile,
        checked: Option<Checked>,
        notices: Vec<String>,
    ) -> Result<Self, Failure> {
        let config = &file.config;
        // Nothing of this host is looked at where only the file is.
        let virtiofsd = checked.as_ref().and_then(|_| virtiofsd(config));
        let (image, at) = checked.map(placed).unzip();
        let initrd = config.kernel.initrd.as_deref();
        Ok(Self {
            file: file.path.to_string_lossy(),
            plan: Plan::new(config).map_err(Failure::config)?,
            kernel: Kernel {
                path: &config.kernel.path,
                image,
            },
            initrd: initrd.map(|path| Initrd {
                path,
                at: at.flatten(),
            }),
            virtiofsd: virtiofsd.map(|found| Virtiofsd::from(&found)),
            notices,
        })
    }

    /// Prints it, in colours on a terminal.
    pub fn print(&self) {
        // A reader that has gone away is no reason to fail.
        let _ = self.write(&mut anstream::stdout().lock());
    }

    fn write(&self, to: &mut impl Write) -> io::Result<()> {
        let Self { plan, kernel, .. } = self;
        let mut facts = vec![
            ("VM", format!("{} ({})", plan.name, self.file)),
            ("vCPUs", plan.vcpu.to_string()),
            ("memory", format!("{} MiB", plan.mem)),
            ("kernel", kernel.path.display().to_string()),
        ];
        if let Some(image) = &kernel.image {
            facts.push(("", image.format.clone()));
            facts.extend(image.version.clone().map(|version| ("", version)));
            let kib = (image.end - image.start) >> 10;
            facts.push(("", format!("{kib} KiB from {:#x}", image.start)));
        }
        if let Some(initrd) = &self.initrd {
            facts.push(("initrd", initrd.path.display().to_string()));
            if let Some(at) = &initrd.at {
                let kib = at.size.div_ceil(1024);
                facts.push(("", format!("{kib} KiB from {:#x}", at.start)));
            }
        }
        facts.extend(
            self.virtiofsd
                .as_ref()
                .map(|v| ("virtiofsd", v.to_string())),
        );
        for (what, value) in facts {
            writeln!(to, "{HEADING}{what:<10}{HEADING:#} {value}")?;
        }

        heading(to, "memory map")?;
        for range in &plan.memory {
            let (start, end) = (range.start, range.end);
            writeln!(to, "  {start:#014x}-{end:#014x}  {}", range.kind)?;
        }

        heading(to, "PCI")?;
        let rows: Vec<_> = plan
            .devices
            .iter()
            .map(|d| Row::new(&d.address, &d.kind))
            .collect();
        let kinds = rows.iter().map(|r| r.kind.len()).max().unwrap_or(0);
        let names = rows.iter().map(|r| r.name.len()).max().unwrap_or(0);
        for Row {
            address,
            kind,
            name,
            details,
        } in &rows
        {
            let line = format!("  {address}  {kind:<kinds$}  {name:<names$}  ");
            let line = if details.is_empty() {
                line.trim_end()
            } else {
                &line
            };
            writeln!(to, "{line}{QUIET}{details}{QUIET:#}")?;
        }

        heading(to, "kernel command line")?;
        writeln!(to, "  {}", plan.cmdline)
    }
}

/// What the images say of themselves, and where they are put.
fn placed(checked: Checked) -> (Image, Option<InitrdRange>) {
    let Checked {
        kernel: mut file,
        placement,
        ..
    } = checked;
    let Placement {
        kernel,
        kernel_range,
        initrd,
    } = placement;
    let image = Image {
        format: kernel.format(),
        version: kernel.version(&mut file),
        start: kernel_range.start,
        end: kernel_range.end,
    };
    let initrd = initrd.map(|at| InitrdRange {
        start: at.start,
        size: at.size,
    });
    (image, initrd)
}

fn heading(to: &mut impl Write, text: impl Display) -> io::Result<()> {
    writeln!(to, "\n{HEADING}{text}{HEADING:#}")
}

/// A device's line.
struct Row<'a> {
    address: &'a str,
    kind: &'static str,
    name: String,
    /// Its section of the configuration, without what names it.
    details: String,
}

impl<'a> Row<'a> {
    fn new(address: &'a str, kind: &Kind) -> Self {
        let named_by = match kind {
            Kind::Net(_) => "id",
            Kind::Fs(_) => "tag",
            Kind::Block(_) => "disk",
            Kind::HostBridge | Kind::Rng | Kind::Console | Kind::Balloon(_) | Kind::Vsock(_) => "",
        };
        let mut name = String::new();
        let mut details = Vec::new();
        let mut section = serde_json::to_value(kind).unwrap_or_default();
        if let Value::Object(section) = section["config"].take() {
            for (key, value) in section {
                let value = match value {
                    Value::String(text) => text,
                    other => other.to_string(),
                };
                match key.as_str() {
                    "slot" => {}
                    key if key == named_by => name = value,
                    key => details.push(format!("{key}={value}")),
                }
            }
        }
        Self {
            address,
            kind: kind.name(),
            name,
            details: details.join(" "),
        }
    }
}

impl From<&Result<Program, minivmm_fs::program::Error>> for Virtiofsd {
    fn from(found: &Result<Program, minivmm_fs::program::Error>) -> Self {
        match found {
            Ok(program) => {
                let (major, minor) = program.version();
                Self::Found {
                    path: program.path().display().to_string(),
                    version: format!("{major}.{minor}"),
                }
            }
            Err(error) => Self::Missing {
                error: error.to_string(),
            },
        }
    }
}

impl Display for Virtiofsd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Found { path, version } => write!(f, "{path} ({version})"),
            Self::Missing { error } => write!(f, "none: {error}"),
        }
    }
}
