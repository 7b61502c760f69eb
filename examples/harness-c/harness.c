/* A harness for flush code: it boots, does the steps that Stalemate hands it, and calls flush.c
   where one is a flush. docs/guest.md says what all of it means. */
#include "flush.h"
#include <stalemate.h>

typedef uint64_t u64;

#define STEP(name) STALEMATE_STEP(name)
STALEMATE_DESCRIBE(
    .cpus = 1,
    .spaces = STALEMATE_MM_COUNT,
    .pages = STALEMATE_PAGES_USER | STALEMATE_PAGES_LARGE | STALEMATE_PAGES_KERNEL,
    .features = STALEMATE_KERNEL_NO_PTI,
    .steps = STEP(MAP) | STEP(REMAP) | STEP(UNMAP) | STEP(PROTECT) | STEP(CLEAN) | STEP(AGE)
        | STEP(FLUSH_ONE_USER) | STEP(FLUSH_ONE_KERNEL) | STEP(FLUSH_RANGE)
        | STEP(FLUSH_KERNEL_RANGE) | STEP(FLUSH_MM) | STEP(FLUSH_ALL) | STEP(SWITCH_MM)
        | STEP(USER_NOP) | STEP(USER_READ) | STEP(USER_WRITE) | STEP(KERNEL_READ)
        | STEP(KERNEL_WRITE));

struct answer { u64 op, a, b, c, d; };

static struct answer hypercall(u64 number, u64 a, u64 b, u64 c, u64 d)
{
    __asm__ volatile("outb %%al, %5"
                     : "+a"(number), "+D"(a), "+S"(b), "+d"(c), "+c"(d)
                     : "i"(STALEMATE_PORT) : "memory");
    return (struct answer){ number, a, b, c, d };
}

/* Page tables: a root for each address space, all with the kernel's half as it was at boot. */

static u64 roots[STALEMATE_MM_COUNT], next_table = STALEMATE_TABLE_FRAMES;

static volatile u64 *table(u64 at)
{
    return (u64 *)(STALEMATE_KERNEL_BASE + (at & 0xffffffffff000));
}

/* Pages of 2 MiB lie in one range. */
static u64 page_size(u64 va)
{
    u64 in_range = va - STALEMATE_USER_LARGE_PAGES;
    return in_range < STALEMATE_USER_LARGE_PAGE_COUNT * 0x200000UL ? 0x200000 : 4096;
}

/* The entry that maps va, or would. */
static volatile u64 *entry(u64 root, u64 va)
{
    int last = page_size(va) == 4096 ? 12 : 21;
    volatile u64 *entry = &table(root)[va >> 39 & 511];
    for (int shift = 30; shift >= last; shift -= 9) {
        if (!(*entry & 1)) {
            *entry = next_table | 7;
            next_table += 4096;
        }
        entry = &table(*entry)[va >> shift & 511];
    }
    return entry;
}

static u64 leaf(u64 va, u64 frame, u64 flags)
{
    return frame | 1 | (flags & STALEMATE_FLAG_WRITABLE ? 2 : 0) | (va < STALEMATE_USER_END ? 4 : 0)
        | (flags & STALEMATE_FLAG_DIRTY ? 0x40 : 0) | (flags & STALEMATE_FLAG_LARGE ? 0x80 : 0);
}

/* Accesses that may fault, in kernel or user mode: what is read, or a page fault's error code. */

enum { NOTHING, LOAD, STORE };
u64 access_stack, access_fault, access_cr2;
u64 access(u64 va, u64 what, u64 value, int user);

__asm__(
    ".intel_syntax noprefix\n"
    ".globl _start\n"
    "_start: lea rsp, stack[rip + 4096]\n"
    "jmp boot\n"
    ".section .user, \"ax\"\n"
    "user_code: cmp esi, 1; je 1f; cmp esi, 2; je 2f; syscall\n"
    "1: mov rax, [rdi]; syscall\n"
    "2: mov [rdi], rdx; syscall\n"
    ".text\n"
    "access: push rbx; push rbp; push r12; push r13; push r14; push r15\n"
    "mov access_stack[rip], rsp\n"
    "mov qword ptr access_fault[rip], 0\n"
    "test ecx, ecx; jnz 3f\n"
    "cmp esi, 1; je 1f; mov [rdi], rdx; jmp left\n"
    "1: mov rax, [rdi]; jmp left\n"
    "3: mov ecx, 0x400000; mov r11d, 2; sysretq\n"
    "fault: pop rax; inc qword ptr access_fault[rip]; mov rcx, cr2; mov access_cr2[rip], rcx\n"
    "left: mov rsp, access_stack[rip]\n"
    "pop r15; pop r14; pop r13; pop r12; pop rbp; pop rbx; ret\n"
    ".bss\n"
    ".balign 16\n"
    "stack: .space 4096\n"
    ".text\n"
    ".att_syntax\n");

static u64 gdt[32], idt[30], tss[13];
extern char left[], fault[], stack[], user_code[];

static void wrmsr(unsigned msr, u64 value)
{
    __asm__ volatile("wrmsr" :: "c"(msr), "a"((unsigned)value), "d"((unsigned)(value >> 32)));
}

