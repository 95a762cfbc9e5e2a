//! What the supervisor and the VMM process say to each other: one JSON text a message on a SOCK_SEQPACKET
//! pair, the first with the descriptors that the VMM works on. The configuration is one of them, a sealed
//! memfd, because it may be larger than a message ([`send_config`], [`receive_config`]).
//!
//! The VMM is distrusted once its guest runs: the supervisor takes only [`FromVmm`] from it, bounded in
//! size; a descriptor that comes along is closed.

use std::{
    fs::File,
    io::{self, IoSlice, IoSliceMut, Read, Seek, Write},
    mem::MaybeUninit,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
};

use minivmm_vmm::{BalloonReport, Blame, End, Metrics, VmConfig};
use rustix::{
    fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create},
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
        SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg,
        sendmsg, socketpair,
    },
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Bytes of a message at most.
const MAX_MESSAGE: usize = 128 * 1024;
/// Descriptors of a message at most: seven of the machine, eight taps with eight queues each, eight shares, ten volumes, and some for
/// what is to come. The kernel's limit is 253 (SCM_MAX_FD).
const MAX_FDS: usize = 128;
/// Bytes of a configuration as JSON at most. A file of [`Limits::FILE`](minivmm_vmm::config::Limits::FILE) bytes stays
/// below: JSON at most doubles a character, and adds the keys with default values.
const MAX_CONFIG: u64 = 4 << 20;

/// What a descriptor of [`ToVmm::Start`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// What the machine is, as [`send_config`] puts it into a memfd.
    Config,
    /// `/dev/kvm`.
    Kvm,
    /// The kernel image.
    Kernel,
    /// The initial RAM disk.
    Initrd,
    /// `/dev/urandom`.
    Entropy,
    /// A stream on which the guest prints and is typed to.
    Console,
    /// A queue of the tap of the interface with this number; in their order.
    Tap(u8),
    /// What the credentials are, as [`secrets::send`](crate::secrets::send) puts it into a memfd.
    Credentials,
    /// A connection to virtiofsd; in the order of the shares.
    Share,
    /// An image; in the order of the volumes.
    Volume,
    /// The listening socket of the socket device.
    Vsock,
}

/// From the supervisor to the VMM.
#[derive(Debug, Serialize, Deserialize)]
pub enum ToVmm {
    /// The VM to run; comes first and once, with a descriptor for each role.
    Start {
        /// What the descriptors are.
        roles: Vec<Role>,
        /// Whether the last run was ended by the guest's watchdog.
        after_watchdog: bool,
    },
    /// Press the power button.
    PowerButton,
    /// End the VM without the guest's doing.
    Kill,
    /// End the VM because the back end of a share is lost.
    EndForShare {
        /// The share's tag.
        tag: String,
    },
    /// Connected, with the connection as its only descriptor; without one, refused.
    Connected {
        /// The question's.
        id: u64,
    },
    /// Take the vCPUs out of the guest; answered by [`FromVmm::Paused`].
    Pause,
    /// Let them go on; answered by [`FromVmm::Resumed`].
    Resume,
    /// Say that every vCPU thread and the VMM's main loop turn; answered by [`FromVmm::Pong`].
    Ping {
        /// Comes back with the answer.
        id: u64,
    },
    /// Say what is known of the balloon; answered by [`FromVmm::Balloon`].
    Balloon {
        /// Comes back with the answer.
        id: u64,
        /// Bytes that are wanted in it from now on.
        size_bytes: Option<u64>,
        /// Whether the guest is to be asked how much memory it uses. Then the answer may take a second.
        statistics: bool,
    },
    /// Say what has been counted; answered by [`FromVmm::Metrics`].
    Metrics {
        /// Comes back with the answer.
        id: u64,
    },
}

/// From the VMM to the supervisor.
#[derive(Debug, Serialize, Deserialize)]
pub enum FromVmm {
    /// Every vCPU thread runs.
    Running,
    /// The VM could not be started.
    Failed {
        /// Whose matter it is.
        blame: Blame,
        /// For a person.
        message: String,
    },
    /// The back end of a share is lost; its device needs a reset. What else follows is the supervisor's to say.
    ShareLost {
        /// The share's tag.
        tag: String,
    },
    /// The host has no room for what the guest writes to a volume that waits for it, or has again.
    VolumeFull {
        /// What the guest calls the disk.
        disk: String,
        /// There is no room.
        full: bool,
    },
    /// No vCPU is in the guest until it is resumed.
    Paused,
    /// The vCPUs go on.
    Resumed,
    /// Every vCPU thread has come round since it was asked, or waits because the VM is paused.
    Pong {
        /// The question's.
        id: u64,
    },
    /// The guest wants a connection to a port of the host; answered by [`ToVmm::Connected`].
    Connect {
        /// Comes back with the answer.
        id: u64,
        /// The port.
        port: u32,
    },
    /// What is known of the balloon.
    Balloon {
        /// The question's.
        id: u64,
        /// Nothing if there is none.
        report: Option<BalloonReport>,
    },
    /// What has been counted.
    Metrics {
        /// The question's.
        id: u64,
        /// The numbers.
        metrics: Metrics,
    },
    /// The guest has said something about itself (sd_notify(3)): one message, as it came. It is not to be trusted.
    Notify {
        /// Lines of `KEY=VALUE`.
        text: String,
    },
    /// The VM ended; the last message. Its devices are given up next, and with them the connections to
    /// virtiofsds.
    Ended(End),
}

