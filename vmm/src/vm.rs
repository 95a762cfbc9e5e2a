//! A virtual machine from start to end.

use std::{
    os::fd::{AsFd, BorrowedFd},
    sync::Arc,
    time::{Duration, Instant},
};

use minivmm_devices::{console::ConsoleSink, virtio::pci::VirtioPci};
use rustix::event::{PollFd, PollFlags, poll};
use vmm_sys_util::eventfd::EventFd;

use crate::{
    balloon::BalloonReport,
    config::VmConfig,
    console::Console,
    console_input::InputThread,
    end::{End, EndReport},
    error::Error,
    gate::Progress,
    machine::{Machine, Resources},
    metrics::{Metrics, Sources},
    vcpu::{Shared, Vcpu},
    watchdog::Countdown,
};

/// How long all devices together have to give up their work when the VM has ended.
const DEVICES_DEADLINE: Duration = Duration::from_secs(10);
/// How long the console's last words may take to be written.
const CONSOLE_DEADLINE: Duration = Duration::from_secs(1);

/// A virtual machine that has not started.
pub struct Vm {
    machine: Machine,
}

impl Vm {
    /// Makes the machine that `config` describes out of `resources`. No guest code runs yet.
    pub fn new(config: &VmConfig, resources: Resources) -> Result<Self, Error> {
        Ok(Self {
            machine: Machine::build(config, resources)?,
        })
    }

    /// Lets the guest run, on threads of its own.
    pub fn start(self) -> Result<Handle, Error> {
        let Machine {
            vcpus,
            shared,
            devices,
            sources,
            power_button,
            watchdog,
            console: sink,
            merge,
            output,
            typed,
        } = self.machine;
        let failed = |name: &str| {
            let name = name.to_owned();
            move |source| Error::Thread { name, source }
        };
        let console = Console::spawn(sink.clone(), merge, output).map_err(failed("console"))?;
        let input = typed.map(InputThread::spawn).transpose();
        let input = input.map_err(failed("console-input"))?;
        let watchdog = watchdog.map(|device| Countdown::spawn(device, shared.end.clone()));
        let watchdog = watchdog.transpose().map_err(failed("watchdog"))?;
        let mut handle = Handle {
            vcpus: Vec::with_capacity(vcpus.len()),
            shared,
            devices,
            sources,
            power_button,
            watchdog,
            sink,
            console,
            input,
            torn_down: false,
        };
        for (id, vcpu) in (0..).zip(vcpus) {
            let vcpu =
                Vcpu::spawn(id, vcpu, handle.shared.clone()).map_err(|source| Error::Thread {
                    name: format!("vcpu{id}"),
                    source,
                })?;
            handle.vcpus.push(vcpu);
        }
        Ok(handle)
    }
}

/// A running virtual machine. Dropped, it ends the VM.
pub struct Handle {
    vcpus: Vec<Vcpu>,
    shared: Arc<Shared>,
    devices: Vec<Arc<VirtioPci>>,
    sources: Sources,
    power_button: EventFd,
    watchdog: Option<Countdown>,
    sink: ConsoleSink,
    console: Console,
    input: Option<InputThread>,
    torn_down: bool,
}

impl Handle {
    /// Presses the power button (ACPI 6.5, 4.8.2.2.1.2): asks the guest to shut down. A press before the
    /// guest listens is lost.
    pub fn press_power_button(&self) {
        // A full counter is a press that is still pending.
        let _ = self.power_button.write(1);
    }

    /// Ends the VM without the guest's doing.
    pub fn kill(&self) {
        self.shared.end.report(End::Killed);
    }

    /// How the VM has ended, if it has, so that [`wait`](Self::wait) has only to tidy up.
    pub fn end(&self) -> Option<End> {
        self.shared.end.get()
    }

    /// Ends the VM because the back end of a share is lost (see [`Resources::on_share_lost`]).
    pub fn lose_share(&self, tag: String) {
        self.shared.end.report(End::BackendLost { tag });
    }

    /// Waits for the VM's end, stops its threads and devices, and says how it ended.
    pub fn wait(mut self) -> End {
        let end = wait_for(&self.shared.end);
        self.tear_down();
        end
    }

