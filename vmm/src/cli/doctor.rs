//! `stalemate doctor`: what this host offers, and what will be used.

use std::fmt::Write;
use std::path::Path;

/// The report.
#[must_use]
pub fn report(device: &Path) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(out, "device {}", device.display());
    host(&mut out, device);
    let _ = writeln!(
        out,
        "modelled on every host: TLB, paging-structure caches, CR0, CR3, CR4, PCID, INVPCID, PGE, \
         virtual privilege, exception delivery"
    );
    out
}

#[cfg(feature = "kvm")]
fn host(out: &mut String, device: &Path) {
    use crate::executor::kvm::Host;
    let host = match Host::open(device) {
        Ok(host) => host,
        Err(error) => {
            let _ = writeln!(out, "  cannot be used: {}", super::failure::chain(&error));
            let _ = writeln!(out, "executor: interp; with --executor kvm, exit code 3");
            return;
        }
    };
    let yes = |has: bool| if has { "yes" } else { "no" };
    let _ =
        writeln!(out, "  KVM API {}, all needed capabilities present", host.kvm.get_api_version());
    let _ = writeln!(out, "  host hardware: {}", host.hardware());
    for (name, has) in host.offers() {
        let _ = writeln!(out, "  offers a guest {name}: {}", yes(has));
    }
    let _ = writeln!(out, "  what it does not offer is not needed: the model has its own");
    let _ = writeln!(out, "executor: kvm, the guest deprivileged at CPL 3");
}

#[cfg(not(feature = "kvm"))]
fn host(out: &mut String, _: &Path) {
    let _ = writeln!(out, "  not looked at: built without the `kvm` feature");
    let _ = writeln!(out, "executor: interp; with --executor kvm, exit code 3");
}
