//! The command line.

mod balloon;
mod check;
mod config;
mod console;
mod install_units;
mod list;
mod logs;
mod look;
mod made;
mod metrics;
mod new;
mod pause;
mod places;
mod plan;
mod run;
mod ssh;
mod start;
mod status;
mod stop;
mod table;
mod target;
mod top;
mod unit;
mod vsock;

use std::{io::Write, path::PathBuf, process::ExitCode};

use clap::{FromArgMatches, Parser, Subcommand};

use serde::Serialize;

use crate::{failure::Failure, log};

/// Runs one hardened service VM on KVM.
#[derive(Parser)]
#[command(
    version,
    arg_required_else_help = true,
    propagate_version = true,
    max_term_width = 100
)]
struct Cli {
    /// How much is logged on standard error; said twice, the last one counts
    #[arg(long, global = true, overrides_with = "log", value_name = "LEVEL", env = log::LEVEL, default_value = "info",
          value_parser = ["off", "error", "warn", "info", "debug", "trace"])]
    log: String,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Run a VM until it ends
    ///
    /// The guest's console goes to standard output. SIGTERM, SIGINT and SIGHUP press the guest's power
    /// button and wait for it to shut down, up to `lifecycle.stop_timeout`; a second
    /// SIGTERM or SIGINT ends it at once.
    ///
    /// Exit codes: 0 the guest powered off, 10 it asked for a reset, 11 triple fault, 12 its kernel panicked, 13 ended
    /// after the deadline or by a second signal, 14 a virtiofsd was lost and the VM was not restarted for it, 15
    /// its watchdog has run out, 69 the host is not able, 70 the VMM failed, 78 the configuration is wrong.
    Run {
        /// The VM's configuration, a TOML file (docs/config.md; look at it with `minivmm config check -v`)
        #[arg(short, long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Start a VM in the background
    ///
    /// A VM that systemd manages (minivmm@NAME.service, /etc/minivmm/NAME.toml) is started by `systemctl start`.
    /// Any other one runs in a session of its own; what it logs and its guest prints goes to
    /// /var/log/minivmm/NAME.log, or an ordinary user's ~/.local/state/minivmm/NAME.log.
    ///
    /// Returns when the VM is ready. Exit codes: 0 it runs, otherwise what `minivmm run` ends with.
    Start {
        #[command(flatten)]
        which: start::Which,
        /// Return as soon as the VM is being started
        #[arg(long)]
        no_wait: bool,
    },
    /// Stop a VM and start it with its configuration as it is now
    ///
    /// The configuration is checked first: if it is wrong the VM runs on. It is started in the background, as by
    /// `minivmm start`. A VM that does not run is started. To restart only the guest: `minivmm reboot`.
    Restart {
        #[command(flatten)]
        of: target::TargetArgs,
        #[command(flatten)]
        stopping: stop::StopArgs,
    },
    /// List the VMs that run
    ///
    /// All VMs of this user and, as far as that is permitted, root's. A VM that does not answer within 2 seconds is shown
    /// as `no answer`, another user's as `not yours`.
    List {
        /// Print a JSON array instead of a table
        #[arg(long)]
        json: bool,
    },
    /// Show the VMs that run, and what they take, again and again
    ///
    /// Fills the terminal; q ends it. In a pipe it prints one table, as `minivmm list` does, or with -n N of them.
    Top(top::TopArgs),
    /// Say what a VM that runs is doing
    ///
    /// Exit codes: 0 it runs, 3 it does not, 4 no permission, 5 it does not answer.
    Status {
        #[command(flatten)]
        of: target::TargetArgs,
        /// Print one JSON object instead of lines
        #[arg(long)]
        json: bool,
    },
    /// Print what a VM has done so far, in numbers
    ///
    /// OpenMetrics text, for Prometheus and others; docs/metrics.md says what each means.
    Metrics {
        #[command(flatten)]
        of: target::TargetArgs,
    },
    /// Take memory from a guest or give it back; say what it uses
    ///
    /// What a guest does not use goes back to the host without this, unless its configuration says otherwise. The balloon
    /// takes what the guest would use for caches, too. docs/memory.md says what each number means.
    Balloon {
        #[command(flatten)]
        of: target::TargetArgs,
        /// What is to be taken from now on; the guest gets there in its time
        #[arg(long, value_name = "MIB")]
        size: Option<u32>,
        /// Print one JSON object instead of lines
        #[arg(long)]
        json: bool,
    },
    /// Shut a VM down, and wait until its processes are gone
    ///
    /// Presses the guest's power button. A guest that has not shut down within `lifecycle.stop_timeout` is ended.
    /// Says how it ended, and ends with 0 as soon as no such VM runs; what `minivmm run` ends with is another matter.
    Stop {
        #[command(flatten)]
        of: target::TargetArgs,
        #[command(flatten)]
        args: stop::StopArgs,
    },
    /// Keep a VM's guest from running
    ///
    /// Its devices and its clocks go on; docs/lifecycle.md says what that means.
    Pause {
        #[command(flatten)]
        of: target::TargetArgs,
    },
    /// Let a VM that is paused run again
    Resume {
        #[command(flatten)]
        of: target::TargetArgs,
    },
    /// Shut a VM down and start it again in place
    ///
    /// Its supervisor and its taps stay. Waits until the guest runs again, which is before it is ready.
    Reboot {
        #[command(flatten)]
        of: target::TargetArgs,
        /// End the guest at once, without its doing
        #[arg(long)]
        force: bool,
        /// Do not wait until it runs again
        #[arg(long)]
        no_wait: bool,
    },
    /// Log in to a guest, or run a command there, by ssh
    ///
    /// The system's ssh, through the VM's vsock: no network is needed. The VM's configuration must allow it
    /// (`allow = ["ssh"]` in [vsock]), and an sshd must listen in the guest on vsock port 22, as systemd 256 and newer
    /// arrange it by itself. The guest's host key is known by the VM's name, as `minivmm/NAME`. The exit code is ssh's.
    Ssh {
        #[command(flatten)]
        of: target::TargetArgs,
        /// The user in the guest
        #[arg(short = 'l', long = "login", value_name = "USER")]
        user: Option<String>,
        /// ssh's options, and a command
        #[arg(last = true, value_name = "ARGUMENTS")]
        arguments: Vec<std::ffi::OsString>,
    },
    /// Connect standard input and output to a port of a guest
    ///
    /// The VM's configuration must allow it (`allow = ["guest:PORT"]` in [vsock]). The end of standard input is passed on,
    /// and what the guest sends afterwards still arrives.
    Vsock {
        #[command(flatten)]
        of: target::TargetArgs,
        /// The port in the guest
        #[arg(short, long, value_name = "PORT")]
        port: u32,
    },
    /// Look at a VM's console and type on it
    ///
    /// Shows what the guest has printed before, as far as it is kept (1 MiB), then what it prints, and gives it what is
    /// typed. Ctrl-] leaves it. One types at a time, others look on.
    ///
    /// Without a terminal as standard input, what comes there is typed, and its end ends this: keep it open for as long
    /// as answers are to be read, as in `(echo uptime; sleep 2) | minivmm console NAME --history none`.
    Console {
        #[command(flatten)]
        of: target::TargetArgs,
        /// How much is shown of what was printed before: a number of lines, `all` or `none`
        #[arg(long, value_name = "LINES", default_value = "all")]
        history: console::History,
        /// Look on only
        #[arg(long)]
        read_only: bool,
        /// Take the typing over from whoever does now
        #[arg(long, conflicts_with = "read_only")]
        force: bool,
    },
    /// Print what a guest has printed on its console
    ///
    /// The last of it that is kept (1 MiB, restarts included), in lines without control characters. Of a VM that systemd
    /// runs, older lines are in the journal: `journalctl -u minivmm@NAME`.
    Logs {
        #[command(flatten)]
        of: target::TargetArgs,
        /// Go on until the VM ends
        #[arg(short, long)]
        follow: bool,
        /// The last lines only
        #[arg(short = 'n', long, value_name = "LINES")]
        lines: Option<usize>,
    },
    /// Print what a shell needs to complete minivmm's words
    ///
    /// For bash: `source <(minivmm completions bash)` in ~/.bashrc, or the output as
    /// /usr/share/bash-completion/completions/minivmm. Names of VMs are asked for when they are completed.
    Completions {
        /// The shell
        shell: made::Shell,
    },
    /// Write the man pages
    #[command(hide = true)]
    Man {
        /// Where to
        #[arg(long, value_name = "DIR", default_value = "man")]
        out: PathBuf,
    },
    /// Find out whether KVM is able on this host
    ///
    /// Runs a tiny guest that executes what every Linux guest does, and measures its speed. Exit code 0 if
    /// guests can run here, 69 if not.
    Check {
        /// Print one JSON object instead of lines
        #[arg(long)]
        json: bool,
    },
    /// Write the configuration of a new service VM
    ///
    /// A TOML file with comments, for the hardened kernel and the base image: a tap, what is to last on /data, and nothing
    /// else that is kept. Says what is missing on this host, and what to do next. Exit codes: 0 it is written, 69 it
    /// cannot be, 78 no VM can be like that.
    New(new::NewArgs),
    /// Put the systemd units where systemd finds them
    ///
    /// minivmm@.service runs the VM of /etc/minivmm/NAME.toml as minivmm@NAME, minivmm.target starts all that are enabled.
    /// What is there already and right stays as it is; a file of somebody else's is left alone.
    InstallUnits(install_units::InstallUnitsArgs),
    /// Look at a configuration without running it
    Config {
        #[command(subcommand)]
        verb: ConfigVerb,
    },
}

