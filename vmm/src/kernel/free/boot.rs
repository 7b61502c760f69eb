//! What is in memory, and in the registers, before a kernel's first instruction: Linux's 64-bit boot
//! protocol (Documentation/arch/x86/boot.rst), entered behind the decompressor.

use super::image::{KernelError, KernelImage};
use super::platform::{TABLES, TABLES_END, write_acpi};
use crate::arch::addr::{CpuId, Gpa};
use crate::arch::core::Memory;
use crate::arch::features::CpuFeatures;
use crate::arch::vcpu::{DescriptorTable, Vcpu, gpr};
use crate::memory::GuestMemory;
use linux_loader::configurator::linux::LinuxBootConfigurator;
use linux_loader::configurator::{BootConfigurator, BootParams};
use linux_loader::loader::bootparam::{boot_e820_entry, boot_params};
use linux_loader::loader::{Elf, KernelLoader};
use std::io::Cursor;
use vm_memory::GuestAddress;

/// Where what the kernel is told lies: below what e820 calls usable memory's first end.
const ZERO_PAGE: u64 = 0x7000;
const GDT: u64 = 0x8000;
pub(super) const ROOT: u64 = 0x9000;
const COMMAND_LINE: u64 = 0x2_0000;
/// The end of memory below a PC's firmware area.
const LOW_END: u64 = 0x9_fc00;
const HIGH_BEGIN: u64 = super::image::LOWEST;
/// What the boot tables map.
const MAPPED: u64 = 1 << 30;

const USABLE: u32 = 1;
const RESERVED: u32 = 2;
/// A boot loader without a number of its own.
const UNKNOWN_LOADER: u8 = 0xff;
const LOADED_HIGH: u8 = 1;
/// The longest command line that a kernel takes which does not say.
const COMMAND_LINE_MOST: usize = 255;

/// Selectors that the boot protocol asks for.
pub(super) const BOOT_CS: u16 = 0x10;
pub(super) const BOOT_DS: u16 = 0x18;

/// What a kernel is booted with.
#[derive(Clone, Debug)]
pub struct Boot<'a> {
    /// The kernel.
    pub kernel: &'a KernelImage,
    /// Its initramfs.
    pub initrd: &'a [u8],
    /// Its command line.
    pub command_line: &'a str,
}

impl Boot<'_> {
    /// Puts it into memory; the processor that begins with it.
    ///
    /// # Errors
    /// What does not fit.
    pub fn load(
        &self,
        memory: &GuestMemory,
        features: CpuFeatures,
        cpus: u8,
    ) -> Result<Vcpu, KernelError> {
        let initrd_size = (self.initrd.len() as u64).next_multiple_of(4096);
        let ram = memory.len();
        let kernel_end = self.kernel.end.div_ceil(1 << 21).saturating_mul(1 << 21);
        let needed = kernel_end.saturating_add(initrd_size);
        if needed > ram.min(MAPPED) {
            return Err(KernelError::Memory { needed: needed.div_ceil(1 << 20), ram: ram >> 20 });
        }
        let loaded = Elf::load(memory.mmap(), None, &mut Cursor::new(&self.kernel.elf), None);
        loaded.map_err(|error| KernelError::Load(error.to_string()))?;
        let initrd_at = ram.min(MAPPED) - initrd_size;
        memory.write(Gpa(initrd_at), self.initrd);
        self.command_line(memory)?;
        self.zero_page(memory, initrd_at, cpus)?;
        if cpus > 1 {
            write_acpi(memory, cpus);
        }
        boot_tables(memory);
        for (index, descriptor) in
            [0, 0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff].into_iter().enumerate()
        {
            memory.write_word(Gpa(GDT + index as u64 * 8), descriptor);
        }
        let mut vcpu = Vcpu::long_mode(CpuId(0), features, self.kernel.entry, ROOT);
        vcpu.identity.apic = cpus > 1;
        vcpu.identity.tsc = cpus > 1;
        (vcpu.cs, vcpu.ss) = (BOOT_CS, BOOT_DS);
        vcpu.gdt = DescriptorTable { base: GDT, limit: 4 * 8 - 1 };
        vcpu.gpr[gpr::RSI] = ZERO_PAGE;
        Ok(vcpu)
    }

    fn command_line(&self, memory: &GuestMemory) -> Result<(), KernelError> {
        let says = |size: u32| if size == 0 { COMMAND_LINE_MOST } else { size as usize };
        let most = self.kernel.header.map_or(2047, |header| says(header.cmdline_size));
        let len = self.command_line.len();
        if len > most {
            return Err(KernelError::CommandLine { len, most });
        }
        memory.write(Gpa(COMMAND_LINE), self.command_line.as_bytes());
        memory.write(Gpa(COMMAND_LINE + len as u64), &[0]);
        Ok(())
    }

    fn zero_page(&self, memory: &GuestMemory, initrd_at: u64, cpus: u8) -> Result<(), KernelError> {
        let mut params = boot_params::default();
        if let Some(header) = self.kernel.header {
            params.hdr = header;
        }
        params.hdr.type_of_loader = UNKNOWN_LOADER;
        params.hdr.loadflags |= LOADED_HIGH;
        params.hdr.cmd_line_ptr = COMMAND_LINE as u32;
        params.hdr.ramdisk_image = initrd_at as u32;
        params.hdr.ramdisk_size = self.initrd.len() as u32;
        let mut ranges =
            vec![(0, LOW_END, USABLE), (HIGH_BEGIN, memory.len() - HIGH_BEGIN, USABLE)];
        if cpus > 1 {
            ranges.insert(1, (TABLES, TABLES_END - TABLES, RESERVED));
            params.acpi_rsdp_addr = TABLES;
        }
        for (entry, &(addr, size, r#type)) in params.e820_table.iter_mut().zip(&ranges) {
            *entry = boot_e820_entry { addr, size, r#type };
        }
        params.e820_entries = ranges.len() as u8;
        let params = BootParams::new(&params, GuestAddress(ZERO_PAGE));
        LinuxBootConfigurator::write_bootparams(&params, memory.mmap())
            .map_err(|error| KernelError::Load(error.to_string()))
    }
}

/// An identity map of the first GiB, by 2 MiB pages.
fn boot_tables(memory: &GuestMemory) {
    const TABLE: u64 = 0x3;
    const LARGE: u64 = 0x83;
    memory.write_word(Gpa(ROOT), (ROOT + 0x1000) | TABLE);
    memory.write_word(Gpa(ROOT + 0x1000), (ROOT + 0x2000) | TABLE);
    for page in 0..512 {
        memory.write_word(Gpa(ROOT + 0x2000 + page * 8), page << 21 | LARGE);
    }
}
