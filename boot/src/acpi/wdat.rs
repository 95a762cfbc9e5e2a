//! WDAT: how the guest drives its watchdog (Microsoft, "Hardware Watchdog Timers Design Specification", 3), action by
//! action as accesses to registers.
//!
//! Each register has 32 bits: some versions of Linux take a range of ports that is a byte too long for narrower ones.

use acpi_tables::sdt::{GenericAddress, Sdt};

use super::{OEM_ID, OEM_REVISION, OEM_TABLE_ID};
use crate::platform::Watchdog;

/// Bytes of the table without its instructions.
const HEADER: u32 = 36 + 32;
/// Not a PCI device.
const NO_PCI: u8 = 0xff;
const ENABLED: u8 = 1 << 0;

// Actions.
const RESET: u8 = 1;
const QUERY_CURRENT_COUNTDOWN: u8 = 4;
const QUERY_COUNTDOWN: u8 = 5;
const SET_COUNTDOWN: u8 = 6;
const QUERY_RUNNING: u8 = 8;
const SET_RUNNING: u8 = 9;
const QUERY_STOPPED: u8 = 10;
const SET_STOPPED: u8 = 11;
const QUERY_STATUS: u8 = 32;
const SET_STATUS: u8 = 33;

// Instructions.
const READ_VALUE: u8 = 0;
const READ_COUNTDOWN: u8 = 1;
const WRITE_VALUE: u8 = 2;
const WRITE_COUNTDOWN: u8 = 3;

pub(super) fn wdat(watchdog: &Watchdog) -> Sdt {
    let control = watchdog.port;
    let [period, remaining, status] = [1, 2, 3].map(|n| watchdog.port + 4 * n);
    let all = u32::MAX;
    let entries = [
        (RESET, WRITE_VALUE, remaining, 1, all),
        (QUERY_CURRENT_COUNTDOWN, READ_COUNTDOWN, remaining, 0, all),
        (QUERY_COUNTDOWN, READ_COUNTDOWN, period, 0, all),
        (SET_COUNTDOWN, WRITE_COUNTDOWN, period, 0, all),
        (QUERY_RUNNING, READ_VALUE, control, 1, 1),
        (SET_RUNNING, WRITE_VALUE, control, 1, 1),
        (QUERY_STOPPED, READ_VALUE, control, 0, 1),
        (SET_STOPPED, WRITE_VALUE, control, 0, 1),
        (QUERY_STATUS, READ_VALUE, status, 1, 1),
        (SET_STATUS, WRITE_VALUE, status, 0, 1),
    ];

    let mut wdat = Sdt::new(*b"WDAT", HEADER, 1, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    // Length of what follows up to the instructions.
    wdat.write_u32(36, HEADER - 36);
    wdat.write_u16(40, NO_PCI.into());
    wdat.write_bytes(42, &[NO_PCI; 3]);
    // A count lasts a millisecond.
    wdat.write_u32(48, 1);
    wdat.write_u32(52, watchdog.max_milliseconds);
    wdat.write_u32(56, 1);
    wdat.write_u8(60, ENABLED);
    wdat.write_u32(64, entries.len() as u32);
    for (action, instruction, port, value, mask) in entries {
        wdat.append_slice(&[action, instruction, 0, 0]);
        wdat.append(GenericAddress::io_port_address::<u32>(port));
        wdat.append::<u32>(value);
        wdat.append::<u32>(mask);
    }
    wdat
}
