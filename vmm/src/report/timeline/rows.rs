//! What overlaps lies on rows of its own.

use super::{Bar, Owed};
use std::cmp::Reverse;
use std::collections::BTreeMap;

/// Something that lasts, on a page's lane.
pub trait Lasting {
    /// CPU, tag and page.
    fn lane(&self) -> (u8, &str, &str);
    /// From this event to that one.
    fn span(&self) -> (u64, u64);
    /// Sets its row.
    fn set_row(&mut self, row: usize);
}

impl Lasting for Bar {
    fn lane(&self) -> (u8, &str, &str) {
        (self.cpu, &self.tag, &self.page)
    }

    fn span(&self) -> (u64, u64) {
        (self.from, self.to.unwrap_or(u64::MAX))
    }

    fn set_row(&mut self, row: usize) {
        self.row = row;
    }
}

impl Lasting for Owed {
    fn lane(&self) -> (u8, &str, &str) {
        (self.cpu, &self.tag, &self.page)
    }

    fn span(&self) -> (u64, u64) {
        (self.from, self.to)
    }

    fn set_row(&mut self, row: usize) {
        self.row = row;
    }
}

/// Gives each the first row of its lane that is free when it begins.
pub fn set_rows<T: Lasting>(all: &mut [T]) {
    let mut order: Vec<usize> = (0..all.len()).collect();
    order.sort_by_key(|&index| {
        let (from, to) = all[index].span();
        (from, Reverse(to))
    });
    // By lane, when each of its rows is free again.
    let mut ends: BTreeMap<(u8, String, String), Vec<u64>> = BTreeMap::new();
    for index in order {
        let (cpu, tag, page) = all[index].lane();
        let rows = ends.entry((cpu, tag.to_owned(), page.to_owned())).or_default();
        let (from, to) = all[index].span();
        let row = rows.iter().position(|&end| end <= from).unwrap_or(rows.len());
        if row == rows.len() {
            rows.push(to);
        } else {
            rows[row] = to;
        }
        all[index].set_row(row);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_overlaps_has_rows_of_its_own_and_a_free_row_is_taken_again() {
        let bar = |page: &str, from, to| Bar { page: page.into(), from, to, ..Bar::default() };
        let mut bars = [
            bar("u0", 1, Some(9)),
            bar("u0", 3, Some(5)),
            bar("u0", 5, None),
            bar("u1", 3, Some(4)),
            bar("u0", 9, Some(12)),
            bar("u0", 10, None),
        ];
        set_rows(&mut bars);
        assert_eq!(bars.map(|bar| bar.row), [0, 1, 1, 0, 0, 2]);
    }
}
