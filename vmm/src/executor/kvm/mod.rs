//! The `kvm` executor: guest code at CPL 3 on KVM, every trap through the monitor's stub.
//!
//! Both virtual CPL 0 and 3 run at CPL 3. An exception enters the stub at CPL 0, whose `out`
//! exits; registers travel through KVM_CAP_SYNC_REGS, the interrupted RIP, RFLAGS and RSP through
//! the frame on the monitor's stack. The same on VMX, SVM and software-only hosts.

pub mod bare;
mod host;
mod monitor;
mod pages;
mod shadow;
mod watchdog;

pub use host::{Host, HostError};

use super::interp::InterpExecutor;
use super::{Executor, ExecutorError, HostExit, Leaf, Space, Trap};
use crate::arch::addr::Gva;
use crate::arch::vcpu::{Vcpu, cr0, cr4, efer, flags, gpr};
use crate::memory::GuestMemory;
use kvm_bindings::{
    Msrs, kvm_dtable, kvm_msr_entry, kvm_regs, kvm_segment, kvm_sregs, kvm_userspace_memory_region,
    kvm_xsave,
};
use kvm_ioctls::{SyncReg, VcpuExit, VcpuFd, VmFd};
use monitor::Place;
use shadow::ShadowPages;
use std::time::{Duration, Instant};
use vm_memory::GuestMemoryMmap;
use watchdog::Watchdog;

/// CR4.UMIP: SGDT, SIDT, SLDT, STR and SMSW fault at CPL 3.
const CR4_UMIP: u64 = 1 << 11;
/// CR4.TSD: RDTSC and RDTSCP fault at CPL 3.
const CR4_TSD: u64 = 1 << 2;
const MSR_LSTAR: u32 = 0xc000_0082;
const GUEST_SLOT: u32 = 0;
const MONITOR_SLOT: u32 = 1;
const DEBUG: u8 = 1;
const PAGE_FAULT: u8 = 14;

/// One virtual machine with one real virtual CPU, which serves all the modelled ones.
#[derive(Debug)]
pub struct KvmExecutor {
    // Dropped first: its slots point into the memories below.
    vcpu: VcpuFd,
    vm: VmFd,
    shadow: ShadowPages,
    /// Keeps the guest's memory mapped for as long as the VM has it.
    _memory: GuestMemoryMmap<()>,
    /// Carries out stores to frames that no leaf makes writable.
    storer: InterpExecutor,
    watchdog: Watchdog,
    space: Option<Space>,
    /// The FS and GS base that the host has.
    bases: [u64; 2],
    limit: Duration,
    stepping: bool,
    time_in_kvm: Duration,
}

fn host(what: &'static str) -> impl Fn(kvm_ioctls::Error) -> ExecutorError {
    move |error| ExecutorError::Host {
        what,
        source: std::io::Error::from_raw_os_error(error.errno()),
    }
}

impl KvmExecutor {
    /// A virtual machine with this guest-physical memory, which gives each KVM_RUN `limit`.
    ///
    /// # Errors
    /// When KVM refuses.
    pub fn new(kvm: &Host, guest: &GuestMemory, limit: Duration) -> Result<Self, ExecutorError> {
        let (memory, len) = (guest.host_address(), guest.len() as usize);
        let vm = kvm.kvm.create_vm().map_err(host("KVM_CREATE_VM"))?;
        // SAFETY: `_memory` keeps the guest's memory mapped and is dropped after `shadow`; it is
        // read and written through copies only, by the thread that runs the virtual CPU.
        let shadow = unsafe { ShadowPages::new(memory, len as u64) }?;
        pages::no_huge_pages(memory, len);
        let monitor = shadow.memory();
        // SAFETY: both memories outlive the VM: `_memory` keeps the first mapped, the second is in
        // `shadow`, and both fields are dropped after the VM.
        unsafe {
            show(&vm, GUEST_SLOT, 0, memory, len as u64)?;
            show(&vm, MONITOR_SLOT, monitor::PHYS, monitor.host_address(), monitor.len() as u64)?;
        }
        let mut vcpu = vm.create_vcpu(0).map_err(host("KVM_CREATE_VCPU"))?;
        vcpu.set_cpuid2(&kvm.cpuid).map_err(host("KVM_SET_CPUID2"))?;
        set_msrs(&vcpu, shadow.place())?;
        vcpu.set_sync_valid_reg(SyncReg::Register);
        vcpu.set_sync_valid_reg(SyncReg::SystemRegister);
        let mut sregs = vcpu.get_sregs().map_err(host("KVM_GET_SREGS"))?;
        set_sregs(&mut sregs, shadow.place(), kvm.umip());
        vcpu.sync_regs_mut().sregs = sregs;
        let watchdog = Watchdog::new(limit).map_err(|source| ExecutorError::Host {
            what: "installing the watchdog's signal handler",
            source,
        })?;
        Ok(Self {
            vcpu,
            vm,
            shadow,
            _memory: guest.mmap().clone(),
            storer: InterpExecutor::for_single_steps(guest),
            watchdog,
            space: None,
            bases: [0; 2],
            limit,
            stepping: false,
            time_in_kvm: Duration::ZERO,
        })
    }

