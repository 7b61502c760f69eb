//! The built-in scenarios: the files under scenarios/, embedded.

/// Name and text of each, in the order of the suite.
pub const BUILTIN: [(&str, &str); 23] = [
    (
        "user-flush-on-next-return",
        include_str!("../../../scenarios/user-flush-on-next-return.toml"),
    ),
    ("unmap", include_str!("../../../scenarios/unmap.toml")),
    ("remap", include_str!("../../../scenarios/remap.toml")),
    ("protect", include_str!("../../../scenarios/protect.toml")),
    ("dirty-cleared", include_str!("../../../scenarios/dirty-cleared.toml")),
    ("accessed-cleared", include_str!("../../../scenarios/accessed-cleared.toml")),
    ("untouched", include_str!("../../../scenarios/untouched.toml")),
    ("seeded", include_str!("../../../scenarios/seeded.toml")),
    ("user-half", include_str!("../../../scenarios/user-half.toml")),
    ("kernel-half", include_str!("../../../scenarios/kernel-half.toml")),
    ("parked-kernel", include_str!("../../../scenarios/parked-kernel.toml")),
    ("two-spaces", include_str!("../../../scenarios/two-spaces.toml")),
    ("six-slots", include_str!("../../../scenarios/six-slots.toml")),
    ("pcid-reuse", include_str!("../../../scenarios/pcid-reuse.toml")),
    ("mark-consumed", include_str!("../../../scenarios/mark-consumed.toml")),
    ("mark-not-loaded", include_str!("../../../scenarios/mark-not-loaded.toml")),
    ("nmi-window", include_str!("../../../scenarios/nmi-window.toml")),
    ("nmi-flush", include_str!("../../../scenarios/nmi-flush.toml")),
    ("large-page", include_str!("../../../scenarios/large-page.toml")),
    ("flush-all", include_str!("../../../scenarios/flush-all.toml")),
    ("pge-toggle", include_str!("../../../scenarios/pge-toggle.toml")),
    ("forgotten-flush", include_str!("../../../scenarios/forgotten-flush.toml")),
    ("global-under-pti", include_str!("../../../scenarios/global-under-pti.toml")),
];
