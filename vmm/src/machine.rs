//! A machine put together: memory with a kernel in it, interrupts, devices on their buses, vCPUs at their
//! first instruction.

mod volumes;

use std::{
    fs::File,
    io::{self, Write},
    os::{
        fd::OwnedFd,
        unix::net::{UnixListener, UnixStream},
    },
    sync::Arc,
    time::SystemTime,
};

use kvm_ioctls::VcpuFd;
use minivmm_block::Image;
use minivmm_boot::{Credential, Payload};
use minivmm_devices::{
    GuestMemory,
    bus::Bus,
    console::{ConsoleInput, ConsoleSink, Merge},
    hypervisor::{Gsi, Hypervisor},
    legacy::{AcpiRegisters, GuestEnd, I8042, Panic, PvPanic, Rtc, Serial, Watchdog},
    pci::{MmioWindow, PciBus, Slot},
    virtio::{Balloon, Console, VirtioDevice, balloon::BalloonOptions, pci::VirtioPci, rng::Rng},
};
use minivmm_fs::{FsDevice, Tag};
use minivmm_net::{NetDevice, NetOptions, Tap};
use minivmm_vsock::{Answers, Ask, OnNotify, VsockDevice, VsockOptions};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::{
    cmdline,
    config::{ConsoleDevice, VmConfig},
    console_input::Typed,
    end::{End, EndReport},
    error::Error,
    gate::Gate,
    host,
    kvm::{self, interrupts::Interrupts},
    layout,
    memory::{self, Sharing},
    metrics::{ExitCounters, Sources},
    slots::Slots,
    vcpu::{Buses, Shared},
};

/// What a machine is made of besides its configuration: everything that must be opened, opened.
///
/// The VMM itself opens nothing, so that it can be put where nothing can be opened.
pub struct Resources {
    /// `/dev/kvm`, as [`kvm::open`] gives it.
    pub kvm: OwnedFd,
    /// The kernel image.
    pub kernel: File,
    /// The initial RAM disk.
    pub initrd: Option<File>,
    /// `/dev/urandom`, for the guest's entropy device.
    pub entropy: File,
    /// A tap for each of [`VmConfig::interfaces`], with as many queues as that has pairs.
    pub taps: Vec<Tap>,
    /// A connection to a virtiofsd for each of [`VmConfig::shares`].
    pub shares: Vec<UnixStream>,
    /// The image of each of [`VmConfig::volumes`].
    pub volumes: Vec<Image>,
    /// Told, on a thread of the device's, when the host has no room for what the guest writes to a volume that waits for
    /// it, and when it has again. Must not block.
    pub on_volume_full: OnVolumeFull,
    /// What is in each of [`VmConfig::credentials`], in their order and under their names. Overwritten with zeros when the
    /// guest's memory has it.
    pub credentials: Vec<Credential>,
    /// What the socket device works on, exactly if [`VmConfig::needs_vsock`].
    pub vsock: Option<VsockResources>,
    /// Whether the last run of this VM was ended by the guest's watchdog: the guest is told so, if it has one again.
    pub after_watchdog: bool,
    /// Told, on a thread of the device's, when the back end of a share is lost while the guest uses it. The
    /// device needs a reset then; what else follows ([`OnFailure`](crate::config::OnFailure)) is for the
    /// owner to decide. Must not block.
    pub on_share_lost: OnShareLost,
    /// Takes what the guest writes to its console. May block: it is written to by a thread of its own. What may turn out
    /// to be non-blocking belongs into a [`WaitingWriter`](crate::WaitingWriter).
    pub console: Box<dyn Write + Send>,
    /// What is typed to the guest: read by a thread of its own, as fast as the guest takes it, until its end.
    pub console_input: Option<OwnedFd>,
}

/// What a socket device works on. It opens nothing itself, so others connect for it.
pub struct VsockResources {
    /// Where programs of the host connect, non-blocking; None if [`Vsock::to_guest`](crate::config::Vsock::to_guest) is
    /// empty.
    pub listener: Option<UnixListener>,
    /// Asks for connections that the guest wants; only for those to a port that the configuration allows.
    pub ask: Ask,
    /// Where the answers come.
    pub answers: Arc<Answers>,
    /// Hears what the guest's systemd tells of itself.
    pub on_notify: OnNotify,
}

