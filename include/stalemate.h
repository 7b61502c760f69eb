/* What a kernel and Stalemate agree on, for kernels in C. docs/guest.md says what each of it means; the
   crate in shared/, which a test compares this file with, says it for Rust. */
#ifndef STALEMATE_H
#define STALEMATE_H

#include <stdint.h>

#define STALEMATE_VERSION 5
#define STALEMATE_MAGIC 0x00384d454c415453 /* "STALEM8" */

/* Written by Stalemate before entry; the kernel completes it before READY. */
struct stalemate_range {
    uint64_t start;
    uint64_t end;
};

#define STALEMATE_TRAMPOLINE_RANGES 8

struct stalemate_boot_block {
    uint64_t magic;
    uint32_t version;
    uint32_t size;
    uint64_t memory_size;
    uint32_t policy;
    uint32_t options;
    uint64_t features;
    uint64_t cpus;
    uint64_t variant;
    /* From the kernel. */
    uint64_t tlb_state;
    uint64_t mm_states;
    uint64_t ap_entry;
    uint64_t kernel_global;
    uint64_t trampoline_count;
    struct stalemate_range trampoline[STALEMATE_TRAMPOLINE_RANGES];
    uint64_t isolated;
    uint64_t words;
    uint64_t word_rows;
};

/* A row of the table by which a kernel describes its words: STALEMATE_WORD_... says what one means. */
#define STALEMATE_WORDS_NAME_SIZE 24
#define STALEMATE_WORDS_MAX_ROWS 64
#define STALEMATE_WORDS_MAX_WORDS 16384

struct stalemate_word_row {
    uint64_t meaning;
    uint64_t at;
    uint64_t cpu_stride;
    uint64_t stride;
    uint64_t count;
    uint64_t pcid;
    uint64_t idle;
    char name[STALEMATE_WORDS_NAME_SIZE];
};

#define STALEMATE_WORD_NOTHING 0
#define STALEMATE_WORD_LOADED 1
#define STALEMATE_WORD_LAZY 2
#define STALEMATE_WORD_OTHERS_STALE 3
#define STALEMATE_WORD_MARKS 4
#define STALEMATE_WORD_MARK 5
#define STALEMATE_WORD_MARK_PCID 6
#define STALEMATE_WORD_PENDING 7
#define STALEMATE_WORD_WAITING 8
#define STALEMATE_WORD_SLOT_OWNER 9
#define STALEMATE_WORD_SLOT_GENERATION 10
#define STALEMATE_WORD_SPACE_NUMBER 11
#define STALEMATE_WORD_SPACE_GENERATION 12
#define STALEMATE_WORD_SPACE_ROOT 13
#define STALEMATE_WORD_SPACE_CPUS 14

/* Bits of features. */
#define STALEMATE_FEATURE_PCID 0x1
#define STALEMATE_FEATURE_INVPCID 0x2
#define STALEMATE_FEATURE_PGE 0x4
#define STALEMATE_FEATURE_SMEP 0x8

/* Bits of options. */
#define STALEMATE_OPTION_PTI 0x1
#define STALEMATE_OPTION_GLOBAL_WITH_PTI 0x2
#define STALEMATE_OPTION_PARANOID_REWRITE 0x4
#define STALEMATE_OPTION_NMI_FLUSH 0x8

/* Policies. */
#define STALEMATE_POLICY_SPLIT 0
#define STALEMATE_POLICY_UNSPLIT 1
#define STALEMATE_POLICY_FULL 2
#define STALEMATE_POLICY_EAGER 3
#define STALEMATE_POLICY_FALLBACK 4
#define STALEMATE_POLICY_JOINED 5

/* What a kernel says of itself in its file: once, STALEMATE_DESCRIBE with the fields that it has, as in
       STALEMATE_DESCRIBE(.steps = STALEMATE_STEP(MAP) | STALEMATE_STEP(UNMAP), .pages = ...);
   Its linker script must keep the section .note.stalemate. */
