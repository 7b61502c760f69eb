//! Write protection by userfaultfd.

use crate::crew::Crew;
use crate::kind::Kind;
use crate::sys::{Area, Errno, File, Mapping};
use crate::tally::{check, count, failed};

const API: u32 = 0xc018_aa3f;
const REGISTER: u32 = 0xc020_aa00;
const WRITE_PROTECT: u32 = 0xc018_aa06;
const PAGES: u64 = 48;
/// Registers for write protection.
const MODE: u64 = 2;
const VERSION: u64 = 0xaa;
/// Faults say that they are about write protection.
const FAULT_FLAG: u64 = 1;

/// Protects pages from writes, or takes that back and wakes who waits.
fn protect(file: &File, area: Area, is_protected: bool) -> Result<u64, Errno> {
    let (base, size) = area.range();
    file.control(WRITE_PROTECT, &mut [base, size, u64::from(is_protected), 0])
}

pub fn round(crew: &Crew, generation: u16) {
    let Some(area) = count(Kind::Map, Area::map(PAGES, Mapping::Private)) else { return };
    area.fill(0..PAGES, generation);
    match begin(area) {
        Ok(file) => protections(&file, crew, area, generation),
        Err(errno) => {
            failed(Kind::UffdProtect, errno);
            failed(Kind::UffdFault, errno);
        }
    }
    crew.park();
    count(Kind::Unmap, area.unmap());
}

fn begin(area: Area) -> Result<File, Errno> {
    let file = File::userfaultfd()?;
    file.control(API, &mut [VERSION, FAULT_FLAG, 0, 0])?;
    let (base, size) = area.range();
    file.control(REGISTER, &mut [base, size, MODE, 0])?;
    Ok(file)
}

fn protections(file: &File, crew: &Crew, area: Area, generation: u16) {
    crew.work(Some(area), None);
    for (first, pages) in [(0, 1), (4, 12), (0, PAGES)] {
        let part = area.part(first, pages);
        if count(Kind::UffdProtect, protect(file, part, true)).is_some() {
            check(area.has(0..PAGES, generation), Kind::UffdProtect, "contents");
            count(Kind::UffdProtect, protect(file, part, false));
            area.fill(0..PAGES, generation);
        }
    }
    // The threads write now: each of them is to be stopped.
    let all = area.part(0, PAGES);
    if count(Kind::UffdProtect, protect(file, all, true)).is_none() {
        return;
    }
    crew.work(None, Some(area));
    let is_stopped = file.poll(2000) == Ok(true);
    check(is_stopped, Kind::UffdFault, "no write to protected pages was stopped");
    let mut message = [0; 32];
    if is_stopped && count(Kind::UffdFault, file.read(&mut message)).is_some() {
        let address = u64::from_le_bytes(message[16..24].try_into().unwrap_or_default());
        let (base, size) = area.range();
        let is_right = (base..base + size).contains(&address);
        check(is_right, Kind::UffdFault, "address of a write that was stopped");
    }
    count(Kind::UffdProtect, protect(file, all, false));
}
