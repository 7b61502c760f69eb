//! Versions of kernels.

use std::fmt;

/// A version: major and minor number.
pub type Version = (u32, u32);

/// A range of versions, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Versions {
    from: Option<Version>,
    to: Option<Version>,
}

impl Versions {
    /// Reads `6.1`, `6.1..6.12`, `6.2..` or `..6.1`.
    pub fn parse(text: &str) -> Option<Self> {
        let Some((from, to)) = text.split_once("..") else {
            let only = Some(version(text)?);
            return Some(Self { from: only, to: only });
        };
        let end = |text: &str| match text {
            "" => Some(None),
            text => version(text).map(Some),
        };
        let (from, to) = (end(from)?, end(to)?);
        let some = from.is_some() || to.is_some();
        let ordered = from.zip(to).is_none_or(|(from, to)| from <= to);
        (some && ordered).then_some(Self { from, to })
    }

    /// Whether a version is in it.
    pub fn contains(&self, version: Version) -> bool {
        self.from.is_none_or(|from| from <= version) && self.to.is_none_or(|to| version <= to)
    }
}

impl fmt::Display for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = |end: Option<Version>| {
            end.map_or_else(String::new, |(major, minor)| format!("{major}.{minor}"))
        };
        match self.from == self.to {
            true => f.write_str(&end(self.from)),
            false => write!(f, "{}..{}", end(self.from), end(self.to)),
        }
    }
}

fn version(text: &str) -> Option<Version> {
    let (major, minor) = text.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// The version that a banner begins with: `Linux version 6.12.117+deb12-cloud-amd64 (…`.
pub fn of_banner(banner: &[u8]) -> Option<Version> {
    let text = banner.strip_prefix(b"Linux version ")?;
    let is_part = |byte: &u8| byte.is_ascii_digit() || *byte == b'.';
    let end = text.iter().position(|byte| !is_part(byte)).unwrap_or(text.len());
    let mut numbers = std::str::from_utf8(&text[..end]).ok()?.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_has_both_ends_or_one_of_them() {
        for (range, inside, outside) in [
            ("6.1", &[(6, 1)][..], &[(6, 0), (6, 2), (5, 1)][..]),
            ("6.1..6.12", &[(6, 1), (6, 9), (6, 12)], &[(6, 0), (6, 13), (5, 9), (7, 2)]),
            ("6.2..", &[(6, 2), (6, 10), (7, 0)], &[(6, 1)]),
            ("..6.1", &[(6, 1), (5, 19)], &[(6, 2)]),
        ] {
            let versions = Versions::parse(range).expect(range);
            assert_eq!(versions.to_string(), range);
            assert!(inside.iter().all(|&version| versions.contains(version)), "{range}");
            assert!(!outside.iter().any(|&version| versions.contains(version)), "{range}");
        }
        for wrong in ["", "..", "6", "6.1-6.12", "6.12..6.1", "6.x.."] {
            assert_eq!(Versions::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_banner_says_the_version() {
        assert_eq!(of_banner(b"Linux version 6.12.117+deb12 (x@y)\n"), Some((6, 12)));
        assert_eq!(of_banner(b"Linux version 6.1-rc1"), Some((6, 1)));
        assert_eq!(of_banner(b"Linux version \0"), None);
        assert_eq!(of_banner(b"Another kernel 6.1"), None);
    }
}