/// See [`Resources::on_share_lost`]: called with the share's tag.
pub type OnShareLost = Arc<dyn Fn(&Tag) + Send + Sync>;

/// See [`Resources::on_volume_full`]: called with what the guest calls the disk, as `vda`, and whether there is no room.
pub type OnVolumeFull = Arc<dyn Fn(&str, bool) + Send + Sync>;

/// A machine that has not run yet.
pub struct Machine {
    /// The vCPUs, the boot CPU first.
    pub vcpus: Vec<VcpuFd>,
    /// What they share.
    pub shared: Arc<Shared>,
    /// The virtio devices, to be stopped in the end.
    pub devices: Vec<Arc<VirtioPci>>,
    /// Where it is counted what they do.
    pub sources: Sources,
    /// The power button.
    pub power_button: EventFd,
    /// The guest's watchdog, if it has one.
    pub watchdog: Option<Arc<Watchdog>>,
    /// What the guest wrote to its console.
    pub console: ConsoleSink,
    /// What is done with it.
    pub merge: Merge,
    /// Where that goes.
    pub output: Box<dyn Write + Send>,
    /// What is typed to the guest.
    pub typed: Option<Typed>,
}

impl Machine {
    /// Puts the machine of `config` together.
    pub fn build(config: &VmConfig, resources: Resources) -> Result<Self, Error> {
        config.validate()?;
        let Resources {
            kvm,
            mut kernel,
            mut initrd,
            entropy,
            taps,
            shares,
            volumes,
            on_volume_full,
            credentials,
            vsock,
            after_watchdog,
            on_share_lost,
            console: output,
            console_input,
        } = resources;
        let queues = taps.iter().map(Tap::queue_count);
        if !queues.eq(config.interfaces.iter().map(|i| i.pairs()))
            || shares.len() != config.shares.len()
            || volumes.len() != config.volumes.len()
            || !credentials
                .iter()
                .map(|c| &c.name)
                .eq(config.credentials.iter().map(|c| &c.name))
            || vsock.is_some() != config.needs_vsock()
        {
            return Err(Error::Resources);
        }

        let mut platform = layout::platform(config);
        platform.smbios.credentials = credentials;
        let sharing = match shares.is_empty() {
            true => Sharing::Private,
            false => Sharing::Shared,
        };
        host::check_memory(config)?;
        let memory = Arc::new(memory::allocate(&platform.ram, sharing)?);
        let words = cmdline::build(config);
        let payload = Payload {
            kernel: &mut kernel,
            entry: config.kernel.entry.into(),
            initrd: initrd.as_mut(),
            cmdline: &words,
        };
        let boot_cpu = minivmm_boot::load(&memory, &platform, payload)?;
        // With it our copy of the credentials, and it overwrites them.
        drop(platform);

        let kvm = kvm::system(kvm)?;
        host::check_vcpus(config, &kvm)?;
        let vm = kvm::create_vm(&kvm, &memory)?;
        let interrupts = Arc::new(Interrupts::new(vm.clone()).map_err(Error::Interrupts)?);
        let console = ConsoleSink::new().map_err(Error::EventFd)?;
        let input = ConsoleInput::new().map_err(Error::EventFd)?;
        let drained = event()?;
        let serial = Serial::new(pin(&interrupts, layout::COM1_GSI)?, console.clone())
            .signal_drained(drained.try_clone().map_err(Error::EventFd)?);
        let serial = Arc::new(serial);
        let end = EndReport::new(console.clone()).map_err(Error::EventFd)?;
        let end = Arc::new(end);

        let pci = PciBus::new(MmioWindow {
            base: layout::PCI_MMIO.base,
            size: layout::PCI_MMIO.size,
        });
        let mut virtio = VirtioDevices {
            memory: &memory,
            interrupts: &interrupts,
            pci: &pci,
            devices: Vec::new(),
            sources: Sources::new(memory.clone()),
        };
        let on_share_lost = while_running(on_share_lost, &end);
        let slots = Slots::assign(config).map_err(crate::config::Error::Slot)?;
        if let Some(slot) = slots.console {
            let device = Console::new(console.clone(), input.clone());
            virtio.add("console", slot, Box::new(device))?;
        }
        virtio.add_singles(config, &slots, entropy, vsock)?;
        virtio.add_cards_and_shares(config, &slots, taps, shares, &on_share_lost)?;
        virtio.add_volumes(config, &slots, volumes, &on_volume_full)?;
        let watchdog = config.lifecycle.watchdog;
        let watchdog = watchdog.map(|max| Arc::new(Watchdog::new(max, after_watchdog)));
        let mut ports = ports(&pci, &end, serial.clone())?;
        if let Some(watchdog) = &watchdog {
            let (port, count) = layout::WATCHDOG;
            ports.insert(port.into(), count, watchdog.clone())?;
        }
        let buses = Buses {
            ports,
            mmio: mmio(&pci)?,
        };
        let power_button = pin(&interrupts, layout::GED_GSI)?;

        let template = kvm::cpuid::Template::new(&kvm, config.vcpu)?;
        let mut vcpus = Vec::with_capacity(config.vcpu.into());
        for id in 0..config.vcpu {
            let vcpu = vm
                .create_vcpu(id.into())
                .map_err(kvm::Error::call("make a vCPU"))?;
            vcpu.set_cpuid2(&template.for_vcpu(id)?)
                .map_err(kvm::Error::call("take the guest's CPUID"))?;
            kvm::registers::set_common(&vcpu)?;
            if id == 0 {
                kvm::registers::set_boot(&vcpu, &boot_cpu)?;
            }
            vcpus.push(vcpu);
        }
        Ok(Self {
            vcpus,
            shared: Arc::new(Shared {
                buses,
                end,
                exits: (0..config.vcpu).map(|_| ExitCounters::default()).collect(),
                triple_fault_is_reset: cmdline::reboots_by_triple_fault(&words),
                gate: Gate::new(config.vcpu).map_err(Error::EventFd)?,
            }),
            devices: virtio.devices,
            sources: virtio.sources,
            power_button,
            watchdog,
            console,
            merge: match config.console.device {
                ConsoleDevice::Hvc0 => Merge::once(),
                ConsoleDevice::Serial | ConsoleDevice::Both => Merge::all(),
            },
            output,
            typed: console_input.map(|from| Typed {
                from,
                input,
                serial,
                drained,
            }),
        })
    }
}

