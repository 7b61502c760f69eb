//! The test pages of [`crate::layout`] by the names that scenarios call them by.

use crate::layout::{
    KERNEL_PAGE_COUNT, KERNEL_PAGES, LARGE_PAGE_SIZE, PAGE_SIZE, USER_LARGE_PAGE_COUNT,
    USER_LARGE_PAGES, USER_PAGE_COUNT, USER_PAGES, USER_TABLE_PAGE_COUNT, USER_TABLE_PAGES,
};
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
