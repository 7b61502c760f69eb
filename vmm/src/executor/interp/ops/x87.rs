//! The control instructions of the x87, whose state is kept and not computed with.

use super::{Engine, Trapped, Uop};

/// #MF's vector.
const MATH_FAULT: u8 = 16;

/// WAIT: an exception that is pending comes here.
pub fn wait(e: &mut Engine, _: &Uop) -> Result<(), Trapped> {
    if e.fpu.is_pending() { e.raise(MATH_FAULT, 0) } else { Ok(()) }
}

/// FNINIT.
pub fn fninit(e: &mut Engine, _: &Uop) -> Result<(), Trapped> {
    e.fpu.initialize();
    Ok(())
}

/// FNCLEX.
pub fn fnclex(e: &mut Engine, _: &Uop) -> Result<(), Trapped> {
    e.fpu.clear_exceptions();
    Ok(())
}

/// FNSTCW.
pub fn fnstcw(e: &mut Engine, u: &Uop) -> Result<(), Trapped> {
    e.store_operand::<16>(u, e.fpu.control_word().into())
}

/// FLDCW.
pub fn fldcw(e: &mut Engine, u: &Uop) -> Result<(), Trapped> {
    wait(e, u)?;
    let word = e.load_operand::<16>(u)? as u16;
    e.fpu.set_control_word(word);
    Ok(())
}

/// FNSTSW to memory.
pub fn fnstsw(e: &mut Engine, u: &Uop) -> Result<(), Trapped> {
    e.store_operand::<16>(u, e.fpu.status_word().into())
}

/// FNSTSW AX.
pub fn fnstsw_ax(e: &mut Engine, _: &Uop) -> Result<(), Trapped> {
    e.write::<16>(0, e.fpu.status_word().into());
    Ok(())
}
