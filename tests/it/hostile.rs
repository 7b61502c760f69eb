//! Hostile and unusual guests: what one does is an outcome, the same on both executors, and leaves
//! nothing behind for the next run.

use crate::common::{Rig, backends, config, say, scenario};
use stalemate::event::Trace;
use stalemate::executor::interp::Flaw;
use stalemate::executor::{Backend, HostExit};
use stalemate::kernel::steps::Guest;
use stalemate::machine::Stop;
use stalemate::runner::{Outcome, RunResult, crosscheck, crosscheck_all};
use stalemate::scenario::{Policy, Run};
use std::path::Path;
use std::process::Command;

/// A kernel that is ready at once. `BEFORE` runs once; at each step `STEP` runs with its result in
/// RSI, 0 at first, which the kernel reports as done. R15 is the direct map.
const KERNEL: &str = r"
.intel_syntax noprefix
.macro PUT at, value
  mov rax, \value
  mov [r15 + \at], rax
.endm
.globl _start
_start:
  lea rsp, [rip + stack]
  mov r15, 0xffffffff80000000
  mov qword ptr [rdi + 56], 0x120000
  mov qword ptr [rdi + 64], 0x130000
  lea rax, [rip + _start]
  mov [rdi + 72], rax
  mov qword ptr [rdi + 80], 0
  mov qword ptr [rdi + 88], 0
  mov eax, 1
  out 0x5a, al
  BEFORE
  xor edi, edi
  xor esi, esi
next:
  xor edx, edx
  mov eax, 2
  out 0x5a, al
  xor esi, esi
  STEP
  mov edi, 1
  jmp next
.bss
.balign 4096
.space 4096
stack:
.space 64
";

const LINK: &str = r"
ENTRY(_start)
PHDRS { all PT_LOAD FLAGS(7); }
SECTIONS { . = 0xffffffff80100000; .text : AT(0x100000) { *(.text*) *(.bss*) . = ALIGN(4096); } :all }
";

/// Tables for PML4 slot 510 that map its page 0 to frame 0x23000 and page 0x10 to frame 0x24000. The
/// PML4 is at 0x2000.
const SLOT_510: &str = "PUT 0x20000, 0x21063; PUT 0x21000, 0x22063; PUT 0x22000, 0x23063; \
                        PUT 0x22080, 0x24063; PUT 0x2ff0, 0x20063";

/// Writes 32 entries of `out`, as the monitor's, and at 0x400 of its page code that stores CS and CR3 in
/// place of IRETQ, and goes on after the load; then maps that where the monitor is at first, and loads.
const TAKES_OVER: &str = "
  lea rdi, [r15 + 0x23000]
  mov ecx, 0x20
2: mov eax, 0xfeeb00e6
  mov ah, cl
  mov [rdi], eax
  add rdi, 16
  inc ecx
  cmp ecx, 0x40
  jb 2b
  lea rsi, [rip + 8f]
  lea rdi, [r15 + 0x23400]
  mov ecx, 64
  rep movsb
  PUT 0x24000, 0
  PUT 0x24008, 0
  MAP
  mov rcx, 0xffffff0000000000
  mov rax, [rcx]
  mov rsi, [r15 + 0x24000]
  or rsi, [r15 + 0x24008]
  jmp 7f
8: push rax
  push rbx
  mov rbx, 0xffffffff80024000
  mov rax, cr3
  mov [rbx], rax
  mov rax, cs
  mov [rbx + 8], rax
  pop rbx
  pop rax
  add qword ptr [rsp], 3
  iretq
  .space 64
7:";

const USES_SLOT: &str = "MAP; PUT 0x24000, 0x1234567; mov rcx, 0xffffff0000010000; mov rsi, [rcx]";

/// A jump to where a monitor in PML4 slot 510 has SYSCALL lead to, with RCX behind a UD2.
const JUMPS_TO_LSTAR: &str = "lea rcx, [rip + 9f]; mov rax, 0xffffff0000100000; jmp rax; 9: ud2";

const USES_FIRST_PAGE: &str = "MAP; mov rcx, 0xffffff0000000000; mov rsi, [rcx]";

/// Reads 2,000 GiB that lead to the same frames through large pages, each through a table of its own,
/// and goes on where it was at the next step.
const MANY_TABLES: &str = "
  mov r12, [r15 + 0x7000]
  lea rdi, [r15 + 0x30000]
  mov ecx, 512
  mov eax, 0xe3
  rep stosq
  lea rdi, [r15 + 0x2000]
  mov ecx, 16
  mov eax, 0x30063
  rep stosq
  mov ecx, 2000
  mov edx, 0x40000000
