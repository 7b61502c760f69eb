/* A kernel with page-table isolation whose marks are not Linux's: one word says that the user PCID of
   the loaded address space must be flushed, as in FreeBSD (amd64: pc_ucr3_load_mask, pc_ucr3). What is
   stale of an address space that is not loaded is flushed when it is.

   MISTAKE leaves something out: 1 the mark; 2 the flush that a mark stands for; 3 what is owed to an
   address space that is not loaded. */
#include <stalemate.h>

typedef uint64_t u64;

#ifndef MISTAKE
#define MISTAKE 0
#endif

#define NOFLUSH (1ul << 63)
#define USER_BITS 0x1800 /* of CR3: the user root, and its PCID */
#define TRAMPOLINE __attribute__((section(".trampoline")))
#define STEP(name) STALEMATE_STEP(name)

STALEMATE_DESCRIBE(
    .cpus = 1,
    .spaces = STALEMATE_MM_COUNT,
    .pages = STALEMATE_PAGES_USER | STALEMATE_PAGES_KERNEL,
    .features = STALEMATE_KERNEL_PTI | STALEMATE_KERNEL_PCID,
    .steps = STEP(MAP) | STEP(REMAP) | STEP(UNMAP) | STEP(PROTECT) | STEP(FLUSH_ONE_USER)
        | STEP(FLUSH_ONE_KERNEL) | STEP(FLUSH_MM) | STEP(SWITCH_MM) | STEP(USER_NOP)
        | STEP(USER_READ) | STEP(USER_WRITE) | STEP(KERNEL_READ) | STEP(KERNEL_WRITE));

/* The words that the table describes, on a page of their own. */
struct {
    u64 load_mask, user_cr3, loaded, pad[509];
} words __attribute__((aligned(4096))) = { .load_mask = ~0ul };

/* What code needs that runs on either root. */
TRAMPOLINE u64 kernel_cr3, access_stack, access_fault, access_cr2;
TRAMPOLINE static u64 gdt[32], idt[30], tss[13];
TRAMPOLINE static char stack[1024] __attribute__((aligned(16)));

static u64 roots[STALEMATE_MM_COUNT], next_table = STALEMATE_TABLE_FRAMES;
static u64 owed[STALEMATE_MM_COUNT], has_pcid;

static u64 physical(void *at)
{
    return (u64)at - STALEMATE_KERNEL_BASE;
}

static struct stalemate_word_row table_of_words[] = {
    { STALEMATE_WORD_MARK, 0, 0, 0, 1, 0, ~0ul, "ucr3_load_mask" },
    { STALEMATE_WORD_MARK_PCID, 0, 0, 0, 1, 0, 0, "ucr3" },
    { STALEMATE_WORD_NOTHING, 0, 0, 0, 1, 0, 0, "curpmap" },
};

struct answer { u64 op, a, b, c, d; };

static struct answer hypercall(u64 number, u64 a, u64 b, u64 c, u64 d)
{
    __asm__ volatile("outb %%al, %5"
                     : "+a"(number), "+D"(a), "+S"(b), "+d"(c), "+c"(d)
                     : "i"(STALEMATE_PORT) : "memory");
    return (struct answer){ number, a, b, c, d };
}

static void load_cr3(u64 cr3)
{
    __asm__ volatile("mov %0, %%cr3" :: "r"(cr3) : "memory");
}

/* The flushes under test. */

static void mark(void)
{
#if MISTAKE != 1
    words.load_mask = ~NOFLUSH;
#endif
}

static void owe(u64 mm)
{
#if MISTAKE != 3
    owed[mm] = 1;
#else
    (void)mm;
#endif
}

static void switch_mm(u64 mm)
{
    if (words.loaded == mm + 1)
        return;
    if (words.loaded && words.load_mask != ~0ul)
        owed[words.loaded - 1] = 1;
    u64 keep = has_pcid && !owed[mm] ? NOFLUSH : 0;
    words.load_mask = ~0ul;
    words.user_cr3 = roots[mm] | USER_BITS | (mm + 1) | NOFLUSH;
    if (!has_pcid)
        words.user_cr3 = roots[mm] | 0x1000;
    kernel_cr3 = roots[mm] | (has_pcid ? (mm + 1) | NOFLUSH : 0);
    words.loaded = mm + 1;
    load_cr3(keep | (kernel_cr3 & ~NOFLUSH));
    if (owed[mm] && has_pcid)
        mark();
    owed[mm] = 0;
}

