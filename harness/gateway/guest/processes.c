/* Processes of the sandbox's users: pipes or a terminal, streamed, paused when nobody reads. */
#include "envd.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define INPUT_MAX (1024u * 1024u)

struct process {
    pid_t pid; /* 0: a free place */
    int self;  /* its pidfd, readable when it has ended */
    int in, out, err, terminal;
    int ended, status, paused, close_input;
    uint8_t *pending;
    size_t pending_start, pending_end;
    char *label, *cwd;
    char **arguments; /* and their text, one allocation each */
    char *words;
};

static struct process table[PROCESSES_MAX];

static struct process *find(uint64_t pid)
{
    for (int i = 0; pid && i < PROCESSES_MAX; i++)
        if ((uint64_t)table[i].pid == pid)
            return &table[i];
    return NULL;
}

static void shut(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

struct birth {
    char **arguments, **environment;
    const char *cwd, *terminal;
    const struct person *person;
    int in, out, err;
    volatile int failed;
};

/* The child shares our memory until exec: system calls only, and those of its own credentials
 * without the C library, which would change all of what it takes for threads of one process. */
static int become(void *argument)
{
    struct birth *birth = argument;
    const struct person *person = birth->person;

    if (birth->terminal) {
        int fd;

        setsid();
        fd = open(birth->terminal, O_RDWR);
        if (fd < 0 || ioctl(fd, TIOCSCTTY, 0) != 0)
            goto failed;
        birth->in = birth->out = birth->err = fd;
    } else
        setpgid(0, 0);
    dup2(birth->in, 0);
    dup2(birth->out, 1);
    dup2(birth->err, 2);
    if (birth->in > 2 && birth->terminal)
        close(birth->in);
    if (syscall(SYS_setgroups, person->group_count, person->groups) != 0 ||
        syscall(SYS_setresgid, person->gid, person->gid, person->gid) != 0 ||
        syscall(SYS_setresuid, person->uid, person->uid, person->uid) != 0)
        goto failed;
    if (chdir(birth->cwd) == 0)
        execvpe(birth->arguments[0], birth->arguments, birth->environment);
failed:
    birth->failed = errno;
    _exit(127);
}

static pid_t spawn(struct birth *birth, int *self)
{
    static uint8_t stack[64 * 1024] __attribute__((aligned(16))); /* we are held until it is free */
    pid_t pid = clone(become, stack + sizeof stack, CLONE_VM | CLONE_VFORK | CLONE_PIDFD | SIGCHLD,
                      birth, self);

    if (pid < 0)
        birth->failed = errno;
    return pid;
}

static int variable_given(char **environment, const char *name)
{
    size_t length = strlen(name);

    for (; *environment; environment++)
        if (!strncmp(*environment, name, length) && (*environment)[length] == '=')
            return 1;
    return 0;
}

/* What every login has, unless it was given. `room` holds the text. */
static void usual_variables(char **environment, const struct person *person, char room[6][320])
{
    const char *const usual[][2] = {
        {"HOME", person->home}, {"USER", person->name}, {"LOGNAME", person->name},
        {"SHELL", person->shell}, {"TERM", "xterm-256color"},
        {"PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
    };
    char **end = environment;

    while (*end)
        end++;
    for (int i = 0; i < 6; i++)
        if (!variable_given(environment, usual[i][0])) {
            snprintf(room[i], 320, "%s=%s", usual[i][0], usual[i][1]);
            *end++ = room[i];
        }
}

static int open_terminal(const struct asked *asked, char *name, size_t room)
{
    struct winsize size = {.ws_row = (unsigned short)asked->rows, .ws_col = (unsigned short)asked->columns};
    int fd = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC), number = 0, unlock = 0;

    if (fd < 0 || ioctl(fd, TIOCSPTLCK, &unlock) != 0 || ioctl(fd, TIOCGPTN, &number) != 0)
        return -1;
    ioctl(fd, TIOCSWINSZ, &size);
    snprintf(name, room, "/dev/pts/%d", number);
    return fd;
}

static void remember(struct process *process, struct asked *asked, const char *cwd)
{
    process->label = strdup(asked->label);
    process->cwd = strdup(cwd);
    process->words = asked->text; /* the request's text goes with the process */
    process->arguments = asked->arguments;
    asked->text = NULL;
    asked->arguments = NULL;
}

static int start(struct asked *asked, struct process *process, struct birth *birth)
{
    int in[2] = {-1, -1}, out[2] = {-1, -1}, err[2] = {-1, -1}, terminal = -1, self = -1;
    char name[32];
    pid_t pid = -1;

    if (asked->pty) {
        terminal = open_terminal(asked, name, sizeof name);
        birth->terminal = name;
        if (terminal < 0)
            birth->failed = errno;
        else
            chown(name, birth->person->uid, 5);
    } else if (pipe2(in, O_CLOEXEC) || pipe2(out, O_CLOEXEC) || pipe2(err, O_CLOEXEC))
        birth->failed = errno;
    birth->in = in[0];
    birth->out = out[1];
    birth->err = err[1];
    if (!birth->failed)
        pid = spawn(birth, &self);
    shut(&in[0]);
    shut(&out[1]);
    shut(&err[1]);
    if (birth->failed) {
        if (pid > 0)
            waitpid(pid, NULL, 0);
        shut(&self);
        shut(&in[1]);
        shut(&out[0]);
        shut(&err[0]);
        shut(&terminal);
        return birth->failed;
    }
    if (!asked->pty && !asked->keep_input)
        shut(&in[1]);
    *process = (struct process){.pid = pid, .self = self, .in = asked->pty ? terminal : in[1],
                                .out = asked->pty ? -1 : out[0], .err = err[0],
                                .terminal = terminal};
    for (int i = 0; i < 3; i++) {
        int fd = i == 0 ? process->in : i == 1 ? process->out : process->err;
        if (fd >= 0)
            fcntl(fd, F_SETFL, O_NONBLOCK);
    }
    return 0;
}

static void do_start(const struct frame *request, struct asked *asked)
{
    struct person person;
    struct process *process = NULL;
    struct birth birth = {0};
    char cwd[4096], room[6][320];
    int bad = person_find(asked->user, &person);
    uint32_t pid;

    if (bad) {
        line_error(request->id, EPERM, asked->user);
        return;
    }
    for (int i = 0; i < PROCESSES_MAX && !process; i++)
        if (!table[i].pid)
            process = &table[i];
    if (!asked->arguments[0])
        bad = EINVAL;
    else if (!process)
        bad = EAGAIN;
    else
        bad = person_path(&person, asked->cwd, cwd, sizeof cwd);
    if (!bad && access(cwd, F_OK) != 0) {
        line_error(request->id, ENOTDIR, cwd); /* no such directory: not the command's ENOENT */
        return;
    }
    if (!bad) {
        usual_variables(asked->environment, &person, room);
        birth.arguments = asked->arguments;
        birth.environment = asked->environment;
        birth.cwd = cwd;
        birth.person = &person;
        bad = start(asked, process, &birth);
    }
    if (bad) {
        line_error(request->id, bad, asked->arguments[0] ? asked->arguments[0] : "no command");
        return;
    }
    pid = (uint32_t)process->pid;
    remember(process, asked, cwd);
    line_put(KIND_ANSWER, request->id, &pid, sizeof pid);
}

static int do_input(struct process *process, const struct asked *asked)
{
    size_t have = process->pending_end - process->pending_start;
    uint8_t *room;

    if (process->in < 0 || process->ended)
        return EPIPE;
    if (have + asked->data_length > INPUT_MAX)
        return EAGAIN;
    room = malloc(have + asked->data_length + 1);
    if (!room)
        return ENOMEM;
    memcpy(room, process->pending + process->pending_start, have);
    memcpy(room + have, asked->data, asked->data_length);
    free(process->pending);
    process->pending = room;
    process->pending_start = 0;
    process->pending_end = have + asked->data_length;
    return 0;
}

static int do_signal(struct process *process, int number)
{
    if (process->ended)
        return ESRCH;
    if (kill(-process->pid, number) != 0 && kill(process->pid, number) != 0)
        return errno;
    return 0;
}

static int do_resize(struct process *process, const struct asked *asked)
{
    struct winsize size = {.ws_row = (unsigned short)asked->rows, .ws_col = (unsigned short)asked->columns};

    if (process->terminal < 0)
        return ENOTTY;
    return ioctl(process->terminal, TIOCSWINSZ, &size) != 0 ? errno : 0;
}

static void do_list(const struct frame *request)
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
        for (char **word = process->arguments; *word; word++)
            reply_text(&reply, TAG_ARG, *word);
        line_put(SAY_ENTRY, request->id, reply.bytes, reply.length);
    }
    line_put(KIND_ANSWER, request->id, "", 0);
}

