//! `stalemate doctor`: what this host offers, and what will be used.

#[cfg(feature = "kvm")]
use super::failure::EXIT_UNEXPECTED;
use super::failure::{EXIT_OK, Failure};
use super::terminal::Terminal;
#[cfg(feature = "kvm")]
use crate::witness::Findings;
use std::fmt::Write;
use std::path::Path;

/// Arguments of `doctor`.
#[derive(Debug, clap::Args)]
pub struct DoctorArgs {
    /// Run a small guest on this host's own TLB, say what that was seen to keep, and replay it on
    /// the model: exit status 1 if something was kept that the model does not hold
    #[arg(long)]
    witness: bool,
    /// The seed of the first program of --witness
    #[arg(long, value_name = "N", requires = "witness", default_value_t = 1)]
    seed: u64,
    /// How many programs --witness runs
    #[arg(long, value_name = "N", requires = "witness", default_value_t = 100,
          value_parser = clap::value_parser!(u64).range(1..))]
    count: u64,
}

/// Reports as `args` say.
pub fn run(args: &DoctorArgs, device: &Path, terminal: &mut Terminal<'_>) -> Result<u8, Failure> {
    terminal.write(&report(device))?;
    if args.witness { witness(args, device, terminal) } else { Ok(EXIT_OK) }
}

/// Runs the witness, where there is a KVM.
#[cfg(feature = "kvm")]
fn witness(args: &DoctorArgs, device: &Path, terminal: &mut Terminal<'_>) -> Result<u8, Failure> {
    use super::confine::confine;
    use crate::executor::kvm::Host;
    use crate::sandbox::Grants;
    use crate::witness::{examine, features, text};
    let host = match Host::open(device) {
        Ok(host) => host,
        Err(error) => return skip(&super::failure::chain(&error), terminal),
    };
    confine(terminal, &Grants::default());
    let bar = terminal.progress(args.count, "programs");
    let seeds = args.seed..args.seed.saturating_add(args.count);
    let findings = examine(&host, seeds, || bar.inc(1));
    bar.finish_and_clear();
    let findings = findings.map_err(|error| Failure::host(&error))?;
    terminal.write(&text(&findings, features(&host), host.is_software()))?;
    Ok(code(&findings))
}

/// The exit code that findings end in.
#[cfg(feature = "kvm")]
fn code(findings: &Findings) -> u8 {
    if findings.outside > 0 { EXIT_UNEXPECTED } else { EXIT_OK }
}

#[cfg(not(feature = "kvm"))]
fn witness(_: &DoctorArgs, _: &Path, terminal: &mut Terminal<'_>) -> Result<u8, Failure> {
    skip(&crate::executor::NoKvm::NotBuilt.to_string(), terminal)
}

/// Says that there is nothing to run the witness on.
fn skip(reason: &str, terminal: &mut Terminal<'_>) -> Result<u8, Failure> {
    use super::failure::EXIT_HOST;
    use crate::executor::{REQUIRE_KVM, kvm_is_required};
    if kvm_is_required() {
        let sentence = format!("{reason}; {REQUIRE_KVM}=1 forbids to go without");
        return Err(Failure::of(EXIT_HOST, sentence));
    }
    terminal.write(&format!("witness: SKIP, there is no TLB to ask: {reason}\n"))?;
    Ok(EXIT_OK)
}

/// The report.
fn report(device: &Path) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(out, "device {}", device.display());
    host(&mut out, device);
    let _ = match crate::sandbox::offered() {
        Ok(sandbox) => writeln!(out, "sandbox of runs: {sandbox}"),
        Err(error) => writeln!(out, "sandbox of runs: none; {}", super::failure::chain(&error)),
    };
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

#[cfg(all(test, feature = "kvm"))]
mod tests {
    use super::*;

    #[test]
    fn what_is_outside_the_model_ends_in_1_and_a_known_defect_does_not() {
        let known = Findings { stale: 2, defect: 2, ..Findings::default() };
        assert_eq!(code(&known), EXIT_OK);
        assert_eq!(code(&Findings { outside: 1, ..known }), EXIT_UNEXPECTED);
    }
}
