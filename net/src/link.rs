//! Interfaces of this thread's network namespace: index, MTU, up, and the ports of a bridge.
//!
//! By ioctl on a socket (netdevice(7), linux/sockios.h, linux/if_bridge.h), which always is of the thread's own
//! namespace; sysfs shows the one in which it was mounted.
#![allow(unsafe_code)]

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
};

use rustix::{
    io::Errno,
    net::{AddressFamily, SocketType, netdevice::name_to_index, socket},
};
use vmm_sys_util::ioctl::ioctl_with_mut_ref;

use crate::ioctl::{check, request};

/// The highest first byte of an address that is locally administered and no group's (IEEE 802).
const HIGH_ADDRESS: u8 = 0xfe;

/// What an interface's driver is called by ETHTOOL_GDRVINFO (linux/ethtool.h): `struct ethtool_drvinfo` begins with the
/// command and its name.
const ETHTOOL_GDRVINFO: u32 = 3;
const DRVINFO_SIZE: usize = 196;
const DRIVER_NAME: std::ops::Range<usize> = 4..36;
const BRIDGE_DRIVER: &[u8] = b"bridge\0";

/// The most ports that a bridge has (BR_MAX_PORTS in net/bridge/br_private.h).
const PORTS_MAX: usize = 1 << 10;
/// The oldest of the bridge's own ioctls (linux/if_bridge.h): the ports of a bridge.
const BRCTL_GET_PORT_LIST: u64 = 7;
const SIOCBRADDIF: libc::c_ulong = 0x89a2;
const SIOCDEVPRIVATE: libc::c_ulong = 0x89f0;

/// A socket to ask.
pub(crate) struct Links(OwnedFd);

impl Links {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self(socket(AddressFamily::UNIX, SocketType::DGRAM, None)?))
    }

    /// The index of the interface, if there is one of this name.
    pub(crate) fn index(&self, name: &str) -> io::Result<Option<u32>> {
        match name_to_index(&self.0, name) {
            Ok(index) => Ok(Some(index)),
            Err(Errno::NODEV) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    pub(crate) fn mtu(&self, name: &str) -> io::Result<u32> {
        let mut request = request(name);
        self.ioctl(libc::SIOCGIFMTU, &mut request)?;
        // SAFETY: SIOCGIFMTU has set this member of the union, and any bits are a number.
        let mtu = unsafe { request.ifr_ifru.ifru_mtu };
        u32::try_from(mtu).map_err(io::Error::other)
    }

    pub(crate) fn set_mtu(&self, name: &str, mtu: u16) -> io::Result<()> {
        let mut request = request(name);
        request.ifr_ifru.ifru_mtu = mtu.into();
        self.ioctl(libc::SIOCSIFMTU, &mut request)
    }

    /// Gives an Ethernet interface an address of its own that is above those of cards: a bridge has the lowest one of its
    /// ports, which is not to change with a port that comes and goes.
    pub(crate) fn raise_address(&self, name: &str) -> io::Result<()> {
        let mut request = request(name);
        self.ioctl(libc::SIOCGIFHWADDR, &mut request)?;
        // SAFETY: SIOCGIFHWADDR has set this member of the union, and any bits are numbers.
        let mut address = unsafe { request.ifr_ifru.ifru_hwaddr };
        address.sa_data[0] = HIGH_ADDRESS as libc::c_char;
        request.ifr_ifru.ifru_hwaddr = address;
        self.ioctl(libc::SIOCSIFHWADDR, &mut request)
    }

    pub(crate) fn bring_up(&self, name: &str) -> io::Result<()> {
        let mut request = request(name);
        self.ioctl(libc::SIOCGIFFLAGS, &mut request)?;
        // SAFETY: SIOCGIFFLAGS has set this member of the union, and any bits are a number.
        let flags = unsafe { request.ifr_ifru.ifru_flags };
        request.ifr_ifru.ifru_flags = flags | libc::IFF_UP as libc::c_short;
        self.ioctl(libc::SIOCSIFFLAGS, &mut request)
    }

    /// Indices of the interfaces that are in the bridge; an error if it is none.
    pub(crate) fn ports(&self, bridge: &str) -> io::Result<Vec<u32>> {
        // The ioctl below is every driver's own: a tunnel would write its parameters over the arguments, a bond take
        // them for the name of an interface.
        if !self.is_bridge(bridge)? {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut ports = vec![0_u32; PORTS_MAX];
        let mut arguments = [
            BRCTL_GET_PORT_LIST,
            ports.as_mut_ptr() as u64,
            PORTS_MAX as u64,
            0,
        ];
        let mut request = request(bridge);
        request.ifr_ifru.ifru_data = arguments.as_mut_ptr().cast();
        // A bridge writes as many numbers as it was told there is room for, and to nothing else: both arrays outlive
        // the call.
        self.ioctl(SIOCDEVPRIVATE, &mut request)?;
        ports.retain(|index| *index != 0);
        Ok(ports)
    }

    fn is_bridge(&self, name: &str) -> io::Result<bool> {
        let mut info = [0_u8; DRVINFO_SIZE];
        info[..4].copy_from_slice(&ETHTOOL_GDRVINFO.to_ne_bytes());
        let mut request = request(name);
        request.ifr_ifru.ifru_data = info.as_mut_ptr().cast();
        // The kernel writes this structure, all of which is there, and `info` outlives the call.
        self.ioctl(libc::SIOCETHTOOL, &mut request)?;
        Ok(info[DRIVER_NAME].starts_with(BRIDGE_DRIVER))
    }

    /// Puts an interface into the bridge.
    pub(crate) fn add_port(&self, bridge: &str, index: u32) -> io::Result<()> {
        let mut request = request(bridge);
        request.ifr_ifru.ifru_ifindex = index as libc::c_int;
        self.ioctl(SIOCBRADDIF, &mut request)
    }

    /// `request` is what this number takes; see the callers.
    fn ioctl(&self, number: libc::c_ulong, request: &mut libc::ifreq) -> io::Result<()> {
        // SAFETY: every request above reads and writes a struct ifreq, and what its pointer points to is described
        // where it is made.
        check(unsafe { ioctl_with_mut_ref(&self.0.as_raw_fd(), number, request) })
    }
}