/// The virtio devices while they are put on the PCI bus.
struct VirtioDevices<'a> {
    memory: &'a Arc<GuestMemory>,
    interrupts: &'a Arc<Interrupts>,
    pci: &'a PciBus,
    devices: Vec<Arc<VirtioPci>>,
    sources: Sources,
}

impl VirtioDevices<'_> {
    /// The devices of which there is one at most, but the console.
    fn add_singles(
        &mut self,
        config: &VmConfig,
        slots: &Slots,
        entropy: File,
        vsock: Option<VsockResources>,
    ) -> Result<(), Error> {
        self.add("rng", crate::slots::RNG, Box::new(Rng::new(entropy)))?;
        if let Some(slot) = slots.balloon {
            let device = balloon(config).map_err(Error::EventFd)?;
            self.sources.balloon(device.control());
            self.add("balloon", slot, Box::new(device))?;
        }
        let vsock = config.vsock().zip(vsock);
        if let Some((slot, (options, resources))) = slots.vsock.zip(vsock) {
            let device = VsockDevice::new(VsockOptions {
                cid: options.cid,
                listener: resources.listener,
                to_guest: options.to_guest(),
                to_host: options.to_host(),
                ask: resources.ask,
                answers: resources.answers,
                on_notify: Some(resources.on_notify),
            });
            self.add("vsock", slot, Box::new(device))?;
        }
        Ok(())
    }

    fn add_cards_and_shares(
        &mut self,
        config: &VmConfig,
        slots: &Slots,
        taps: Vec<Tap>,
        shares: Vec<UnixStream>,
        on_share_lost: &OnShareLost,
    ) -> Result<(), Error> {
        let interfaces = config.interfaces.iter().zip(taps);
        for ((interface, tap), slot) in interfaces.zip(&slots.interfaces) {
            let options = NetOptions {
                mac: interface.mac,
                mtu: interface.mtu,
                offload: interface.offload,
            };
            let device = NetDevice::new(tap, options);
            self.sources.card(&interface.id, device.counters());
            self.add(&interface.id, *slot, Box::new(device))?;
        }
        let shares = config.shares.iter().zip(shares);
        for ((share, stream), slot) in shares.zip(&slots.shares) {
            let (tag, told) = (share.tag.clone(), on_share_lost.clone());
            let on_lost = move || told(&tag);
            let device = FsDevice::connect(stream, &share.tag, Box::new(on_lost))?;
            self.add(share.tag.as_str(), *slot, Box::new(device))?;
        }
        Ok(())
    }

    fn add(&mut self, name: &str, slot: u8, device: Box<dyn VirtioDevice>) -> Result<(), Error> {
        let hypervisor: Arc<dyn Hypervisor> = self.interrupts.clone();
        let function = VirtioPci::new(name, device, self.memory.clone(), hypervisor)
            .map_err(Error::device(name))?;
        Slot::new(slot)
            .and_then(|slot| self.pci.add(slot, function.clone()))
            .map_err(Error::device(name))?;
        self.sources.device(&function);
        self.devices.push(function);
        Ok(())
    }
}

