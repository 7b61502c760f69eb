/* The flush code under test: a small right one, for kernels that use neither PCIDs nor global
   pages. Put yours in its place, and say in harness.c what it uses: KERNEL_PCID, KERNEL_GLOBAL. */
#include "flush.h"

static unsigned loaded = ~0u;

static uint64_t read_cr3(void)
{
    uint64_t cr3;
    __asm__ volatile("mov %%cr3, %0" : "=r"(cr3));
    return cr3;
}

static void load_cr3(uint64_t cr3)
{
    __asm__ volatile("mov %0, %%cr3" :: "r"(cr3) : "memory");
}

void flush_init(uint64_t features)
{
    (void)features;
}

void switch_mm(unsigned mm, uint64_t root)
{
    if (loaded != mm)
        load_cr3(root);
    loaded = mm;
}

void flush_one_user(unsigned mm, uint64_t va)
{
    /* Without PCIDs nothing is cached of an address space that is not loaded. */
    if (loaded == mm)
        __asm__ volatile("invlpg (%0)" :: "r"(va) : "memory");
}

void flush_one_kernel(uint64_t va)
{
    __asm__ volatile("invlpg (%0)" :: "r"(va) : "memory");
}

void flush_mm(unsigned mm)
{
    if (loaded == mm)
        load_cr3(read_cr3());
}

void flush_all(void)
{
    load_cr3(read_cr3());
}
