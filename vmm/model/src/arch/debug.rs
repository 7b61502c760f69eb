//! The debug registers. They are kept; no breakpoint is modelled.

use super::core::Core;
use super::fault::{Exception, Fault, Stop};

/// DR0 to DR3, DR6 and DR7. DR4 and DR5 are other names for the last two, since CR4.DE is clear.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DebugRegisters {
    addresses: [u64; 4],
    status: u64,
    control: u64,
}

/// Bits of DR6 that read as 1, and those that can be written (SDM vol. 3, 18.2.3).
const STATUS_ONES: u64 = 0xffff_0ff0;
const STATUS_WRITABLE: u64 = 0xe00f;
/// The bit of DR7 that reads as 1, and those that can be written (SDM vol. 3, 18.2.4).
const CONTROL_ONES: u64 = 0x400;
const CONTROL_WRITABLE: u64 = 0xffff_23ff;
/// L0 to G3: a breakpoint is enabled; GD: access to these registers traps.
const CONTROL_ENABLES: u64 = 0x20ff;

impl Default for DebugRegisters {
    fn default() -> Self {
        Self { addresses: [0; 4], status: STATUS_ONES, control: CONTROL_ONES }
    }
}

impl DebugRegisters {
    /// The register that instructions name by `number`, 0 to 7.
    #[must_use]
    pub fn get(&self, number: usize) -> u64 {
        match number {
            0..=3 => self.addresses[number],
            4 | 6 => self.status,
            _ => self.control,
        }
    }
}

impl Core<'_> {
    /// MOV to a debug register.
    pub(super) fn write_debug(&mut self, number: usize, value: u64) -> Result<(), Fault> {
        let registers = &mut self.vcpu.debug;
        if number > 3 && value >> 32 != 0 {
            return Err(Exception::general_protection(0).into());
        }
        match number {
            0..=3 => registers.addresses[number] = value,
            4 | 6 => registers.status = value & STATUS_WRITABLE | STATUS_ONES,
            _ if value & CONTROL_ENABLES != 0 => {
                let what = format!("DR7 set to {value:#x}: breakpoints are not modelled");
                return Err(Stop::NotModelled(what).into());
            }
            _ => registers.control = value & CONTROL_WRITABLE | CONTROL_ONES,
        }
        Ok(())
    }
}
