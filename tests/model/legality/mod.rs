//! When MOV CR0, MOV CR3, MOV CR4, INVPCID, INVLPG and walks fault, and that exceptions go through
//! the guest's own tables; what stores that the model carries out do: on the processor model alone,
//! without a machine.

mod control;
mod cr0;
mod delivery;
mod invalidation;
mod msr;
mod returns;
mod rights;
mod segments;
mod sensitive;
mod world;