#[derive(Subcommand)]
enum ConfigVerb {
    /// Check a configuration and everything that it names
    ///
    /// Looks at the file, the kernel, the initrd and the sources of shares; taps, KVM and virtiofsd are the
    /// host's and are left alone. Exit code 0 if nothing is wrong, 78 and one line that says why if something is.
    Check {
        /// The VM's configuration, a TOML file (docs/config.md; its schema: `minivmm config schema`)
        #[arg(short, long, value_name = "FILE")]
        config: PathBuf,
        /// Look at the file alone: nothing that it names has to be there, and no limit of this host counts
        #[arg(long)]
        file_only: bool,
        /// Print the machine that it makes: kernel, memory map, devices with their PCI addresses, command line
        #[arg(short, long)]
        verbose: bool,
        /// Print the same as one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Print the JSON Schema of configurations
    ///
    /// Editors complete and check a TOML file by it. It says what every key is for, its type, its default and its
    /// limits; docs/config.md is made from it.
    Schema,
}

/// Reads the command line and does what it says.
pub fn main() -> ExitCode {
    made::complete();
    let cli =
        Cli::from_arg_matches(&made::command().get_matches()).unwrap_or_else(|error| error.exit());
    log::init(&cli.log);
    let done = match &cli.verb {
        Verb::Run { config } => run::run(config, &cli.log),
        Verb::Start { which, no_wait } => {
            let wait = if *no_wait {
                unit::Wait::No
            } else {
                unit::Wait::Yes
            };
            start::start(which, wait, &cli.log)
        }
        Verb::Restart { of, stopping } => start::restart(of, stopping, &cli.log),
        Verb::List { json } => list::list(*json),
        Verb::Completions { shell } => made::completions(*shell),
        Verb::Man { out } => made::man(out),
        Verb::Top(args) => top::top(args),
        Verb::Status { of, json } => status::status(of, *json),
        Verb::Metrics { of } => metrics::metrics(of),
        Verb::Balloon { of, size, json } => balloon::balloon(of, *size, *json),
        Verb::New(args) => new::new(args),
        Verb::InstallUnits(args) => install_units::run(args),
        Verb::Stop { of, args } => stop::stop(of, args),
        Verb::Pause { of } => pause::pause(of),
        Verb::Resume { of } => pause::resume(of),
        Verb::Reboot { of, force, no_wait } => pause::reboot(of, *force, *no_wait),
        Verb::Ssh {
            of,
            user,
            arguments,
        } => ssh::ssh(of, user.as_deref(), arguments),
        Verb::Vsock { of, port } => vsock::vsock(of, *port),
        Verb::Console {
            of,
            history,
            read_only,
            force,
        } => console::console(of, *history, *read_only, *force),
        Verb::Logs { of, follow, lines } => logs::logs(of, *follow, *lines),
        Verb::Check { json } => check::check(*json),
        Verb::Config {
            verb:
                ConfigVerb::Check {
                    config,
                    file_only,
                    verbose,
                    json,
                },
        } => config::check(
            config,
            match file_only {
                true => config::Reach::File,
                false => config::Reach::Named,
            },
            match (json, verbose) {
                (true, _) => config::Detail::Json,
                (false, true) => config::Detail::Table,
                (false, false) => config::Detail::Line,
            },
        ),
        Verb::Config {
            verb: ConfigVerb::Schema,
        } => config::schema(),
    };
    done.unwrap_or_else(|failure| failure.report())
}

/// Prints a line on standard output. A reader that has gone away is no reason to fail.
fn say(line: impl std::fmt::Display) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Prints a value as indented JSON.
fn say_json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).map_err(Failure::vmm)?;
    say(text);
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        super::Cli::command().debug_assert();
    }
}