    /// Drops all shadow page tables, and with `page` moves the monitor out of its way.
    fn drop_tables(&mut self, page: Option<Gva>) -> Result<(), ExecutorError> {
        let (at, len) = (self.shadow.memory().host_address(), self.shadow.memory().len() as u64);
        // SAFETY: the memory is in `shadow`, which is dropped after the VM.
        unsafe { show(&self.vm, MONITOR_SLOT, monitor::PHYS, at, 0)? };
        self.shadow.reset(page)?;
        // SAFETY: as above.
        unsafe { show(&self.vm, MONITOR_SLOT, monitor::PHYS, at, len)? };
        set_msrs(&self.vcpu, self.shadow.place())?;
        let place = self.shadow.place();
        set_tables(&mut self.vcpu.sync_regs_mut().sregs, place);
        self.space = None;
        Ok(())
    }

    /// Puts `vcpu`'s state where the stub's IRETQ and KVM find it.
    fn load(&mut self, vcpu: &Vcpu) -> Result<(), ExecutorError> {
        let space = Space::of(vcpu);
        if !self.shadow.has_tables() {
            self.drop_tables(None)?;
        }
        let place = self.shadow.place();
        let rflags = flags::FIXED
            | flags::IF
            | vcpu.rflags & (flags::ARITHMETIC | flags::DF)
            | if vcpu.cpl == 3 { vcpu.rflags & flags::AC } else { 0 }
            | if self.stepping { flags::TF } else { 0 };
        let frame = [
            vcpu.rip,
            u64::from(monitor::GUEST_CS),
            rflags,
            vcpu.gpr[gpr::RSP],
            u64::from(monitor::GUEST_SS),
        ];
        for (index, word) in frame.into_iter().enumerate() {
            let at = monitor::FRAME + index as u64 * 8;
            self.shadow.memory().write(at, word);
        }
        let root = self.shadow.root(space)?;
        let bases = [vcpu.fs_base, vcpu.gs_base];
        let regs = self.vcpu.sync_regs_mut();
        let stale = self.space != Some(space)
            || self.bases != bases
            || !has_own_segments(&regs.sregs, bases);
        let g = &vcpu.gpr;
        regs.regs = kvm_regs {
            rax: g[0],
            rcx: g[1],
            rdx: g[2],
            rbx: g[3],
            rsp: place.frame(),
            rbp: g[5],
            rsi: g[6],
            rdi: g[7],
            r8: g[8],
            r9: g[9],
            r10: g[10],
            r11: g[11],
            r12: g[12],
            r13: g[13],
            r14: g[14],
            r15: g[15],
            rip: place.iret(),
            rflags: flags::FIXED,
        };
        if stale {
            regs.sregs.cr3 = root;
            set_data_segments(&mut regs.sregs, bases);
            // The stub was left at CPL 0, and resumes there.
            self.vcpu.set_sync_dirty_reg(SyncReg::SystemRegister);
            self.space = Some(space);
            self.bases = bases;
        }
        self.vcpu.set_sync_dirty_reg(SyncReg::Register);
        Ok(())
    }

