//! What the host's KVM offers: opened once, checked once, reported by `doctor`.

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES};
use kvm_ioctls::{Cap, Kvm};
use std::ffi::CString;
use std::io;
use std::path::{Path, PathBuf};

/// The only API version that exists (Documentation/virt/kvm/api.rst, KVM_GET_API_VERSION).
const API_VERSION: i32 = 12;

/// Why this host cannot run the `kvm` executor, with what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// No such file.
    #[error("{}: no such device; load the kvm_intel or kvm_amd module, enable nested \
             virtualisation on a virtual host, or name another with --kvm-device PATH",
            .0.display())]
    Missing(PathBuf),
    /// No permission.
    #[error("{}: permission denied; add your user to the group that owns it (usually kvm), or \
             run as one that may open it", .0.display())]
    Permission(PathBuf),
    /// Something else went wrong with open.
    #[error("{}: cannot be opened; name a KVM device with --kvm-device PATH", path.display())]
    Open {
        /// The path.
        path: PathBuf,
        /// The error.
        #[source]
        source: io::Error,
    },
    /// Not a KVM device.
    #[error("{}: not a KVM device; name one with --kvm-device PATH", .0.display())]
    NotKvm(PathBuf),
    /// The API is not the stable one.
    #[error("{}: KVM API version {found}, but {API_VERSION} is needed; run a kernel from this \
             century", path.display())]
    Api {
        /// The path.
        path: PathBuf,
        /// Its version.
        found: i32,
    },
    /// A capability is missing.
    #[error("{}: this KVM lacks {capability}; run a newer kernel (5.10 or later is known to \
             work)", path.display())]
    Capability {
        /// The path.
        path: PathBuf,
        /// The capability's name.
        capability: &'static str,
    },
}

/// A KVM device that has all that the executor needs.
#[derive(Debug)]
pub struct Host {
    /// The device.
    pub kvm: Kvm,
    /// What KVM_GET_SUPPORTED_CPUID says.
    pub cpuid: CpuId,
    /// The device's path.
    pub path: PathBuf,
    /// Whether the host's processor has VMX, and SVM.
    hardware: (bool, bool),
}

/// The capabilities that the executor needs.
const NEEDED: [(Cap, &str); 5] = [
    (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
    (Cap::SyncRegs, "KVM_CAP_SYNC_REGS"),
    (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
    (Cap::ExtCpuid, "KVM_CAP_EXT_CPUID"),
    (Cap::Xsave, "KVM_CAP_XSAVE"),
];

/// Registers, special registers and events through the shared page.
const SYNC_NEEDED: i32 = 3;

impl Host {
    /// Opens and checks `path`.
    ///
    /// # Errors
    /// One sentence for each way in which a host can be unable.
    pub fn open(path: &Path) -> Result<Self, HostError> {
        let owned = || path.to_path_buf();
        let c_path = CString::new(path.as_os_str().as_encoded_bytes())
            .map_err(|_| HostError::Missing(owned()))?;
        let kvm = Kvm::new_with_path(&c_path).map_err(|error| match error.errno() {
            libc::ENOENT | libc::ENXIO | libc::ENODEV => HostError::Missing(owned()),
            libc::EACCES | libc::EPERM => HostError::Permission(owned()),
            errno => HostError::Open { path: owned(), source: io::Error::from_raw_os_error(errno) },
        })?;
        let found = kvm.get_api_version();
        if found < 0 {
            return Err(HostError::NotKvm(owned()));
        }
        if found != API_VERSION {
            return Err(HostError::Api { path: owned(), found });
        }
        for (cap, capability) in NEEDED {
            let value = kvm.check_extension_int(cap);
            let enough = match cap {
                Cap::SyncRegs => value & SYNC_NEEDED == SYNC_NEEDED,
                _ => value > 0,
            };
            if !enough {
                return Err(HostError::Capability { path: owned(), capability });
            }
        }
        let cpuid = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(|_| {
            HostError::Capability { path: owned(), capability: "KVM_GET_SUPPORTED_CPUID" }
        })?;
        Ok(Self { kvm, cpuid, path: owned(), hardware: hardware_flags() })
    }

    /// The register of CPUID `leaf`, sub-leaf 0, that `select` picks; 0 where there is none.
    #[must_use]
    pub fn cpuid(&self, leaf: u32, select: impl Fn(&kvm_bindings::kvm_cpuid_entry2) -> u32) -> u32 {
        self.cpuid
            .as_slice()
            .iter()
            .find(|entry| entry.function == leaf && entry.index == 0)
            .map_or(0, select)
    }

    /// Whether user-mode instruction prevention (SGDT and friends trap) is offered.
    #[must_use]
    pub fn umip(&self) -> bool {
        self.cpuid(7, |entry| entry.ecx) & (1 << 2) != 0
    }

    /// Features of a guest's processor, and whether this KVM offers them.
    #[must_use]
    pub fn offers(&self) -> [(&'static str, bool); 7] {
        let leaf1 = |bit: u32| self.cpuid(1, |entry| entry.ecx) >> bit & 1 != 0;
        let leaf7 = |bit: u32| self.cpuid(7, |entry| entry.ebx) >> bit & 1 != 0;
        let pge = self.cpuid(1, |entry| entry.edx) >> 13 & 1 != 0;
        [
            ("PCID", leaf1(17)),
            ("INVPCID", leaf7(10)),
            ("PGE", pge),
            ("SMEP", leaf7(7)),
            ("UMIP", self.umip()),
            ("read-only memory", self.kvm.check_extension(Cap::ReadonlyMem)),
            ("debugging by single step", self.kvm.check_extension(Cap::SetGuestDebug)),
        ]
    }

    /// How this KVM runs guests, as far as the host's own flags tell.
    #[must_use]
    pub fn hardware(&self) -> &'static str {
        match self.hardware {
            (true, _) => "Intel VMX",
            (_, true) => "AMD SVM",
            _ => "neither VMX nor SVM: a software KVM",
        }
    }

    /// Whether it runs them without VMX or SVM: it interprets CPL 0, and shadows page tables.
    #[must_use]
    pub fn is_software(&self) -> bool {
        self.hardware == (false, false)
    }
}

/// Whether the host's processor has VMX and SVM.
fn hardware_flags() -> (bool, bool) {
    let flags = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let has = |flag: &str| {
        flags
            .lines()
            .find(|line| line.starts_with("flags"))
            .is_some_and(|line| line.split_whitespace().any(|word| word == flag))
    };
    (has("vmx"), has("svm"))
}
