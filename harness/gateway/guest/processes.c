/* Processes of the sandbox's users: their input and output are streamed, and paused on request. */
#include "envd.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define INPUT_MAX (1024u * 1024u)
#define FIELD_HEADER 5u
#define SHOWN_MAX (16u * 1024u) /* bytes of a process in the list of them */
#define KILLINGS_MAX 64
/* How long the group of a killed process is waited for, and how often it is looked at: the end of
 * an orphan wakes no poll. */
#define GROUP_MS 1000
#define GROUP_LOOK_MS 2

struct process {
    pid_t pid; /* 0: unused */
    int pidfd; /* readable once it has ended */
    int in, out, err, terminal;
    int ended, status, paused, close_input;
    struct pending pending;
    char *label, *cwd;
    char **arguments;
    char *text; /* of the arguments */
};

/* A request to kill that waits for its answer. */
struct killing {
    pid_t pid; /* 0: unused */
    uint32_t request;
    uint64_t until_ms; /* set once the process has been reaped: how long its group is waited for */
};

static struct process table[PROCESSES_MAX];
static struct killing killings[KILLINGS_MAX];

static uint64_t now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000u + (uint64_t)now.tv_nsec / 1000000u;
}

static struct process *find(uint64_t pid)
{
    for (int i = 0; pid && i < PROCESSES_MAX; i++)
        if ((uint64_t)table[i].pid == pid)
            return &table[i];
    return NULL;
}

static void remember(struct process *process, struct request *request, const char *cwd)
{
    process->label = strdup(request->label);
    process->cwd = strdup(cwd);
    process->text = request->text; /* now owned by the process */
    process->arguments = request->arguments;
    request->text = NULL;
    request->arguments = NULL;
}

static void do_start(const struct frame *frame, struct request *request)
{
    const struct user *user = user_find(request->user);
    struct process *process = NULL;
    struct child child = {0};
    char cwd[PATH_MAX], directory[PATH_MAX + 4];
    uint32_t pid;
    int bad = 0;

    if (!user) {
        line_error(frame->id, EPERM, request->user);
        return;
    }
    for (int i = 0; i < PROCESSES_MAX && !process; i++)
        if (!table[i].pid)
            process = &table[i];
    if (!request->arguments[0])
        bad = EINVAL;
    else if (!process)
        bad = EAGAIN;
    else
        bad = user_path(user, request->cwd, cwd);
    if (!bad)
        bad = spawn(request, user, cwd, &child);
    if (bad && child.without_cwd) {
        snprintf(directory, sizeof directory, "cwd %s", cwd);
        line_error(frame->id, bad, directory);
        return;
    }
    if (bad) {
        line_error(frame->id, bad, request->arguments[0] ? request->arguments[0] : "no command");
        return;
    }
    *process = (struct process){.pid = child.pid, .pidfd = child.pidfd, .in = child.in,
                                .out = child.out, .err = child.err, .terminal = child.terminal};
    pid = (uint32_t)child.pid;
    remember(process, request, cwd);
    line_put(KIND_ANSWER, frame->id, &pid, sizeof pid);
}

static int do_input(struct process *process, const struct request *request)
{
    if (process->in < 0 || process->ended)
        return EPIPE;
    return pending_add(&process->pending, request->data, request->data_length, INPUT_MAX);
}

/* 0, an errno, or -1: the answer comes once the process is gone. */
static int do_signal(struct process *process, int number, uint32_t request)
{
    struct killing *killing = NULL;

    for (int i = 0; i < KILLINGS_MAX && !killing; i++)
        if (!killings[i].pid)
            killing = &killings[i];
    if (process->ended)
        return ESRCH;
    if (number == SIGKILL && !killing)
        return EAGAIN;
    if (kill(-process->pid, number) != 0 && kill(process->pid, number) != 0)
        return errno;
    if (number != SIGKILL)
        return 0;
    kill(process->pid, SIGKILL); /* it may have joined another group */
    *killing = (struct killing){.pid = process->pid, .request = request};
    return -1;
}

/* Answers requests to kill once the process and its group have been reaped. Members that stay
 * zombies, because their parents do not wait for them, are not waited for. */
static void answer_killings(void)
{
    for (int i = 0; i < KILLINGS_MAX; i++) {
        struct killing *killing = &killings[i];
        struct process *process = find((uint64_t)killing->pid);

        if (!killing->pid || (process && !process->ended))
            continue;
        if (!killing->until_ms)
            killing->until_ms = now_ms() + GROUP_MS;
        if (kill(-killing->pid, 0) == 0 && now_ms() < killing->until_ms)
            continue;
        line_put(KIND_ANSWER, killing->request, "", 0);
        *killing = (struct killing){0};
    }
}

static int do_resize(struct process *process, const struct request *request)
{
    struct winsize size = {.ws_row = (unsigned short)request->rows,
                           .ws_col = (unsigned short)request->columns};

    if (process->terminal < 0)
        return ENOTTY;
    return ioctl(process->terminal, TIOCSWINSZ, &size) != 0 ? errno : 0;
}

static void do_list(const struct frame *frame)
{
    static struct reply reply;

    for (int i = 0; i < PROCESSES_MAX; i++) {
        struct process *process = &table[i];
        if (!process->pid || process->ended)
            continue;
        reply.length = 0;
        reply_number(&reply, TAG_PID, (uint64_t)process->pid);
        reply_text(&reply, TAG_LABEL, process->label);
        reply_text(&reply, TAG_CWD, process->cwd);
        if (process->terminal >= 0)
            reply_number(&reply, TAG_COLUMNS, 1);
        /* For show: what is too long is cut. */
        for (char **argument = process->arguments; *argument && reply.length < SHOWN_MAX; argument++) {
            size_t left = SHOWN_MAX - reply.length, length = strlen(*argument);

            if (left > FIELD_HEADER)
                reply_bytes(&reply, TAG_ARG, *argument,
                            length < left - FIELD_HEADER ? length : left - FIELD_HEADER);
        }
        line_put(SAY_ENTRY, frame->id, reply.bytes, reply.length);
    }
    line_put(KIND_ANSWER, frame->id, "", 0);
}

