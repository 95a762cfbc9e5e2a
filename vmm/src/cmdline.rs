//! The kernel command line: what the machine needs, what the guest is told, what the user adds.

use crate::config::{ConsoleDevice, Interface, Ready, Share, VmConfig, Volume};

/// What every guest gets: no probing for serial ports that do not exist, a restart at once after a panic, because a
/// service that stands still is the worst end, and the ACPI reset register as the way to restart: with
/// hardware-reduced ACPI, Linux would take EFI, which is not here.
const MACHINE: &str = "8250.nr_uarts=1 panic=-1 reboot=acpi";

/// The consoles. Linux prints on all of them, and /dev/console is the last one that has a driver. Every byte on the
/// serial port leaves the guest, so where it is not the only one the kernel prints on it what is important alone; a
/// panic always is.
fn consoles(device: ConsoleDevice) -> &'static str {
    match device {
        ConsoleDevice::Serial => "console=ttyS0",
        ConsoleDevice::Hvc0 | ConsoleDevice::Both => "console=ttyS0 console=hvc0 loglevel=4",
    }
}

/// Tells systemd where to say that it is ready (systemd.system-credentials(7), `vmm.notify_socket`): the host's CID, and
/// the port on which minivmm listens.
const NOTIFY: &str = "systemd.set_credential=vmm.notify_socket:vsock-stream:2:8888";

/// The whole command line of a configuration, without the limit that the kernel's header sets.
///
/// The user's words come last: where a word stands twice, Linux takes the last one.
pub fn build(config: &VmConfig) -> String {
    let mut words = vec![
        consoles(config.console.device).to_owned(),
        MACHINE.to_owned(),
    ];
    words.extend(addresses(config));
    words.extend(config.shares.iter().filter_map(mount_extra));
    let volumes = config.volumes.iter().zip(config.disks());
    words.extend(volumes.filter_map(|(volume, disk)| mount_volume(volume, &disk)));
    if config.lifecycle.ready == Ready::Guest {
        words.push(NOTIFY.to_owned());
    }
    let user = config.kernel.cmdline.trim();
    if !user.is_empty() {
        words.push(user.to_owned());
    }
    words.join(" ")
}

/// What each interface with an address is told of it.
///
/// The name of a card is the guest's to choose, so an only one is named by nothing. Among several each is called by its MAC
/// address, `ifname=` as dracut.cmdline(7) and systemd-network-generator have it: without a name `ip=` is for all of them.
fn addresses(config: &VmConfig) -> Vec<String> {
    let mut words = Vec::new();
    for (n, interface) in config.interfaces.iter().enumerate() {
        let name = match config.interfaces.len() {
            1 => String::new(),
            _ => format!("net{n}"),
        };
        let Some(ip) = ip(&config.name, interface, &name) else {
            continue;
        };
        if !name.is_empty() {
            words.push(format!("ifname={name}:{}", interface.mac));
        }
        words.push(ip);
    }
    words
}

/// `ip=` as the kernel's nfsroot.rst, dracut and systemd-network-generator read it.
fn ip(host_name: &str, interface: &Interface, device: &str) -> Option<String> {
    let cidr = interface.address?;
    let gateway = interface.gateway.map(|g| g.to_string()).unwrap_or_default();
    let mut word = format!(
        "ip={}::{gateway}:{}:{host_name}:{device}:off",
        cidr.address,
        cidr.netmask()
    );
    for server in &interface.dns {
        word.push(':');
        word.push_str(&server.to_string());
    }
    Some(word)
}

/// `systemd.mount-extra=` (systemd 254 and newer, kernel-command-line(7)).
fn mount_extra(share: &Share) -> Option<String> {
    let point = share.mount_point.as_ref()?;
    Some(format!(
        "systemd.mount-extra={}:{}:virtiofs",
        share.tag,
        point.display()
    ))
}

/// The same of a volume, which the guest knows as `disk`.
fn mount_volume(volume: &Volume, disk: &str) -> Option<String> {
    let point = volume.mount_point.as_ref()?.display();
    let kind = volume.file_system()?;
    let options = if volume.read_only { ":ro" } else { "" };
    Some(format!(
        "systemd.mount-extra=/dev/{disk}:{point}:{kind}{options}"
    ))
}

