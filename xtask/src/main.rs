//! What the Makefile's verbs do. `cargo xtask help` lists them.

mod busybox;
mod cache;
mod command;
mod cpio;
mod debian;
mod demo;
mod docs;
mod fuzz;
mod guest;
mod image;
mod kernel;
mod lab;
mod lint;
mod progress;
mod service_kernel;
mod tee;
mod test;
mod tools;
mod trixie;
mod workspace;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask",
    about = "What the Makefile's verbs do",
    subcommand_required = true
)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make the guests that the tests and the demo boot, and print where they are
    Guest,
    /// Install what the tests and the demo need
    Tools,
    /// Run examples/adguard.toml and show what it does
    Demo,
    /// The part of the demo that runs where KVM is able
    #[command(hide = true)]
    DemoInside,
    /// Make a VM, say so in a line, and keep it until this is killed
    #[command(hide = true)]
    HoldVm,
    /// Run all tests, those that boot guests where KVM is able
    Test,
    /// Run the tests that boot guests with all their sizes, and write what came of it to docs/soak.md
    Soak {
        /// Only tests whose names have this; nothing is written then
        filter: Option<String>,
    },
    /// Check formatting, warnings and scripts
    Lint,
    /// Make the part of docs/config.md that follows from the configuration's schema
    Docs,
    /// Run fuzz targets, all or those that are named, and fail if one finds something
    Fuzz(Fuzz),
    /// Make images of service VMs, all or those that are named, and print where they are
    Image(Image),
    /// Build the hardened kernel of service VMs, and print where it is
    Kernel,
    /// Remove what the lab, the guests and the tools keep
    CleanLab,
    /// Run a command where KVM is able: here, or in the lab
    Lab(Lab),
}

#[derive(Debug, Args)]
struct Fuzz {
    /// Targets, as fuzz/Cargo.toml names them
    #[arg(value_name = "TARGET")]
    targets: Vec<String>,
    /// How long each is run
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    seconds: u64,
}

#[derive(Debug, Args)]
struct Image {
    /// Images, by the names of their directories in guest
    #[arg(value_name = "NAME", value_parser = clap::builder::PossibleValuesParser::new(image::names()))]
    names: Vec<String>,
    /// Make each once more, from nothing, and fail if it is not the same byte for byte
    #[arg(long)]
    check: bool,
    /// Unpack each as well, for a root on a share
    #[arg(long)]
    files: bool,
}

#[derive(Debug, Args)]
struct Lab {
    /// Take the lab even where KVM here is able
    #[arg(long)]
    force_lab: bool,
    /// Size of the disk on /scratch in MiB
    #[arg(long, value_name = "MIB", default_value_t = 8192)]
    disk: u64,
    /// A directory that the command may write to as /out
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Minutes after which the lab is ended
    #[arg(long, value_name = "MINUTES", default_value_t = 20)]
    timeout: u64,
    /// The command
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<OsString>,
}

fn main() -> ExitCode {
    let result = match Cli::parse().verb {
        Verb::Guest => make_guests(),
        Verb::Tools => tools::packages()
            .and_then(|()| tools::virtiofsd())
            .and_then(|_| tools::cargo_deny())
            .and_then(|_| tools::nixfmt())
            .and_then(|_| tools::deadnix())
            .map(|_| 0),
        Verb::Demo => demo::run(),
        Verb::DemoInside => demo::run_inside(),
        Verb::HoldVm => lab::hold_vm(),
        Verb::Test => test::run(),
        Verb::Soak { filter } => test::run_soak(filter.as_deref()),
        Verb::Lint => lint::run_all().map(|()| 0),
        Verb::Docs => docs::write().map(|()| 0),
        Verb::Fuzz(fuzz) => fuzz::run_targets(&fuzz.targets, fuzz.seconds),
        Verb::Image(Image {
            names,
            check,
            files,
        }) => image::run(&names, image::Wanted { check, files }).map(|()| 0),
        Verb::Kernel => service_kernel::run().map(|()| 0),
        Verb::CleanLab => cache::clear().map(|()| 0),
        Verb::Lab(lab) => lab::run(&lab.into(), None),
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn make_guests() -> anyhow::Result<u8> {
    let steps = progress::Steps::new(guest::STEPS);
    let guests = guest::all(&steps)?;
    steps.finish("guests");
    for made in [guests.dns, guests.kernels, guests.debian] {
        println!("{}", made.display());
    }
    Ok(0)
}

impl From<Lab> for lab::Job {
    fn from(lab: Lab) -> Self {
        Self {
            force_lab: lab.force_lab,
            disk: lab.disk,
            out: lab.out,
            timeout: Duration::from_secs(lab.timeout * 60),
            ..Self::new(lab.command)
        }
    }
}
