//! A bare virtual machine: a guest with page tables and a CPL 0 of its own, on the processor and
//! the TLB that KVM gives it. Nothing of it is modelled.

use super::monitor::{self, Place};
use super::watchdog::Watchdog;
use super::{GUEST_SLOT, Host, host, host_exit, set_sregs, show};
use crate::arch::addr::Gpa;
use crate::arch::core::Memory;
use crate::arch::vcpu::flags;
use crate::executor::{ExecutorError, HostExit};
use crate::memory::GuestMemory;
use kvm_bindings::kvm_regs;
use kvm_ioctls::VcpuExit;
use std::time::Duration;

/// What a bare guest begins with. Its tables map the monitor's four pages, for supervisors only, at
/// the begin of a PML4 slot.
#[derive(Clone, Copy, Debug)]
pub struct Boot<'a> {
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: u64,
    /// The first instruction, at CPL 3.
    pub rip: u64,
    /// The PML4 slot, of the upper half.
    pub slot: u16,
    /// Where the monitor's pages are in memory. They are written before the guest begins.
    pub monitor: Gpa,
    /// Vectors that the guest handles itself at CPL 0, with their handlers.
    pub handlers: &'a [(u8, u64)],
    /// The port of the OUT, at CPL 0, that ends it.
    pub done: u8,
}

/// How a bare guest ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BareExit {
    /// It said so.
    Done,
    /// An exception that it does not handle.
    Exception(u8),
    /// It did not end in time.
    Timeout(Duration),
    /// The host could not go on with it.
    Broken(HostExit),
}

/// Runs a guest in a virtual machine of its own, until it ends.
///
/// # Errors
/// When KVM refuses.
pub fn run(
    kvm: &Host,
    memory: &GuestMemory,
    boot: &Boot<'_>,
    limit: Duration,
) -> Result<BareExit, ExecutorError> {
    let place = Place::in_slot(boot.slot);
    memory.write(boot.monitor, &monitor::image(place));
    let put = |offset: u64, word: u64| memory.write_word(Gpa(boot.monitor.0 + offset), word);
    for &(vector, handler) in boot.handlers {
        for (index, word) in monitor::gate(vector, handler).into_iter().enumerate() {
            put(place.idt() - place.base() + u64::from(vector) * 16 + index as u64 * 8, word);
        }
    }
    // It has no stack of its own: exceptions are taken on the monitor's.
    let frame = [
        boot.rip,
        u64::from(monitor::GUEST_CS),
        flags::FIXED | flags::IF,
        0,
        u64::from(monitor::GUEST_SS),
    ];
    for (index, word) in frame.into_iter().enumerate() {
        put(monitor::FRAME + index as u64 * 8, word);
    }
    let vm = kvm.kvm.create_vm().map_err(host("KVM_CREATE_VM"))?;
    // SAFETY: `memory` is borrowed for longer than the virtual machine lives, and is read and
    // written through copies only.
    unsafe { show(&vm, GUEST_SLOT, 0, memory.host_address(), memory.len())? };
    let mut vcpu = vm.create_vcpu(0).map_err(host("KVM_CREATE_VCPU"))?;
    vcpu.set_cpuid2(&kvm.cpuid).map_err(host("KVM_SET_CPUID2"))?;
    let mut sregs = vcpu.get_sregs().map_err(host("KVM_GET_SREGS"))?;
    set_sregs(&mut sregs, place, false);
    (sregs.cr3, sregs.cr4) = (boot.cr3, boot.cr4);
    vcpu.set_sregs(&sregs).map_err(host("KVM_SET_SREGS"))?;
    let regs = kvm_regs {
        rip: place.iret(),
        rsp: place.frame(),
        rflags: flags::FIXED,
        ..kvm_regs::default()
    };
    vcpu.set_regs(&regs).map_err(host("KVM_SET_REGS"))?;
    let watchdog = Watchdog::new(limit).map_err(|source| ExecutorError::Host {
        what: "installing the watchdog's signal handler",
        source,
    })?;
    loop {
        watchdog.enter();
        let exit = vcpu.run();
        watchdog.leave();
        let stubs = monitor::PORT..monitor::PORT + monitor::VECTORS;
        return Ok(match exit {
            Ok(VcpuExit::IoOut(port, _)) if port == u16::from(boot.done) => BareExit::Done,
            Ok(VcpuExit::IoOut(port, _)) if stubs.contains(&port) => {
                BareExit::Exception((port - monitor::PORT) as u8)
            }
            Ok(exit) => BareExit::Broken(host_exit(&exit)),
            Err(error) if error.errno() == libc::EINTR && watchdog.expired() => {
                BareExit::Timeout(limit)
            }
            Err(error) if error.errno() == libc::EINTR => continue,
            Err(error) => return Err(host("KVM_RUN")(error)),
        });
    }
}
