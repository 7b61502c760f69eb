//! The two 8259 interrupt controllers of a PC (Intel 8259A data sheet), the second on line 2 of the
//! first.

/// One 8259.
#[derive(Clone, Debug)]
struct Chip {
    /// The vector of its line 0.
    base: u8,
    mask: u8,
    requested: u8,
    in_service: u8,
    /// Which initialisation word comes next; 0 when none does.
    next_word: u8,
    /// A read of the command port gives what is in service, not what is requested.
    reads_service: bool,
    ends_itself: bool,
}

impl Chip {
    fn new() -> Self {
        Self {
            base: 0,
            mask: 0xff,
            requested: 0,
            in_service: 0,
            next_word: 0,
            reads_service: false,
            ends_itself: false,
        }
    }

    fn command(&mut self, value: u8) {
        if value & 0x10 != 0 {
            *self = Self { base: self.base, mask: 0, next_word: 2, ..Self::new() };
        } else if value & 0x08 != 0 {
            if value & 0x02 != 0 {
                self.reads_service = value & 0x01 != 0;
            }
        } else if value & 0x20 != 0 {
            let line = match value & 0x40 != 0 {
                true => 1 << (value & 7),
                // What is served with the highest priority.
                false => self.in_service & self.in_service.wrapping_neg(),
            };
            self.in_service &= !line;
        }
    }

    fn data(&mut self, value: u8) {
        match self.next_word {
            2 => (self.base, self.next_word) = (value & 0xf8, 3),
            3 => self.next_word = 4,
            4 => (self.ends_itself, self.next_word) = (value & 0x02 != 0, 0),
            _ => self.mask = value,
        }
    }

    /// The line that would interrupt now.
    fn pending(&self) -> Option<u8> {
        let ready = self.requested & !self.mask;
        let first = ready.trailing_zeros() as u8;
        (ready != 0 && u32::from(first) < self.in_service.trailing_zeros()).then_some(first)
    }

    fn take(&mut self, line: u8) -> u8 {
        self.requested &= !(1 << line);
        if !self.ends_itself {
            self.in_service |= 1 << line;
        }
        self.base + line
    }
}

/// Both of them.
#[derive(Clone, Debug)]
pub(super) struct Pic {
    chips: [Chip; 2],
}

/// The line of the first chip that the second is on.
const CASCADE: u8 = 2;

impl Pic {
    pub(super) fn new() -> Self {
        Self { chips: [Chip::new(), Chip::new()] }
    }

    pub(super) fn write(&mut self, chip: usize, is_data: bool, value: u8) {
        match is_data {
            true => self.chips[chip].data(value),
            false => self.chips[chip].command(value),
        }
    }

    pub(super) fn read(&self, chip: usize, is_data: bool) -> u8 {
        let chip = &self.chips[chip];
        match (is_data, chip.reads_service) {
            (true, _) => chip.mask,
            (false, true) => chip.in_service,
            (false, false) => chip.requested,
        }
    }

    /// A line, 0 to 15, goes up for a moment.
    pub(super) fn request(&mut self, line: u8) {
        self.chips[usize::from(line / 8)].requested |= 1 << (line % 8);
    }

    fn line(&self) -> Option<(Option<u8>, u8)> {
        let mut first = self.chips[0].clone();
        let second = self.chips[1].pending();
        if second.is_some() {
            first.requested |= 1 << CASCADE;
        }
        let line = first.pending()?;
        Some((second.filter(|_| line == CASCADE), line))
    }

    /// Whether an interrupt waits for the processor.
    pub(super) fn is_pending(&self) -> bool {
        self.line().is_some()
    }

    /// The processor takes the interrupt that waits: its vector.
    pub(super) fn acknowledge(&mut self) -> Option<u8> {
        match self.line()? {
            (Some(second), line) => {
                self.chips[0].take(line);
                Some(self.chips[1].take(second))
            }
            (None, line) => Some(self.chips[0].take(line)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn initialised() -> Pic {
        let mut pic = Pic::new();
        for (chip, base) in [(0, 0x30), (1, 0x38)] {
            pic.write(chip, false, 0x11);
            for word in [base, 4, 1] {
                pic.write(chip, true, word);
            }
            pic.write(chip, true, 0);
        }
        pic
    }

    #[test]
    fn the_line_with_the_lowest_number_comes_first_and_blocks_those_after_it() {
        let mut pic = initialised();
        pic.request(4);
        pic.request(0);
        assert_eq!(pic.acknowledge(), Some(0x30));
        assert!(!pic.is_pending(), "line 0 is in service");
        pic.write(0, false, 0x60);
        assert_eq!(pic.acknowledge(), Some(0x34));
    }

    #[test]
    fn what_is_masked_waits() {
        let mut pic = initialised();
        pic.write(0, true, 0x01);
        pic.request(0);
        assert_eq!(pic.acknowledge(), None);
        pic.write(0, true, 0);
        assert_eq!(pic.acknowledge(), Some(0x30));
    }

    #[test]
    fn the_second_chip_interrupts_by_line_2_of_the_first() {
        let mut pic = initialised();
        pic.request(8);
        assert_eq!(pic.acknowledge(), Some(0x38));
        pic.request(9);
        assert_eq!(pic.acknowledge(), None, "both chips are in service");
        pic.write(1, false, 0x20);
        pic.write(0, false, 0x62);
        assert_eq!(pic.acknowledge(), Some(0x39));
    }
}
