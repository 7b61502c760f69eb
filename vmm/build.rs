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
    let workspace = match manifest.parent() {
        Some(checkout) if checkout.join("guest/Cargo.toml").is_file() => {
            // Relative to this package, so that a checkout that moved is no change.
            for input in ["guest", "init", "shared", "Cargo.toml", "Cargo.lock"] {
                println!("cargo::rerun-if-changed=../{input}");
            }
            checkout.to_path_buf()
        }
        _ => unbundled(&manifest.join("bundle"), &out.join("workspace")),
    };
    let script = link_script(&workspace, &out);
    let guest = build(&workspace, &out, "stalemate-guest", &guest_flags(&script));
    std::fs::copy(guest, out.join("guest.elf")).expect("the kernel was built there");
    let init = build(&workspace, &out, "stalemate-init", &INIT_FLAGS.map(str::to_owned));
    std::fs::copy(init, out.join("init.elf")).expect("the init was built there");
}

/// The packages of the images.
const PACKAGES: [&str; 3] = ["shared", "guest", "init"];

/// A workspace of what is built here, from the sources that the published package has of it: a package
/// holds no other one's manifest, so that they have other names there.
fn unbundled(bundle: &Path, to: &Path) -> PathBuf {
    println!("cargo::rerun-if-changed=bundle");
    let read = |name: &str| std::fs::read_to_string(bundle.join(name)).expect("it is packaged");
    let members = format!("members = {PACKAGES:?}");
    let manifest = read("workspace.toml");
    let lines = manifest.lines().filter_map(|line| match line.split(" = ").next() {
        Some("members") => Some(members.as_str()),
        Some("default-members" | "exclude") => None,
        _ => Some(line),
    });
    std::fs::create_dir_all(to).expect("OUT_DIR can be written");
    let manifest: String = lines.flat_map(|line| [line, "\n"]).collect();
    std::fs::write(to.join("Cargo.toml"), manifest).expect("OUT_DIR can be written");
    std::fs::write(to.join("Cargo.lock"), read("lock.toml")).expect("OUT_DIR can be written");
    for package in PACKAGES {
        copy(&bundle.join(package), &to.join(package));
        let manifest = read(&format!("{package}/manifest.toml"));
        std::fs::write(to.join(package).join("Cargo.toml"), manifest).expect("it can be written");
    }
    to.to_path_buf()
}

/// Copies a directory with all that is in it.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("OUT_DIR can be written");
    for entry in std::fs::read_dir(from).expect("it is packaged") {
        let entry = entry.expect("it is packaged");
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).expect("OUT_DIR can be written");
        }
    }
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
