//! What an executor saves of the x87 and SSE state, and puts back.

use crate::common;
use crate::rig::{CODE, DATA, Side, State};
use stalemate::arch::vcpu::gpr;
use stalemate::executor::Trap;

/// Bytes that FXSAVE stores, and where in them the stack, MXCSR and XMM0 are.
const IMAGE: usize = 416;
const STACK_REGISTERS: usize = 32;
const MXCSR: usize = 24;
const XMM: usize = 160;

/// FXRSTOR64 \[RDI\], then INT3; FXSAVE64 \[RDI\], then INT3.
const LOAD: &[u8] = &[0x48, 0x0f, 0xae, 0x0f, 0xcc];
const STORE: &[u8] = &[0x48, 0x0f, 0xae, 0x07, 0xcc];

/// An image for FXRSTOR in which every register of the x87 and of SSE has `fill` in it.
fn image(fill: u8, mxcsr: u32) -> [u8; IMAGE] {
    let mut image = [0; IMAGE];
    // FCW masks all exceptions; FTW says that all of the stack is in use.
    image[..2].copy_from_slice(&0x37fu16.to_le_bytes());
    image[4] = 0xff;
    image[MXCSR..][..4].copy_from_slice(&mxcsr.to_le_bytes());
    for number in 0..8 {
        // A number: its exponent, and the integer bit that goes with it.
        let register = &mut image[STACK_REGISTERS + number * 16..][..10];
        register.copy_from_slice(&[fill, number as u8, 0, 0, 0, 0, 0, 0x80, 0xff, 0x3f]);
    }
    for (number, register) in image[XMM..].chunks_mut(16).enumerate() {
        register.fill(fill);
        register[0] = number as u8;
    }
    image
}

/// Runs `code` on the page at [`DATA`].
fn execute(side: &mut Side, code: &[u8]) {
    side.put(CODE, code);
    side.vcpu.rip = CODE;
    side.vcpu.gpr[gpr::RDI] = DATA;
    let trap = side.run();
    assert!(matches!(trap, Trap::Exception { vector: 3, .. }), "{}: {trap:?}", side.name);
}

/// Has the guest load its registers.
fn load(side: &mut Side, image: &[u8]) {
    side.put(DATA, image);
    execute(side, LOAD);
}

/// Has the guest store its registers.
fn stored(side: &mut Side) -> Vec<u8> {
    side.put(DATA, &[0; IMAGE]);
    execute(side, STORE);
    side.bytes(DATA, IMAGE)
}

#[test]
fn what_the_guest_loaded_is_saved_and_put_back() {
    for backend in common::backends() {
        let mut side = Side::new(&backend);
        side.load(&State::zero());
        load(&mut side, &image(0x5a, 0x1f80));
        let first = stored(&mut side);
        assert_eq!(first[XMM..], image(0x5a, 0)[XMM..], "{}", side.name);
        let saved = side.save_fpu();
        load(&mut side, &image(0xa5, 0x7f80));
        let second = stored(&mut side);
        for at in [STACK_REGISTERS, STACK_REGISTERS + 7 * 16, MXCSR + 1, XMM + 1, IMAGE - 1] {
            assert_ne!(first[at], second[at], "{}: byte {at} is to be another", side.name);
        }
        side.restore_fpu(&saved);
        assert_eq!(stored(&mut side), first, "{}", side.name);
    }
}
