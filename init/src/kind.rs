//! The kinds of calls that the init makes, and their names on the console.

macro_rules! kinds {
    ($($kind:ident $name:literal,)*) => {
        /// One kind of call, or of what the kernel does of its own accord.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[allow(missing_docs)]
        pub enum Kind {
            $($kind,)*
        }

        /// All kinds, in the order of their lines.
        pub const KINDS: &[Kind] = &[$(Kind::$kind,)*];

        impl Kind {
            /// The name on the console: small letters, digits and hyphens.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$kind => $name,)*
                }
            }
        }
    };
}

kinds! {
    Map "mmap",
    MapShared "mmap-shared",
    MapFixed "mmap-fixed",
    Unmap "munmap",
    Protect "mprotect",
    ProtectNone "mprotect-none",
    RemapGrow "mremap-grow",
    RemapShrink "mremap-shrink",
    RemapMove "mremap-move",
    RemapDontUnmap "mremap-dontunmap",
    Lock "mlock",
    Sync "msync",
    Truncate "ftruncate",
    PunchHole "fallocate-punch",
    ClearRefs "clear-refs",
    AdviseDontNeed "madvise-dontneed",
    AdviseFree "madvise-free",
    AdviseAccess "madvise-access",
    AdviseWillNeed "madvise-willneed",
    AdvisePopulate "madvise-populate",
    AdviseCold "madvise-cold",
    AdvisePageOut "madvise-pageout",
    AdviseRemove "madvise-remove",
    AdviseDontFork "madvise-dontfork",
    AdviseWipeOnFork "madvise-wipeonfork",
    AdviseDump "madvise-dump",
    AdviseLocked "madvise-dontneed-locked",
    AdviseGuard "madvise-guard",
    AdviseSoftOffline "madvise-soft-offline",
    AdviseHwPoison "madvise-hwpoison",
    ProcessAdvise "process-madvise",
    Fork "fork",
    CopyOnWrite "copy-on-write",
    Exec "exec",
    Exit "exit",
    Thread "thread",
    HugeFault "thp-fault",
    HugeCollapse "thp-collapse",
    HugeSplit "thp-split",
    HugeCopy "thp-copy-on-write",
    HugeMove "thp-mremap",
    HugeZero "thp-zero-page",
    HugeTlb "hugetlb",
    KsmMerge "ksm-merge",
    KsmUnmerge "ksm-unmerge",
    UffdProtect "uffd-writeprotect",
    UffdFault "uffd-fault",
    LazyFree "reclaim-lazyfree",
    SwapOut "swap-out",
    SwapIn "swap-in",
    SwapOff "swapoff",
    Compact "compaction",
}

#[cfg(test)]
mod tests {
    use super::KINDS;

    #[test]
    fn names_are_words_of_their_own() {
        for (index, kind) in KINDS.iter().enumerate() {
            assert_eq!(*kind as usize, index);
            let is_word = |at: u8| at.is_ascii_lowercase() || at.is_ascii_digit() || at == b'-';
            assert!(kind.name().bytes().all(is_word), "{}", kind.name());
            let same = KINDS.iter().filter(|other| other.name() == kind.name());
            assert_eq!(same.count(), 1, "{}", kind.name());
        }
    }
}
