//! Builds the guest kernel, and the init of kernels under audit, with the toolchain that builds the
//! VMM, and embeds them.

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
    for input in ["guest", "init", "shared", "Cargo.toml", "Cargo.lock"] {
        println!("cargo::rerun-if-changed=../{input}");
    }
    let script = link_script(&workspace, &out);
    let guest = build(&workspace, &out, "stalemate-guest", &guest_flags(&script));
    std::fs::copy(guest, out.join("guest.elf")).expect("the kernel was built there");
    let init = build(&workspace, &out, "stalemate-init", &INIT_FLAGS.map(str::to_owned));
    std::fs::copy(init, out.join("init.elf")).expect("the init was built there");
}

/// Builds the image of a package; where it lies.
fn build(workspace: &Path, out: &Path, package: &str, options: &[String]) -> PathBuf {
    // A directory of its own for each: the parent cargo holds the lock of the shared one.
    let target_dir = out.join(format!("{}-target", package.trim_start_matches("stalemate-")));
    let mut cargo = Command::new(env::var_os("CARGO").expect("set by cargo"));
    cargo
        .current_dir(workspace)
        .args(["build", "--quiet", "--profile", "guest", "--package", package])
        .args(["--bin", package, "--features", "image", "--target", TARGET])
        .arg("--target-dir")
        .arg(&target_dir);
    // What the parent was told is not meant for the image.
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
    cargo.env("CARGO_ENCODED_RUSTFLAGS", flags(workspace, options).join("\x1f"));
    let output = cargo.output().expect("cargo runs");
    if !output.status.success() {
        eprintln!("building {package} failed:");
        eprintln!("{}", String::from_utf8_lossy(&output.stderr));
        std::process::exit(1);
    }
    target_dir.join(TARGET).join("guest").join(package)
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

/// What every image is built with.
const FREESTANDING: [&str; 8] = [
    "relocation-model=static",
    "link-arg=-nostdlib",
    "link-arg=-nostartfiles",
    "link-arg=-static",
    "link-arg=-no-pie",
    "link-arg=-Wl,--build-id=none",
    "link-arg=-Wl,--defsym=rust_eh_personality=0",
    "link-arg=-Wl,-z,norelro",
];

/// The init is an ordinary program, which needs no symbols.
const INIT_FLAGS: [&str; 1] = ["strip=symbols"];

fn guest_flags(script: &Path) -> Vec<String> {
    let options = ["code-model=kernel", "no-redzone=yes", "link-arg=-Wl,-z,max-page-size=4096"];
    let script = format!("link-arg=-Wl,-T,{}", script.display());
    options.map(str::to_owned).into_iter().chain([script]).collect()
}

fn flags(workspace: &Path, options: &[String]) -> Vec<String> {
    // The image names no directory of this machine: equal sources give equal bytes. Its own sources
    // are called as a reader of the checkout calls them.
    let mut flags = vec![format!("--remap-path-prefix={}=", workspace.display())];
    if let Some(home) = cargo_home() {
        let registry = home.join("registry/src");
        flags.push(format!("--remap-path-prefix={}=registry", registry.display()));
    }
    for option in FREESTANDING.iter().copied().chain(options.iter().map(String::as_str)) {
        flags.extend(["-C".to_owned(), option.to_owned()]);
    }
    flags
}
