/* Starts programs: the request's fields, and a fast spawn for each system. */
#include "launch.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#ifdef __FreeBSD__
#include <sys/procdesc.h>
#else
#include <sched.h>
#endif

#define FIELD_HEADER 5u

extern char **environ;

int launch_parse(const struct frame *request, struct launch *out)
{
    const uint8_t *at = request->payload, *end = at + request->length;
    size_t fields = request->length / FIELD_HEADER + 1, count = 0, variables = 0;
    struct field field;
    char *text;
    int more;

    memset(out, 0, sizeof *out);
    out->cwd = "";
    /* A terminating zero is shorter than a field's header. */
    text = out->text = malloc(request->length + 1);
    out->arguments = calloc(fields + 1, sizeof(char *));
    out->environment = calloc(fields + 1, sizeof(char *));
    if (!text || !out->arguments || !out->environment)
        return ENOMEM;
    while ((more = field_next(&at, end, &field)) > 0) {
        if (field.tag == TAG_TIMEOUT_MS)
            out->timeout_ms = field_number(&field);
        else if (field.tag == TAG_STDIN) {
            out->input = field.bytes;
            out->input_length = field.length;
        } else {
            memcpy(text, field.bytes, field.length);
            text[field.length] = 0;
            if (field.tag == TAG_ARG)
                out->arguments[count++] = text;
            else if (field.tag == TAG_ENV)
                out->environment[variables++] = text;
            else if (field.tag == TAG_CWD)
                out->cwd = text;
            text += field.length + 1;
        }
    }
    return more < 0 || count == 0 ? EINVAL : 0;
}

void launch_free(struct launch *launch)
{
    free(launch->text);
    free(launch->arguments);
    free(launch->environment);
}

#ifdef __FreeBSD__
/* FreeBSD's C library has no execvpe. The child has its own memory, so it may change `environ`. */
static void exec_by_name(char *const *arguments, char *const *environment)
{
    const char *path = getenv("PATH");
    char search_path[1024];

    if (path)
        snprintf(search_path, sizeof search_path, "%s", path);
    environ = (char **)(uintptr_t)environment;
    execvP(arguments[0], path ? search_path : "/bin:/sbin", arguments);
}
#else
static void exec_by_name(char *const *arguments, char *const *environment)
{
    execvpe(arguments[0], arguments, environment);
}
#endif

struct start {
    const struct launch *launch;
    int in, out, err;
    volatile int failed;
    int error_pipe; /* FreeBSD: a child with its own memory writes its errno here */
};

/* On Linux the child shares our memory until exec, so it changes only descriptors and `failed`. */
static int run_child(void *argument)
{
    struct start *start = argument;

    setpgid(0, 0);
    dup2(start->in, 0);
    dup2(start->out, 1);
    dup2(start->err, 2);
    if (*start->launch->cwd == 0 || chdir(start->launch->cwd) == 0)
        exec_by_name(start->launch->arguments,
                     start->launch->environment[0] ? start->launch->environment : environ);
    start->failed = errno;
#ifdef __FreeBSD__
    int failed = errno;
    if (write(start->error_pipe, &failed, sizeof failed) < 0)
        _exit(126);
#endif
    _exit(127);
}

#ifdef __FreeBSD__
/* A process descriptor serves as pidfd. The errno of a failed child comes through a pipe, which a
 * successful exec closes. */
static pid_t spawn(struct start *start, int *pidfd)
{
    int error_pipe[2], failed = 0;
    pid_t pid;

    if (pipe2(error_pipe, O_CLOEXEC) != 0) {
        start->failed = errno;
        return -1;
    }
    pid = pdfork(pidfd, PD_CLOEXEC);
    if (pid == 0) {
        start->error_pipe = error_pipe[1];
        run_child(start);
    }
    close(error_pipe[1]);
    if (pid < 0)
        start->failed = errno;
    else if (read(error_pipe[0], &failed, sizeof failed) == (ssize_t)sizeof failed)
        start->failed = failed;
    close(error_pipe[0]);
    return pid;
}
#else
/* Like vfork, but with a pidfd: the end of a process then wakes our poll without a signal, whose
 * handler takes as much as a tenth of a whole start under emulation. */
static pid_t spawn(struct start *start, int *pidfd)
{
    /* Reusable, because this process is suspended until the child no longer needs it. */
    static uint8_t stack[32 * 1024] __attribute__((aligned(16)));
    static int pidfd_flag = CLONE_PIDFD;
    const int flags = CLONE_VM | CLONE_VFORK | SIGCHLD;
    pid_t pid = clone(run_child, stack + sizeof stack, flags | pidfd_flag, start, pidfd);

    if (pid < 0 && errno == EINVAL && pidfd_flag) {
        pidfd_flag = 0; /* gVisor has no pidfds: process_poll_set polls the child instead */
        pid = clone(run_child, stack + sizeof stack, flags, start, pidfd);
    }
    if (pid < 0)
        start->failed = errno;
    return pid;
}
#endif

int launch_start(const struct launch *launch, int in, int out, int err, pid_t *pid, int *pidfd)
{
    struct start start = {.launch = launch, .in = in, .out = out, .err = err};

    *pidfd = -1;
    *pid = spawn(&start, pidfd);
    if (start.failed) {
        if (*pid > 0)
            waitpid(*pid, NULL, 0);
        if (*pidfd >= 0)
            close(*pidfd);
        *pidfd = -1;
    }
    return start.failed;
}
