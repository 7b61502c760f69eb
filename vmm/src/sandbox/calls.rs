//! The system calls that a run makes: seccomp.
//!
//! Each is here for the reason that stands beside it. Whatever is not here is refused with EPERM. One such
//! call is made all the same: the C library's allocator asks /proc/sys/vm/overcommit_memory as a heap
//! shrinks, and does without.

use super::{Grants, SandboxError};
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch,
};
use std::collections::BTreeMap;

/// Calls whatever their arguments are.
const PLAIN: &[libc::c_long] = &[
    // Reports, and what was open before.
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_close,
    // Memory; see below for what makes it executable.
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_brk,
    // Threads, their locks, and how long they wait.
    libc::SYS_futex,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_nanosleep,
    libc::SYS_clock_nanosleep,
    libc::SYS_clock_gettime,
    libc::SYS_restart_syscall,
    libc::SYS_exit,
    libc::SYS_exit_group,
    // The watchdog of KVM_RUN kicks it by a signal.
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_getpid,
    libc::SYS_gettid,
    // Keys of hash tables.
    libc::SYS_getrandom,
    // The other filter answers it.
    libc::SYS_clone3,
];

/// Calls that give an output its name.
const RENAMES: &[libc::c_long] = &[
    #[cfg(target_arch = "x86_64")]
    libc::SYS_rename,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_unlink,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_unlinkat,
];

/// Calls that take a connection, and talk over it.
const ANSWERS: &[libc::c_long] =
    &[libc::SYS_accept4, libc::SYS_recvfrom, libc::SYS_sendto, libc::SYS_setsockopt];

/// The type of KVM's ioctls, in bits 15:8 (Documentation/userspace-api/ioctl/ioctl-number.rst).
const KVM: u64 = 0xae00;

/// `TCGETS2`, by which newer C libraries ask whether a file is a terminal.
const TCGETS2: u64 = 0x802c_542a;

/// The program of filters to put on, first to last.
///
/// # Errors
/// On a processor that the filters are not made for.
pub fn filters(grants: &Grants) -> Result<[BpfProgram; 2], SandboxError> {
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    let refused = |errno: i32| SeccompAction::Errno(errno.unsigned_abs());
    // What clone3 makes stands in memory, where no filter sees it. Without it the C library takes clone.
    let no_clone3 = SeccompFilter::new(
        BTreeMap::from([(libc::SYS_clone3, Vec::new())]),
        SeccompAction::Allow,
        refused(libc::ENOSYS),
        arch,
    )?;
    let allowed = SeccompFilter::new(
        rules(grants)?.into_iter().collect(),
        refused(libc::EPERM),
        SeccompAction::Allow,
        arch,
    )?;
    Ok([no_clone3.try_into()?, allowed.try_into()?])
}

/// The calls with what their arguments must be: one rule of several, or any where there is none.
fn rules(grants: &Grants) -> Result<Vec<(libc::c_long, Vec<SeccompRule>)>, BackendError> {
    let mut rules: Vec<_> = PLAIN.iter().map(|call| (*call, Vec::new())).collect();
    // A thread, and no process. It may be signalled, and no other process.
    let thread = libc::CLONE_THREAD.unsigned_abs().into();
    rules.push((libc::SYS_clone, vec![masked(0, thread, thread)?]));
    rules.push((libc::SYS_tgkill, vec![equal(0, std::process::id().into())?]));
    // The standard library asks whether what it closes is open.
    rules.push((libc::SYS_fcntl, vec![equal(1, libc::F_GETFD.unsigned_abs().into())?]));
    rules.push((libc::SYS_prctl, vec![equal(0, libc::PR_SET_NAME.unsigned_abs().into())?]));
    // Nothing that was written becomes code.
    let executable = libc::PROT_EXEC.unsigned_abs().into();
    rules.push((libc::SYS_mmap, vec![masked(2, executable, 0)?]));
    rules.push((libc::SYS_mprotect, vec![masked(2, executable, 0)?]));
    let mut ioctls = vec![
        masked(1, 0xff00, KVM)?,
        equal(1, libc::TCGETS)?,
        equal(1, TCGETS2)?,
        // How wide the bar of progress may be.
        equal(1, libc::TIOCGWINSZ)?,
    ];
    if grants.answers {
        rules.extend(ANSWERS.iter().map(|call| (*call, Vec::new())));
        // Whether something has come is asked without waiting for it.
        ioctls.push(equal(1, libc::FIONBIO)?);
    }
    rules.push((libc::SYS_ioctl, ioctls));
    if !grants.renames.is_empty() || !grants.creates.is_empty() {
        rules.extend(RENAMES.iter().map(|call| (*call, Vec::new())));
    }
    if !grants.creates.is_empty() {
        let new = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL;
        let mask = (new | libc::O_ACCMODE).unsigned_abs().into();
        rules.push((libc::SYS_openat, vec![masked(2, mask, new.unsigned_abs().into())?]));
    }
    Ok(rules)
}

/// Argument `number` has this value, of its lower 32 bits.
fn equal(number: u8, value: u64) -> Result<SeccompRule, BackendError> {
    condition(number, SeccompCmpOp::Eq, value)
}

/// The bits of `mask` in argument `number` have this value.
fn masked(number: u8, mask: u64, value: u64) -> Result<SeccompRule, BackendError> {
    condition(number, SeccompCmpOp::MaskedEq(mask), value)
}

fn condition(number: u8, is: SeccompCmpOp, value: u64) -> Result<SeccompRule, BackendError> {
    let condition = SeccompCondition::new(number, SeccompCmpArgLen::Dword, is, value)?;
    SeccompRule::new(vec![condition])
}
