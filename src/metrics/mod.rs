//! A VM's metrics as OpenMetrics text (docs/metrics.md).
//!
//! [`text`] makes it of what the VMM has counted, of the [`board`](crate::board), and of what `/proc` has
//! (`processes`, [`usage`](crate::usage)). [`textfile`] puts it into a file.

mod balloon;
mod processes;
pub mod textfile;

pub use processes::name_and_time;

use std::{collections::BTreeMap, fmt, time::Duration};

use minivmm_vmm::{
    Metrics,
    metrics::{Card, Disk, Exit, Queue},
};
use prometheus_client::{
    collector::Collector,
    encoding::{
        DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, EncodeLabelSet, NoLabelSet, text,
    },
    metrics::MetricType,
    registry::{Registry, Unit},
};

use crate::{
    board::{State, Status},
    usage,
};

/// All that is to be said of a VM.
#[derive(Debug)]
struct Snapshot {
    status: Status,
    uptime: Option<Duration>,
    /// What the VMM has counted, while there is one.
    vmm: Option<Metrics>,
    memory: Option<u64>,
    vmm_threads: BTreeMap<String, Duration>,
    supervisor_threads: BTreeMap<String, Duration>,
    virtiofsds: Duration,
}

/// The metrics of the VM with this status, for which its VMM, if there is one, has counted this.
pub fn text(status: Status, vmm: Option<Metrics>) -> String {
    let virtiofsds = status.virtiofsd_pids.iter();
    let counted = vmm.as_ref().and_then(|vmm| vmm.memory_bytes);
    let snapshot = Snapshot {
        uptime: usage::uptime(&status),
        memory: counted.or_else(|| status.vmm_pid.and_then(usage::resident)),
        vmm_threads: status.vmm_pid.map(processes::threads).unwrap_or_default(),
        supervisor_threads: processes::threads(status.pid),
        virtiofsds: virtiofsds.map(|pid| usage::with_children(*pid)).sum(),
        vmm,
        status,
    };
    let vm = ("vm".into(), snapshot.status.name.clone().into());
    let labels = std::iter::once(vm);
    let mut registry = Registry::with_prefix_and_labels("minivmm", labels);
    registry.register_collector(Box::new(snapshot));
    let mut text = String::new();
    // A String takes everything.
    let _ = text::encode(&mut text, &registry);
    text
}

impl Collector for Snapshot {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut to = Families(encoder);
        self.state(&mut to)?;
        self.resources(&mut to)?;
        match &self.vmm {
            Some(vmm) => counted(vmm, &mut to),
            None => Ok(()),
        }
    }
}

impl Snapshot {
    fn state(&self, to: &mut Families<'_>) -> fmt::Result {
        let status = &self.status;
        let states = [
            State::Starting,
            State::Running,
            State::Paused,
            State::Stopping,
            State::Restarting,
        ];
        let states = states.map(|state| {
            let is = u64::from(status.state == state);
            ([("state", state.to_string())], is)
        });
        to.gauges("state", "1 for the state that the VM is in", None, states)?;
        let ready = [(NO_LABELS, u64::from(status.ready))];
        to.gauges("ready", "1 if the guest is ready", None, ready)?;
        let restarts = [(NO_LABELS, u64::from(status.restarts))];
        to.counters("restarts", "Runs of the VM before this one", None, restarts)?;
        if let Some(uptime) = self.uptime {
            let uptime = [(NO_LABELS, uptime.as_secs_f64())];
            to.gauges(
                "uptime",
                "Time since the guest began to run",
                Some(Unit::Seconds),
                uptime,
            )?;
        }
        Ok(())
    }

    fn resources(&self, to: &mut Families<'_>) -> fmt::Result {
        let status = &self.status;
        to.gauges(
            "vcpus",
            "vCPUs",
            None,
            [(NO_LABELS, u64::from(status.vcpu))],
        )?;
        let given = [(NO_LABELS, u64::from(status.mem) << 20)];
        to.gauges("memory", "Memory of the guest", Some(Unit::Bytes), given)?;
        if let Some(memory) = self.memory {
            let help = "Memory of the guest that the host has given it";
            to.gauges(
                "memory_resident",
                help,
                Some(Unit::Bytes),
                [(NO_LABELS, memory)],
            )?;
        }
        let of = |process: &'static str, threads: &BTreeMap<String, Duration>| -> Vec<_> {
            let label = |name: &String| [("process", process.to_owned()), ("thread", name.clone())];
            let times = threads.iter();
            times
                .map(|(name, time)| (label(name), time.as_secs_f64()))
                .collect()
        };
        let threads = [
            of("vmm", &self.vmm_threads),
            of("supervisor", &self.supervisor_threads),
        ];
        to.counters(
            "thread_cpu",
            "CPU time by thread",
            Some(Unit::Seconds),
            threads.concat(),
        )?;
        let virtiofsds = [(NO_LABELS, self.virtiofsds.as_secs_f64())];
        let help = "CPU time of all virtiofsds of this run";
        to.counters("virtiofsd_cpu", help, Some(Unit::Seconds), virtiofsds)
    }
}