/* A page fault in user mode switches to RSP0, and needs a code segment; SYSCALL needs registers. */
static void init_cpu(void)
{
    struct { char pad[6]; unsigned short limit; u64 base; } at;
    u64 cs = STALEMATE_KERNEL_CS, base = (u64)tss, handler = (u64)fault;
    gdt[STALEMATE_KERNEL_CS / 8] = 0x00af9b000000ffff;
    gdt[STALEMATE_TSS_SELECTOR / 8] =
        103 | (base & 0xffffff) << 16 | 0x89UL << 40 | (base >> 24 & 0xff) << 56;
    gdt[STALEMATE_TSS_SELECTOR / 8 + 1] = base >> 32;
    *(u64 *)((char *)tss + 4) = (u64)stack + 4096;
    idt[28] = (handler & 0xffff) | cs << 16 | 0x8e00UL << 32 | (handler >> 16 & 0xffff) << 48;
    idt[29] = handler >> 32;
    at.limit = sizeof gdt - 1, at.base = (u64)gdt;
    __asm__ volatile("lgdt %0" :: "m"(at.limit) : "memory");
    at.limit = sizeof idt - 1, at.base = (u64)idt;
    __asm__ volatile("lidt %0; ltr %w1" :: "m"(at.limit), "r"(STALEMATE_TSS_SELECTOR) : "memory");
    wrmsr(0xc0000080, 0xd01); /* EFER: SCE, LME, LMA, NXE */
    wrmsr(0xc0000081, (u64)STALEMATE_SYSRET_BASE << 48 | cs << 32);
    wrmsr(0xc0000082, (u64)left);
    wrmsr(0xc0000084, 0x47700);
}

static u64 accessed(struct answer *step, u64 root, int what, int user)
{
    switch_mm(step->a, root);
    step->b = access(step->b, what, step->c, user);
    return access_fault ? STALEMATE_STATUS_FAULT : STALEMATE_STATUS_DONE;
}

/* A flush, between what says that it begins and that it returns; pages from b to end. */
static void flush(u64 primitive, struct answer *step, u64 root, u64 end)
{
    u64 number = hypercall(STALEMATE_BEGIN, primitive, root, step->b, end).op;
    if (primitive == STALEMATE_PRIMITIVE_MM)
        flush_mm(step->a);
    else if (primitive == STALEMATE_PRIMITIVE_ALL)
        flush_all();
    else
        for (u64 va = step->b; va < end; va += page_size(va))
            root ? flush_one_user(step->a, va) : flush_one_kernel(va);
    hypercall(STALEMATE_END, number, 0, 0, 0);
}

static u64 step(struct answer *step)
{
    if (step->a >= STALEMATE_MM_COUNT)
        return STALEMATE_STATUS_REFUSED;
    u64 root = roots[step->a], va = step->b;
    volatile u64 *pte = entry(root, va);
    switch (step->op) {
    case STALEMATE_OP_MAP:
    case STALEMATE_OP_REMAP: *pte = leaf(va, step->c, step->d); break;
    case STALEMATE_OP_UNMAP: *pte = 0; break;
    case STALEMATE_OP_PROTECT:
        *pte = (*pte & ~2UL) | (step->c & STALEMATE_FLAG_WRITABLE ? 2 : 0);
        break;
    case STALEMATE_OP_CLEAN: *pte &= ~0x40UL; break;
    case STALEMATE_OP_AGE: *pte &= ~0x20UL; break;
    case STALEMATE_OP_FLUSH_ONE_USER:
        flush(STALEMATE_PRIMITIVE_ONE_USER, step, root, va + page_size(va));
        break;
    case STALEMATE_OP_FLUSH_ONE_KERNEL:
        flush(STALEMATE_PRIMITIVE_ONE_KERNEL, step, 0, va + 4096);
        break;
    case STALEMATE_OP_FLUSH_RANGE:
        flush(STALEMATE_PRIMITIVE_RANGE, step, root, step->c);
        break;
    case STALEMATE_OP_FLUSH_KERNEL_RANGE:
        flush(STALEMATE_PRIMITIVE_KERNEL_RANGE, step, 0, step->c);
        break;
    case STALEMATE_OP_FLUSH_MM:
        step->b = 0;
        flush(STALEMATE_PRIMITIVE_MM, step, root, STALEMATE_USER_END);
        break;
    case STALEMATE_OP_FLUSH_ALL:
        step->b = 0;
        flush(STALEMATE_PRIMITIVE_ALL, step, 0, ~0UL);
        break;
    case STALEMATE_OP_SWITCH_MM: switch_mm(step->a, root); break;
    case STALEMATE_OP_USER_NOP: return accessed(step, root, NOTHING, 1);
    case STALEMATE_OP_USER_READ: return accessed(step, root, LOAD, 1);
    case STALEMATE_OP_USER_WRITE: return accessed(step, root, STORE, 1);
    case STALEMATE_OP_KERNEL_READ: return accessed(step, root, LOAD, 0);
    case STALEMATE_OP_KERNEL_WRITE: return accessed(step, root, STORE, 0);
    default: return STALEMATE_STATUS_REFUSED;
    }
    return STALEMATE_STATUS_DONE;
}

void boot(struct stalemate_boot_block *block)
{
    for (int mm = 0; mm < STALEMATE_MM_COUNT; mm++) {
        roots[mm] = next_table;
        next_table += 4096;
        table(roots[mm])[511] = table(STALEMATE_BOOT_TABLES)[511];
        *entry(roots[mm], STALEMATE_USER_CODE) = ((u64)user_code - STALEMATE_KERNEL_BASE) | 5;
    }
    init_cpu();
    flush_init(block->features);
    switch_mm(0, roots[0]);
    hypercall(STALEMATE_READY, 0, 0, 0, 0);
    struct answer next = { 0 };
    for (u64 status = STALEMATE_STATUS_NONE;; status = step(&next))
        next = hypercall(STALEMATE_NEXT_STEP, status, next.b, access_cr2, 0);
}
