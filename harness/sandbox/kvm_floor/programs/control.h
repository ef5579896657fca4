/* What the harness asks of the VMM, one message each: the C side of ../vmm.py. */
#ifndef COPPICE_FLOOR_CONTROL_H
#define COPPICE_FLOOR_CONTROL_H

#include <stdint.h>

enum what {
    CREATE = 1, /* with a channel's descriptor: a VM without state; the reply has its slot */
    WAKE = 2,   /* gives a VM these bytes and runs it; the guest answers on its channel, no reply */
    STOP = 3,
    RESUMED = 4, /* when it was last woken, in ns of CLOCK_MONOTONIC */
    SAVE = 5,    /* with a file's descriptor: the image of a stopped VM */
    DESTROY = 6,
};

struct control {
    uint32_t what, slot, length;
    uint8_t bytes[1024];
};
#define CONTROL_HEADER 12u

struct reply {
    int32_t error; /* an errno, with `why` */
    uint32_t slot;
    uint64_t value;
    char why[48];
};

#endif
