//! What a process that runs guests may still ask of the host's kernel: what a run needs, and no more.
//!
//! A guest is somebody's code, and so are the scenario, the recording and the ELF file that came with it.
//! None of them is meant to get further than the virtual machine; should one, it finds a process that can
//! open no file, start no program, and talk to nobody. What is refused is an error (EPERM), not the end
//! of the process: a call that was forgotten here ends in a sentence that says what failed.
//!
//! The library confines nobody by itself; the program's commands do.

mod calls;
mod folders;

use folders::Folders;
use std::fmt;
use std::path::PathBuf;

/// Open files that a confined process may have.
const MOST_FILES: u64 = 1024;

/// What the process may still write.
#[derive(Clone, Debug, Default)]
pub struct Grants {
    /// Folders in which files that are open already may be renamed.
    pub renames: Vec<PathBuf>,
    /// Folders in which new files may be made, and renamed.
    pub creates: Vec<PathBuf>,
    /// A socket that is listened at already may be connected to, and what connects may be talked with.
    pub answers: bool,
}

/// Why a process cannot be confined.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The system calls.
    #[error("this kernel does not filter system calls (seccomp)")]
    Calls(#[from] seccompiler::Error),
    /// There are no calls known for this processor.
    #[error("no filter of system calls is known for this processor")]
    Processor(#[from] seccompiler::BackendError),
    /// A folder.
    #[error("a folder cannot be handed to the sandbox")]
    Folder(#[from] landlock::PathFdError),
    /// The files.
    #[error("this kernel refuses to restrict files (landlock)")]
    Files(#[from] landlock::RulesetError),
    /// The limits.
    #[error("the limits of the process cannot be lowered")]
    Limits(#[from] std::io::Error),
}

/// What confines the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InForce {
    /// Which files it may write.
    pub folders: Folders,
}

impl fmt::Display for InForce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.folders {
            Folders::Told(version) => write!(
                f,
                "system calls are filtered (seccomp), and files are refused but those of the command \
                 line's outputs (landlock, version {version})"
            ),
            Folders::NotBuilt => f.write_str(
                "system calls are filtered (seccomp); this kernel has no landlock, so that outputs may be \
                 renamed to any place",
            ),
            Folders::SwitchedOff => f.write_str(
                "system calls are filtered (seccomp); landlock is switched off on this host, so that \
                 outputs may be renamed to any place",
            ),
        }
    }
}

/// Confines the calling thread and those that it makes to the granted folders, all threads of the
/// process to the system calls of a run, and the process to limits. There is no way back.
///
/// # Errors
/// When the host's kernel cannot; what was in force before then stays.
pub fn confine(grants: &Grants) -> Result<InForce, SandboxError> {
    rlimit::setrlimit(rlimit::Resource::CORE, 0, 0)?;
    let (_, most) = rlimit::getrlimit(rlimit::Resource::NOFILE)?;
    let most = most.min(MOST_FILES);
    rlimit::setrlimit(rlimit::Resource::NOFILE, most, most)?;
    let folders = folders::restrict(grants)?;
    for filter in calls::filters(grants)? {
        seccompiler::apply_filter_all_threads(&filter)?;
    }
    Ok(InForce { folders })
}

/// What would be in force here: a thread of its own tries it.
///
/// # Errors
/// As [`confine`].
pub fn offered() -> Result<InForce, SandboxError> {
    let attempt = || {
        let folders = folders::restrict(&Grants::default())?;
        for filter in calls::filters(&Grants::default())? {
            seccompiler::apply_filter(&filter)?;
        }
        Ok(InForce { folders })
    };
    let thread = std::thread::spawn(attempt);
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