    /// Takes every vCPU out of the guest; [`Progress::Paused`] follows when none is in it. A paused VM can be paused again,
    /// which changes nothing and is answered, and ends as any other.
    ///
    /// Its devices go on: what arrives for the guest is put into the buffers that it has provided, and waits there. Its
    /// clocks go on as well, and it is told that it did not run; its watchdog stands still.
    pub fn pause(&self) {
        let vcpus = self.shared.gate.close();
        if let Some(watchdog) = &self.watchdog {
            watchdog.pause();
        }
        self.kick(vcpus);
    }

    /// Lets the vCPUs go on; [`Progress::Resumed`] follows.
    pub fn resume(&self) {
        if let Some(watchdog) = &self.watchdog {
            watchdog.resume();
        }
        self.shared.gate.open();
    }

    /// Asks every vCPU thread to come round; [`Progress::Alive`] with `id` follows when all have. Those of a paused VM
    /// count as if they had. Asked again before that, only the last question is answered.
    pub fn ping(&self, id: u64) {
        let vcpus = self.shared.gate.ping(id);
        self.kick(vcpus);
    }

    /// Whether the VM is paused, or is about to be.
    pub fn is_paused(&self) -> bool {
        self.shared.gate.is_closed()
    }

    /// What has come of what was asked.
    pub fn take_progress(&self) -> impl Iterator<Item = Progress> + use<> {
        self.shared.gate.take_progress()
    }

    /// Readable when [`take_progress`](Self::take_progress) has something to say.
    pub fn progress_fd(&self) -> BorrowedFd<'_> {
        self.shared.gate.as_fd()
    }

    /// What the VM has done so far.
    pub fn metrics(&self) -> Metrics {
        self.sources.read(&self.shared.exits, &self.sink)
    }

    /// Wants `bytes` of the guest's memory in the balloon, if it has one; all that there is at most. The guest gets there in its
    /// time, if it can.
    pub fn set_balloon(&self, bytes: u64) {
        self.sources.set_balloon(bytes);
    }

    /// What is known of the balloon; `None` if the VM has none. Nobody is asked.
    pub fn balloon(&self) -> Option<BalloonReport> {
        self.sources.balloon_report()
    }

    /// Asks the guest how much memory it uses, and tells what is known of the balloon when it has answered, within a second:
    /// on a thread of the device's, which must not be kept waiting, or here. `None` if the VM has no balloon.
    pub fn ask_balloon(&self, told: impl FnOnce(Option<BalloonReport>) + Send + 'static) {
        self.sources.ask_balloon(told);
    }

    /// Kicks those whose bits are set.
    fn kick(&self, vcpus: u32) {
        for (id, vcpu) in self.vcpus.iter().enumerate() {
            if vcpus >> id & 1 == 1 {
                vcpu.kick();
            }
        }
    }

    fn tear_down(&mut self) {
        if std::mem::replace(&mut self.torn_down, true) {
            return;
        }
        self.shared.gate.stop();
        self.kick(u32::MAX);
        self.watchdog = None;
        for vcpu in self.vcpus.drain(..) {
            vcpu.join();
        }
        let deadline = Instant::now() + DEVICES_DEADLINE;
        // All are asked before one is waited for: together they take as long as the slowest.
        let stopping: Vec<_> = self.devices.drain(..).map(|d| d.begin_stop()).collect();
        for device in stopping {
            if let Err(error) = device.wait(deadline) {
                tracing::error!("{error}");
            }
        }
        self.input = None;
        self.sink.close();
        if self.console.wait(CONSOLE_DEADLINE).is_err() {
            // A reader that takes nothing does not hold up the end; the thread goes with the process.
            tracing::warn!("the console's last output was not taken and is lost");
        }
    }
}

/// Becomes readable when the VM may have ended: then ask [`end`](Handle::end). Once it has, it stays so, and
/// [`wait`](Handle::wait) takes no longer than tidying up.
impl AsFd for Handle {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.shared.end.as_fd()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.kill();
        self.tear_down();
    }
}

fn wait_for(report: &EndReport) -> End {
    loop {
        if let Some(end) = report.get() {
            return end;
        }
        let event: BorrowedFd<'_> = report.as_fd();
        // Interrupted or not, what was reported is looked at again.
        let _ = poll(&mut [PollFd::new(&event, PollFlags::IN)], None);
    }
}
