//! Frames that are handed out while the kernel runs: copies of pages, and page tables.

use crate::arch::memory::{self, Word};
use stalemate_shared::layout::{PAGE_SIZE, POOL_FRAME_COUNT, POOL_FRAMES};

/// Bit `n`: frame `n` of the pool is in use.
static TAKEN: Word = Word::new(0);

/// The first free frame, its contents as they were left; none if there is none.
pub fn take() -> Option<u64> {
    // A count of trailing ones would be TZCNT, which not every CPU has.
    let number = (0..POOL_FRAME_COUNT).find(|&number| TAKEN.take_bit(number))?;
    Some(POOL_FRAMES + number * PAGE_SIZE)
}

/// The first free frame, zeroed.
pub fn take_zeroed() -> Option<u64> {
    let frame = take()?;
    (0..PAGE_SIZE / 8).for_each(|word| memory::write_physical(frame + word * 8, 0));
    Some(frame)
}

/// Gives a frame back, and says so: from now on it may serve anybody.
pub fn give_back(frame: u64) {
    crate::arch::hypercall::frame_freed(frame);
    let number = frame.checked_sub(POOL_FRAMES).map(|offset| offset / PAGE_SIZE);
    if let Some(number) = number.filter(|&number| number < POOL_FRAME_COUNT) {
        TAKEN.clear_bit(number);
    }
}
