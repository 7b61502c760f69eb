//! `--executor`: what runs the guest's unprivileged instructions.

use super::failure::Failure;
use super::terminal::Terminal;
use crate::executor::{Backend, REQUIRE_KVM, kvm_is_required};
use std::path::Path;

/// The executors by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum ExecutorKind {
    /// The processor, on KVM, deprivileged
    Kvm,
    /// The interpreter
    Interp,
    /// Both, and their events are compared
    Both,
}

/// The requested executors: one, or two to compare.
pub fn backends(
    kind: Option<ExecutorKind>,
    device: &Path,
    terminal: &Terminal<'_>,
) -> Result<Vec<Backend>, Failure> {
    let kvm = || Backend::kvm(device).map_err(|error| Failure::host(&error));
    Ok(match kind {
        Some(ExecutorKind::Kvm) => vec![kvm()?],
        Some(ExecutorKind::Interp) => vec![Backend::interp()],
        Some(ExecutorKind::Both) => vec![kvm()?, Backend::interp()],
        None if kvm_is_required() => {
            let remark = format!("; {REQUIRE_KVM}=1 forbids the interpreter instead");
            vec![kvm().map_err(|failure| failure.and(&remark))?]
        }
        None => match kvm() {
            Ok(backend) => vec![backend],
            Err(failure) => {
                terminal.warn(&format!("{failure}; running on the interpreter"));
                vec![Backend::interp()]
            }
        },
    })
}