    /// Takes the state at an exit that the monitor did not ask for. The guest's own RIP, RSP and
    /// RFLAGS are known only where it ran natively; else they are those that it last began with.
    fn broken(&self, vcpu: &mut Vcpu, exit: HostExit) -> Trap {
        let regs = self.vcpu.sync_regs();
        let r = regs.regs;
        let rsp = vcpu.gpr[gpr::RSP];
        vcpu.gpr = [
            r.rax, r.rcx, r.rdx, r.rbx, rsp, r.rbp, r.rsi, r.rdi, r.r8, r.r9, r.r10, r.r11, r.r12,
            r.r13, r.r14, r.r15,
        ];
        if regs.sregs.cs.dpl == 3 {
            vcpu.gpr[gpr::RSP] = r.rsp;
            vcpu.rip = r.rip;
        }
        Trap::Broken { exit, rip: r.rip }
    }

    /// Takes the state at a trap through `vector`'s stub.
    fn store(&mut self, vcpu: &mut Vcpu, vector: u8) -> Trap {
        let regs = self.vcpu.sync_regs();
        let r = regs.regs;
        let memory = self.shadow.memory();
        let word = |index: u64| memory.read(monitor::FRAME + index * 8);
        vcpu.gpr = [
            r.rax,
            r.rcx,
            r.rdx,
            r.rbx,
            word(3),
            r.rbp,
            r.rsi,
            r.rdi,
            r.r8,
            r.r9,
            r.r10,
            r.r11,
            r.r12,
            r.r13,
            r.r14,
            r.r15,
        ];
        vcpu.rip = word(0);
        let kept = flags::ARITHMETIC | flags::DF;
        vcpu.rflags = vcpu.rflags & !kept | word(2) & kept;
        let error = match monitor::has_error_code(vector) {
            true => memory.read(monitor::FRAME - 8) as u32,
            false => 0,
        };
        let lstar = self.shadow.place().lstar();
        let address = if vector == PAGE_FAULT { regs.sregs.cr2 } else { 0 };
        // SYSCALL with an LSTAR that is not mapped: the fetch fault after the transfer.
        if vector == PAGE_FAULT && address == lstar && vcpu.rip == lstar {
            vcpu.rip = vcpu.gpr[gpr::RCX].wrapping_sub(2);
            return Trap::Syscall { landed: Some(lstar) };
        }
        Trap::Exception { vector, error, address }
    }
}

impl Executor for KvmExecutor {
    fn run(&mut self, vcpu: &mut Vcpu) -> Result<Trap, ExecutorError> {
        self.load(vcpu)?;
        loop {
            self.watchdog.enter();
            let start = Instant::now();
            let exit = match self.vcpu.run() {
                Ok(VcpuExit::IoOut(port, _)) => Ok(port),
                Ok(exit) => Err(Some(host_exit(&exit))),
                Err(error) if error.errno() == libc::EINTR => Err(None),
                Err(error) => return Err(host("KVM_RUN")(error)),
            };
            self.time_in_kvm += start.elapsed();
            self.watchdog.leave();
            match exit {
                // An OUT at CPL 3 would be the guest's own; the TSS makes that a #GP, and the
                // check makes it certain.
                Ok(port)
                    if self.vcpu.sync_regs().sregs.cs.dpl == 0
                        && (monitor::PORT..monitor::PORT + monitor::VECTORS).contains(&port) =>
                {
                    return Ok(self.store(vcpu, (port - monitor::PORT) as u8));
                }
                Err(None) => {
                    if self.watchdog.expired() {
                        // The interrupted RIP varies from run to run: it is not reported. The
                        // executor is used no further.
                        return Ok(Trap::Timeout { limit: self.limit });
                    }
                }
                Ok(_) => return Ok(self.broken(vcpu, HostExit::Port)),
                Err(Some(exit)) => return Ok(self.broken(vcpu, exit)),
            }
        }
    }

