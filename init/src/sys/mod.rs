//! System calls, memory and threads; `entry` is where the program begins. All unsafe code of the
//! init.
//!
//! An [`Area`] is address space that was mapped for the kernel to work on. No Rust object ever lies
//! in one, so whatever becomes of its pages becomes of no object.

mod entry;
mod memory;

use core::arch::{asm, global_asm};
use core::ffi::CStr;
use core::sync::atomic::AtomicU32;

/// Bytes of a page.
pub const PAGE: u64 = 4096;
/// Pages of a large page.
pub const HUGE: u64 = 512;

/// Why a call failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(pub u16);

impl Errno {
    pub const FAULT: Self = Self(14);
    /// The call's range has no such thing.
    const INVALID: Self = Self(22);

    /// The kernel does not offer the call: no such file, device, argument, call or operation.
    pub fn is_absence(self) -> bool {
        matches!(self.0, 2 | 6 | 19 | 22 | 38 | 95)
    }
}

type Result<T> = core::result::Result<T, Errno>;

/// Makes a system call. Private: the functions of this file hand the kernel only pointers to what
/// they have borrowed, and ranges of areas.
fn call(number: u64, arguments: [u64; 6]) -> Result<u64> {
    let [a, b, c, d, e, f] = arguments;
    let result: i64;
    // SAFETY: SYSCALL changes RAX, RCX, R11 and what the call writes to: buffers that the caller
    // has borrowed exclusively, and areas, in which there are no objects.
    unsafe {
        asm!("syscall", inlateout("rax") number as i64 => result, in("rdi") a, in("rsi") b,
            in("rdx") c, in("r10") d, in("r8") e, in("r9") f, lateout("rcx") _, lateout("r11") _,
            options(nostack));
    }
    if (-4095..0).contains(&result) { Err(Errno(-result as u16)) } else { Ok(result as u64) }
}

fn call3(number: u64, a: u64, b: u64, c: u64) -> Result<u64> {
    call(number, [a, b, c, 0, 0, 0])
}

fn path(name: &CStr) -> u64 {
    name.as_ptr() as u64
}

/// An open file, closed when it is dropped.
#[derive(Debug)]
pub struct File(u64);

impl Drop for File {
    fn drop(&mut self) {
        let _ = call3(3, self.0, 0, 0);
    }
}

impl File {
    pub const READ: u64 = 0;
    pub const WRITE: u64 = 1;
    pub const BOTH: u64 = 2;

    pub fn open(name: &CStr, mode: u64) -> Result<Self> {
        call3(2, path(name), mode, 0).map(Self)
    }

    /// A file in memory, without a name.
    pub fn memory(pages: u64) -> Result<Self> {
        let file = Self(call3(319, path(c"stalemate"), 0, 0)?);
        file.truncate(pages)?;
        Ok(file)
    }

    pub fn read(&self, bytes: &mut [u8]) -> Result<usize> {
        call3(0, self.0, bytes.as_mut_ptr() as u64, bytes.len() as u64).map(|len| len as usize)
    }

    pub fn write(&self, bytes: &[u8]) -> Result<usize> {
        call3(1, self.0, bytes.as_ptr() as u64, bytes.len() as u64).map(|len| len as usize)
    }

    pub fn truncate(&self, pages: u64) -> Result<()> {
        call3(77, self.0, pages * PAGE, 0).map(drop)
    }

    /// Frees pages of the file, whose size stays.
    pub fn punch(&self, first: u64, pages: u64) -> Result<()> {
        call(285, [self.0, 3, first * PAGE, pages * PAGE, 0, 0]).map(drop)
    }

    /// A userfaultfd that does not block, for faults of user mode.
    pub fn userfaultfd() -> Result<Self> {
        call3(323, 0o4000 | 1, 0, 0).map(Self)
    }

    /// An `ioctl` whose argument is read and written as words.
    pub fn control(&self, request: u32, words: &mut [u64; 4]) -> Result<u64> {
        // Bits 16 to 29 of a request are the size of its argument.
        assert!(request >> 16 & 0x3fff <= 32, "longer than four words");
        call3(16, self.0, u64::from(request), words.as_mut_ptr() as u64)
    }

    /// Waits at most so many milliseconds for something to read.
    pub fn poll(&self, milliseconds: u64) -> Result<bool> {
        let mut request = [self.0 | 1 << 32];
        let ready = call3(7, request.as_mut_ptr() as u64, 1, milliseconds)?;
        Ok(ready == 1)
    }

    /// The process that calls, for `process_madvise`.
    pub fn this_process() -> Result<Self> {
        call3(434, call3(39, 0, 0, 0)?, 0, 0).map(Self)
    }

    /// `process_madvise` of the process that the file stands for.
    pub fn advise(&self, area: Area, advice: u64) -> Result<u64> {
        let ranges = [area.base, area.pages * PAGE];
        call(440, [self.0, ranges.as_ptr() as u64, 1, advice, 0, 0])
    }
}

/// Address space in which there are no objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Area {
    base: u64,
    pages: u64,
}

