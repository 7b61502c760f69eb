//! `stalemate audit`: judges a kernel that is not ours.

use super::failure::Failure;
use super::terminal::Terminal;
use crate::arch::features::CpuFeatures;
use crate::arch::tlb::{Fill, TlbModel};
use crate::kernel::free::{Boot, Free, KernelImage, Settings};
use crate::machine::NullDirector;
use std::io::Write;
use std::path::PathBuf;

/// Arguments of `stalemate audit`.
#[derive(Debug, clap::Args)]
pub struct AuditArgs {
    /// The kernel: a bzImage (/boot/vmlinuz-*) or an ELF file (vmlinux)
    #[arg(long, value_name = "FILE")]
    kernel: PathBuf,
    /// Its initramfs
    #[arg(long, value_name = "FILE")]
    initrd: PathBuf,
    /// What is appended to the command line
    #[arg(long, value_name = "STRING", default_value = "")]
    cmdline: String,
    /// Instructions, at most
    #[arg(long, default_value_t = 4_000_000_000)]
    instructions: u64,
}

const CMDLINE: &str = "console=ttyS0 nokaslr pti=on rdinit=/init panic=-1 reboot=t lpj=4000000 \
    tsc_early_khz=1000000 pci=off acpi=off quiet lsm= audit=0 init_on_alloc=0 \
    kfence.sample_interval=0 cgroup_disable=memory numa=off dhash_entries=1024 \
    ihash_entries=1024 nowatchdog cryptomgr.notests=1 ftrace=off";

pub fn run(args: &AuditArgs, terminal: &mut Terminal<'_>) -> Result<u8, Failure> {
    let file = std::fs::read(&args.kernel).unwrap();
    let kernel = KernelImage::parse(&file).unwrap();
    let initrd = std::fs::read(&args.initrd).unwrap();
    let command_line = format!("{CMDLINE} {}", args.cmdline);
    let boot = Boot { kernel: &kernel, initrd: &initrd, command_line: &command_line };
    let features =
        CpuFeatures { pcid: true, invpcid: true, pge: true, smep: false, gib_pages: false };
    let model = TlbModel { fill: Fill::OnDemand, structure_caches: false, seed: 0 };
    let settings =
        Settings { features, model, ram: 256 << 20, ticks: 1, instructions: args.instructions };
    let mut free = Free::new(&boot, settings).unwrap();
    let run = free
        .run(&mut NullDirector, &mut |bytes| {
            std::io::stderr().write_all(bytes).unwrap();
            false
        })
        .unwrap();
    terminal.write(&format!("{run:#x?}\n"))?;
    Ok(0)
}
