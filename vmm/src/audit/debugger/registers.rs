//! Registers as GDB knows them, and a few that it has no name for.

use crate::arch::vcpu::Vcpu;
use gdbstub::arch::{Arch, Registers};
use std::fmt::Write;

/// Numbers of general-purpose registers in the order in which GDB has them.
const ORDER: [usize; 16] = [0, 3, 1, 2, 6, 7, 5, 4, 8, 9, 10, 11, 12, 13, 14, 15];
const NAMES: [&str; 16] = [
    "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", "r8", "r9", "r10", "r11", "r12", "r13",
    "r14", "r15",
];
const SEGMENTS: [&str; 6] = ["cs", "ss", "ds", "es", "fs", "gs"];
const X87: [&str; 8] = ["fctrl", "fstat", "ftag", "fiseg", "fioff", "foseg", "fooff", "fop"];
/// What is beside them.
const SYSTEM: [&str; 10] =
    ["fs_base", "gs_base", "kernel_gs_base", "cr0", "cr2", "cr3", "cr4", "efer", "cpl", "pcid"];

/// x86-64 with the registers of the system. The x87 registers are not told.
pub(super) enum X86 {}

impl Arch for X86 {
    type Usize = u64;
    type Registers = Known;
    type RegId = ();
    type BreakpointKind = usize;
}

/// Registers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Known {
    general: [u64; 16],
    rip: u64,
    eflags: u32,
    segments: [u32; 6],
    system: [u64; 10],
}

impl From<&Vcpu> for Known {
    fn from(vcpu: &Vcpu) -> Self {
        let data = [vcpu.ds, vcpu.es, vcpu.fs, vcpu.gs].map(|segment| segment.selector.into());
        let [ds, es, fs, gs] = data;
        Self {
            general: ORDER.map(|number| vcpu.gpr[number]),
            rip: vcpu.rip,
            eflags: vcpu.rflags as u32,
            segments: [vcpu.cs.into(), vcpu.ss.into(), ds, es, fs, gs],
            system: [
                vcpu.fs_base,
                vcpu.gs_base,
                vcpu.kernel_gs_base,
                vcpu.cr0,
                vcpu.cr2,
                vcpu.cr3,
                vcpu.cr4,
                vcpu.efer,
                vcpu.cpl.into(),
                vcpu.pcid().value().into(),
            ],
        }
    }
}

impl Registers for Known {
    type ProgramCounter = u64;

    fn pc(&self) -> u64 {
        self.rip
    }

    fn gdb_serialize(&self, mut write: impl FnMut(Option<u8>)) {
        let mut known = |bytes: &[u8]| bytes.iter().for_each(|byte| write(Some(*byte)));
        self.general.iter().chain([&self.rip]).for_each(|value| known(&value.to_le_bytes()));
        known(&self.eflags.to_le_bytes());
        self.segments.iter().for_each(|value| known(&value.to_le_bytes()));
        // Eight of ten bytes, and eight of four.
        (0..8 * 10 + 8 * 4).for_each(|_| write(None));
        let mut known = |bytes: &[u8]| bytes.iter().for_each(|byte| write(Some(*byte)));
        self.system.iter().for_each(|value| known(&value.to_le_bytes()));
    }

    fn gdb_deserialize(&mut self, _: &[u8]) -> Result<(), ()> {
        Err(())
    }
}

/// What GDB is told of the registers, in its own language (GDB manual, "Target Descriptions").
pub(super) fn description() -> String {
    let mut out = String::from(
        "<?xml version=\"1.0\"?><!DOCTYPE target SYSTEM \"gdb-target.dtd\"><target version=\"1.0\">\
         <architecture>i386:x86-64</architecture><feature name=\"org.gnu.gdb.i386.core\">",
    );
    let mut register = |name: &str, bits: u32, kind: &str| {
        // Writing to a String cannot fail.
        let _ = write!(out, "<reg name=\"{name}\" bitsize=\"{bits}\" type=\"{kind}\"/>");
    };
    for name in NAMES {
        let is_pointer = name == "rbp" || name == "rsp";
        register(name, 64, if is_pointer { "data_ptr" } else { "int64" });
    }
    register("rip", 64, "code_ptr");
    register("eflags", 32, "int32");
    SEGMENTS.iter().for_each(|name| register(name, 32, "int32"));
    (0..8).for_each(|number| register(&format!("st{number}"), 80, "i387_ext"));
    X87.iter().for_each(|name| register(name, 32, "int32"));
    out += "</feature><feature name=\"org.stalemate.system\">";
    for name in SYSTEM {
        let _ = write!(out, "<reg name=\"{name}\" bitsize=\"64\" type=\"int64\"/>");
    }
    out + "</feature></target>"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_bytes_are_sent_as_are_described() {
        let bits = description();
        let bits = bits.split("bitsize=\"").skip(1).map(|rest| {
            let (bits, _) = rest.split_once('"').unwrap_or_default();
            bits.parse::<usize>().unwrap_or_default()
        });
        let mut sent = 0;
        Known::default().gdb_serialize(|_| sent += 1);
        assert_eq!(bits.sum::<usize>(), sent * 8);
    }
}
