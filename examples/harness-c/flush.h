/* What a kernel's flush code does for the harness: paste yours into flush.c. */
#include <stdint.h>

/* Bits of features are the boot block's: what the processor has. */
void flush_init(uint64_t features);
/* Loads address space `mm`, whose root is at guest-physical `root`. */
void switch_mm(unsigned mm, uint64_t root);
/* A page of address space `mm`, which need not be the loaded one, has changed. */
void flush_one_user(unsigned mm, uint64_t va);
void flush_one_kernel(uint64_t va);
/* Any page of the user half of `mm` has changed. */
void flush_mm(unsigned mm);
void flush_all(void);
