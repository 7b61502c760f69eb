//! The least of a PC that a kernel boots on: serial line, interrupt controllers, timer, clock. It is
//! part of a snapshot: plain data.

mod acpi;
mod io_apic;
mod local_apic;
mod pic;
mod pit;
mod several;
mod uart;

pub(super) use acpi::{TABLES, TABLES_END, write as write_acpi};
pub(super) use local_apic::TSC_DEADLINE;
pub(super) use several::Several;
pub use several::Turns;

use crate::arch::addr::CpuId;
use pic::Pic;
use pit::Pit;
use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use uart::Uart;

/// The timer's line, and the serial port's.
const TIMER_LINE: u8 = 0;
const SERIAL_LINE: u8 = 4;
/// The serial port's registers.
const SERIAL: RangeInclusive<u16> = 0x3f8..=0x3ff;

/// What answers at ports.
#[derive(Clone, Debug)]
pub struct Platform {
    pic: Pic,
    pit: Pit,
    uart: Uart,
    /// The interrupt controllers of several CPUs, which are there instead of the PC's own.
    pub(super) several: Option<Several>,
    /// The register of the real-time clock that is selected.
    cmos: u8,
    /// Ports that nothing answers at, and how often they were used.
    absent: BTreeMap<u16, u64>,
}

impl Platform {
    /// A platform whose time has `hz` units a second, and whose timer is `times` as fast as it is
    /// programmed; of several CPUs where there are.
    #[must_use]
    pub fn new(hz: u64, times: u64, several: Option<Several>) -> Self {
        Self {
            pic: Pic::new(),
            pit: Pit::new(hz, times),
            uart: Uart::new(),
            several,
            cmos: 0,
            absent: BTreeMap::new(),
        }
    }

    /// Whether a device is at `port`, or kernels ask there whether one is: nothing answers, on any board.
    #[must_use]
    pub fn knows(port: u16) -> bool {
        /// Two more serial lines and a third, the keyboard, the timer's other channels, the speaker,
        /// the port that writes to take time, and PCI's configuration.
        const PROBED: [RangeInclusive<u16>; 8] = [
            0x2e8..=0x2ef,
            0x2f8..=0x2ff,
            0x3e8..=0x3ef,
            0x60..=0x64,
            0x41..=0x42,
            0x80..=0x80,
            0xcf8..=0xcff,
            0x4d0..=0x4d1,
        ];
        matches!(port, 0x20 | 0x21 | 0xa0 | 0xa1 | 0x40 | 0x43 | 0x70 | 0x71)
            || SERIAL.contains(&port)
            || PROBED.iter().any(|ports| ports.contains(&port))
    }

    /// IN: what `port` gives, all ones where there is nothing.
    pub fn read(&mut self, port: u16, now: u64) -> u32 {
        let byte = match port {
            0x20 | 0x21 => self.pic.read(0, port & 1 != 0),
            0xa0 | 0xa1 => self.pic.read(1, port & 1 != 0),
            0x40 => self.pit.read(now),
            0x71 => cmos(self.cmos),
            port if SERIAL.contains(&port) => self.uart.read((port - SERIAL.start()) as u8),
            _ => {
                *self.absent.entry(port).or_default() += 1;
                return u32::MAX;
            }
        };
        u32::from(byte)
    }

    /// OUT of the low byte of `value`.
    pub fn write(&mut self, port: u16, value: u32, now: u64) {
        let byte = value as u8;
        match port {
            0x20 | 0x21 => self.pic.write(0, port & 1 != 0, byte),
            0xa0 | 0xa1 => self.pic.write(1, port & 1 != 0, byte),
            0x40 => self.pit.write(byte, now),
            0x43 => self.pit.control(byte, now),
            0x70 => self.cmos = byte & 0x7f,
            port if SERIAL.contains(&port) => {
                self.uart.write((port - SERIAL.start()) as u8, byte);
                if self.uart.interrupts() {
                    match &mut self.several {
                        Some(several) => several.raise(SERIAL_LINE),
                        None => self.pic.request(SERIAL_LINE),
                    }
                }
            }
            _ => *self.absent.entry(port).or_default() += 1,
        }
    }

    /// Lets what is due by `now`, when so many `instructions` have completed, happen; whether an interrupt
    /// waits for `cpu` then.
    pub fn advance(&mut self, cpu: CpuId, instructions: u64, now: u64) -> bool {
        if let Some(several) = &mut self.several {
            several.advance(instructions, now);
            return several.is_interrupting(cpu);
        }
        if self.pit.tick(now) {
            self.pic.request(TIMER_LINE);
        }
        self.pic.is_pending()
    }

    /// When something happens next by itself.
    #[must_use]
    pub fn next(&self) -> Option<u64> {
        self.several.as_ref().map_or_else(|| self.pit.next(), Several::next)
    }

    /// `cpu` takes the interrupt that waits: its vector.
    pub fn acknowledge(&mut self, cpu: CpuId) -> Option<u8> {
        match &mut self.several {
            Some(several) => several.acknowledge(cpu),
            None => self.pic.acknowledge(),
        }
    }

    /// What was written to the serial line since the last call.
    pub fn take_output(&mut self) -> Vec<u8> {
        self.uart.take_output()
    }

    /// Ports that were used and that nothing answers at.
    pub fn absent(&self) -> impl Iterator<Item = (u16, u64)> + '_ {
        self.absent.iter().map(|(port, count)| (*port, *count))
    }
}

/// Registers of the MC146818 clock: the first moment of 2026, never being updated, in BCD.
fn cmos(register: u8) -> u8 {
    match register {
        // Day of the week, of the month, month, year, century.
        0x06 => 0x05,
        0x07 | 0x08 => 0x01,
        0x09 => 0x26,
        0x0a => 0x26,
        0x0b => 0x02,
        0x0d => 0x80,
        0x32 => 0x20,
        _ => 0,
    }
}