/// A memfd with `config`, which nobody can change any more.
pub fn send_config(config: &VmConfig) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut file = File::from(memfd_create("config", flags)?);
    let text = serde_json::to_vec(config)?;
    if text.len() as u64 > MAX_CONFIG {
        return Err(io::Error::other("the configuration is too large"));
    }
    file.write_all(&text)?;
    fcntl_add_seals(
        &file,
        SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL,
    )?;
    Ok(file.into())
}

/// What [`send_config`] put into `fd`.
pub fn receive_config(fd: OwnedFd) -> io::Result<VmConfig> {
    let mut file = File::from(fd);
    // Both processes have the one position.
    file.rewind()?;
    let mut text = Vec::new();
    file.take(MAX_CONFIG).read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}

/// One end of the connection.
#[derive(Debug)]
pub struct Channel(OwnedFd);

impl Channel {
    /// Two connected ends, both closed on exec.
    pub fn pair() -> io::Result<(Self, Self)> {
        let (ours, theirs) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        Ok((Self(ours), Self(theirs)))
    }

    /// An end that was inherited.
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Sends a message, with descriptors that the other end gets copies of.
    ///
    /// Fails at once if the other end takes nothing: neither process ever waits for the other.
    pub fn send(&self, message: &impl Serialize, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let text = serde_json::to_vec(message)?;
        if text.len() > MAX_MESSAGE || fds.len() > MAX_FDS {
            return Err(io::Error::other("a message is too large"));
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(io::Error::other("a message has too many descriptors"));
        }
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        let sent = sendmsg(&self.0, &[IoSlice::new(&text)], &mut control, flags)?;
        if sent != text.len() {
            return Err(io::Error::other("a message was cut short"));
        }
        Ok(())
    }

    /// Waits for the next message, with its descriptors; `None` when the other end is gone.
    pub fn receive<M: DeserializeOwned>(&self) -> io::Result<Option<(M, Vec<OwnedFd>)>> {
        self.receive_with(RecvFlags::empty())
    }

    /// The next message if there is one, else an error of the kind WouldBlock. For the supervisor, which
    /// never waits for the VMM and takes no descriptors from it.
    pub fn try_receive<M: DeserializeOwned>(&self) -> io::Result<Option<M>> {
        let received = self.receive_with(RecvFlags::DONTWAIT)?;
        Ok(received.map(|(message, _closed)| message))
    }

    fn receive_with<M: DeserializeOwned>(
        &self,
        flags: RecvFlags,
    ) -> io::Result<Option<(M, Vec<OwnedFd>)>> {
        let mut text = vec![0; MAX_MESSAGE];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = loop {
            let mut parts = [IoSliceMut::new(&mut text)];
            match recvmsg(
                &self.0,
                &mut parts,
                &mut control,
                flags | RecvFlags::CMSG_CLOEXEC,
            ) {
                Err(rustix::io::Errno::INTR) => {}
                // The other end died with a message of ours unread.
                Err(rustix::io::Errno::CONNRESET) => return Ok(None),
                done => break done?,
            }
        };
        let mut fds = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                fds.extend(rights);
            }
        }
        if received.bytes == 0 {
            return Ok(None);
        }
        if received.flags.contains(ReturnFlags::TRUNC) {
            return Err(io::Error::other("a message is too large"));
        }
        Ok(Some((
            serde_json::from_slice(&text[..received.bytes])?,
            fds,
        )))
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Channel {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_message_arrives_with_its_descriptors() {
        let (ours, theirs) = Channel::pair().unwrap();
        let null = std::fs::File::open("/dev/null").unwrap();
        ours.send(&ToVmm::PowerButton, &[null.as_fd(), null.as_fd()])
            .unwrap();
        ours.send(&ToVmm::Kill, &[]).unwrap();
        let (message, fds) = theirs.receive::<ToVmm>().unwrap().unwrap();
        assert!(matches!(message, ToVmm::PowerButton));
        assert_eq!(fds.len(), 2);
        let (message, fds) = theirs.receive::<ToVmm>().unwrap().unwrap();
        assert!(matches!(message, ToVmm::Kill) && fds.is_empty());
        drop(ours);
        assert!(theirs.receive::<ToVmm>().unwrap().is_none());
    }

    #[test]
    fn a_configuration_larger_than_a_message_arrives_and_nobody_can_change_it() {
        let mut config = VmConfig::from_toml("name = \"a\"\n[kernel]\npath = \"k\"\n").unwrap();
        config.kernel.cmdline = "\"".repeat(1 << 20);
        let fd = send_config(&config).unwrap();
        let again = File::from(fd.try_clone().unwrap());
        assert!((&again).write_all(b"x").is_err());
        assert!(again.set_len(0).is_err());
        let received = receive_config(fd).unwrap();
        assert_eq!(received.kernel.cmdline, config.kernel.cmdline);
    }

    #[test]
    fn what_is_no_message_is_an_error_and_not_a_panic() {
        let (ours, theirs) = Channel::pair().unwrap();
        for bytes in [&b"{"[..], b"\"Running\"x", b"\xff\xfe", b"{\"Ended\":7}"] {
            rustix::net::send(&theirs, bytes, SendFlags::empty()).unwrap();
            assert!(ours.try_receive::<FromVmm>().is_err());
        }
        theirs.send(&FromVmm::Running, &[]).unwrap();
        assert!(matches!(
            ours.try_receive().unwrap(),
            Some(FromVmm::Running)
        ));
        let nothing = ours.try_receive::<FromVmm>().unwrap_err();
        assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn a_full_connection_fails_instead_of_waiting() {
        let (ours, _theirs) = Channel::pair().unwrap();
        let failed = (0..100_000).find_map(|_| ours.send(&ToVmm::Kill, &[]).err());
        assert_eq!(failed.unwrap().kind(), io::ErrorKind::WouldBlock);
    }
}
