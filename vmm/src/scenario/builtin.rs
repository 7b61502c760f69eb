//! The built-in scenarios: the files under scenarios/, embedded.

/// Name and text of each of these files.
macro_rules! files {
    ($directory:literal, [$($name:literal),* $(,)?]) => {
        [$(($name, include_str!(concat!("../../", $directory, "/", $name, ".toml")))),*]
    };
}

/// Name and text of each, in the order of the suite.
pub const BUILTIN: &[(&str, &str)] = &files!(
    "scenarios",
    [
        "user-flush-on-next-return",
        "unmap",
        "remap",
        "protect",
        "dirty-cleared",
        "accessed-cleared",
        "untouched",
        "seeded",
        "user-half",
        "kernel-half",
        "parked-kernel",
        "two-spaces",
        "six-slots",
        "pcid-reuse",
        "mark-consumed",
        "mark-not-loaded",
        "nmi-window",
        "nmi-flush",
        "large-page",
        "flush-all",
        "pge-toggle",
        "forgotten-flush",
        "global-under-pti",
        "shootdown",
        "switch-window",
        "two-shooters",
        "late-fill",
        "lazy-purge",
        "cpu-window",
        "lazy-said-wrongly",
        "lazy-catches-up-first",
        "lost-dirty",
        "dirty-before-edit",
        "batched-frame",
        "batch-of-two-spaces",
        "frame-of-two-spaces",
        "six-slots-kernel-page",
        "flush-all-remote",
        "later-generations-on-the-way",
        "generation-read-again",
        "generation-before-cpumask",
        "cpumask-before-generation",
        "switch-window-flushed",
        "locked",
        "pending-taken-over",
        "edit-races-accessed",
        "marks-of-all-slots",
        "lazy-kernel-access",
        "new-frame-in-use",
        "four-cpus",
        "matrix",
    ]
);

/// The historical bugs, in the order of their rows in the reference.
pub const ZOO: &[(&str, &str)] = &files!(
    "scenarios/zoo",
    [
        "kernel-range-flushed-as-user",
        "user-pcid-never-flushed",
        "mark-eaten-by-kernel-restore",
        "mark-ignored-by-paranoid-exit",
        "mask-too-narrow",
        "invalidate-other-is-not-all",
        "one-pending-mark-per-cpu",
        "pcid-flushed-while-loaded",
        "global-binding-not-shot",
        "shootdown-sequence-off-by-one",
        "initiator-not-shot",
        "generation-zeroed-after-ipi",
        "handler-in-switch-window",
        "switching-cpu-skipped",
        "left-before-cr3",
        "cr3-of-another-time",
        "flush-list-for-another-cr3",
        "recycled-asid-not-flushed",
        "mremap-flush-after-unlock",
        "munmap-of-a-pending-batch",
        "second-vma-not-flushed",
        "huge-pmd-unshare",
        "table-freed-before-shootdown",
        "lazy-cpu-walks-freed-tables",
        "migration-flush-after-unlock",
        "page-cleaned-before-remote-flush",
        "stride-of-the-wrong-size",
        "speculation-between-unmap-and-flush",
        "acknowledged-before-done",
        "no-remote-flush",
        "freed-before-acknowledged",
        "cr3-rewritten-with-noflush",
        "root-changed-under-a-pcid",
        "structure-cache-of-an-empty-table",
        "flush-before-commit",
        "superpage-coalesced-without-flush",
        "needs-flush-never-consumed",
        "flush-skipped-for-a-preempted-cpu",
        "pending-batch-of-another-cpu",
        "copied-while-writable",
        "fork-then-copied-while-writable",
        "copied-page-set-before-flush",
        "collapse-skips-lazy",
        "kmap-flushed-at-wrap",
        "wrong-range",
        "soft-dirty",
        "no-remote-flush-without-pcid",
        "kernel-stack-reused",
        "shootdown-not-waited-for",
        "kernel-area-dropped",
        "table-reclaimed-locally",
    ]
);

/// Rows of the history that no variant rebuilds, and why.
pub const NOT_REBUILT: [(&str, &str); 23] = [
    (
        "Linux bb998361999e: kernel CR3 rewritten on the paranoid exit",
        "no bug: nothing was stale; `kernel.paranoid_rewrite` has both forms",
    ),
    ("Zen 3 text_poke BUG (59094faf3f61)", "its cause is not known"),
    (
        "gVisor 3ec074897f9d: PCIDs.Assign finds nothing",
        "a cost: every switch takes a fresh PCID, flushed",
    ),
    (
        "Haiku ee280b59e95c: CR3 read, preempted, written back",
        "the guest's kernel cannot be preempted by a switch on the same CPU",
    ),
    (
        "Haiku de74304510ab: CR4.PGE toggled with interrupts on",
        "the second write flushes whatever came in between; no rule is broken",
    ),
    ("Xen fdc2056767ba: PCID bits in CR3 before CR4.PCIDE", "a #GP at boot, and nothing stale"),
    ("Linux a74bb5f202da: INVLPGB reported by CPUs without it", "INVLPGB is not modelled"),
    ("INVLPGB transition race (Horn, v5)", "INVLPGB and global ASIDs are not modelled"),
    ("PCID 0 reserved", "a rule, not a bug"),
    (
        "Erratum 383, AMD: two sizes with other attributes",
        "its harm is a machine check, which is not modelled",
    ),
    (
        "Linux ad5ca55f6bdb: CPA splits without a flush",
        "both sizes translate alike; the harm is a processor erratum's",
    ),
    ("Atom AAE44: a large entry outlives INVLPG", "a processor erratum, not a kernel's mistake"),
    (
        "CVE-2018-12207, XSA-304: iTLB multihit",
        "its harm is a machine check, which is not modelled",
    ),
    (
        "KNL: A and D set in a not-present entry",
        "a processor erratum; the walker sets A and D of present entries alone",
    ),
    (
        "FreeBSD 625402758bbb: upgrade without a flush",
        "an entry that grants less is not stale: it costs a spurious fault",
    ),
    (
        "OpenBSD CoW rule in pmap.c",
        "before the shootdown is over either page may be read: no deadline has passed",
    ),
    (
        "ADL063: INVLPG keeps globals (Linux ce0b15d11ad8)",
        "a processor erratum: it is a fault, `erratum invlpg-keeps-globals`",
    ),
    ("Haiku 9406d2a4f275: ASID reused while a CPU is lazy", "needs ASIDs that all CPUs share"),
    (
        "Redox 4158d899b568: two initiators wait for each other",
        "comes to a hang, which is an outcome and breaks no rule",
    ),
    (
        "XSA-241, XSA-217: flush timestamps",
        "needs a flush clock; generation-off-by-one is the same filter with generations",
    ),
    (
        "XSA-279, CVE-2022-1789: INVPCID corner cases",
        "a #GP or a crash of the hypervisor, and nothing stale",
    ),
    ("XSA-408, XSA-480, XSA-494", "nested page tables, which the guest does not have"),
    (
        "KVM e45e9e3998f0, 4346db6e6e7a, 9e46f6c6c959, 08e850c6536d; Xen b68c4f1ebe4f",
        "the hypervisor's own emulation: tests of the model hold ours to the manual",
    ),
];
