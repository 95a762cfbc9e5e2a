//! What is made from the command line's description: help, completions, man pages.

use std::{fs, io::Write as _, path::Path, process::ExitCode};

use clap::{Command, CommandFactory, ValueEnum};
use clap_complete::{CompleteEnv, engine::CompletionCandidate, env::Shells};
use clap_mangen::Man;

use super::{Cli, places};
use crate::{failure::Failure, survey};

/// The environment variable by which a shell's completion calls minivmm.
const COMPLETE: &str = "MINIVMM_COMPLETE";
/// The program's name, which completions and pages are for.
const PROGRAM: &str = "minivmm";
/// What a page of man(1) is called to be part of.
const MANUAL: &str = "minivmm";
/// Verbs that belong together. Those that are in no group come last.
const GROUPS: [(&str, &[&str]); 5] = [
    (
        "Run",
        &[
            "run", "start", "stop", "restart", "reboot", "pause", "resume", "balloon",
        ],
    ),
    ("See", &["list", "top", "status", "logs", "metrics"]),
    ("Enter", &["console", "ssh", "vsock"]),
    ("Prepare", &["check", "config", "new"]),
    ("Install", &["install-units", "completions"]),
];
const OTHER: &str = "Other";

/// A shell that completions are made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs)]
pub enum Shell {
    Bash,
    Elvish,
    Fish,
    Powershell,
    Zsh,
}

/// The command line, with its verbs in groups.
pub fn command() -> Command {
    let command = Cli::command();
    let verbs = groups(&command);
    command.help_template(format!(
        "{{about-with-newline}}\n{{usage-heading}} {{usage}}\n\n{verbs}Options:\n{{options}}{{after-help}}"
    ))
}

fn groups(command: &Command) -> String {
    let verbs: Vec<&Command> = command
        .get_subcommands()
        .filter(|verb| !verb.is_hide_set())
        .collect();
    let width = verbs
        .iter()
        .map(|verb| verb.get_name().len())
        .max()
        .unwrap_or(0);
    let line = |verb: &&Command| {
        let about = verb
            .get_about()
            .map(ToString::to_string)
            .unwrap_or_default();
        format!("  {:width$}  {about}\n", verb.get_name())
    };
    let group = |name: &str| GROUPS.iter().position(|(_, verbs)| verbs.contains(&name));
    let mut text = String::new();
    for (n, (heading, names)) in GROUPS.iter().enumerate() {
        let mut of_group: Vec<_> = verbs
            .iter()
            .filter(|v| group(v.get_name()) == Some(n))
            .collect();
        of_group.sort_by_key(|verb| names.iter().position(|name| *name == verb.get_name()));
        if !of_group.is_empty() {
            let lines: String = of_group.into_iter().map(line).collect();
            text.push_str(&format!("{heading}:\n{lines}\n"));
        }
    }
    let others: String = verbs
        .iter()
        .filter(|v| group(v.get_name()).is_none())
        .map(line)
        .collect();
    if !others.is_empty() {
        text.push_str(&format!("{OTHER}:\n{others}\n"));
    }
    text
}

/// Answers a shell that asks for completions, and ends then.
pub fn complete() {
    CompleteEnv::with_factory(Cli::command)
        .var(COMPLETE)
        .complete();
}

/// The names of VMs that run.
pub fn running() -> Vec<CompletionCandidate> {
    survey::names()
        .into_iter()
        .map(CompletionCandidate::new)
        .collect()
}

/// The names of VMs that have a configuration.
pub fn configured() -> Vec<CompletionCandidate> {
    places::configured()
        .into_iter()
        .map(CompletionCandidate::new)
        .collect()
}

/// Prints what a shell is to read at its start.
pub fn completions(shell: Shell) -> Result<ExitCode, Failure> {
    let name = shell.to_possible_value();
    let name = name.as_ref().map_or("", |name| name.get_name());
    let mut script = Vec::new();
    if let Some(shell) = Shells::builtins().completer(name) {
        shell
            .write_registration(COMPLETE, PROGRAM, PROGRAM, PROGRAM, &mut script)
            .map_err(Failure::vmm)?;
    }
    // A reader that has gone away is no reason to fail.
    let _ = std::io::stdout().write_all(&script);
    Ok(ExitCode::SUCCESS)
}

/// Writes a page for minivmm and one for each verb into `directory`, which is made if it is missing.
pub fn man(directory: &Path) -> Result<ExitCode, Failure> {
    let failed = |error| Failure::host(format!("{}: {error}", directory.display()));
    fs::create_dir_all(directory).map_err(failed)?;
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    pages(command, directory).map_err(failed)?;
    Ok(ExitCode::SUCCESS)
}

fn pages(command: Command, directory: &Path) -> std::io::Result<()> {
    for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set()) {
        pages(verb.clone(), directory)?;
    }
    let version = env!("CARGO_PKG_VERSION");
    Man::new(command)
        .source(format!("{PROGRAM} {version}"))
        .manual(MANUAL)
        .generate_to(directory)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn help_has_every_verb_once_and_fits_80_columns() {
        let help = command().term_width(80).render_help().to_string();
        for verb in Cli::command()
            .get_subcommands()
            .filter(|v| !v.is_hide_set())
        {
            let name = verb.get_name();
            let lines = help
                .lines()
                .filter(|line| line.split_whitespace().next() == Some(name));
            assert_eq!(lines.count(), 1, "{name} in\n{help}");
        }
        assert!(!help.contains(OTHER), "a verb is in no group:\n{help}");
        let long: Vec<_> = help
            .lines()
            .filter(|line| line.chars().count() > 80)
            .collect();
        assert!(long.is_empty(), "{long:#?}");
    }

    #[test]
    fn every_verb_has_a_page() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("man1");
        man(&path).unwrap();
        let page = |name: &str| fs::read_to_string(path.join(format!("{name}.1"))).unwrap();
        assert!(page("minivmm").contains("minivmm\\-status(1)"));
        assert!(page("minivmm-status").contains("Exit codes"));
        assert!(page("minivmm-config-check").contains("verbose"));
        let verbs = Cli::command()
            .get_subcommands()
            .filter(|v| !v.is_hide_set())
            .count();
        assert!(fs::read_dir(path).unwrap().count() > verbs);
    }
}
