//! The init that was built with this VMM, and the archive that a kernel unpacks it from.

use cpio::newc::{Builder, trailer};
use std::io::Write;

/// Major and minor number of the console.
const CONSOLE: (u32, u32) = (5, 1);

/// What that init says when its workload begins.
pub const READY: &str = "stalemate-init: ready";

/// The init that was built with this VMM: a static program that makes every kind of call that
/// changes mappings, checks what it reads, and says on the console how often each kind succeeded.
#[must_use]
pub fn init() -> &'static [u8] {
    include_bytes!(concat!(env!("OUT_DIR"), "/init.elf"))
}

/// An initramfs, as a newc archive: `init` as /init, /dev with the console, and where an init
/// mounts proc and sysfs.
#[must_use]
pub fn initramfs(init: &[u8]) -> Vec<u8> {
    let console = Builder::new("dev/console").rdev_major(CONSOLE.0).rdev_minor(CONSOLE.1);
    let entries = [
        (Builder::new("dev").mode(0o040_755).nlink(2), &[][..]),
        (Builder::new("proc").mode(0o040_755).nlink(2), &[]),
        (Builder::new("sys").mode(0o040_755).nlink(2), &[]),
        (console.mode(0o020_600), &[]),
        (Builder::new("init").mode(0o100_755), init),
    ];
    let mut archive = Vec::new();
    for (number, (entry, contents)) in (1..).zip(entries) {
        let written = append(&mut archive, entry.ino(number), contents);
        written.unwrap_or_else(|error| unreachable!("a vector takes all: {error}"));
    }
    trailer(archive).unwrap_or_else(|error| unreachable!("a vector takes all: {error}"))
}

fn append(archive: &mut Vec<u8>, entry: Builder, contents: &[u8]) -> std::io::Result<()> {
    let mut writer = entry.write(archive, contents.len() as u32);
    writer.write_all(contents)?;
    writer.finish().map(drop)
}