int processes_dispatch(const struct frame *frame)
{
    struct process *process;
    struct request request;
    int bad;

    if (frame->kind < DO_START || frame->kind > DO_RESUME)
        return 0;
    bad = request_parse(frame, &request);
    process = find(request.pid);
    if (bad)
        line_error(frame->id, bad, "request");
    else if (frame->kind == DO_START)
        do_start(frame, &request);
    else if (frame->kind == DO_PROCESSES)
        do_list(frame);
    else {
        switch (process ? frame->kind : 0) {
        case DO_INPUT: bad = do_input(process, &request); break;
        case DO_CLOSE_INPUT: process->close_input = 1; break;
        case DO_SIGNAL: bad = do_signal(process, (int)request.number, frame->id); break;
        case DO_RESIZE: bad = do_resize(process, &request); break;
        case DO_PAUSE: process->paused = 1; break;
        case DO_RESUME: process->paused = 0; break;
        default: bad = ESRCH;
        }
        if (bad > 0)
            line_error(frame->id, bad, "process");
        else if (!bad)
            line_put(KIND_ANSWER, frame->id, "", 0);
    }
    request_free(&request);
    return 1;
}

int processes_poll_set(struct pollfd *set, int *timeout_ms)
{
    int count = 0;

    *timeout_ms = -1;
    for (int i = 0; i < PROCESSES_MAX; i++) {
        struct process *process = &table[i];
        int reads[2] = {process->terminal >= 0 ? process->terminal : process->out, process->err};

        if (!process->pid)
            continue;
        if (!process->ended)
            set[count++] = (struct pollfd){.fd = process->pidfd, .events = POLLIN};
        for (int at = 0; at < 2 && !process->paused; at++)
            if (reads[at] >= 0)
                set[count++] = (struct pollfd){.fd = reads[at], .events = POLLIN};
        if (process->in >= 0 && pending_left(&process->pending))
            set[count++] = (struct pollfd){.fd = process->in, .events = POLLOUT};
        if (process->ended && !process->paused)
            *timeout_ms = 0; /* its last output is still to be read */
    }
    for (int i = 0; i < KILLINGS_MAX; i++)
        if (killings[i].until_ms && *timeout_ms < 0)
            *timeout_ms = GROUP_LOOK_MS;
    return count;
}

static void reap(void)
{
    int status;
    pid_t pid;

    while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
        struct process *process = find((uint64_t)pid);
        if (process) {
            process->ended = 1;
            process->status = status;
        }
    }
}

/* Reads one piece, so that a process with much output does not delay the others; 0 when there is
 * nothing more to read now. */
static int drain(struct process *process, int *fd, uint8_t kind)
{
    static uint8_t chunk[CHUNK];
    ssize_t got;

    if (*fd < 0)
        return 0;
    got = read(*fd, chunk, sizeof chunk);
    if (got > 0) {
        line_put(kind, (uint32_t)process->pid, chunk, (size_t)got);
        return 1;
    }
    if (got == 0 || (errno != EAGAIN && errno != EINTR))
        close_fd(fd);
    return 0;
}

static void feed(struct process *process)
{
    if (process->in >= 0 && pending_left(&process->pending)) {
        ssize_t wrote = write(process->in, pending_data(&process->pending),
                              pending_left(&process->pending));
        if (wrote > 0)
            pending_drop(&process->pending, (size_t)wrote);
        else if (errno != EAGAIN)
            process->close_input = 1, pending_free(&process->pending);
    }
    if (process->close_input && !pending_left(&process->pending) && process->terminal < 0)
        close_fd(&process->in);
}

static void finish(struct process *process)
{
    uint32_t ending[2] = {
        WIFEXITED(process->status) ? (uint32_t)WEXITSTATUS(process->status) : 0,
        WIFSIGNALED(process->status) ? (uint32_t)WTERMSIG(process->status) : 0,
    };

    line_put(KIND_EXIT, (uint32_t)process->pid, ending, sizeof ending);
    close_fd(&process->pidfd);
    if (process->terminal >= 0)
        process->in = -1; /* the same descriptor */
    close_fd(&process->terminal);
    close_fd(&process->in);
    close_fd(&process->out);
    close_fd(&process->err);
    pending_free(&process->pending);
    free(process->label);
    free(process->cwd);
    free(process->text);
    free(process->arguments);
    *process = (struct process){0};
}

/* Sends what a process has written; 0 when there is nothing more to read now. */
static int send_output(struct process *process)
{
    int more;

    if (process->terminal >= 0) {
        int fd = process->terminal; /* EIO once it has ended, which the pidfd reports too */
        more = drain(process, &fd, SAY_PTY);
        if (fd < 0)
            process->terminal = process->in = -1;
        return more;
    }
    more = drain(process, &process->out, KIND_STDOUT);
    return more | drain(process, &process->err, KIND_STDERR);
}

void processes_pump(void)
{
    reap();
    answer_killings();
    for (int i = 0; i < PROCESSES_MAX; i++) {
        struct process *process = &table[i];
        int more = 0;

        if (!process->pid)
            continue;
        feed(process);
        if (process->paused)
            continue;
        more = send_output(process);
        /* Short output is sent together with the exit. */
        if (process->ended && more)
            more = send_output(process);
        /* A descendant may keep the pipes open: do not wait for its output. */
        if (process->ended && !more)
            finish(process);
    }
}