fn balloon(config: &VmConfig) -> io::Result<Balloon> {
    let bytes = |mib: u32| u64::from(mib) << 20;
    Balloon::new(BalloonOptions {
        memory: bytes(config.mem),
        size: bytes(config.balloon.size),
        deflate_on_oom: config.balloon.deflate_on_oom,
        free_page_reporting: config.balloon.free_page_reporting,
        statistics: config.balloon.statistics,
    })
}

/// A back end that is lost after the VM's end is missed by nobody.
fn while_running(told: OnShareLost, end: &Arc<EndReport>) -> OnShareLost {
    let end = end.clone();
    Arc::new(move |tag: &Tag| {
        if end.get().is_none() {
            told(tag);
        }
    })
}

/// Port I/O: COM1, the clock, the reset lines, pvpanic, ACPI's registers and PCI's configuration ports.
fn ports(pci: &PciBus, end: &Arc<EndReport>, serial: Arc<Serial>) -> Result<Bus, Error> {
    let guest_end: Arc<dyn Fn(GuestEnd) + Send + Sync> = {
        let end = end.clone();
        Arc::new(move |how| {
            end.report(match how {
                GuestEnd::PowerOff => End::PowerOff,
                GuestEnd::Reset => End::Reset,
            });
        })
    };
    let guest_panic: Arc<dyn Fn(Panic) + Send + Sync> = {
        let end = end.clone();
        Arc::new(move |panic| end.panicked(panic))
    };
    let mut bus = Bus::default();
    let (port, count) = layout::COM1;
    bus.insert(port.into(), count, serial)?;
    let (port, count) = layout::I8042;
    bus.insert(port.into(), count, Arc::new(I8042::new(guest_end.clone())))?;
    let (port, count) = layout::ACPI_REGISTERS;
    bus.insert(port.into(), count, Arc::new(AcpiRegisters::new(guest_end)))?;
    let (port, count) = layout::RTC;
    bus.insert(port.into(), count, Arc::new(Rtc::new(SystemTime::now)))?;
    let (port, count) = layout::PVPANIC;
    bus.insert(port.into(), count, Arc::new(PvPanic::new(guest_panic)))?;
    let (port, count) = layout::PCI_CONFIG_PORTS;
    bus.insert(port.into(), count, pci.config_ports())?;
    Ok(bus)
}

/// MMIO: PCI's configuration space and BARs. The interrupt controllers are KVM's.
fn mmio(pci: &PciBus) -> Result<Bus, Error> {
    let mut bus = Bus::default();
    bus.insert(layout::ECAM.base, layout::ECAM.size, pci.ecam())?;
    bus.insert(layout::PCI_MMIO.base, layout::PCI_MMIO.size, pci.window())?;
    Ok(bus)
}

/// An eventfd whose writes are edges on a pin of the I/O APIC.
fn pin(interrupts: &Interrupts, gsi: Gsi) -> Result<EventFd, Error> {
    let event = event()?;
    interrupts
        .connect_pin(gsi, &event)
        .map_err(Error::Interrupts)?;
    Ok(event)
}

fn event() -> Result<EventFd, Error> {
    EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).map_err(Error::EventFd)
}
