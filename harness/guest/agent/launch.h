/* launch.c: which program to start, and its start on Linux and FreeBSD. */
#ifndef COPPICE_LAUNCH_H
#define COPPICE_LAUNCH_H

#include "frame.h"

#include <sys/types.h>

/* An EXEC request. `input` is in the request. Both lists end with NULL. */
struct launch {
    char **arguments, **environment;
    char *text; /* of both */
    const char *cwd;
    const uint8_t *input;
    size_t input_length;
    uint64_t timeout_ms;
};

/* 0, or an errno; free it in any case. */
int launch_parse(const struct frame *request, struct launch *out);
void launch_free(struct launch *launch);

/* Starts the program in its own process group, with these descriptors as stdin, stdout and stderr.
 * 0 with its PID and a descriptor that becomes readable when it ends (-1 where the kernel has no
 * pidfds); or an errno. */
int launch_start(const struct launch *launch, int in, int out, int err, pid_t *pid, int *pidfd);

#endif
