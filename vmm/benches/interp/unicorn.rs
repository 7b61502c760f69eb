//! Unicorn (QEMU's TCG as a library), where it is installed: loaded at run time, so that nothing
//! depends on it. `pip install unicorn` brings it; STALEMATE_UNICORN names the library otherwise.

use std::ffi::{CString, c_char, c_int, c_void};

/// uc_arch, uc_mode and register numbers of unicorn/unicorn.h and unicorn/x86.h, version 2.
const ARCH_X86: c_int = 4;
const MODE_64: c_int = 1 << 3;
const PROT_ALL: u32 = 7;
const X86_REG_RDI: c_int = 39;
const X86_REG_RDX: c_int = 40;

type Open = unsafe extern "C" fn(c_int, c_int, *mut *mut c_void) -> c_int;
type Map = unsafe extern "C" fn(*mut c_void, u64, u64, u32) -> c_int;
type Write = unsafe extern "C" fn(*mut c_void, u64, *const c_void, u64) -> c_int;
type RegWrite = unsafe extern "C" fn(*mut c_void, c_int, *const c_void) -> c_int;
type Start = unsafe extern "C" fn(*mut c_void, u64, u64, u64, usize) -> c_int;
type Close = unsafe extern "C" fn(*mut c_void) -> c_int;

/// An open Unicorn with a page of code and one of data.
pub struct Unicorn {
    engine: *mut c_void,
    end: u64,
    reg_write: RegWrite,
    start: Start,
    close: Close,
}

const TEXT: u64 = 0x40_0000;
const DATA: u64 = 0x41_0000;

fn ok(code: c_int, what: &str) -> Result<(), String> {
    if code == 0 { Ok(()) } else { Err(format!("{what} failed with {code}")) }
}

impl Unicorn {
    /// Opens the library and an engine with `code` in it; or says why Unicorn cannot be had.
    pub fn load(code: &[u8]) -> Result<Self, String> {
        let name =
            std::env::var("STALEMATE_UNICORN").unwrap_or_else(|_| "libunicorn.so.2".to_owned());
        let path = CString::new(name.clone()).map_err(|error| error.to_string())?;
        // SAFETY: a library that the user names, opened as any loader would.
        let library = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW) };
        if library.is_null() {
            return Err(format!(
                "no {name} (pip install unicorn, then STALEMATE_UNICORN=its path)"
            ));
        }
        let symbol = |name: &[u8]| {
            // SAFETY: the library is open, and the name ends in a zero byte.
            let found = unsafe { libc::dlsym(library, name.as_ptr().cast::<c_char>()) };
            if found.is_null() { Err("it lacks a function".to_owned()) } else { Ok(found) }
        };
        // SAFETY: the functions have the types that unicorn/unicorn.h gives them.
        let (open, map, write, reg_write, start, close) = unsafe {
            (
                std::mem::transmute::<*mut c_void, Open>(symbol(b"uc_open\0")?),
                std::mem::transmute::<*mut c_void, Map>(symbol(b"uc_mem_map\0")?),
                std::mem::transmute::<*mut c_void, Write>(symbol(b"uc_mem_write\0")?),
                std::mem::transmute::<*mut c_void, RegWrite>(symbol(b"uc_reg_write\0")?),
                std::mem::transmute::<*mut c_void, Start>(symbol(b"uc_emu_start\0")?),
                std::mem::transmute::<*mut c_void, Close>(symbol(b"uc_close\0")?),
            )
        };
        let mut engine = std::ptr::null_mut();
        // SAFETY: the calls follow unicorn/unicorn.h; the engine lives until uc_close.
        unsafe {
            ok(open(ARCH_X86, MODE_64, &raw mut engine), "uc_open")?;
            ok(map(engine, TEXT, 0x1000, PROT_ALL), "uc_mem_map")?;
            ok(map(engine, DATA, 0x1000, PROT_ALL), "uc_mem_map")?;
            ok(write(engine, TEXT, code.as_ptr().cast(), code.len() as u64), "uc_mem_write")?;
        }
        Ok(Self { engine, end: TEXT + code.len() as u64, reg_write, start, close })
    }

    /// Runs the code once, which begins with RDI at the page of data and RDX at `rounds`.
    pub fn run(&mut self, rounds: u64) -> Result<(), String> {
        let (engine, data) = (self.engine, DATA);
        // SAFETY: the engine is open; both registers are 64 bits.
        unsafe {
            ok((self.reg_write)(engine, X86_REG_RDI, (&raw const data).cast()), "uc_reg_write")?;
            ok((self.reg_write)(engine, X86_REG_RDX, (&raw const rounds).cast()), "uc_reg_write")?;
            ok((self.start)(engine, TEXT, self.end, 0, 0), "uc_emu_start")
        }
    }
}

impl Drop for Unicorn {
    fn drop(&mut self) {
        // SAFETY: the engine is open, and used no more.
        unsafe { (self.close)(self.engine) };
    }
}
