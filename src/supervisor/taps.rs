//! The taps of a configuration's interfaces: handed in, opened, or made.

use minivmm_net::{Tap, TapError, TapOptions};
use minivmm_vmm::{
    Blame, VmConfig,
    config::{Descriptors, Interface},
};

use super::inherited::take_tap;
use crate::failure::Failure;

/// For each interface the tap that was handed in for it.
pub type Inherited = Vec<Option<Tap>>;

/// Takes the descriptors that the configuration names.
pub fn inherited(config: &VmConfig) -> Result<Inherited, Failure> {
    let take = |fds: &Descriptors| {
        let fds = fds.numbers().iter().map(|fd| take_tap(*fd));
        Tap::from_fds(fds.collect::<Result<_, _>>()?)
    };
    let fds = config.interfaces.iter().map(|i| i.fd.as_ref());
    let taps = fds.map(|fds| fds.map(take).transpose().map_err(failure));
    let taps = taps.collect::<Result<Inherited, _>>()?;
    let names = config.interfaces.iter().zip(&taps);
    let names = names.map(|(interface, tap)| tap.as_ref().map_or(&*interface.id, Tap::name));
    match twice(names.collect()) {
        Some(name) => Err(Failure::config(format!(
            "interfaces.fd: tap `{name}` is the tap of two interfaces"
        ))),
        None => Ok(taps),
    }
}

/// A name that is in the list twice.
fn twice(mut names: Vec<&str>) -> Option<&str> {
    names.sort_unstable();
    let twice = names.windows(2).find(|pair| pair[0] == pair[1])?;
    twice.first().copied()
}

/// The tap of each interface.
pub fn open(config: &VmConfig, inherited: Inherited) -> Result<Vec<Tap>, Failure> {
    let interfaces = config.interfaces.iter().zip(inherited);
    let taps = interfaces.map(|(interface, tap)| match tap {
        Some(tap) => Ok(tap),
        None => by_name(interface).map_err(failure),
    });
    taps.collect()
}

fn by_name(interface: &Interface) -> Result<Tap, TapError> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tap_of_two_interfaces_is_found_wherever_it_stands() {
        assert_eq!(twice(vec![]), None);
        assert_eq!(twice(vec!["vm-b", "vm-a", "vm-c"]), None);
        assert_eq!(twice(vec!["vm-b", "vm-a", "vm-b"]), Some("vm-b"));
    }
}
