//! Builds the guest kernel with the toolchain that builds the VMM, and embeds it.

use std::env;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

const TARGET: &str = "x86_64-unknown-linux-gnu";

fn main() {
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("set by cargo"));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("set by cargo"));
    let workspace = manifest.parent().expect("vmm/ lies in the workspace").to_path_buf();
    // Relative to this package, so that a checkout that moved is no change.
    for input in ["guest", "shared", "Cargo.toml", "Cargo.lock"] {
        println!("cargo::rerun-if-changed=../{input}");
    }
    // A directory of its own: the parent cargo holds the lock of the shared one.
    let target_dir = out.join("guest-target");
    let mut cargo = Command::new(env::var_os("CARGO").expect("set by cargo"));
    cargo
        .current_dir(&workspace)
        .args(["build", "--quiet", "--profile", "guest", "--package", "stalemate-guest"])
        .args(["--bin", "stalemate-guest", "--features", "image", "--target", TARGET])
        .arg("--target-dir")
        .arg(&target_dir);
    // What the parent was told is not meant for the kernel.
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy().into_owned();
        let foreign = text.starts_with("CARGO_") && text != "CARGO_HOME"
            || text.starts_with("RUSTC")
            || text.starts_with("RUSTDOC")
            || text.starts_with("RUSTFLAGS")
            || text.starts_with("DEP_")
            || matches!(text.as_str(), "TARGET" | "HOST" | "OUT_DIR" | "PROFILE" | "DEBUG");
        if foreign {
            cargo.env_remove(name);
        }
    }
    let script = link_script(&workspace, &out);
    cargo.env("CARGO_ENCODED_RUSTFLAGS", flags(&workspace, &script).join("\x1f"));
    let output = cargo.output().expect("cargo runs");
    if !output.status.success() {
        eprintln!("building the guest kernel failed:");
        eprintln!("{}", String::from_utf8_lossy(&output.stderr));
        std::process::exit(1);
    }
    let built = target_dir.join(TARGET).join("guest/stalemate-guest");
    std::fs::copy(&built, out.join("guest.elf")).expect("the kernel was built there");
}

/// Copies the linker script to a name that changes with its contents: cargo does not look into
/// it, but relinks when a flag changes.
fn link_script(workspace: &Path, out: &Path) -> PathBuf {
    let script = std::fs::read(workspace.join("guest/link.ld")).expect("guest/link.ld is there");
    let mut hasher = DefaultHasher::new();
    script.hash(&mut hasher);
    let copy = out.join(format!("link-{:016x}.ld", hasher.finish()));
    std::fs::write(&copy, script).expect("OUT_DIR can be written");
    copy
}

/// Where cargo keeps the sources of dependencies: CARGO_HOME, or its default.
fn cargo_home() -> Option<PathBuf> {
    let default = || env::home_dir().map(|home| home.join(".cargo"));
    env::var_os("CARGO_HOME").map(PathBuf::from).or_else(default)
}

fn flags(workspace: &Path, script: &Path) -> Vec<String> {
    // The image names no directory of this machine: equal sources give equal bytes. Its own sources
    // are called as a reader of the checkout calls them.
    let mut flags = vec![format!("--remap-path-prefix={}=", workspace.display())];
    if let Some(home) = cargo_home() {
        let registry = home.join("registry/src");
        flags.push(format!("--remap-path-prefix={}=registry", registry.display()));
    }
    for option in [
        "relocation-model=static",
        "code-model=kernel",
        "no-redzone=yes",
        "link-arg=-nostdlib",
        "link-arg=-nostartfiles",
        "link-arg=-static",
        "link-arg=-no-pie",
        "link-arg=-Wl,--build-id=none",
        "link-arg=-Wl,--defsym=rust_eh_personality=0",
        "link-arg=-Wl,-z,norelro",
        "link-arg=-Wl,-z,max-page-size=4096",
    ] {
        flags.extend(["-C".to_owned(), option.to_owned()]);
    }
    flags.extend(["-C".to_owned(), format!("link-arg=-Wl,-T,{}", script.display())]);
    flags
}
