//! `minivmm ssh`: the system's ssh, through a guest's vsock.

use std::{
    ffi::OsString,
    io::ErrorKind,
    os::unix::process::CommandExt,
    process::{Command, ExitCode},
};

use super::{
    target::TargetArgs,
    vsock::{find, is_allowed},
};
use crate::{client::Target, failure::Failure};

/// What systemd's sshd listens on in a guest.
const PORT: u32 = 22;

/// Becomes ssh.
pub fn ssh(
    of: &TargetArgs,
    user: Option<&str>,
    arguments: &[OsString],
) -> Result<ExitCode, Failure> {
    let target = of.target();
    // ssh would only say that the connection was closed.
    let (status, vsock) = find(&target)?;
    is_allowed(&status, &vsock, PORT)?;
    let program = std::env::current_exe().map_err(Failure::host)?;
    let words = words(
        &proxy(&program.to_string_lossy(), &target),
        &status.name,
        user,
    );
    let error = Command::new("ssh").args(words).args(arguments).exec();
    Err(Failure::host(match error.kind() {
        ErrorKind::NotFound => {
            "there is no program ssh here: install the OpenSSH client (Debian: openssh-client)"
                .to_owned()
        }
        _ => format!("ssh: {error}"),
    }))
}

/// The program by which ssh reaches the guest, as a command line of a shell's.
fn proxy(program: &str, target: &Target) -> String {
    let port = PORT.to_string();
    let socket;
    let of = match target {
        Target::Name(name) => vec![name.as_str()],
        Target::Socket(path) => {
            // ssh stays where it was started.
            socket = path.to_string_lossy().into_owned();
            vec!["--socket", socket.as_str()]
        }
    };
    let words = [vec![program, "vsock", "--port", port.as_str()], of].concat();
    let words: Vec<String> = words.into_iter().map(quoted).collect();
    words.join(" ")
}

/// A word as a shell and ssh take it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_owned(),
        // A percent sign is the first of a token in ssh_config(5).
        false => format!("'{}'", word.replace('\'', r"'\''").replace('%', "%%")),
    }
}

/// ssh's arguments up to its destination.
fn words(proxy: &str, name: &str, user: Option<&str>) -> Vec<OsString> {
    let mut words = Vec::new();
    for option in [
        format!("ProxyCommand={proxy}"),
        // A VM is known by its name and nothing else.
        format!("HostKeyAlias=minivmm/{name}"),
        "CheckHostIP=no".to_owned(),
        // Who reaches the VM's socket is this host alone: a new key is the VM's own, and one that has changed is said.
        "StrictHostKeyChecking=accept-new".to_owned(),
    ] {
        words.extend(["-o".to_owned(), option]);
    }
    if let Some(user) = user {
        words.extend(["-l".to_owned(), user.to_owned()]);
    }
    words.push(format!("minivmm/{name}"));
    words.into_iter().map(OsString::from).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn ssh_is_told_the_vm_by_name_or_socket() {
        let target = Target::Name("adguard".to_owned());
        assert_eq!(
            proxy("/usr/bin/minivmm", &target),
            "/usr/bin/minivmm vsock --port 22 adguard"
        );
        let target = Target::Socket("/run/it's 5%/control".into());
        assert_eq!(
            proxy("/opt/mini vmm", &target),
            r"'/opt/mini vmm' vsock --port 22 --socket '/run/it'\''s 5%%/control'"
        );
        let words = words("p", "adguard", Some("root"));
        let words: Vec<_> = words.iter().map(|w| w.to_str().unwrap()).collect();
        assert_eq!(words[..2], ["-o", "ProxyCommand=p"]);
        assert!(words.contains(&"HostKeyAlias=minivmm/adguard"));
        assert_eq!(words[8..], ["-l", "root", "minivmm/adguard"]);
    }
}
