//! An ELF executable out of what is to be in memory.

use std::collections::BTreeMap;

const PAGE: u64 = 0x1000;
const EM_X86_64: u16 = 62;

/// What is in memory, page by page.
#[derive(Default)]
pub struct Image {
    pages: BTreeMap<u64, Vec<u8>>,
    /// What is zero.
    reserved: Vec<(u64, u64)>,
}

impl Image {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn bytes(&mut self, at: u64, bytes: Vec<u8>) {
        for (index, byte) in bytes.into_iter().enumerate() {
            let at = at + index as u64;
            let page = self.pages.entry(at & !(PAGE - 1)).or_insert_with(|| vec![0; PAGE as usize]);
            page[(at % PAGE) as usize] = byte;
        }
    }

    pub fn word(&mut self, at: u64, word: u64) {
        self.bytes(at, word.to_le_bytes().to_vec());
    }

    pub fn reserve(&mut self, at: u64, bytes: u64) {
        self.reserved.push((at, bytes));
    }

    /// The file, whose addresses are `offset` above those in memory.
    pub fn elf(&self, entry: u64, offset: u64) -> Vec<u8> {
        let mut segments: Vec<(u64, Vec<u8>, u64)> = Vec::new();
        for (&at, page) in &self.pages {
            match segments.last_mut() {
                Some((begin, bytes, size)) if *begin + *size == at => {
                    bytes.extend(page);
                    *size += PAGE;
                }
                _ => segments.push((at, page.clone(), PAGE)),
            }
        }
        segments.extend(self.reserved.iter().map(|&(at, bytes)| (at, Vec::new(), bytes)));
        let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
        [2, EM_X86_64].iter().for_each(|half| file.extend(half.to_le_bytes()));
        file.extend(1_u32.to_le_bytes());
        [entry, 64, 0].iter().for_each(|word| file.extend(word.to_le_bytes()));
        file.extend(0_u32.to_le_bytes());
        let counts = [64, 56, segments.len() as u16, 0, 0, 0];
        counts.iter().for_each(|half| file.extend(half.to_le_bytes()));
        let mut place = 64 + 56 * segments.len() as u64;
        for (at, bytes, size) in &segments {
            file.extend(1_u32.to_le_bytes());
            file.extend(7_u32.to_le_bytes());
            let len = bytes.len() as u64;
            let words = [place, at + offset, *at, len, *size, 1];
            words.iter().for_each(|word| file.extend(word.to_le_bytes()));
            place += len;
        }
        segments.iter().for_each(|(_, bytes, _)| file.extend(bytes));
        file
    }
}

/// The file with sections that have these names, addresses and contents.
pub fn with_sections(mut file: Vec<u8>, sections: &[(&str, u64, Vec<u8>)]) -> Vec<u8> {
    const NAMES: &str = ".shstrtab";
    let mut names = vec![0_u8];
    let mut headers = vec![[0_u8; 64]];
    let mut contents = Vec::new();
    let base = file.len() as u64;
    let mut add = |name: &str, kind: u32, at: u64, bytes: Option<&[u8]>| {
        let first = names.len() as u32;
        names.extend(name.bytes().chain([0]));
        let bytes = bytes.map_or_else(|| names.clone(), <[u8]>::to_vec);
        let mut header = [first, kind].map(u32::to_le_bytes).concat();
        let words = [2, at, base + contents.len() as u64, bytes.len() as u64, 0, 1, 0];
        words.iter().for_each(|word| header.extend(word.to_le_bytes()));
        headers.push(header.try_into().expect("64 bytes"));
        contents.extend(bytes);
    };
    sections.iter().for_each(|(name, at, bytes)| add(name, 1, *at, Some(bytes)));
    add(NAMES, 3, 0, None);
    file.extend(contents);
    let table = file.len() as u64;
    file[0x28..0x30].copy_from_slice(&table.to_le_bytes());
    let counts = [64, headers.len() as u16, headers.len() as u16 - 1];
    for (place, count) in [0x3a, 0x3c, 0x3e].into_iter().zip(counts) {
        file[place..place + 2].copy_from_slice(&count.to_le_bytes());
    }
    headers.iter().for_each(|header| file.extend(header));
    file
}
