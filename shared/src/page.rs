//! The test pages of [`crate::layout`] by the names that scenarios call them by.

use crate::layout::{
    KERNEL_PAGE_COUNT, KERNEL_PAGES, LARGE_PAGE_SIZE, PAGE_SIZE, USER_LARGE_PAGE_COUNT,
    USER_LARGE_PAGES, USER_PAGE_COUNT, USER_PAGES, USER_TABLE_PAGE_COUNT, USER_TABLE_PAGES,
};
use crate::step::Op;
use core::fmt;
use core::str::FromStr;

/// A test page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Page {
    /// u0, u1, …
    User(u64),
    /// h0, h1: 2 MiB.
    Large(u64),
    /// v0, v1, …: on a page table of their own.
    Table(u64),
    /// k0, k1, …
    Kernel(u64),
}

impl Page {
    /// Its address.
    #[must_use]
    pub fn address(self) -> u64 {
        match self {
            Self::User(number) => USER_PAGES + number * PAGE_SIZE,
            Self::Large(number) => USER_LARGE_PAGES + number * LARGE_PAGE_SIZE,
            Self::Table(number) => USER_TABLE_PAGES + number * PAGE_SIZE,
            Self::Kernel(number) => KERNEL_PAGES + number * PAGE_SIZE,
        }
    }

    /// The page that begins at this address.
    #[must_use]
    pub fn at(address: u64) -> Option<Self> {
        let of = |pages: u64, size: u64, count: u64| {
            let offset = address.checked_sub(pages)?;
            (offset % size == 0 && offset / size < count).then_some(offset / size)
        };
        let user = of(USER_PAGES, PAGE_SIZE, USER_PAGE_COUNT).map(Self::User);
        let large =
            || of(USER_LARGE_PAGES, LARGE_PAGE_SIZE, USER_LARGE_PAGE_COUNT).map(Self::Large);
        let table = || of(USER_TABLE_PAGES, PAGE_SIZE, USER_TABLE_PAGE_COUNT).map(Self::Table);
        let kernel = || of(KERNEL_PAGES, PAGE_SIZE, KERNEL_PAGE_COUNT).map(Self::Kernel);
        user.or_else(large).or_else(table).or_else(kernel)
    }

    /// How many bytes it is.
    #[must_use]
    pub fn size(self) -> u64 {
        if matches!(self, Self::Large(_)) { LARGE_PAGE_SIZE } else { PAGE_SIZE }
    }
}

/// Where a kernel has the first test page of each kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageAddresses {
    /// u0; the others follow.
    pub user: u64,
    /// h0, on a multiple of 2 MiB.
    pub large: u64,
    /// v0, on a multiple of 2 MiB.
    pub table: u64,
    /// k0.
    pub kernel: u64,
}

impl PageAddresses {
    /// Those of [`crate::layout`].
    pub const USUAL: Self = Self {
        user: USER_PAGES,
        large: USER_LARGE_PAGES,
        table: USER_TABLE_PAGES,
        kernel: KERNEL_PAGES,
    };

    /// The address of a test page.
    #[must_use]
    pub fn address(&self, page: Page) -> u64 {
        let first = match page {
            Page::User(_) => self.user,
            Page::Large(_) => self.large,
            Page::Table(_) => self.table,
            Page::Kernel(_) => self.kernel,
        };
        let usual = match page {
            Page::User(_) => USER_PAGES,
            Page::Large(_) => USER_LARGE_PAGES,
            Page::Table(_) => USER_TABLE_PAGES,
            Page::Kernel(_) => KERNEL_PAGES,
        };
        first + (page.address() - usual)
    }

    /// The arguments of a step, whose pages are at [`Self::USUAL`], for a kernel that has them here.
    #[must_use]
    pub fn arguments(&self, op: Op, args: [u64; 4]) -> [u64; 4] {
        let here = |va: u64| Page::at(va).map_or(va, |page| self.address(page));
        let [mm, va, third, fourth] = args;
        match op {
            Op::UnmapRange | Op::FlushRange | Op::FlushKernelRange => {
                // The end may be that of the last page of its kind.
                [mm, here(va), here(va).wrapping_add(third.wrapping_sub(va)), fourth]
            }
            Op::MovePage => [mm, here(va), here(third), fourth],
            Op::Fork | Op::FreeFrame | Op::Misbehave => args,
            _ => [mm, here(va), third, fourth],
        }
    }
}

impl Default for PageAddresses {
    fn default() -> Self {
        Self::USUAL
    }
}

impl fmt::Display for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(number) => write!(f, "u{number}"),
            Self::Large(number) => write!(f, "h{number}"),
            Self::Table(number) => write!(f, "v{number}"),
            Self::Kernel(number) => write!(f, "k{number}"),
        }
    }
}

impl FromStr for Page {
    type Err = ();

    fn from_str(word: &str) -> Result<Self, ()> {
        let (kind, number) = word.split_at_checked(1).ok_or(())?;
        let plain = number.bytes().all(|byte| byte.is_ascii_digit());
        let number: u64 = number.parse().ok().filter(|_| plain).ok_or(())?;
        match kind {
            "u" if number < USER_PAGE_COUNT => Ok(Self::User(number)),
            "h" if number < USER_LARGE_PAGE_COUNT => Ok(Self::Large(number)),
            "v" if number < USER_TABLE_PAGE_COUNT => Ok(Self::Table(number)),
            "k" if number < KERNEL_PAGE_COUNT => Ok(Self::Kernel(number)),
            _ => Err(()),
        }
    }
}
