//! The kernel of service VMs: Debian's source with the configuration in `guest/kernel`, built here.

mod build;
mod checker;
mod configuration;
mod reasons;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::cache::{self, Key};
use crate::command::{capture_text, program};
use crate::debian::{self, Package};
use crate::progress::Steps;
use crate::{guest, tools, workspace};

use configuration::Configuration;

/// Debian's source of this kernel.
const SOURCE: &str = "linux-source-6.12";

/// What is kept of a build.
const IMAGE: &str = "bzImage";
const CONFIG: &str = "config";
const SYMBOLS: &str = "System.map";
const CHECKED: &str = "checker.txt";

/// Makes it if it is not there, and prints where it is, how large, and what kernel-hardening-checker says of it.
pub fn run() -> Result<()> {
    let steps = Steps::new(STEPS);
    let directory = make(&steps)?;
    steps.finish("the kernel of service VMs");
    let size = fs::metadata(directory.join(IMAGE))?.len();
    println!(
        "{}  {:.1} MiB  {}",
        directory.join(IMAGE).display(),
        size as f64 / f64::from(1 << 20),
        checker::Verdict::read(&directory.join(CHECKED))?.score()
    );
    Ok(())
}

/// So many steps are taken by [`make`].
pub const STEPS: u64 = 3;

/// The directory with the kernel, built if it is not there from the newest source that apt knows and the configuration
/// as it is. `target/lab/guest/service-kernel` leads to it. Fails if a recommendation that it does not follow has no reason
/// in `docs/kernel.md`, or the other way round.
pub fn make(steps: &Steps) -> Result<PathBuf> {
    steps.step("Debian packages", tools::for_kernel)?;
    let checker = steps.step("kernel-hardening-checker", checker::Checker::install)?;
    let [source] = debian::newest([&[SOURCE]])?;
    let configuration = Configuration::read()?;
    let name = format!("{SOURCE} {}", source.version);
    let directory = steps.counted(&name, build::OBJECTS, |count| {
        let key = key(&source, &configuration)?;
        cache::directory("guest", "service-kernel", &key, |directory| {
            let tree = build::Tree::of(&source)?;
            let config = tree.configure(&configuration)?;
            fs::write(directory.join(CONFIG), &config)?;
            let said = checker.check(&directory.join(CONFIG), &configuration::cmdline(&config)?)?;
            fs::write(directory.join(CHECKED), said)?;
            // Said before the build, which takes long.
            reasons::check(&checker::Verdict::read(&directory.join(CHECKED))?)?;
            tree.build(count)?;
            for (made, name) in [("arch/x86/boot/bzImage", IMAGE), ("System.map", SYMBOLS)] {
                fs::copy(tree.path().join(made), directory.join(name))
                    .with_context(|| format!("the build made no {name}"))?;
            }
            tree.remove()
        })
    })?;
    reasons::check(&checker::Verdict::read(&directory.join(CHECKED))?)?;
    guest::link(&directory, &workspace::cache().join("guest/service-kernel"))?;
    Ok(directory)
}

fn key(source: &Package, configuration: &Configuration) -> Result<Key> {
    let compiler = capture_text(program("gcc").arg("--version"))?;
    Ok(Key::default()
        .with(include_str!("service_kernel.rs"))
        .with(include_str!("service_kernel/build.rs"))
        .with(checker::VERSION)
        .with(&source.version)
        .with(compiler.lines().next().unwrap_or_default())
        .with(configuration.text()))
}

/// The file that says which recommendations are not taken.
fn documentation() -> Result<String> {
    let path: &Path = &workspace::root().join("docs/kernel.md");
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}
