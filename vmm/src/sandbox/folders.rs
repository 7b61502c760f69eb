//! Which files may be written: landlock.

use super::{Grants, SandboxError};
use landlock::{
    ABI, Access, AccessFs, AccessNet, LandlockStatus, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, Scope,
};

/// The newest version whose rights are asked for; a kernel with an older one gives what it has.
const VERSION: ABI = ABI::V6;

/// How the host's kernel keeps files apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Folders {
    /// By landlock of this version.
    Told(i32),
    /// Not at all: it has no landlock.
    NotBuilt,
    /// Not at all: it was booted without.
    SwitchedOff,
}

/// Refuses the calling thread, and those that it makes, every file that is not open, but new ones and
/// renaming in the granted folders.
pub fn restrict(grants: &Grants) -> Result<Folders, SandboxError> {
    let mut rules = Ruleset::default()
        .handle_access(AccessFs::from_all(VERSION))?
        .handle_access(AccessNet::from_all(VERSION))?
        .scope(Scope::from_all(VERSION))?
        .create()?;
    // What is renamed is removed in one place and made in another.
    let renames = AccessFs::MakeReg | AccessFs::RemoveFile;
    let renamed = grants.renames.iter().map(|folder| (folder, renames));
    let created = grants.creates.iter().map(|folder| (folder, renames | AccessFs::WriteFile));
    for (folder, rights) in renamed.chain(created) {
        rules = rules.add_rule(PathBeneath::new(PathFd::new(folder)?, rights))?;
    }
    Ok(match rules.restrict_self()?.landlock {
        LandlockStatus::Available { effective_abi, kernel_abi } => {
            Folders::Told(kernel_abi.unwrap_or(effective_abi as i32))
        }
        LandlockStatus::NotEnabled => Folders::SwitchedOff,
        LandlockStatus::NotImplemented => Folders::NotBuilt,
    })
}