    fn step(&mut self, vcpu: &mut Vcpu) -> Result<Option<Trap>, ExecutorError> {
        self.stepping = true;
        let trap = self.run(vcpu);
        self.stepping = false;
        Ok(Some(trap?).filter(|trap| !matches!(trap, Trap::Exception { vector: DEBUG, .. })))
    }

    fn step_store(
        &mut self,
        vcpu: &mut Vcpu,
        vector_state: bool,
    ) -> Result<Option<Trap>, ExecutorError> {
        if vector_state {
            let image = self.save_fpu()?;
            self.storer.restore_fpu(&image)?;
        }
        // The guest writes code natively, and nobody notices.
        self.storer.forget_code();
        self.storer.step(vcpu)
    }

    fn map_for_store(&mut self, space: Space, page: Gva, leaf: Leaf) -> Result<(), ExecutorError> {
        self.storer.map(space, page, leaf)
    }

    fn store_leaf(&self, space: Space, page: Gva) -> Option<Leaf> {
        self.storer.leaf(space, page)
    }

    fn map(&mut self, space: Space, page: Gva, leaf: Leaf) -> Result<(), ExecutorError> {
        if !self.shadow.has_room(page) {
            let collides = self.shadow.has_tables();
            self.drop_tables(collides.then_some(page))?;
        }
        self.shadow.map(space, page, leaf)
    }

    fn leaf(&self, space: Space, page: Gva) -> Option<Leaf> {
        self.shadow.leaf(space, page)
    }

    fn revalidate(
        &mut self,
        select: &dyn Fn(Space) -> bool,
        keep: &mut dyn FnMut(Space, Gva, Leaf) -> Option<Leaf>,
    ) -> Result<(), ExecutorError> {
        self.storer.revalidate(select, keep)?;
        self.shadow.revalidate(select, None, keep)
    }

    fn revalidate_page(
        &mut self,
        select: &dyn Fn(Space) -> bool,
        page: Gva,
        keep: &mut dyn FnMut(Space, Gva, Leaf) -> Option<Leaf>,
    ) -> Result<(), ExecutorError> {
        self.storer.revalidate_page(select, page, keep)?;
        self.shadow.revalidate(select, Some(page), keep)
    }

    fn instructions(&self) -> Option<u64> {
        None
    }

    fn time_running(&self) -> Duration {
        self.time_in_kvm
    }

    fn save_fpu(&mut self) -> Result<Vec<u32>, ExecutorError> {
        let xsave = self.vcpu.get_xsave().map_err(host("KVM_GET_XSAVE"))?;
        Ok(xsave.region.to_vec())
    }

    fn restore_fpu(&mut self, image: &[u32]) -> Result<(), ExecutorError> {
        let mut xsave = kvm_xsave::default();
        for (to, from) in xsave.region.iter_mut().zip(image) {
            *to = *from;
        }
        // SAFETY: no feature with state beyond `kvm_xsave`'s 4096 bytes was enabled, since
        // KVM_CAP_XSAVE2's dynamic features are never asked for.
        unsafe { self.vcpu.set_xsave(&xsave) }.map_err(host("KVM_SET_XSAVE"))
    }
}

fn host_exit(exit: &VcpuExit<'_>) -> HostExit {
    match exit {
        VcpuExit::Shutdown => HostExit::Shutdown,
        VcpuExit::InternalError => HostExit::InternalError,
        VcpuExit::FailEntry(..) => HostExit::FailEntry,
        VcpuExit::MmioRead(..) | VcpuExit::MmioWrite(..) => HostExit::Mmio,
        VcpuExit::IoIn(..) | VcpuExit::IoOut(..) => HostExit::Port,
        _ => HostExit::Other,
    }
}