2: mov rax, [r12]
  add r12, rdx
  dec ecx
  jnz 2b
  mov [r15 + 0x7000], r12
  mov rsi, r12";

const SETS_GS_BASE: &str =
    "PUT 0x24000, 0x1234567; mov ecx, 0xc0000101; mov eax, 0x80024000; mov edx, -1; wrmsr";

const LOADS_GS: &str = "mov rsi, gs:[0]; mov ax, 0x2b; mov gs, ax";

/// A kernel of [`KERNEL`]'s kind, or why there is none.
fn assembled(name: &str, before: &str, step: &str) -> Result<Guest, String> {
    // Tests run beside each other, each on a thread of its own.
    let thread = format!("hostile-{:?}", std::thread::current().id());
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(thread);
    let at = |ending: &str| folder.join(format!("{name}.{ending}"));
    let (source, script, image) = (at("s"), at("ld"), at("elf"));
    let step = step.replace("MAP", SLOT_510);
    std::fs::create_dir_all(&folder).expect("a folder");
    std::fs::write(&source, KERNEL.replace("BEFORE", before).replace("STEP", &step)).expect("file");
    std::fs::write(&script, LINK).expect("file");
    let mut cc = Command::new("cc");
    cc.args(["-nostdlib", "-static", "-no-pie", "-Wl,-n,--build-id=none,-z,max-page-size=4096"]);
    cc.arg("-Wl,--no-warn-rwx-segments").arg("-T").arg(&script).arg("-o").arg(&image).arg(&source);
    let output = cc.output().map_err(|error| format!("SKIP: cc: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name}: {said}");
    let bytes = std::fs::read(&image).expect("the image");
    std::fs::remove_dir_all(&folder).expect("the folder");
    Ok(Guest::from_elf(bytes).expect("a kernel"))
}

/// The guests that both executors run, by name.
fn guests() -> Vec<(&'static str, Guest)> {
    let all = [
        ("takes-over", "", TAKES_OVER),
        ("uses-slot-510", "", USES_SLOT),
        ("uses-first-page", "", USES_FIRST_PAGE),
        ("many-tables", "", MANY_TABLES),
    ];
    let mut guests = Vec::new();
    for (name, before, step) in all {
        match assembled(name, before, step) {
            Ok(guest) => guests.push((name, guest)),
            Err(reason) => say(&reason),
        }
    }
    guests
}

/// So many steps, of which the kernel looks at none.
fn steps(count: usize) -> Run {
    let steps = vec!["user read u0 -> 0x77"; count].join("\n");
    scenario(&steps).run(config("pcid-invpcid", Policy::Split, false), &[])
}

/// What the steps came to, as text.
fn values(result: &RunResult) -> Vec<String> {
    result.mismatches.iter().map(|mismatch| mismatch.got.clone()).collect()
}

#[test]
fn what_a_hostile_guest_sees_is_what_its_tables_say() {
    let read = |name| match name {
        "takes-over" | "uses-first-page" => ["0x0"; 4],
        "uses-slot-510" => ["0x1234567"; 4],
        _ => ["0x1f400000000", "0x3e800000000", "0x5dc00000000", "0x7d000000000"],
    };
    for (name, guest) in guests() {
        for backend in backends() {
            let executor = backend.name();
            let result = Rig::of(backend, guest.clone()).judge(&steps(4));
            let (stop, values) = (&result.stop, values(&result));
            assert_eq!(result.outcome, Outcome::Mismatch, "{name} on {executor}: {stop:?}");
            assert_eq!(values, read(name), "{name} on {executor}");
        }
    }
}

#[test]
fn a_hostile_guest_gives_the_same_events_on_both() {
    let kvm = kvm_or_skip!();
    for (name, guest) in guests() {
        let rigs = [kvm.clone(), Backend::interp()].map(|backend| Rig::of(backend, guest.clone()));
        let mut runners = rigs.map(|rig| rig.runner());
        let (_, difference) = crosscheck(&mut runners, &steps(4)).expect("the hosts work");
        assert!(difference.is_none(), "{name}: {:?}", difference.map(|found| found.sides));
    }
}

#[test]
fn a_jump_to_where_syscall_leads_is_a_jump() {
    let guest = match assembled("jumps-to-lstar", "", JUMPS_TO_LSTAR) {
        Ok(guest) => guest,
        Err(reason) => return say(&reason),
    };
    let kvm = kvm_or_skip!();
    let rigs = [kvm, Backend::interp()].map(|backend| Rig::of(backend, guest.clone()));
    let mut runners = rigs.map(|rig| rig.runner());
    let (result, difference) = crosscheck(&mut runners, &steps(1)).expect("the hosts work");
    assert!(difference.is_none(), "{:?}", difference.map(|found| found.sides));
    let (stop, vcpu) = result.stop.as_ref().expect("it has no handler");
    assert_eq!(vcpu.rip, 0xffff_ff00_0010_0000, "{stop}");
}

#[test]
fn three_runs_from_one_snapshot_are_equal_in_either_order() {
    let mut guests = guests();
    match assembled("loads-gs", SETS_GS_BASE, LOADS_GS) {
        Ok(guest) => guests.push(("loads-gs", guest)),
        Err(reason) => say(&reason),
    }
    let runs = [steps(1), steps(2)];
    for (name, guest) in guests {
        for backend in backends() {
            let executor = backend.name();
            let rig = Rig::of(backend, guest.clone());
            let mut first = [None, None];
            for order in [[0, 1], [1, 0]] {
                let mut runner = rig.runner();
                for index in [order; 3].concat() {
                    let mut trace = Trace::default();
                    let run = &runs[index];
                    let result = runner.run(run, Some(&mut trace)).expect("the host works");
                    let got = (result.outcome, values(&result), trace.events);
                    let expected = first[index].get_or_insert_with(|| got.clone());
                    assert_eq!(*expected, got, "{name} on {executor}, {order:?}, run {index}");
                }
            }
        }
    }
}

/// Tables that lead to themselves, or to one table again and again: more translations than memory holds.
#[test]
fn tables_that_reach_themselves_are_an_outcome_and_no_unbounded_work() {
    let itself = |count: usize| {
        format!(
            "lea rdi, [r15 + 0x2000]; mov eax, 0x2063; mov ecx, {count}; rep stosq; mov rsi, rdi"
        )
    };
    // Each of 512 entries of each level leads to the one table of the next.
    let again = "
      lea rdi, [r15 + 0x20000]; mov ecx, 512; mov eax, 0x21063; rep stosq
      lea rdi, [r15 + 0x21000]; mov ecx, 512; mov eax, 0x22063; rep stosq
      lea rdi, [r15 + 0x22000]; mov ecx, 512; mov eax, 0x23063; rep stosq
      PUT 0x2000, 0x20063";
    let cases = [itself(8), itself(24), itself(32), again.to_owned()];
    for (step, is_too_much) in cases.iter().zip([false, true, true, true]) {
        let guest = match assembled("leads-to-itself", "", step) {
            Ok(guest) => guest,
            Err(reason) => return say(&reason),
        };
        for backend in backends() {
            let executor = backend.name();
            let result = Rig::of(backend, guest.clone()).judge(&steps(1));
            let stopped = matches!(result.stop, Some((Stop::TooManyTranslations, _)));
            assert_eq!(stopped, is_too_much, "{step} on {executor}: {:?}", result.outcome);
            assert_eq!(result.outcome == Outcome::Unsupported, is_too_much);
        }
    }
}

/// What of a kernel's own code does not trap is said before it runs, and where.
#[test]
fn code_that_escapes_the_vmm_is_found_as_far_as_branches_lead() {
    // MOV from CS behind a branch, and one in bytes that nothing leads to.
    let step = "call 3f; jmp 4f; mov eax, cs; 3: jz 5f; 5: mov eax, ds; ret; 4: jmp 6f; \
                .byte 0x0f, 0xa2; 6: nop";
    let guest = match assembled("escapes", "", step) {
        Ok(guest) => guest,
        Err(reason) => return say(&reason),
    };
    let found = stalemate::kernel::steps::escapes::find(guest.image().bytes());
    let found: Vec<&str> = found.iter().map(|escape| escape.instruction.as_str()).collect();
    assert_eq!(found, ["mov eax,ds"]);
}

#[test]
fn after_some_hangs_the_other_runs_are_skipped() {
    let guest = match assembled("hangs", "", "jmp .") {
        Ok(guest) => guest,
        Err(reason) => return say(&reason),
    };
    let mut rig = Rig::of(Backend::interp(), guest);
    if let Backend::Interp { limit, .. } = &mut rig.backend {
        *limit = 10_000;
    }
    let mut runner = rig.runner();
    runner.limit_hangs(2);
    let results = runner.run_all(&vec![steps(1); 4], &mut |_| {}).expect("the host works");
    let said = |result: &RunResult| result.stop.as_ref().map(|(stop, _)| stop.to_string());
    assert_eq!(said(&results[1]).as_deref(), Some("no trap within 10000 instructions"));
    for result in &results[2..] {
        let skipped = "skipped: 2 runs of this kernel hung before";
        assert_eq!((result.outcome, said(result).as_deref()), (Outcome::Hang, Some(skipped)));
    }
}

#[test]
fn ports_and_clocks_that_a_guest_has_not_are_named() {
    for (name, step, expected) in [
        ("in", "in al, 0x60", "IN from port 0x60, where no device is"),
        ("in-dx", "mov edx, 0xcfc; in eax, dx", "IN from port 0xcfc, where no device is"),
        ("out-dx", "mov edx, 0x3f8; out dx, ax", "OUT to port 0x3f8, where no device is"),
        ("out", "out 0x80, al", "OUT to port 0x80, where no device is"),
        ("rdtsc", "rdtsc", "RDTSC on a machine that has no clock"),
    ] {
        let guest = match assembled(name, "", step) {
            Ok(guest) => guest,
            Err(reason) => return say(&reason),
        };
        for backend in backends() {
            let executor = backend.name();
            if name == "rdtsc" && executor != "interp" {
                // Not every host's KVM lets RDTSC trap: the differential test looks.
                continue;
            }
            let result = Rig::of(backend, guest.clone()).judge(&steps(1));
            let stop = result.stop.as_ref().map(|(stop, _)| stop.to_string());
            assert_eq!(stop.as_deref(), Some(expected), "{name} on {executor}");
            assert_eq!(result.outcome, Outcome::Crash, "{name} on {executor}");
        }
    }
}

/// A kernel that executes POPCNT, which no executor knows, at its second step, and an executor
/// that makes `flaw` of it; none where nothing assembles.
#[allow(irrefutable_let_patterns, reason = "the only one without the `kvm` feature")]
fn flawed(wrong: Flaw) -> Option<Rig> {
    let step = "inc dword ptr [r15 + 0x24000]; mov esi, [r15 + 0x24000]; cmp esi, 2; jne 2f; \
                popcnt eax, eax; 2:";
    let guest = assembled("breaks", "", step).map_err(|reason| say(&reason)).ok()?;
    let mut rig = Rig::of(Backend::interp(), guest);
    if let Backend::Interp { flaw, .. } = &mut rig.backend {
        *flaw = Some(wrong);
    }
    Some(rig)
}

#[test]
fn a_guest_that_breaks_the_hosts_machine_has_crashed_and_other_runs_go_on() {
    let Some(rig) = flawed(Flaw::Breaks) else { return };
    let runs = [1, 2, 1, 2, 2, 1].map(steps);
    let results = rig.runner().run_all(&runs, &mut |_| {}).expect("a guest's misdeed is no error");
    let outcomes: Vec<Outcome> = results.iter().map(|result| result.outcome).collect();
    let (well, broken) = (Outcome::Mismatch, Outcome::Crash);
    assert_eq!(outcomes, [well, broken, well, broken, broken, well]);
    let (stop, vcpu) = results[1].stop.as_ref().expect("it stopped");
    assert!(matches!(stop, Stop::Broken { exit: HostExit::Shutdown, .. }), "{stop}");
    assert!(stop.to_string().starts_with("the host shut the virtual machine down"), "{stop}");
    assert_eq!(vcpu.gpr[stalemate::arch::vcpu::gpr::RSI], 2, "its registers");
}

#[test]
fn where_the_host_fails_what_was_run_before_is_not_lost() {
    let Some(rig) = flawed(Flaw::Fails) else { return };
    let runs = [1, 1, 2, 1].map(steps);
    let interrupted = rig.runner().run_all(&runs, &mut |_| {}).expect_err("the third run fails");
    assert_eq!(interrupted.results.len(), 2);
    assert_eq!(interrupted.to_string(), "2 of 4 runs were made");
    let error = interrupted.error.expect("the host's").to_string();
    assert_eq!(error, "interpreting failed", "what failed is said");
    let mut both = [rig.runner(), rig.runner()];
    let interrupted = crosscheck_all(&mut both, &runs, &mut |_| {}).expect_err("so does it here");
    assert_eq!((interrupted.results.len(), interrupted.differences.len()), (2, 0));
}
