/* The guest's memory, as the VMM and the guest's program see it. Addresses are physical; the
 * guest's page tables map them to the same virtual ones, all of them for user mode. */
#ifndef COPPICE_FLOOR_LAYOUT_H
#define COPPICE_FLOOR_LAYOUT_H

#include <stdint.h>

#define PAGE 4096u
#define BASE 0x4000u
#define TABLES BASE /* four pages: three levels, and the directory of the working memory */
/* The program, and the one page that a guest writes to before it is asked to touch memory. KVM's
 * shadow pages are filled eight pages at a time, as far as the memory of the VM reaches and its
 * pages are there: so both are mapped by one fault. The six behind them are never touched. */
#define PROGRAM 0x8000u
#define TASK 0x8f80u /* the end of the program's page: which ports the guest may write to */
#define SHARED 0x9000u
#define END 0x10000u
#define MEMORY (END - BASE) /* bytes that a checkpoint has */
#define WORKING 0x40000000u /* where memory is plugged in, on request */
#define WORKING_MOST_MIB 1024u

/* What the guest asks of its VMM, as the port that it writes to. Anything else ends it. */
enum request {
    FOR_INPUT = 0x10, /* `out` is an answer; everything in `in` has been looked at */
    FOR_ROOM = 0x11,  /* `out` must be sent before the guest goes on */
    FOR_MEMORY = 0x12, /* `plug_mib` MiB from WORKING on; `plugged` is what there is then */
    FOR_THE_END = 0x13, /* `out` is the last answer */
};

struct shared {
    uint32_t in_length, out_length;
    uint32_t plug_mib, plugged_mib;
    uint8_t in[1280], out[1024];
};

#endif