/// What the VMM has counted. Its words are labels, escaped, and its numbers are numbers: it is not trusted further.
fn counted(vmm: &Metrics, to: &mut Families<'_>) -> fmt::Result {
    let exits = (0..).zip(&vmm.exits).flat_map(|(vcpu, counts): (u32, _)| {
        Exit::ALL.iter().zip(counts).map(move |(exit, count)| {
            let labels = [("vcpu", vcpu.to_string()), ("kind", exit.name().to_owned())];
            (labels, *count)
        })
    });
    to.counters("exits", "Exits of a vCPU to the VMM, by kind", None, exits)?;

    let queue = |value: fn(&Queue) -> u64| {
        vmm.queues.iter().map(move |queue| {
            let labels = [
                ("device", queue.device.clone()),
                ("queue", queue.queue.to_string()),
            ];
            (labels, value(queue))
        })
    };
    let bytes = Some(Unit::Bytes);
    to.counters(
        "queue_requests",
        "Buffers given back to the driver",
        None,
        queue(|q| q.requests),
    )?;
    let help = "Bytes that the device got from the driver, headers included";
    to.counters("queue_read", help, bytes.clone(), queue(|q| q.read_bytes))?;
    let help = "Bytes that the device gave to the driver, headers included";
    to.counters(
        "queue_written",
        help,
        bytes.clone(),
        queue(|q| q.written_bytes),
    )?;
    let help = "Notifications by the driver";
    to.counters(
        "queue_notifications",
        help,
        None,
        queue(|q| q.notifications),
    )?;
    let help = "Interrupts that the driver wanted";
    to.counters("queue_interrupts", help, None, queue(|q| q.interrupts))?;

    let frames = |receive: fn(&Card) -> u64, transmit: fn(&Card) -> u64| {
        vmm.cards.iter().flat_map(move |card| {
            let labels = |direction: &str| {
                [
                    ("device", card.device.clone()),
                    ("direction", direction.to_owned()),
                ]
            };
            [
                (labels("receive"), receive(card)),
                (labels("transmit"), transmit(card)),
            ]
        })
    };
    let help = "Frames through a network card, one that is to be segmented as one";
    to.counters("net_frames", help, None, frames(|c| c.received, |c| c.sent))?;
    let help = "Frames that a network card has dropped";
    let dropped = frames(|c| c.receive_dropped, |c| c.send_dropped);
    to.counters("net_dropped_frames", help, None, dropped)?;

    disks(vmm, to)?;

    let console = [(NO_LABELS, vmm.console_bytes)];
    to.counters(
        "console",
        "Bytes that the guest has printed",
        bytes.clone(),
        console,
    )?;
    let console = [(NO_LABELS, vmm.console_dropped_bytes)];
    let help = "Bytes of them that nobody took in time";
    to.counters("console_dropped", help, bytes, console)?;
    vmm.balloon
        .as_ref()
        .map_or(Ok(()), |report| balloon::encode(report, to))
}

fn disks(vmm: &Metrics, to: &mut Families<'_>) -> fmt::Result {
    let of = |values: &'static [Of<Disk>]| {
        vmm.disks.iter().flat_map(move |disk| {
            values.iter().map(move |(operation, value)| {
                let labels = [
                    ("device", disk.device.clone()),
                    ("operation", (*operation).to_owned()),
                ];
                (labels, value(disk))
            })
        })
    };
    let one = |value: fn(&Disk) -> u64| {
        vmm.disks
            .iter()
            .map(move |disk| ([("device", disk.device.clone())], value(disk)))
    };
    let help = "Requests of a disk that succeeded, by operation";
    let requests = of(&[
        ("read", |d| d.reads),
        ("write", |d| d.writes),
        ("flush", |d| d.flushes),
        ("discard", |d| d.discards),
    ]);
    to.counters("disk_requests", help, None, requests)?;
    let help = "Bytes that a disk has read and written";
    let bytes = of(&[("read", |d| d.read_bytes), ("write", |d| d.written_bytes)]);
    to.counters("disk", help, Some(Unit::Bytes), bytes)?;
    let help = "Requests of a disk that were answered with an error";
    to.counters("disk_errors", help, None, one(|d| d.errors))?;
    let help = "Requests of a disk that wait for room on the host";
    to.gauges("disk_waiting_requests", help, None, one(|d| d.waiting))
}

/// A label's value, and what belongs to it.
type Of<T> = (&'static str, fn(&T) -> u64);

const NO_LABELS: [(&str, String); 0] = [];

/// Families of metrics, one after the other.
struct Families<'a>(DescriptorEncoder<'a>);

impl Families<'_> {
    fn counters<L: EncodeLabelSet, V: EncodeCounterValue>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<Unit>,
        values: impl IntoIterator<Item = (L, V)>,
    ) -> fmt::Result {
        let kind = MetricType::Counter;
        let mut family = self.0.encode_descriptor(name, help, unit.as_ref(), kind)?;
        for (labels, value) in values {
            let mut sample = family.encode_family(&labels)?;
            sample.encode_counter::<NoLabelSet, _, u64>(&value, None)?;
        }
        Ok(())
    }

    fn gauges<L: EncodeLabelSet, V: EncodeGaugeValue>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<Unit>,
        values: impl IntoIterator<Item = (L, V)>,
    ) -> fmt::Result {
        let kind = MetricType::Gauge;
        let mut family = self.0.encode_descriptor(name, help, unit.as_ref(), kind)?;
        for (labels, value) in values {
            family.encode_family(&labels)?.encode_gauge(&value)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
