//! What the small kernel's tasks do: all that its flushes are for, and the same with one of them
//! left out.

use super::kernel::{Does, Task, User};
use super::layout::*;

/// What the kernel leaves out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lacks {
    Nothing,
    /// The flush of the user PCID, when a page is unmapped.
    UserHalf,
    /// Both flushes, when a page is write-protected.
    Flush,
    /// The mark for the flush on the next return, when a page is remapped.
    Mark,
    /// The flush of the PCIDs of a space that does not run, when its page is unmapped.
    Parked,
    /// The flush of the kernel's own address, before it is mapped anew.
    Reuse,
    /// The flush of a PCID that is given to another space.
    PcidFlush,
    /// The user PCID, where the user root is loaded.
    Pairing,
}

/// What the kernel prints, whatever it lacks.
pub const LINES: [&str; 3] = ["booted\n", "in the other space\n", "done\n"];

/// Two tasks, each in a space of its own.
pub fn tasks(lacks: Lacks) -> [Task; 2] {
    let kept = |defect: Lacks, does: Does| (lacks != defect).then_some(does);
    let unless = |defect: Lacks| if lacks == defect { NOFLUSH } else { 0 };
    let [unmapped, protected, remapped, parked] = [0, 1, 2, 3].map(data);
    let first = vec![
        User::Read(unmapped),
        User::Write(protected),
        User::Read(remapped),
        User::Read(parked),
        call([
            Some(Does::Print(LINES[0])),
            Some(Does::Read(unmapped)),
            Some(Does::Read(protected)),
            Some(Does::Read(remapped)),
            Some(Does::Read(parked)),
        ]),
        call([
            Some(Does::Store(A.slot(0), 0)),
            Some(Does::Invlpg(unmapped)),
            kept(Lacks::UserHalf, Does::InvpcidAddress(A.user_pcid(), unmapped)),
        ]),
        User::Read(unmapped),
        call([
            Some(Does::Store(A.slot(1), A.frame(1) | READ_ONLY)),
            kept(Lacks::Flush, Does::Invlpg(protected)),
            kept(Lacks::Flush, Does::InvpcidAddress(A.user_pcid(), protected)),
        ]),
        User::Write(protected),
        call([
            Some(Does::Store(A.slot(2), A.frame(9) | PAGE)),
            Some(Does::Invlpg(remapped)),
            kept(Lacks::Mark, Does::Mark(A.pcid())),
        ]),
        User::Read(remapped),
        User::Read(parked),
        call([Some(Does::Read(parked)), Some(Does::Cr3(B.cr3() | NOFLUSH)), Some(Does::Switch(1))]),
        User::Read(parked),
        call([
            Some(Does::Read(area(0))),
            Some(Does::Store(area_slot(0), 0)),
            kept(Lacks::Reuse, Does::Invlpg(area(0))),
            Some(Does::Store(area_slot(0), C.frame(12) | KERNEL_PAGE)),
            Some(Does::Read(area(0))),
        ]),
        // The other space is gone: the third gets its PCIDs.
        call([
            Some(Does::Cr3(C.root() | B.pcid() | unless(Lacks::PcidFlush))),
            Some(Does::Read(data(0))),
            Some(Does::Cr3(A.cr3() | NOFLUSH)),
            (lacks == Lacks::Pairing).then_some(Does::Return(A.cr3() | USER_ROOT | NOFLUSH)),
        ]),
        call([Some(Does::Print(LINES[2])), Some(Does::Reset)]),
    ];
    let second = vec![
        User::Read(data(0)),
        call([Some(Does::Read(data(0))), Some(Does::Print(LINES[1]))]),
        call([
            Some(Does::Store(A.slot(3), 0)),
            kept(Lacks::Parked, Does::InvpcidAll(A.pcid())),
            kept(Lacks::Parked, Does::InvpcidAll(A.user_pcid())),
        ]),
        User::Read(data(0)),
        call([Some(Does::Cr3(A.cr3() | NOFLUSH)), Some(Does::Switch(0))]),
    ];
    [(A, first), (B, second)]
}

/// A system call that does these.
pub fn call(does: impl IntoIterator<Item = Option<Does>>) -> User {
    User::Call(does.into_iter().flatten().collect())
}

/// A system call that ends the run well.
pub fn done() -> User {
    call([Some(Does::Print(LINES[2])), Some(Does::Reset)])
}
