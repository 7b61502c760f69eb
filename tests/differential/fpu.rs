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

/// Runs `code` and INT3: the trap's vector, and AX.
fn ends(side: &mut Side, code: &[u8]) -> (u8, u16) {
    side.put(CODE, &[code, &[0xcc]].concat());
    side.vcpu.rip = CODE;
    side.vcpu.gpr[gpr::RDI] = DATA;
    match side.run() {
        Trap::Exception { vector, .. } => (vector, side.vcpu.gpr[gpr::RAX] as u16),
        trap => panic!("{}: {trap:?}", side.name),
    }
}

#[test]
fn the_x87_can_be_controlled_on_every_executor() {
    // FNSTSW AX; FNCLEX and FNSTSW AX; FNINIT and FNSTSW AX; FLDCW \[RDI\] and FNSTSW AX; WAIT.
    const STATUS: &[u8] = &[0xdf, 0xe0];
    const CLEAR: &[u8] = &[0xdb, 0xe2, 0xdf, 0xe0];
    const INITIALIZE: &[u8] = &[0xdb, 0xe3, 0xdf, 0xe0];
    const LOAD_CONTROL: &[u8] = &[0xd9, 0x2f, 0xdf, 0xe0];
    const WAIT: &[u8] = &[0x9b];
    const BREAKPOINT: u8 = 3;
    const MATH_FAULT: u8 = 16;
    for backend in common::backends() {
        let mut side = Side::new(&backend);
        let name = side.name;
        side.load(&State::zero());
        // TOP is 3, and there was an invalid operation.
        let mut first = image(0x11, 0x1f80);
        first[2..4].copy_from_slice(&0x1801u16.to_le_bytes());
        load(&mut side, &first);
        assert_eq!(ends(&mut side, STATUS), (BREAKPOINT, 0x1801), "{name}");
        assert_eq!(ends(&mut side, WAIT).0, BREAKPOINT, "{name}: it is masked");
        side.put(DATA, &[0x7e, 0x03]);
        assert_eq!(ends(&mut side, LOAD_CONTROL), (BREAKPOINT, 0x9881), "{name}: no longer");
        assert_eq!(ends(&mut side, WAIT).0, MATH_FAULT, "{name}");
        assert_eq!(ends(&mut side, CLEAR), (BREAKPOINT, 0x1800), "{name}");
        assert_eq!(ends(&mut side, WAIT).0, BREAKPOINT, "{name}");
        assert_eq!(ends(&mut side, INITIALIZE), (BREAKPOINT, 0), "{name}");
        let now = stored(&mut side);
        assert_eq!(&now[..5], &[0x7f, 3, 0, 0, 0], "{name}");
        for number in 0..8 {
            let [was, is] = [(number + 5) % 8, number].map(|n| STACK_REGISTERS + n * 16);
            assert_eq!(now[is..is + 10], first[was..was + 10], "{name}: R{number} stays");
        }
    }
}
