//! The IO-APIC, by which devices interrupt: an index, a window, and a table of where each line leads
//! (82093AA, 3.2).

/// Where it is.
pub const ADDRESS: u64 = 0xfec0_0000;
/// Its number.
pub const ID: u8 = 2;

const LINES: usize = 24;
const WINDOW: u64 = 0x10;
/// Version 0x11, and the number of the last line.
const VERSION: u32 = (LINES as u32 - 1) << 16 | 0x11;
const MASKED: u32 = 1 << 16;
/// The first register of the table, of which each line has two.
const TABLE: u32 = 0x10;

/// The IO-APIC.
#[derive(Clone, Debug)]
pub struct IoApic {
    index: u32,
    table: [u32; LINES * 2],
}

impl IoApic {
    pub fn new() -> Self {
        let mut table = [0; LINES * 2];
        table.iter_mut().step_by(2).for_each(|low| *low = MASKED);
        Self { index: 0, table }
    }

    fn entry(&mut self) -> Option<&mut u32> {
        self.table.get_mut(self.index.checked_sub(TABLE)? as usize)
    }

    pub fn load(&mut self, offset: u64) -> u32 {
        match (offset, self.index) {
            (0, index) => index,
            (WINDOW, 0) => u32::from(ID) << 24,
            (WINDOW, 1) => VERSION,
            (WINDOW, _) => self.entry().map_or(0, |entry| *entry),
            _ => 0,
        }
    }

    pub fn store(&mut self, offset: u64, value: u32) {
        match offset {
            0 => self.index = value & 0xff,
            WINDOW => {
                if let Some(entry) = self.entry() {
                    *entry = value;
                }
            }
            _ => {}
        }
    }

    /// A line goes up: the CPU, by its APIC's number, and the vector; none where it is masked.
    pub fn raise(&self, line: u8) -> Option<(u8, u8)> {
        let at = usize::from(line) * 2;
        let (low, high) = (*self.table.get(at)?, *self.table.get(at + 1)?);
        (low & MASKED == 0).then_some(((high >> 24) as u8, low as u8))
    }
}
