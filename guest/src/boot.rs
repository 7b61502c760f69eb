//! From the first Rust instruction to the step loop.

use crate::arch::{apic, cpu, entry, fence, hypercall, memory, percpu, segments, trampoline};
use crate::config::{self, Config, config};
use crate::{mm, paging, steps, variant};
use core::mem::{offset_of, size_of};
use stalemate_shared::boot::{BootBlock, MAGIC, Policy, features, options};
use stalemate_shared::layout::BOOT_BLOCK;
use stalemate_shared::pcid::kernel_pcid;
use stalemate_shared::variant::Variant;
use stalemate_shared::{VERSION, layout};

const CR4_PGE: u64 = 1 << 7;
const CR4_PCIDE: u64 = 1 << 17;
const CR4_SMEP: u64 = 1 << 20;

fn read(offset: usize) -> u64 {
    memory::read_physical(BOOT_BLOCK + (offset as u64 & !7))
}

fn write(offset: usize, value: u64) {
    memory::write_physical(BOOT_BLOCK + offset as u64, value);
}

/// The kernel's main function; `block` is the boot block's address in the direct map, `ap_entry`
/// where the CPUs but the first begin.
pub extern "C" fn kernel_main(block: u64, ap_entry: u64) -> ! {
    assert!(block == layout::KERNEL_BASE + BOOT_BLOCK);
    let version_and_size = read(offset_of!(BootBlock, version));
    assert!(read(offset_of!(BootBlock, magic)) == MAGIC, "no boot block");
    assert!(version_and_size as u32 == VERSION, "another version of the interface");
    assert!((version_and_size >> 32) as usize == size_of::<BootBlock>());
    let policy_and_options = read(offset_of!(BootBlock, policy));
    let option = |bit: u32| (policy_and_options >> 32) as u32 & bit != 0;

    let feature = |bit: u64| read(offset_of!(BootBlock, features)) & bit != 0;
    let pge = feature(features::PGE);
    let pti = option(options::PTI);
    let config = Config {
        pti,
        pcid: feature(features::PCID),
        invpcid: feature(features::INVPCID),
        smep: feature(features::SMEP),
        pge,
        kernel_global: pge && (!pti || option(options::GLOBAL_WITH_PTI)),
        nmi_flush: option(options::NMI_FLUSH),
        cpus: read(offset_of!(BootBlock, cpus)),
        variant: Variant::from_number(read(offset_of!(BootBlock, variant))),
        policy: match Policy::try_from(policy_and_options & u64::from(u32::MAX)) {
            Ok(policy) => policy,
            Err(number) => panic!("unknown policy {number}"),
        },
    };
    config::install(config);
    percpu::init();
    entry::configure(config.pti, config.pcid, option(options::PARANOID_REWRITE));
    entry::patch(config.variant);
    fence::leave_out(config.variant);
    segments::build();
    paging::init(&config);
    start_cpu(0, 0);
    complete_boot_block(&config, ap_entry);
    hypercall::ready();
    steps::run()
}

/// The main function of CPU `cpu`, once the first has booted.
pub extern "C" fn ap_main(cpu: u64) -> ! {
    start_cpu(cpu, mm::INIT);
    steps::run()
}

/// Makes a processor this kernel's, with address space `number` loaded.
fn start_cpu(cpu: u64, number: usize) {
    segments::init(cpu);
    apic::init();
    load_first_mm(config(), number);
    mm::adopt_first(number);
}

/// Loads the first address space, and turns on global pages and PCIDs as the manual wants it:
/// CR4.PCIDE only while CR3[11:0] is 0 (SDM vol. 3, 4.10.1).
fn load_first_mm(config: &Config, number: usize) {
    let root = percpu::mm_state(number).kernel_root;
    cpu::load_cr3(root);
    let mut cr4 = cpu::read_cr4();
    if config.pge {
        cr4 |= CR4_PGE;
    }
    if config.pcid {
        cr4 |= CR4_PCIDE;
    }
    if config.smep {
        cr4 |= CR4_SMEP;
    }
    cpu::write_cr4(cr4);
    percpu::set_cr4(cr4);
    if config.pcid {
        // A CPU that comes back from sleep may find another PCID in CR3 than slot 0's.
        let asid = if variant::is(Variant::ForeignPcidAtBoot) { 2 } else { 0 };
        cpu::load_cr3(root | u64::from(kernel_pcid(asid)));
    }
}

fn complete_boot_block(config: &Config, ap_entry: u64) {
    write(offset_of!(BootBlock, tlb_state), percpu::tlb_states_physical());
    write(offset_of!(BootBlock, mm_states), percpu::mm_states_physical());
    write(offset_of!(BootBlock, ap_entry), ap_entry);
    write(offset_of!(BootBlock, kernel_global), u64::from(config.kernel_global));
    write(offset_of!(BootBlock, isolated), u64::from(config.pti));
    let ranges = trampoline::ranges(config.cpus);
    write(offset_of!(BootBlock, trampoline_count), ranges.len() as u64);
    let mut at = offset_of!(BootBlock, trampoline);
    for range in ranges {
        write(at, range.start);
        write(at + 8, range.end);
        at += 16;
    }
}