int processes_dispatch(const struct frame *request)
{
    struct process *process;
    struct asked asked;
    int bad;

    if (request->kind < DO_START || request->kind > DO_RESUME)
        return 0;
    bad = ask(request, &asked);
    process = find(asked.pid);
    if (bad)
        line_error(request->id, bad, "request");
    else if (request->kind == DO_START)
        do_start(request, &asked);
    else if (request->kind == DO_PROCESSES)
        do_list(request);
    else {
        switch (process ? request->kind : 0) {
        case DO_INPUT: bad = do_input(process, &asked); break;
        case DO_CLOSE_INPUT: process->close_input = 1; break;
        case DO_SIGNAL: bad = do_signal(process, (int)asked.number); break;
        case DO_RESIZE: bad = do_resize(process, &asked); break;
        case DO_PAUSE: process->paused = 1; break;
        case DO_RESUME: process->paused = 0; break;
        default: bad = ESRCH;
        }
        if (bad)
            line_error(request->id, bad, "process");
        else
            line_put(KIND_ANSWER, request->id, "", 0);
    }
    forget(&asked);
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
            set[count++] = (struct pollfd){.fd = process->self, .events = POLLIN};
        for (int at = 0; at < 2 && !process->paused; at++)
            if (reads[at] >= 0)
                set[count++] = (struct pollfd){.fd = reads[at], .events = POLLIN};
        if (process->in >= 0 && process->pending_end > process->pending_start)
            set[count++] = (struct pollfd){.fd = process->in, .events = POLLOUT};
        if (process->ended && !process->paused)
            *timeout_ms = 0; /* its last words are still to be read */
    }
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

