//! Settings of the kernel, and numbers that it tells, in files.

use crate::options::number_of;
use crate::sys::{Errno, File};
use core::ffi::CStr;

/// Writes a setting of the kernel.
pub fn set(name: &CStr, value: &str) -> Result<(), Errno> {
    File::open(name, File::WRITE)?.write(value.as_bytes()).map(drop)
}

/// A number that the kernel tells in a file.
pub fn number(name: &CStr) -> Option<u32> {
    let mut text = [0; 32];
    let len = File::open(name, File::READ).ok()?.read(&mut text).ok()?;
    number_of(&text[..len])
}
