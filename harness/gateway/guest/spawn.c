/* Starts a process for a user: pipes or a terminal, credentials, exec. */
#include "envd.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define VARIABLES 6
#define VARIABLE_MAX (PATH_MAX + 16)

struct birth {
    char **arguments, **environment;
    const char *cwd, *terminal;
    const struct user *user;
    int in, out, err;
    volatile int failed, without_cwd;
};

/* The child shares our memory until exec, so it makes system calls only. The C library's setuid and
 * its relatives would change the credentials of every thread that it believes to be in this process. */
static int become(void *argument)
{
    struct birth *birth = argument;
    const struct user *user = birth->user;

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
    if (syscall(SYS_setgroups, user->group_count, user->groups) != 0 ||
        syscall(SYS_setresgid, user->gid, user->gid, user->gid) != 0 ||
        syscall(SYS_setresuid, user->uid, user->uid, user->uid) != 0)
        goto failed;
    if (chdir(birth->cwd) == 0)
        execvpe(birth->arguments[0], birth->arguments, birth->environment);
    else
        birth->without_cwd = 1;
failed:
    birth->failed = errno;
    _exit(127);
}

static pid_t clone_child(struct birth *birth, int *pidfd)
{
    static uint8_t stack[64 * 1024] __attribute__((aligned(16))); /* CLONE_VFORK: free on return */
    pid_t pid = clone(become, stack + sizeof stack, CLONE_VM | CLONE_VFORK | CLONE_PIDFD | SIGCHLD,
                      birth, pidfd);

    if (pid < 0)
        birth->failed = errno;
    return pid;
}

static int has_variable(char **environment, const char *name)
{
    size_t length = strlen(name);

    for (; *environment; environment++)
        if (!strncmp(*environment, name, length) && (*environment)[length] == '=')
            return 1;
    return 0;
}

/* Adds what a login sets and the request does not. `room` holds the text. */
static void add_login_variables(char **environment, const struct user *user,
                                char room[VARIABLES][VARIABLE_MAX])
{
    const char *const login[VARIABLES][2] = {
        {"HOME", user->home}, {"USER", user->name}, {"LOGNAME", user->name},
        {"SHELL", user->shell}, {"TERM", "xterm-256color"},
        {"PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
    };
    char **end = environment;

    while (*end)
        end++;
    for (int i = 0; i < VARIABLES; i++)
        if (!has_variable(environment, login[i][0])) {
            snprintf(room[i], VARIABLE_MAX, "%s=%s", login[i][0], login[i][1]);
            *end++ = room[i];
        }
}

static int open_terminal(const struct request *request, char *name, size_t room)
{
    struct winsize size = {.ws_row = (unsigned short)request->rows,
                           .ws_col = (unsigned short)request->columns};
    int fd = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC), number = 0, unlock = 0;

    if (fd < 0 || ioctl(fd, TIOCSPTLCK, &unlock) != 0 || ioctl(fd, TIOCGPTN, &number) != 0)
        return -1;
    ioctl(fd, TIOCSWINSZ, &size);
    snprintf(name, room, "/dev/pts/%d", number);
    return fd;
}

int spawn(const struct request *request, const struct user *user, const char *cwd,
          struct child *child)
{
    int in[2] = {-1, -1}, out[2] = {-1, -1}, err[2] = {-1, -1}, terminal = -1, pidfd = -1;
    char name[32], room[VARIABLES][VARIABLE_MAX];
    struct birth birth = {.arguments = request->arguments, .environment = request->environment,
                          .cwd = cwd, .user = user};
    pid_t pid = -1;

    add_login_variables(request->environment, user, room);
    if (request->pty) {
        terminal = open_terminal(request, name, sizeof name);
        birth.terminal = name;
        if (terminal < 0)
            birth.failed = errno;
        else
            chown(name, user->uid, 5);
    } else if (pipe2(in, O_CLOEXEC) || pipe2(out, O_CLOEXEC) || pipe2(err, O_CLOEXEC))
        birth.failed = errno;
    birth.in = in[0];
    birth.out = out[1];
    birth.err = err[1];
    if (!birth.failed)
        pid = clone_child(&birth, &pidfd);
    close_fd(&in[0]);
    close_fd(&out[1]);
    close_fd(&err[1]);
    if (birth.failed) {
        if (pid > 0)
            waitpid(pid, NULL, 0);
        close_fd(&pidfd);
        close_fd(&in[1]);
        close_fd(&out[0]);
        close_fd(&err[0]);
        close_fd(&terminal);
        child->without_cwd = birth.without_cwd;
        return birth.failed;
    }
    if (!request->pty && !request->keep_input)
        close_fd(&in[1]);
    *child = (struct child){.pid = pid, .pidfd = pidfd, .in = request->pty ? terminal : in[1],
                            .out = out[0], .err = err[0], .terminal = terminal};
    for (int i = 0; i < 3; i++) {
        int fd = i == 0 ? child->in : i == 1 ? child->out : child->err;
        if (fd >= 0)
            fcntl(fd, F_SETFL, O_NONBLOCK);
    }
    return 0;
}

void close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}