/* One piece at a time, so that none who talks much keeps the others waiting; 0 when there is no
 * more just now. */
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
        shut(fd);
    return 0;
}

static void feed(struct process *process)
{
    if (process->in >= 0 && process->pending_end > process->pending_start) {
        ssize_t wrote = write(process->in, process->pending + process->pending_start,
                              process->pending_end - process->pending_start);
        if (wrote > 0)
            process->pending_start += (size_t)wrote;
        else if (errno != EAGAIN)
            process->close_input = 1, process->pending_start = process->pending_end;
    }
    if (process->close_input && process->pending_start == process->pending_end &&
        process->terminal < 0)
        shut(&process->in);
}

static void finish(struct process *process)
{
    uint32_t ending[2] = {
        WIFEXITED(process->status) ? (uint32_t)WEXITSTATUS(process->status) : 0,
        WIFSIGNALED(process->status) ? (uint32_t)WTERMSIG(process->status) : 0,
    };

    line_put(KIND_EXIT, (uint32_t)process->pid, ending, sizeof ending);
    shut(&process->self);
    if (process->terminal >= 0)
        process->in = -1; /* one and the same */
    shut(&process->terminal);
    shut(&process->in);
    shut(&process->out);
    shut(&process->err);
    free(process->pending);
    free(process->label);
    free(process->cwd);
    free(process->words);
    free(process->arguments);
    *process = (struct process){0};
}

/* What a process says; 0 when there is no more just now. */
static int listen_to(struct process *process)
{
    int more;

    if (process->terminal >= 0) {
        int fd = process->terminal; /* an error there is its end, which the pidfd tells too */
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
    for (int i = 0; i < PROCESSES_MAX; i++) {
        struct process *process = &table[i];
        int more = 0;

        if (!process->pid)
            continue;
        feed(process);
        if (process->paused)
            continue;
        more = listen_to(process);
        /* What few words one had are told together with its end. */
        if (process->ended && more)
            more = listen_to(process);
        /* A process that it left behind may hold the pipes open: its output is not awaited. */
        if (process->ended && !more)
            finish(process);
    }
}
