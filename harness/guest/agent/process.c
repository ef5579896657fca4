/* Processes run for the harness: streamed output, stdin, signals, time limits. */
#include "agent.h"
#include "launch.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define STDIN_MAX (1024u * 1024u)
#define CHUNK (32u * 1024u)
#define WITHOUT_PIDFD_MS 20

struct child {
    pid_t pid; /* 0: this entry is free */
    uint32_t id;
    int pidfd;        /* readable when it has ended; -1 where the kernel has no pidfds */
    int in, out, err; /* our ends of its pipes, -1 when closed */
    int status, ended;
    uint64_t deadline_ms;
    uint8_t *pending; /* stdin that it has not read yet */
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

/* The stdin of a process without input. */
static int open_null(void)
{
    static int fd = -1;

    if (fd < 0)
        fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    return fd;
}

/* 0, or an errno. */
static int start(const struct frame *request, struct child *child, const struct launch *launch)
{
    int in[2] = {-1, -1}, out[2] = {-1, -1}, err[2] = {-1, -1}, pidfd = -1;
    int more = request->flags & FLAG_KEEP_STDIN;
    int failed = 0;
    pid_t pid = -1;

    if (((launch->input_length || more) && pipe2(in, O_CLOEXEC)) || pipe2(out, O_CLOEXEC) ||
        pipe2(err, O_CLOEXEC))
        failed = errno;
    else
        failed = launch_start(launch, in[0] < 0 ? open_null() : in[0], out[1], err[1], &pid,
                              &pidfd);
    shut(&in[0]);
    shut(&out[1]);
    shut(&err[1]);
    if (failed) {
        shut(&in[1]);
        shut(&out[0]);
        shut(&err[0]);
        return failed;
    }
    *child = (struct child){.pid = pid, .id = request->id, .pidfd = pidfd, .in = in[1],
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

/* Reaps orphans too, which are PID 1's children. */
static void reap(void)
{
    int status;
    pid_t pid;

#ifdef __FreeBSD__
    /* A wait for any child ignores those with a process descriptor. */
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
    int failed = launch_parse(request, &launch);

    reap();
    for (int i = 0; i < CHILDREN_MAX && !child; i++)
        if (!children[i].pid)
            child = &children[i];
    if (!failed)
        failed = child ? start(request, child, &launch) : EAGAIN;
    if (failed)
        line_error(request->id, failed, failed == ENOENT ? launch.arguments[0] : "exec");
    launch_free(&launch);
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
        set[count++] = (struct pollfd){.fd = child->pidfd, .events = POLLIN};
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
        /* Without a pidfd, the end of a process closes its pipes. One that closed them before, or
         * left them to a child, is polled. */
        int interval_ms = child->out < 0 && child->err < 0 ? 1 : WITHOUT_PIDFD_MS;
        if (child->pidfd < 0 && (*timeout_ms < 0 || *timeout_ms > interval_ms))
            *timeout_ms = interval_ms;
        /* Pending stdin is rare: retried every millisecond, which keeps the poll set small. */
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
            break; /* more data or end of file wakes the next poll */
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
        if (child->ended) { /* do not wait for a grandchild that holds the pipes open */
            uint32_t ending[2] = {
                WIFEXITED(child->status) ? (uint32_t)WEXITSTATUS(child->status) : 0,
                WIFSIGNALED(child->status) ? (uint32_t)WTERMSIG(child->status) : 0,
            };
            line_put(KIND_EXIT, child->id, ending, sizeof ending);
            shut(&child->pidfd);
            shut(&child->in);
            shut(&child->out);
            shut(&child->err);
            free(child->pending);
            *child = (struct child){0};
        }
    }
}
