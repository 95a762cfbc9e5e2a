//! The taps of a configuration's interfaces: handed in, opened, or made.

use std::os::fd::OwnedFd;

use minivmm_net::{Tap, TapError, TapOptions};
use minivmm_vmm::{
    Blame, VmConfig,
    config::{Descriptors, Interface},
};

use super::inherited::take_tap;
use crate::failure::Failure;

/// The descriptors that each interface is to have, if its tap is handed in.
pub type Inherited = Vec<Option<Vec<OwnedFd>>>;

/// Takes the descriptors that the configuration names.
pub fn inherited(config: &VmConfig) -> Result<Inherited, Failure> {
    let take = |fds: &Descriptors| {
        let taken = fds.numbers().iter().map(|fd| take_tap(*fd));
        taken.collect::<Result<_, _>>().map_err(failure)
    };
    let fds = config.interfaces.iter().map(|i| i.fd.as_ref());
    fds.map(|fds| fds.map(take).transpose()).collect()
}

/// The tap of each interface.
pub fn open(config: &VmConfig, inherited: Inherited) -> Result<Vec<Tap>, Failure> {
    let interfaces = config.interfaces.iter().zip(inherited);
    let taps = interfaces.map(|(interface, fds)| tap(interface, fds).map_err(failure));
    taps.collect()
}

fn tap(interface: &Interface, fds: Option<Vec<OwnedFd>>) -> Result<Tap, TapError> {
    if let Some(fds) = fds {
        return Tap::from_fds(fds);
    }
    let options = TapOptions {
        queues: interface.pairs(),
        create: interface.creates(),
        bridge: interface.bridge.clone(),
        mtu: interface.mtu,
    };
    Tap::open(&interface.id, &options)
}

fn failure(error: TapError) -> Failure {
    let blame = match error.is_host_unable() {
        true => Blame::Host,
        false => Blame::Config,
    };
    Failure::new(blame, format!("interfaces.{}: {error}", error.key()))
}
