//! Interrupt routes, irqfds and ioeventfds: what devices ask of the hypervisor, fulfilled by KVM.
//!
//! KVM_SET_GSI_ROUTING replaces the whole table, so the table is kept here and every update writes the
//! pins of the I/O APIC beside the MSI routes.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use kvm_bindings::{
    KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI, KVM_IRQCHIP_IOAPIC, KvmIrqRouting,
    kvm_irq_routing_entry, kvm_irq_routing_entry__bindgen_ty_1, kvm_irq_routing_irqchip,
    kvm_irq_routing_msi, kvm_irq_routing_msi__bindgen_ty_1,
};
use kvm_ioctls::{IoEventAddress, NoDatamatch, VmFd};
use minivmm_devices::hypervisor::{Gsi, Hypervisor, MsiMessage};
use vmm_sys_util::eventfd::EventFd;

use crate::layout::IOAPIC_PINS;

/// Routes that KVM takes at the most (KVM_CAP_IRQ_ROUTING says 4096 on x86).
const MAX_ROUTES: u32 = 4096;

/// What is known of one MSI route.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Route {
    message: Option<MsiMessage>,
    /// Whether an irqfd leads to it.
    connected: bool,
}

/// The interrupt routes of one VM.
pub struct Interrupts {
    vm: Arc<VmFd>,
    routes: Mutex<BTreeMap<u32, Route>>,
}

impl Interrupts {
    /// Routes of `vm`, at first the I/O APIC's pins alone.
    pub fn new(vm: Arc<VmFd>) -> io::Result<Self> {
        let interrupts = Self {
            vm,
            routes: Mutex::default(),
        };
        interrupts.commit(&BTreeMap::new())?;
        Ok(interrupts)
    }

    /// Leads `event` to a pin of the I/O APIC: each write is an edge.
    pub fn connect_pin(&self, pin: Gsi, event: &EventFd) -> io::Result<()> {
        Ok(self.vm.register_irqfd(event, pin.0)?)
    }

    fn commit(&self, routes: &BTreeMap<u32, Route>) -> io::Result<()> {
        let table = KvmIrqRouting::from_entries(&entries(routes)).map_err(io::Error::other)?;
        Ok(self.vm.set_gsi_routing(&table)?)
    }

    fn routes(&self) -> MutexGuard<'_, BTreeMap<u32, Route>> {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The whole table: pins first, then every route that has a message.
fn entries(routes: &BTreeMap<u32, Route>) -> Vec<kvm_irq_routing_entry> {
    let pins = (0..IOAPIC_PINS).map(|pin| kvm_irq_routing_entry {
        gsi: pin,
        type_: KVM_IRQ_ROUTING_IRQCHIP,
        u: kvm_irq_routing_entry__bindgen_ty_1 {
            irqchip: kvm_irq_routing_irqchip {
                irqchip: KVM_IRQCHIP_IOAPIC,
                pin,
            },
        },
        ..Default::default()
    });
    let messages = routes.iter().filter_map(|(gsi, route)| {
        let message = route.message?;
        Some(kvm_irq_routing_entry {
            gsi: *gsi,
            type_: KVM_IRQ_ROUTING_MSI,
            u: kvm_irq_routing_entry__bindgen_ty_1 {
                msi: kvm_irq_routing_msi {
                    address_lo: message.address as u32,
                    address_hi: (message.address >> 32) as u32,
                    data: message.data,
                    __bindgen_anon_1: kvm_irq_routing_msi__bindgen_ty_1 { pad: 0 },
                },
            },
            ..Default::default()
        })
    });
    pins.chain(messages).collect()
}

impl Hypervisor for Interrupts {
    fn allocate_gsi(&self) -> io::Result<Gsi> {
        let mut routes = self.routes();
        let gsi = routes
            .last_key_value()
            .map_or(IOAPIC_PINS, |(last, _)| last + 1);
        if gsi >= MAX_ROUTES {
            return Err(io::Error::other("all of KVM's interrupt routes are in use"));
        }
        routes.insert(gsi, Route::default());
        Ok(Gsi(gsi))
    }

    fn connect_msi(&self, gsi: Gsi, event: &EventFd, message: MsiMessage) -> io::Result<()> {
        let mut routes = self.routes();
        let before = *routes.get(&gsi.0).ok_or_else(|| unknown(gsi))?;
        let now = Route {
            message: Some(message),
            connected: true,
        };
        routes.insert(gsi.0, now);
        let done = (|| {
            if before.message != now.message {
                self.commit(&routes)?;
            }
            if !before.connected {
                // KVM looks at the count when it takes the eventfd, so what is pending raises now.
                self.vm.register_irqfd(event, gsi.0)?;
            }
            Ok(())
        })();
        if done.is_err() {
            routes.insert(gsi.0, before);
        }
        done
    }

    fn disconnect_msi(&self, gsi: Gsi, event: &EventFd) -> io::Result<()> {
        let mut routes = self.routes();
        let route = routes.get_mut(&gsi.0).ok_or_else(|| unknown(gsi))?;
        if route.connected {
            self.vm.unregister_irqfd(event, gsi.0)?;
            route.connected = false;
        }
        Ok(())
    }

    fn attach_notify(&self, address: u64, event: &EventFd) -> io::Result<()> {
        Ok(self
            .vm
            .register_ioevent(event, &IoEventAddress::Mmio(address), NoDatamatch)?)
    }

    fn detach_notify(&self, address: u64, event: &EventFd) -> io::Result<()> {
        Ok(self
            .vm
            .unregister_ioevent(event, &IoEventAddress::Mmio(address), NoDatamatch)?)
    }
}

fn unknown(gsi: Gsi) -> io::Error {
    io::Error::other(format!("GSI {} was never allocated", gsi.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_update_writes_the_pins_with_the_msi_routes() {
        let message = MsiMessage {
            address: 0x1_FEE0_1000,
            data: 0x41,
        };
        let route = Route {
            message: Some(message),
            connected: true,
        };
        let routes = BTreeMap::from([(24, Route::default()), (25, route)]);
        let all = entries(&routes);
        assert_eq!(all.len(), 25, "24 pins and the one route with a message");
        for (pin, entry) in (0..24).zip(&all) {
            assert_eq!((entry.gsi, entry.type_), (pin, KVM_IRQ_ROUTING_IRQCHIP));
        }
        assert_eq!((all[24].gsi, all[24].type_), (25, KVM_IRQ_ROUTING_MSI));
    }
}