/// Whether the guest restarts by a triple fault: Linux takes the last letter for a way to restart that any
/// of its `reboot=` words has (kernel/reboot.c, admin-guide/kernel-parameters.txt).
pub fn reboots_by_triple_fault(cmdline: &str) -> bool {
    cmdline
        .split_ascii_whitespace()
        .filter_map(|word| word.strip_prefix("reboot="))
        .flat_map(|kinds| kinds.split(','))
        // Only the mode, cold or warm, is another one after a panic; the way is the same.
        .map(|kind| kind.strip_prefix("panic_").unwrap_or(kind))
        .filter_map(|kind| kind.chars().next())
        .rfind(|letter| "baktep".contains(*letter))
        == Some('t')
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_guest_is_told_its_address_and_its_mounts_and_the_user_has_the_last_word() {
        let config = VmConfig::from_toml(
            "name = \"dns\"\n[kernel]\npath = \"k\"\ncmdline = \" quiet panic=5\"\n\
             [[interfaces]]\ntype = \"tap\"\nid = \"t0\"\nmac = \"02:00:00:00:00:01\"\n\
             address = \"10.0.0.2/24\"\ngateway = \"10.0.0.1\"\ndns = [\"10.0.0.1\", \"9.9.9.9\"]\n\
             [[shares]]\ntag = \"d\"\nsource = \"/srv\"\nmount_point = \"/data\"\n\
             [[shares]]\ntag = \"e\"\nsource = \"/srv\"\n\
             [[volumes]]\nimage = \"a\"\nmount_point = \"/var\"\n\
             [[volumes]]\nimage = \"b\"\n\
             [[volumes]]\nimage = \"c\"\nmount_point = \"/c\"\nfs_type = \"erofs\"\nread_only = true\n",
        )
        .unwrap();
        assert_eq!(
            build(&config),
            "console=ttyS0 console=hvc0 loglevel=4 8250.nr_uarts=1 panic=-1 reboot=acpi \
             ip=10.0.0.2::10.0.0.1:255.255.255.0:dns::off:10.0.0.1:9.9.9.9 \
             systemd.mount-extra=d:/data:virtiofs systemd.mount-extra=/dev/vda:/var:ext4 \
             systemd.mount-extra=/dev/vdc:/c:erofs:ro quiet panic=5"
        );
    }

    #[test]
    fn of_several_interfaces_each_with_an_address_is_named_by_its_mac_address() {
        let config = VmConfig::from_toml(
            "name = \"a\"\n[kernel]\npath = \"k\"\n\
             [[interfaces]]\ntype = \"tap\"\nid = \"t0\"\nmac = \"02:00:00:00:00:0A\"\n\
             [[interfaces]]\ntype = \"tap\"\nid = \"t1\"\nmac = \"02:00:00:00:00:0b\"\n\
             address = \"10.0.0.2/8\"\ngateway = \"10.0.0.1\"\n\
             [[interfaces]]\ntype = \"tap\"\nid = \"t2\"\nmac = \"02:00:00:00:00:0c\"\n\
             address = \"10.1.0.2/16\"\ndns = [\"10.1.0.1\"]\n",
        );
        let config = config.unwrap();
        config.validate().unwrap();
        let line = build(&config);
        let told = " ifname=net1:02:00:00:00:00:0b ip=10.0.0.2::10.0.0.1:255.0.0.0:a:net1:off \
                    ifname=net2:02:00:00:00:00:0c ip=10.1.0.2:::255.255.0.0:a:net2:off:10.1.0.1";
        assert!(line.ends_with(told), "{line}");
    }

    #[test]
    fn a_guest_that_is_to_say_when_it_is_ready_is_told_where() {
        let config = VmConfig::from_toml(
            "name = \"a\"\n[kernel]\npath = \"k\"\n[lifecycle]\nready = \"guest\"\n",
        );
        let line = build(&config.unwrap());
        assert!(line.ends_with(NOTIFY), "{line}");
    }

    #[test]
    fn a_guest_with_the_serial_port_alone_prints_everything_there() {
        let config = "name = \"a\"\n[kernel]\npath = \"k\"\n[console]\ndevice = \"serial\"\n";
        let words = build(&VmConfig::from_toml(config).unwrap());
        assert_eq!(words, "console=ttyS0 8250.nr_uarts=1 panic=-1 reboot=acpi");
    }

    #[test]
    fn only_the_last_reboot_word_says_how_the_guest_restarts() {
        for (cmdline, expected) in [
            ("quiet", false),
            ("reboot=t", true),
            ("reboot=triple", true),
            ("reboot=warm,t", true),
            ("reboot=t reboot=k", false),
            ("reboot=k panic=1 reboot=t", true),
            ("noreboot=t", false),
            ("reboot=t reboot=warm", true),
            ("reboot=t,k", false),
            ("reboot=t,panic_warm", true),
            ("reboot=panic_t", true),
            ("reboot=", false),
        ] {
            assert_eq!(reboots_by_triple_fault(cmdline), expected, "{cmdline}");
        }
    }
}
