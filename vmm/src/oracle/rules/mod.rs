//! The rules, one a file.

pub mod big_hammer;
pub mod cr3_pairing;
pub mod generation;
pub mod loaded_mm;
pub mod lost_mark;
pub mod needless_flush;
pub mod never_flushed;
pub mod pcid_reuse;
pub mod pti_leak;
pub mod reuse_before_flush;
pub mod stale_kernel_entry;
pub mod stale_other_asid;
pub mod stale_remote_entry;
pub mod stale_user_entry;
pub mod stray_mark;
