/* Processes started for the harness: streamed output, stdin, signals, time limits. */
#include "agent.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifdef __FreeBSD__
#include <sys/procdesc.h>
#else
#include <sched.h>
#endif

#define ARGUMENTS_MAX 256
#define STDIN_MAX (1024u * 1024u)
#define CHUNK (32u * 1024u)
#define WITHOUT_PIDFD_MS 20

struct child {
    pid_t pid; /* 0: a free place */
    uint32_t id;
    int self;         /* its pidfd, readable when it has ended; -1 where the kernel has none */
    int in, out, err; /* our ends of its pipes, -1 when closed */
    int status, ended;
    uint64_t deadline_ms;
    uint8_t *pending; /* stdin it has not taken yet */
    size_t pending_start, pending_end;
    int close_stdin;
};

static struct child children[CHILDREN_MAX];

static uint64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000u + (uint64_t)now.tv_nsec / 1000000u;
}

static struct child *find(uint32_t id)
{
    for (int i = 0; i < CHILDREN_MAX; i++)
        if (children[i].pid && children[i].id == id)
            return &children[i];
    return NULL;
}

static void shut(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

static int feed(struct child *child, const uint8_t *bytes, size_t length)
{
    if (child->pending_end - child->pending_start + length > STDIN_MAX)
        return -1;
    uint8_t *room = malloc(child->pending_end - child->pending_start + length + 1);
    if (!room)
        return -1;
    memcpy(room, child->pending + child->pending_start, child->pending_end - child->pending_start);
    child->pending_end -= child->pending_start;
    memcpy(room + child->pending_end, bytes, length);
    child->pending_end += length;
    child->pending_start = 0;
    free(child->pending);
    child->pending = room;
    return 0;
}

struct launch {
    char *arguments[ARGUMENTS_MAX + 1], *environment[ARGUMENTS_MAX + 1];
    int count, variables;
    const char *cwd;
    const uint8_t *input;
    size_t input_length;
    uint64_t timeout_ms;
};

/* Fields become strings in `text`, which is as long as the request: a zero is shorter than a header. */
static int parse(const struct frame *request, char *text, struct launch *out)
{
    const uint8_t *at = request->payload, *end = at + request->length;
    struct field field;
    int more;

    memset(out, 0, sizeof *out);
    out->cwd = "";
    while ((more = field_next(&at, end, &field)) > 0) {
        if (field.tag == TAG_TIMEOUT_MS)
            out->timeout_ms = field_number(&field);
        else if (field.tag == TAG_STDIN) {
            out->input = field.bytes;
            out->input_length = field.length;
        } else {
            memcpy(text, field.bytes, field.length);
            text[field.length] = 0;
            if (field.tag == TAG_ARG && out->count < ARGUMENTS_MAX)
                out->arguments[out->count++] = text;
            else if (field.tag == TAG_ENV && out->variables < ARGUMENTS_MAX)
                out->environment[out->variables++] = text;
            else if (field.tag == TAG_CWD)
                out->cwd = text;
            text += field.length + 1;
        }
    }
    return more < 0 || out->count == 0 ? EINVAL : 0;
}

extern char **environ;

#ifdef __FreeBSD__
/* Its C library has no execvpe; a child that shares no memory may change its own environment. */
static void run_by_name(char *const *arguments, char *const *environment)
{
    const char *path = getenv("PATH");
    char where[1024];

    if (path)
        snprintf(where, sizeof where, "%s", path);
    environ = (char **)(uintptr_t)environment;
    execvP(arguments[0], path ? where : "/bin:/sbin", arguments);
}
#else
static void run_by_name(char *const *arguments, char *const *environment)
{
    execvpe(arguments[0], arguments, environment);
}
#endif

struct birth {
    const struct launch *launch;
    int in, out, err;
    volatile int failed;
    int tell; /* where a child that shares no memory with us says why it failed */
};

/* The child shares our memory until exec, so it touches descriptors and `failed` only. */
static int become(void *argument)
{
    struct birth *birth = argument;

    setpgid(0, 0);
    dup2(birth->in, 0);
    dup2(birth->out, 1);
    dup2(birth->err, 2);
    if (*birth->launch->cwd == 0 || chdir(birth->launch->cwd) == 0)
        run_by_name(birth->launch->arguments,
                    birth->launch->variables ? birth->launch->environment : environ);
    birth->failed = errno;
#ifdef __FreeBSD__
    int failed = errno;
    if (write(birth->tell, &failed, sizeof failed) < 0)
        _exit(126);
#endif
    _exit(127);
}

#ifdef __FreeBSD__
/* A process descriptor stands for the pidfd; what fails in the child comes back by a pipe that its
 * exec closes. */
static pid_t spawn(struct birth *birth, int *self)
{
    int tell[2], failed = 0;
    pid_t pid;

    if (pipe2(tell, O_CLOEXEC) != 0) {
        birth->failed = errno;
        return -1;
    }
    pid = pdfork(self, PD_CLOEXEC);
    if (pid == 0) {
        birth->tell = tell[1];
        become(birth);
    }
    close(tell[1]);
    if (pid < 0)
        birth->failed = errno;
    else if (read(tell[0], &failed, sizeof failed) == (ssize_t)sizeof failed)
        birth->failed = failed;
    close(tell[0]);
    return pid;
}
#else
/* As vfork, with a pidfd: a process that ends wakes our poll without a signal, whose handler under
 * emulation would cost as much as a tenth of the whole start. */
static pid_t spawn(struct birth *birth, int *self)
{
    static uint8_t stack[32 * 1024] __attribute__((aligned(16))); /* we are held until it is free */
    static int pidfd = CLONE_PIDFD;
    const int flags = CLONE_VM | CLONE_VFORK | SIGCHLD;
    pid_t pid = clone(become, stack + sizeof stack, flags | pidfd, birth, self);

    if (pid < 0 && errno == EINVAL && pidfd) {
        pidfd = 0; /* gVisor has none: process_poll_set looks at the child now and then */
        pid = clone(become, stack + sizeof stack, flags, birth, self);
    }
    if (pid < 0)
        birth->failed = errno;
    return pid;
}
#endif

/* What a process reads that is given nothing. */
static int nothing(void)
{
    static int fd = -1;

    if (fd < 0)
        fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    return fd;
}

static int start(const struct frame *request, struct child *child, const struct launch *launch)
{
    int in[2] = {-1, -1}, out[2] = {-1, -1}, err[2] = {-1, -1}, self = -1;
    int more = request->flags & FLAG_KEEP_STDIN;
    struct birth birth = {.launch = launch};
    pid_t pid = -1;

    if (((launch->input_length || more) && pipe2(in, O_CLOEXEC)) || pipe2(out, O_CLOEXEC) ||
        pipe2(err, O_CLOEXEC))
        birth.failed = errno;
    else {
        birth.in = in[0] < 0 ? nothing() : in[0];
        birth.out = out[1];
        birth.err = err[1];
        pid = spawn(&birth, &self);
    }
    shut(&in[0]);
    shut(&out[1]);
    shut(&err[1]);
    if (birth.failed) {
        if (pid > 0)
            waitpid(pid, NULL, 0);
        shut(&self);
        shut(&in[1]);
        shut(&out[0]);
        shut(&err[0]);
        return birth.failed;
    }
    *child = (struct child){.pid = pid, .id = request->id, .self = self, .in = in[1],
                            .out = out[0], .err = err[0], .close_stdin = !more};
    if (launch->timeout_ms)
        child->deadline_ms = now_ms() + launch->timeout_ms;
    fcntl(child->out, F_SETFL, O_NONBLOCK);
    fcntl(child->err, F_SETFL, O_NONBLOCK);
    if (child->in >= 0)
        fcntl(child->in, F_SETFL, O_NONBLOCK);
    if (launch->input_length)
        feed(child, launch->input, launch->input_length);
    return 0;
}

/* Also those that our children left behind: they are PID 1's. */
static void reap(void)
{
    int status;
    pid_t pid;

#ifdef __FreeBSD__
    /* Those with a process descriptor are waited for by their numbers only. */
    for (int i = 0; i < CHILDREN_MAX; i++)
        if (children[i].pid && !children[i].ended &&
            waitpid(children[i].pid, &status, WNOHANG) == children[i].pid) {
            children[i].ended = 1;
            children[i].status = status;
        }
#endif
    while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
        for (int i = 0; i < CHILDREN_MAX; i++)
            if (children[i].pid == pid) {
                children[i].ended = 1;
                children[i].status = status;
            }
}

void process_start(const struct frame *request)
{
    struct launch launch;
    struct child *child = NULL;
    char *text = malloc(request->length + 1);
    int bad = text ? parse(request, text, &launch) : ENOMEM;

    reap();
    for (int i = 0; i < CHILDREN_MAX && !child; i++)
        if (!children[i].pid)
            child = &children[i];
    if (!bad)
        bad = child ? start(request, child, &launch) : EAGAIN;
    if (bad)
        line_error(request->id, bad, bad == ENOENT ? launch.arguments[0] : "exec");
    free(text);
}

void process_stdin(const struct frame *request)
{
    struct child *child = find(request->id);

    if (!child || child->in < 0) {
        line_error(request->id, EPIPE, "stdin");
        return;
    }
    if (request->length == 0)
        child->close_stdin = 1;
    else if (feed(child, request->payload, request->length) != 0)
        line_error(request->id, ENOBUFS, "stdin");
}

void process_signal(const struct frame *request)
{
    struct child *child = find(request->id);
    uint32_t number = 0;

    memcpy(&number, request->payload, request->length < 4 ? request->length : 4);
    if (!child || kill(-child->pid, (int)number) != 0)
        line_error(request->id, child ? errno : ESRCH, "signal");
}

int process_poll_set(struct pollfd *set, int *timeout_ms)
{
    int count = 0;
    uint64_t now = 0;

    *timeout_ms = -1;
    for (int i = 0; i < CHILDREN_MAX; i++) {
        struct child *child = &children[i];
        if (!child->pid)
            continue;
        set[count++] = (struct pollfd){.fd = child->self, .events = POLLIN};
        if (child->out >= 0)
            set[count++] = (struct pollfd){.fd = child->out, .events = POLLIN};
        if (child->err >= 0)
            set[count++] = (struct pollfd){.fd = child->err, .events = POLLIN};
        if (child->deadline_ms) {
            now = now ? now : now_ms();
            int left = child->deadline_ms > now ? (int)(child->deadline_ms - now) : 0;
            if (*timeout_ms < 0 || left < *timeout_ms)
                *timeout_ms = left;
        }
        /* Without a pidfd the closing of its pipes tells of its end; what closed them earlier, or
         * left them to a child of its own, is looked at by the clock. */
        int look_ms = child->out < 0 && child->err < 0 ? 1 : WITHOUT_PIDFD_MS;
        if (child->self < 0 && (*timeout_ms < 0 || *timeout_ms > look_ms))
            *timeout_ms = look_ms;
        /* A pipe that takes stdin is looked at every millisecond rather than polled for:
         * it is rare, and the set stays small. */
        if (child->pending_end > child->pending_start && (*timeout_ms < 0 || *timeout_ms > 1))
            *timeout_ms = 1;
    }
    return count;
}

static void drain(struct child *child, int *fd, uint8_t kind)
{
    static uint8_t chunk[CHUNK];

    while (*fd >= 0) {
        ssize_t got = read(*fd, chunk, sizeof chunk);
        if (got > 0)
            line_put(kind, child->id, chunk, (size_t)got);
        else if (got == 0 || (errno != EAGAIN && errno != EINTR))
            shut(fd);
        else
            break;
        if (got < (ssize_t)sizeof chunk && !child->ended)
            break; /* the rest, or the end, comes with the next poll */
    }
}

void process_pump(void)
{
    reap();
    for (int i = 0; i < CHILDREN_MAX; i++) {
        struct child *child = &children[i];
        if (!child->pid)
            continue;
        if (child->in >= 0 && child->pending_end > child->pending_start) {
            ssize_t wrote = write(child->in, child->pending + child->pending_start,
                                  child->pending_end - child->pending_start);
            if (wrote > 0)
                child->pending_start += (size_t)wrote;
            else if (errno != EAGAIN) {
                child->pending_start = child->pending_end;
                shut(&child->in);
            }
        }
        if (child->close_stdin && child->pending_start == child->pending_end)
            shut(&child->in);
        if (child->deadline_ms && !child->ended && now_ms() >= child->deadline_ms) {
            kill(-child->pid, SIGKILL);
            child->deadline_ms = 0;
        }
        drain(child, &child->out, KIND_STDOUT);
        drain(child, &child->err, KIND_STDERR);
        if (child->ended) { /* a grandchild may hold the pipes open: its output is not awaited */
            uint32_t ending[2] = {
                WIFEXITED(child->status) ? (uint32_t)WEXITSTATUS(child->status) : 0,
                WIFSIGNALED(child->status) ? (uint32_t)WTERMSIG(child->status) : 0,
            };
            line_put(KIND_EXIT, child->id, ending, sizeof ending);
            shut(&child->self);
            shut(&child->in);
            shut(&child->out);
            shut(&child->err);
            free(child->pending);
            *child = (struct child){0};
        }
    }
}