struct stalemate_description {
    uint32_t version;
    uint32_t cpus;
    uint64_t steps;
    uint64_t pages;
    uint64_t features;
    uint64_t spaces;
    uint64_t memory;
    uint64_t user_pages;
    uint64_t large_pages;
    uint64_t table_pages;
    uint64_t kernel_pages;
};

struct stalemate_note {
    uint32_t name_size;
    uint32_t size;
    uint32_t kind;
    char name[12];
    struct stalemate_description description;
};

#define STALEMATE_DESCRIBE(...)                                                            \
    __attribute__((section(".note.stalemate"), used, aligned(8)))                          \
    static const struct stalemate_note stalemate_note = {                                  \
        10, sizeof(struct stalemate_description), 1, "Stalemate",                          \
        { .version = STALEMATE_VERSION, __VA_ARGS__ }                                      \
    }
#define STALEMATE_STEP(op) (1ull << STALEMATE_OP_##op)

/* Bits of pages. */
#define STALEMATE_PAGES_USER 0x1
#define STALEMATE_PAGES_LARGE 0x2
#define STALEMATE_PAGES_TABLE 0x4
#define STALEMATE_PAGES_KERNEL 0x8

/* Bits of a description's features. */
#define STALEMATE_KERNEL_PCID 0x1
#define STALEMATE_KERNEL_PTI 0x2
#define STALEMATE_KERNEL_NO_PTI 0x4
#define STALEMATE_KERNEL_GLOBAL 0x8
#define STALEMATE_KERNEL_INTERRUPTS 0x10
#define STALEMATE_KERNEL_POLICIES 0x20
#define STALEMATE_KERNEL_MISTAKES 0x40

/* Hypercalls: OUT of AL to this port, their number in RAX. */
#define STALEMATE_PORT 0x5a
#define STALEMATE_DEBUG_PORT 0xe9 /* OUT of AL prints a byte */
#define STALEMATE_READY 1
#define STALEMATE_NEXT_STEP 2
#define STALEMATE_BEGIN 3
#define STALEMATE_END 4
#define STALEMATE_FRAME_FREED 5
#define STALEMATE_PANIC 6
#define STALEMATE_YIELD 7
#define STALEMATE_DEFER 8
#define STALEMATE_CONTENTS_TAKEN 9
#define STALEMATE_ENTRY_READ 10

/* Primitives, of BEGIN. */
#define STALEMATE_PRIMITIVE_ONE_USER 1
#define STALEMATE_PRIMITIVE_ONE_KERNEL 2
#define STALEMATE_PRIMITIVE_RANGE 3
#define STALEMATE_PRIMITIVE_MM 4
#define STALEMATE_PRIMITIVE_ALL 5
#define STALEMATE_PRIMITIVE_KERNEL_RANGE 6
#define STALEMATE_PRIMITIVE_BATCHED 7
#define STALEMATE_PRIMITIVE_FREE_TABLES 8
#define STALEMATE_PRIMITIVE_ONE_KERNEL_HERE 9

/* Deferrals, of DEFER and UNMAP_LAZILY. */
#define STALEMATE_DEFERRAL_BATCHED 7
#define STALEMATE_DEFERRAL_REUSE 9
#define STALEMATE_DEFERRAL_REUSE_HERE 10