/// SYSCALL leads to an address that is never mapped.
fn set_msrs(vcpu: &VcpuFd, place: Place) -> Result<(), ExecutorError> {
    let entry = |index, data| kvm_msr_entry { index, data, ..Default::default() };
    let msrs = [entry(MSR_LSTAR, place.lstar())];
    let list = Msrs::from_entries(&msrs).map_err(|_| ExecutorError::Host {
        what: "building the MSR list",
        source: std::io::ErrorKind::OutOfMemory.into(),
    })?;
    let set = vcpu.set_msrs(&list).map_err(host("KVM_SET_MSRS"))?;
    if set != msrs.len() {
        return Err(ExecutorError::Host {
            what: "setting LSTAR",
            source: std::io::ErrorKind::Unsupported.into(),
        });
    }
    Ok(())
}

/// Long mode at CPL 0 in the monitor; EFER.SCE stays clear, so that SYSCALL is #UD where it
/// does not lead to LSTAR.
fn set_sregs(sregs: &mut kvm_sregs, place: Place, umip: bool) {
    sregs.cs = segment(monitor::MONITOR_CS, 0xb, 1);
    sregs.ss = segment(monitor::MONITOR_SS, 3, 0);
    set_data_segments(sregs, [0; 2]);
    set_tables(sregs, place);
    sregs.cr0 = cr0::PE | cr0::ET | cr0::NE | cr0::WP | cr0::PG;
    sregs.cr4 =
        cr4::PAE | cr4::OSFXSR | cr4::OSXMMEXCPT | CR4_TSD | if umip { CR4_UMIP } else { 0 };
    sregs.efer = efer::LME | efer::LMA | efer::NXE;
}

fn segment(selector: u16, type_: u8, l: u8) -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: 0xffff_ffff,
        selector,
        type_,
        present: 1,
        dpl: 0,
        db: 1 - l,
        s: 1,
        l,
        g: 1,
        avl: 0,
        unusable: 0,
        padding: 0,
    }
}

/// DS, ES, FS and GS as every run finds them, with the bases of the last two.
fn set_data_segments(sregs: &mut kvm_sregs, [fs, gs]: [u64; 2]) {
    let data = kvm_segment { dpl: 3, ..segment(monitor::GUEST_SS, 3, 0) };
    (sregs.ds, sregs.es) = (data, data);
    sregs.fs = kvm_segment { base: fs, ..data };
    sregs.gs = kvm_segment { base: gs, ..data };
}

/// Whether no code at CPL 3 has loaded a data segment register since [`set_data_segments`].
fn has_own_segments(sregs: &kvm_sregs, bases: [u64; 2]) -> bool {
    let kvm_sregs { ds, es, fs, gs, .. } = sregs;
    let own = |segment: &kvm_segment| segment.selector == monitor::GUEST_SS;
    [ds, es, fs, gs].into_iter().all(own) && [fs.base, gs.base] == bases
}

/// TR, GDTR and IDTR lead to the monitor.
fn set_tables(sregs: &mut kvm_sregs, place: Place) {
    sregs.tr = kvm_segment {
        base: place.tss(),
        limit: monitor::TSS_LIMIT,
        selector: monitor::TSS,
        type_: 0xb,
        s: 0,
        db: 0,
        g: 0,
        l: 1,
        ..sregs.cs
    };
    sregs.gdt = kvm_dtable { base: place.gdt(), limit: monitor::GDT_LIMIT, padding: [0; 3] };
    let limit = monitor::VECTORS * 16 - 1;
    sregs.idt = kvm_dtable { base: place.idt(), limit, padding: [0; 3] };
}

/// Lets the virtual machine have `len` bytes of host memory at a guest-physical address; with 0
/// bytes, no longer.
///
/// # Safety
/// The host memory stays mapped for as long as the virtual machine has it.
unsafe fn show(vm: &VmFd, slot: u32, at: u64, host_at: u64, len: u64) -> Result<(), ExecutorError> {
    let region = kvm_userspace_memory_region {
        slot,
        flags: 0,
        guest_phys_addr: at,
        memory_size: len,
        userspace_addr: host_at,
    };
    // SAFETY: the caller keeps the memory mapped.
    unsafe { vm.set_user_memory_region(region) }.map_err(host("KVM_SET_USER_MEMORY_REGION"))
}
