/* launch.c: which program to start, and its start on Linux and FreeBSD. */
#ifndef COPPICE_LAUNCH_H
#define COPPICE_LAUNCH_H

#include "frame.h"

#include <sys/types.h>

#define ARGUMENTS_MAX 256

/* An EXEC request. The strings are in the caller's buffer, `input` is in the request. */
struct launch {
    char *arguments[ARGUMENTS_MAX + 1], *environment[ARGUMENTS_MAX + 1];
    int count, variables;
    const char *cwd;
    const uint8_t *input;
    size_t input_length;
    uint64_t timeout_ms;
};

/* Copies strings to `text`, which must have room for request->length + 1 bytes: a terminating zero
 * is shorter than a field's header. 0, or an errno. */
int launch_parse(const struct frame *request, char *text, struct launch *out);

/* Starts the program in its own process group, with these descriptors as stdin, stdout and stderr.
 * 0 with its PID and a descriptor that becomes readable when it ends (-1 where the kernel has no
 * pidfds); or an errno. */
int launch_start(const struct launch *launch, int in, int out, int err, pid_t *pid, int *pidfd);

#endif