/* Steps. */
#define STALEMATE_OP_STOP 0
#define STALEMATE_OP_MAP 1
#define STALEMATE_OP_REMAP 2
#define STALEMATE_OP_UNMAP 3
#define STALEMATE_OP_PROTECT 4
#define STALEMATE_OP_CLEAN 5
#define STALEMATE_OP_AGE 6
#define STALEMATE_OP_UNMAP_BATCHED 7
#define STALEMATE_OP_FORK 8
#define STALEMATE_OP_SPLIT_LARGE 9
#define STALEMATE_OP_FLUSH_ONE_USER 10
#define STALEMATE_OP_FLUSH_ONE_KERNEL 11
#define STALEMATE_OP_FLUSH_RANGE 12
#define STALEMATE_OP_FLUSH_MM 13
#define STALEMATE_OP_FLUSH_ALL 14
#define STALEMATE_OP_FLUSH_KERNEL_RANGE 15
#define STALEMATE_OP_FLUSH_BATCHED 16
#define STALEMATE_OP_SWITCH_MM 20
#define STALEMATE_OP_LAZY 21
#define STALEMATE_OP_LEAVE_MM 22
#define STALEMATE_OP_USER_READ 30
#define STALEMATE_OP_USER_WRITE 31
#define STALEMATE_OP_USER_NOP 32
#define STALEMATE_OP_KERNEL_READ 33
#define STALEMATE_OP_KERNEL_WRITE 34
#define STALEMATE_OP_USER_SPIN 35
#define STALEMATE_OP_MISBEHAVE 40
#define STALEMATE_OP_MERGE_LARGE 50
#define STALEMATE_OP_FREE_TABLE 51
#define STALEMATE_OP_FREE_FRAME 52
#define STALEMATE_OP_UNMAP_RANGE 53
#define STALEMATE_OP_MOVE_PAGE 54
#define STALEMATE_OP_MIGRATE 55
#define STALEMATE_OP_MAKE_CLEAN 56
#define STALEMATE_OP_WRITE_PROTECT 57
#define STALEMATE_OP_UNMAP_LAZILY 58
#define STALEMATE_OP_FLUSH_ONE_KERNEL_HERE 59

/* Flags of MAP, REMAP and PROTECT. */
#define STALEMATE_FLAG_WRITABLE 0x1
#define STALEMATE_FLAG_LARGE 0x2
#define STALEMATE_FLAG_DIRTY 0x4

/* What a step came to. */
#define STALEMATE_STATUS_NONE 0
#define STALEMATE_STATUS_DONE 1
#define STALEMATE_STATUS_FAULT 2
#define STALEMATE_STATUS_REFUSED 3

/* Where things are. */
#define STALEMATE_MEMORY_SIZE 0x800000
#define STALEMATE_MAX_MEMORY_SIZE 0x10000000
#define STALEMATE_BOOT_BLOCK 0x1000
#define STALEMATE_BOOT_TABLES 0x2000
#define STALEMATE_IMAGE 0x100000
#define STALEMATE_IMAGE_END 0x160000
#define STALEMATE_TABLE_FRAMES 0x160000
#define STALEMATE_TABLE_FRAMES_END 0x1e0000
#define STALEMATE_KERNEL_BASE 0xffffffff80000000
#define STALEMATE_DIRECT_MAP_SIZE 0x200000
#define STALEMATE_KERNEL_PAGES 0xffffffffa0000000
#define STALEMATE_KERNEL_PAGE_COUNT 16
#define STALEMATE_USER_CODE 0x400000
#define STALEMATE_USER_PAGES 0x410000
#define STALEMATE_USER_PAGE_COUNT 16
#define STALEMATE_USER_LARGE_PAGES 0x800000
#define STALEMATE_USER_LARGE_PAGE_COUNT 2
#define STALEMATE_USER_TABLE_PAGES 0xc00000
#define STALEMATE_USER_TABLE_PAGE_COUNT 4
#define STALEMATE_USER_END 0x800000000000
#define STALEMATE_MM_COUNT 12
#define STALEMATE_MAX_CPUS 8

/* Selectors. */
#define STALEMATE_KERNEL_CS 0x80
#define STALEMATE_KERNEL_SS 0x88
#define STALEMATE_SYSRET_BASE 0x93
#define STALEMATE_USER_SS 0x9b
#define STALEMATE_USER_CS 0xa3
#define STALEMATE_TSS_SELECTOR 0xa8

/* Vectors that Stalemate raises. */
#define STALEMATE_IRQ_VECTOR 32
#define STALEMATE_SHOOTDOWN_VECTOR 33

#endif