/// How an area is mapped.
#[derive(Clone, Copy, Debug)]
pub enum Mapping<'a> {
    Private,
    Shared(&'a File),
    PrivateFile(&'a File),
    HugeTlb,
}

/// Where [`Area::remap`] moves an area.
#[derive(Clone, Copy, Debug)]
pub enum Move {
    /// It stays or moves, as the kernel likes.
    Anywhere,
    /// Onto that area, of which nothing is left.
    To(Area),
    /// Elsewhere; the old addresses stay mapped, and empty.
    DontUnmap,
}

impl Area {
    pub const NONE: u64 = 0;
    pub const READ: u64 = 1;
    pub const BOTH: u64 = 3;

    fn mmap(at: Option<Self>, pages: u64, mapping: Mapping<'_>) -> Result<Self> {
        let (flags, file) = match mapping {
            Mapping::Private => (0x22, u64::MAX),
            Mapping::Shared(file) => (0x1, file.0),
            Mapping::PrivateFile(file) => (0x2, file.0),
            Mapping::HugeTlb => (0x4_0022, u64::MAX),
        };
        let (base, fixed) = at.map_or((0, 0), |at| (at.base, 0x10));
        let base = call(9, [base, pages * PAGE, Self::BOTH, flags | fixed, file, 0])?;
        Ok(Self { base, pages })
    }

    pub fn map(pages: u64, mapping: Mapping<'_>) -> Result<Self> {
        Self::mmap(None, pages, mapping)
    }

    /// Maps it anew, in place of what there is.
    pub fn map_again(self, mapping: Mapping<'_>) -> Result<Self> {
        Self::mmap(Some(self), self.pages, mapping)
    }

    /// So many large pages, aligned as such.
    pub fn map_large(large: u64, mapping: Mapping<'_>) -> Result<Self> {
        let whole = Self::map((large + 1) * HUGE, Mapping::Private)?;
        let first = (whole.base / PAGE).next_multiple_of(HUGE) - whole.base / PAGE;
        if first > 0 {
            whole.part(0, first).unmap()?;
        }
        if first < HUGE {
            whole.part(first + large * HUGE, HUGE - first).unmap()?;
        }
        whole.part(first, large * HUGE).map_again(mapping)
    }

    pub fn pages(self) -> u64 {
        self.pages
    }

    /// Its pages `first..first + pages`.
    pub fn part(self, first: u64, pages: u64) -> Self {
        assert!(pages > 0 && first + pages <= self.pages, "a part of the area");
        Self { base: self.base + first * PAGE, pages }
    }

    fn word(self, page: u64, word: u64) -> *mut u64 {
        assert!(page < self.pages && word < PAGE / 8, "a word of the area");
        (self.base + page * PAGE + word * 8) as *mut u64
    }

    pub fn load(self, page: u64, word: u64) -> u64 {
        // SAFETY: aligned, and in an area, where there are no objects: at worst the access faults.
        // Threads access words of their own.
        unsafe { self.word(page, word).read_volatile() }
    }

    pub fn store(self, page: u64, word: u64, value: u64) {
        // SAFETY: as in `load`.
        unsafe { self.word(page, word).write_volatile(value) }
    }

    /// Base and size in bytes.
    pub fn range(self) -> (u64, u64) {
        (self.base, self.pages * PAGE)
    }

    /// The area that [`range`](Self::range) described.
    ///
    /// It is used between threads, which hand each other areas as numbers.
    pub fn from_range((base, size): (u64, u64)) -> Self {
        Self { base, pages: size / PAGE }
    }

    fn on(self, number: u64, argument: u64) -> Result<()> {
        call3(number, self.base, self.pages * PAGE, argument).map(drop)
    }

    pub fn unmap(self) -> Result<()> {
        self.on(11, 0)
    }

    pub fn protect(self, rights: u64) -> Result<()> {
        self.on(10, rights)
    }

    pub fn advise(self, advice: u64) -> Result<()> {
        self.on(28, advice)
    }

    pub fn sync(self) -> Result<()> {
        self.on(26, 4)
    }

    pub fn lock(self) -> Result<()> {
        self.on(149, 0)
    }

    pub fn unlock(self) -> Result<()> {
        self.on(150, 0)
    }

    /// Gives it another size or other addresses.
    pub fn remap(self, pages: u64, how: Move) -> Result<Self> {
        let (flags, to) = match how {
            Move::Anywhere => (1, 0),
            Move::To(area) => {
                assert_eq!(area.pages, pages, "as large as it becomes");
                (3, area.base)
            }
            Move::DontUnmap => (5, 0),
        };
        let base = call(25, [self.base, self.pages * PAGE, pages * PAGE, flags, to, 0])?;
        Ok(Self { base, pages })
    }

    /// Whether the kernel may write to the page for the process: it puts the time into its last
    /// words.
    pub fn is_writable(self, page: u64) -> bool {
        call3(228, 1, self.word(page, PAGE / 8 - 2) as u64, 0) != Err(Errno::FAULT)
    }

    /// Whether the kernel may read the page for the process: it takes its last byte for a path.
    pub fn is_readable(self, page: u64) -> bool {
        call3(21, self.word(page, PAGE / 8 - 1) as u64 + 7, 0, 0) != Err(Errno::FAULT)
    }
}

/// Writes to the console.
pub fn print(bytes: &[u8]) {
    let _ = call3(1, 1, bytes.as_ptr() as u64, bytes.len() as u64);
}

pub fn mount(kind: &CStr, at: &CStr) -> Result<()> {
    call(165, [path(kind), path(at), path(kind), 0, 0, 0]).map(drop)
}

pub fn make_directory(name: &CStr) -> Result<()> {
    call3(83, path(name), 0o755, 0).map(drop)
}

/// Makes a file that stands for a block device.
pub fn make_block_device(name: &CStr, major: u32, minor: u32) -> Result<()> {
    call3(133, path(name), 0o60600, u64::from(major << 8 | minor)).map(drop)
}

pub fn swap_on(name: &CStr) -> Result<()> {
    call3(167, path(name), 0, 0).map(drop)
}

pub fn swap_off(name: &CStr) -> Result<()> {
    call3(168, path(name), 0, 0).map(drop)
}

/// Lets others run.
pub fn pass() {
    let _ = call3(24, 0, 0, 0);
}

pub fn nap(milliseconds: u64) {
    let time = [milliseconds / 1000, milliseconds % 1000 * 1_000_000];
    let _ = call3(35, time.as_ptr() as u64, 0, 0);
}

/// Sleeps while the word is `value`; may end early.
pub fn wait_while(word: &AtomicU32, value: u32) {
    if call(202, [word.as_ptr() as u64, 0, value.into(), 0, 0, 0]) == Err(Errno(38)) {
        pass();
    }
}

/// Wakes all who wait for the word to change.
pub fn wake(word: &AtomicU32) {
    let _ = call3(202, word.as_ptr() as u64, 1, i32::MAX as u64);
}

/// Ends the process.
pub fn exit(status: i32) -> ! {
    loop {
        let _ = call3(231, status as u64, 0, 0);
    }
}

/// Resets the machine.
pub fn reboot() {
    let _ = call(169, [0xfee1_dead, 672_274_793, 0x0123_4567, 0, 0, 0]);
}

/// A child process.
#[derive(Debug)]
pub struct Child(u64);

/// Forks; the child does `work` and exits, with status 0 where that says so.
pub fn fork(work: impl FnOnce() -> bool) -> Result<Child> {
    match call3(57, 0, 0, 0)? {
        0 => exit(i32::from(!work())),
        child => Ok(Child(child)),
    }
}

impl Child {
    /// Waits for its end; its status as `wait4` gives it.
    pub fn wait(self) -> Result<u32> {
        let mut status = [0_u32];
        loop {
            match call(61, [self.0, status.as_mut_ptr() as u64, 0, 0, 0, 0]) {
                Ok(_) => return Ok(status[0]),
                Err(Errno(4)) => {}
                Err(errno) => return Err(errno),
            }
        }
    }
}

/// Begins another program in this process; returns where that fails.
pub fn execute(name: &CStr, argument: &CStr) -> Errno {
    let arguments = [path(name), path(argument), 0];
    let environment = [0_u64];
    let result = call3(59, path(name), arguments.as_ptr() as u64, environment.as_ptr() as u64);
    result.err().unwrap_or(Errno::INVALID)
}

const THREAD_STACK: u64 = 8;

unsafe extern "C" {
    /// Clones a thread that runs on `stack`, whose top words are its argument and its function.
    fn stalemate_init_clone(stack: *mut u64, flags: u64, alive: *const AtomicU32) -> i64;
}

global_asm!(
    ".globl stalemate_init_clone",
    "stalemate_init_clone:",
    "mov r10, rdx",
    "xchg rdi, rsi",
    "xor edx, edx",
    "xor r8d, r8d",
    "mov eax, 56",
    "syscall",
    "test rax, rax",
    "jnz 2f",
    "xor ebp, ebp",
    "pop rdi",
    "pop rax",
    "call rax",
    "mov eax, 60",
    "xor edi, edi",
    "syscall",
    "2: ret",
);

/// Begins a thread. The kernel clears `alive`, and wakes who waits for that, when it has ended. Its
/// stack is never unmapped.
pub fn spawn(work: extern "C" fn(u64), argument: u64, alive: &'static AtomicU32) -> Result<()> {
    let stack = call(9, [0, THREAD_STACK * PAGE, 3, 0x22, u64::MAX, 0])?;
    let top = (stack + THREAD_STACK * PAGE) as *mut u64;
    // CLONE_VM, FS, FILES, SIGHAND, THREAD, SYSVSEM, CHILD_CLEARTID.
    let flags = 0x25_0f00;
    // SAFETY: the stack is mapped, its own, and of no area; its top is aligned, so that after the
    // two words are popped it is as the ABI has it at a call. `work` never unwinds, `alive` is
    // static.
    let result = unsafe {
        top.sub(1).write(work as usize as u64);
        top.sub(2).write(argument);
        stalemate_init_clone(top.sub(2), flags, alive)
    };
    if result < 0 { Err(Errno(-result as u16)) } else { Ok(()) }
}
