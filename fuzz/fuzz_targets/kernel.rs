//! Bytes as a kernel for `audit`: unpacked, its symbols read, and loaded with what a boot loader says.
#![no_main]

use libfuzzer_sys::fuzz_target;
use stalemate::arch::features::CpuFeatures;
use stalemate::kernel::free::{Boot, KernelImage};
use stalemate::memory::GuestMemory;
use stalemate::symbols::kallsyms;

/// Bytes of the guest's memory.
const MEMORY: u64 = 32 << 20;

fuzz_target!(|bytes: &[u8]| {
    let _ = kallsyms::read(bytes);
    let Ok(kernel) = KernelImage::parse(bytes) else { return };
    let _ = kallsyms::read(&kernel.elf);
    let tail = &bytes[bytes.len() / 2..];
    let command_line = String::from_utf8_lossy(&tail[..tail.len().min(4096)]);
    let Ok(memory) = GuestMemory::new(MEMORY) else { return };
    let boot = Boot { kernel: &kernel, initrd: tail, command_line: &command_line };
    let _ = boot.load(&memory, CpuFeatures::default());
});
