//! The tables by which a kernel finds its CPUs, the IO-APIC and the serial port (ACPI 6.5, chapter 5).

use super::{io_apic, local_apic};
use crate::arch::addr::Gpa;
use crate::arch::core::Memory;
use crate::memory::GuestMemory;
use acpi_tables::Aml;
use acpi_tables::aml::{
    Device, EISAName, IO, Interrupt, Name, Path, ResourceTemplate, Scope, ZERO,
};
use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::madt::{
    EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic,
};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;

/// Where they are: memory that the kernel is told is reserved, to the end of the first MiB.
pub const TABLES: u64 = 0xe_0000;
/// That memory's end.
pub const TABLES_END: u64 = 0x10_0000;

const DSDT: u64 = TABLES + 0x1000;
const FADT: u64 = TABLES + 0x2000;
const MADT_AT: u64 = TABLES + 0x3000;
const XSDT_AT: u64 = TABLES + 0x4000;
const OEM: [u8; 6] = *b"STALEM";
const TABLE: [u8; 8] = *b"STALEMAT";
const REVISION: u32 = 1;

/// Writes the tables for so many CPUs.
pub fn write(memory: &GuestMemory, cpus: u8) {
    let put = |at: u64, table: &dyn Aml| {
        let mut bytes = Vec::new();
        table.to_aml_bytes(&mut bytes);
        memory.write(Gpa(at), &bytes);
    };
    let mut dsdt = Sdt::new(*b"DSDT", 36, 2, OEM, TABLE, REVISION);
    let mut serial = Vec::new();
    self::serial(&mut serial);
    dsdt.append_slice(&serial);
    memory.write(Gpa(DSDT), dsdt.as_slice());
    // Without legacy devices, and with APICs by their numbers.
    let fadt = FADTBuilder::new(OEM, TABLE, REVISION)
        .dsdt_64(DSDT)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::ForceApicPhysicalDestinationMode);
    put(FADT, &fadt.finalize());
    let at = LocalInterruptController::Address(local_apic::ADDRESS as u32);
    let mut madt = MADT::new(OEM, TABLE, REVISION, at);
    for cpu in 0..cpus {
        madt.add_structure(ProcessorLocalApic::new(cpu, cpu, EnabledStatus::Enabled));
    }
    madt.add_structure(IoApic::new(io_apic::ID, io_apic::ADDRESS as u32, 0));
    put(MADT_AT, &madt);
    let mut xsdt = XSDT::new(OEM, TABLE, REVISION);
    xsdt.add_entry(FADT);
    xsdt.add_entry(MADT_AT);
    put(XSDT_AT, &xsdt);
    put(TABLES, &Rsdp::new(OEM, XSDT_AT));
}

/// The serial port, whose interrupt is an edge of line 4.
fn serial(to: &mut Vec<u8>) {
    let (io, line) = (IO::new(0x3f8, 0x3f8, 1, 8), Interrupt::new(true, true, false, false, 4));
    let resources = ResourceTemplate::new(vec![&io, &line]);
    let id = EISAName::new("PNP0501");
    let hid = Name::new(Path::new("_HID"), &id);
    let uid = Name::new(Path::new("_UID"), &ZERO);
    let crs = Name::new(Path::new("_CRS"), &resources);
    let device = Device::new(Path::new("COM1"), vec![&hid, &uid, &crs]);
    Scope::new(Path::new("_SB_"), vec![&device]).to_aml_bytes(to);
}