static void flush_one(u64 mm, u64 va)
{
    int user = va < STALEMATE_USER_END;
    if (!user)
        for (u64 other = 0; other < STALEMATE_MM_COUNT; other++)
            if (words.loaded != other + 1)
                owe(other);
    if (user && words.loaded != mm + 1)
        return owe(mm);
    __asm__ volatile("invlpg (%0)" :: "r"(va) : "memory");
    if (user && has_pcid)
        mark();
}

static void flush_mm(u64 mm)
{
    if (words.loaded != mm + 1)
        return owe(mm);
    load_cr3(kernel_cr3 & ~NOFLUSH);
    if (has_pcid)
        mark();
}

/* Page tables. */

/* The user root is the second page of a pair: CR3 bit 12 tells them apart. */
static u64 new_roots(void)
{
    u64 roots = (next_table + 8191) & ~8191ul;
    next_table = roots + 8192;
    return roots;
}

static volatile u64 *table(u64 at)
{
    return (u64 *)(STALEMATE_KERNEL_BASE + (at & 0xffffffffff000));
}

static volatile u64 *entry(u64 root, u64 va)
{
    volatile u64 *entry = &table(root)[va >> 39 & 511];
    for (int shift = 30; shift >= 12; shift -= 9) {
        if (!(*entry & 1)) {
            /* User roots have the same tables below them. */
            if (shift == 30 && va < STALEMATE_USER_END)
                table(root + 4096)[va >> 39 & 511] = next_table | 7;
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
        | (flags & STALEMATE_FLAG_DIRTY ? 0x40 : 0);
}

/* Accesses that may fault, in kernel mode or in user mode: what is read, or an error code. */

enum { NOTHING, LOAD, STORE };
u64 access(u64 va, u64 what, u64 value, int user);

__asm__(
    ".intel_syntax noprefix\n"
    ".globl _start\n"
    "_start: lea rsp, boot_stack[rip + 4096]; jmp boot\n"
    ".section .user, \"ax\"\n"
    "user_code: cmp esi, 1; je 1f; cmp esi, 2; je 2f; syscall\n"
    "1: mov rax, [rdi]; syscall\n"
    "2: mov [rdi], rdx; syscall\n"
    ".text\n"
    "access: push rbx; push rbp; push r12; push r13; push r14; push r15\n"
    "mov access_stack[rip], rsp\n"
    "mov qword ptr access_fault[rip], 0\n"
    "test ecx, ecx; jnz enter_user\n"
    "cmp esi, 1; je 1f; mov [rdi], rdx; jmp return_access\n"
    "1: mov rax, [rdi]; jmp return_access\n"
    "return_access: mov rsp, access_stack[rip]\n"
    "pop r15; pop r14; pop r13; pop r12; pop rbp; pop rbx; ret\n"
    ".section .trampoline.text, \"ax\"\n"
    /* The load mask is taken back before the load that it lets flush. */
    "enter_user: mov rax, words[rip + 8]; and rax, words[rip]\n"
#if MISTAKE == 2
    "bts rax, 63\n"
#endif
    "mov qword ptr words[rip], -1\n"
    "mov cr3, rax; xor eax, eax; mov ecx, 0x400000; mov r11d, 2; sysretq\n"
    "fault: pop rax; inc qword ptr access_fault[rip]\n"
    "mov rcx, cr2; mov access_cr2[rip], rcx\n"
    "left: mov rcx, kernel_cr3[rip]; mov cr3, rcx\n"
    "jmp return_access\n"
    ".text\n"
    ".att_syntax\n");

static char boot_stack[4096] __attribute__((aligned(16), used));
extern char left[], fault[], user_code[], trampoline_start[], trampoline_end[];

static void wrmsr(unsigned msr, u64 value)
{
    __asm__ volatile("wrmsr" :: "c"(msr), "a"((unsigned)value), "d"((unsigned)(value >> 32)));
}

static void init_cpu(void)
{
    struct { char pad[6]; unsigned short limit; u64 base; } at;
    u64 cs = STALEMATE_KERNEL_CS, base = (u64)tss, handler = (u64)fault, cr4;
    gdt[STALEMATE_KERNEL_CS / 8] = 0x00af9b000000ffff;
    gdt[STALEMATE_TSS_SELECTOR / 8] =
        103 | (base & 0xffffff) << 16 | 0x89UL << 40 | (base >> 24 & 0xff) << 56;
    gdt[STALEMATE_TSS_SELECTOR / 8 + 1] = base >> 32;
    *(u64 *)((char *)tss + 4) = (u64)stack + sizeof stack;
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
    if (has_pcid) {
        __asm__ volatile("mov %%cr4, %0" : "=r"(cr4));
        __asm__ volatile("mov %0, %%cr4" :: "r"(cr4 | 1ul << 17) : "memory");
    }
}

static u64 accessed(struct answer *step, int what, int user)
{
    switch_mm(step->a);
    step->b = access(step->b, what, step->c, user);
    return access_fault ? STALEMATE_STATUS_FAULT : STALEMATE_STATUS_DONE;
}

static void flush(u64 primitive, struct answer *step, u64 root, u64 start, u64 end)
{
    u64 number = hypercall(STALEMATE_BEGIN, primitive, root, start, end).op;
    if (primitive == STALEMATE_PRIMITIVE_MM)
        flush_mm(step->a);
    else
        flush_one(step->a, start);
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
    case STALEMATE_OP_FLUSH_ONE_USER:
        flush(STALEMATE_PRIMITIVE_ONE_USER, step, root, va, va + 4096);
        break;
    case STALEMATE_OP_FLUSH_ONE_KERNEL:
        flush(STALEMATE_PRIMITIVE_ONE_KERNEL, step, 0, va, va + 4096);
        break;
    case STALEMATE_OP_FLUSH_MM:
        flush(STALEMATE_PRIMITIVE_MM, step, root, 0, STALEMATE_USER_END);
        break;
    case STALEMATE_OP_SWITCH_MM: switch_mm(step->a); break;
    case STALEMATE_OP_USER_NOP: return accessed(step, NOTHING, 1);
    case STALEMATE_OP_USER_READ: return accessed(step, LOAD, 1);
    case STALEMATE_OP_USER_WRITE: return accessed(step, STORE, 1);
    case STALEMATE_OP_KERNEL_READ: return accessed(step, LOAD, 0);
    case STALEMATE_OP_KERNEL_WRITE: return accessed(step, STORE, 0);
    default: return STALEMATE_STATUS_REFUSED;
    }
    return STALEMATE_STATUS_DONE;
}

/* The tables by which user roots map the trampoline, and nothing else of the kernel half. */
static u64 trampoline_tables(void)
{
    u64 root = new_roots();
    for (u64 va = (u64)trampoline_start; va < (u64)trampoline_end; va += 4096)
        *entry(root, va) = (va - STALEMATE_KERNEL_BASE) | 3;
    return table(root)[511];
}

void boot(struct stalemate_boot_block *block)
{
    has_pcid = block->features & STALEMATE_FEATURE_PCID;
    u64 trampoline = trampoline_tables();
    for (int mm = 0; mm < STALEMATE_MM_COUNT; mm++) {
        roots[mm] = new_roots();
        table(roots[mm])[511] = table(STALEMATE_BOOT_TABLES)[511];
        table(roots[mm] + 4096)[511] = trampoline;
        *entry(roots[mm], STALEMATE_USER_CODE) = physical(user_code) | 5;
    }
    init_cpu();
    switch_mm(0);
    table_of_words[0].at = physical(&words.load_mask);
    table_of_words[1].at = physical(&words.user_cr3);
    table_of_words[2].at = physical(&words.loaded);
    block->words = physical(table_of_words);
    block->word_rows = 3;
    block->isolated = 1;
    block->trampoline_count = 1;
    block->trampoline[0].start = (u64)trampoline_start;
    block->trampoline[0].end = (u64)trampoline_end;
    hypercall(STALEMATE_READY, 0, 0, 0, 0);
    struct answer next = { 0 };
    for (u64 status = STALEMATE_STATUS_NONE;; status = step(&next))
        next = hypercall(STALEMATE_NEXT_STEP, status, next.b, access_cr2, 0);
}
