/* envd's event loop: requests in, replies out. */
#include "envd.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/statvfs.h>
#include <unistd.h>

/* /proc/stat (processor time in ticks), /proc/meminfo, and a line "disk TOTAL USED" in bytes. */
static void stats(const struct frame *frame)
{
    char text[4096] = "";
    size_t length = 0;
    struct statvfs disk = {0};
    static const char *const paths[] = {"/proc/stat", "/proc/meminfo"};

    for (size_t i = 0; i < 2; i++) {
        int fd = open(paths[i], O_RDONLY | O_CLOEXEC);
        ssize_t got = fd < 0 ? -1 : read(fd, text + length, 1600);

        length += got > 0 ? (size_t)got : 0;
        if (length && text[length - 1] != '\n')
            text[length++] = '\n';
        if (fd >= 0)
            close(fd);
    }
    statvfs("/", &disk);
    length += (size_t)snprintf(text + length, sizeof text - length, "disk %llu %llu\n",
                               (unsigned long long)disk.f_blocks * disk.f_frsize,
                               (unsigned long long)(disk.f_blocks - disk.f_bfree) * disk.f_frsize);
    line_put(KIND_ANSWER, frame->id, text, length);
}

static void dispatch(const struct frame *frame)
{
    static const char hello[] = "envd=1\n";

    if (frame->kind == DO_HELLO)
        line_put(KIND_ANSWER, frame->id, hello, sizeof hello - 1);
    else if (frame->kind == DO_STATS)
        stats(frame);
    else if (!processes_dispatch(frame) && !files_dispatch(frame) && !tree_dispatch(frame) &&
             !watch_dispatch(frame) && !connections_dispatch(frame))
        line_error(frame->id, ENOSYS, "unknown request");
}

static void ignore_signal(int number)
{
    (void)number;
}

static void serve(void)
{
    static struct pollfd set[2 + 4 * PROCESSES_MAX + CONNECTIONS_MAX];

    for (;;) {
        struct frame frame;
        int timeout_ms;
        int count = 2 + processes_poll_set(set + 2, &timeout_ms);

        count += connections_poll_set(set + count);
        set[0] = (struct pollfd){.fd = line_fd(), .events = POLLIN};
        set[1] = (struct pollfd){.fd = watch_fd(), .events = POLLIN};
        poll(set, (nfds_t)count, timeout_ms);
        if (set[0].revents & POLLHUP)
            usleep(20000); /* the host has not connected yet, or hands the channel to another process */
        else if (set[0].revents & POLLIN && line_fill(1) < 0)
            usleep(20000);
        while (line_next(&frame))
            dispatch(&frame);
        if (set[1].revents & POLLIN)
            watch_pump();
        processes_pump();
        connections_pump();
        line_flush();
    }
}

static void leave_standard_streams(void)
{
    int nothing = open("/dev/null", O_RDWR);

    for (int fd = 0; fd < 3; fd++)
        dup2(nothing, fd);
    if (nothing > 2)
        close(nothing);
}

static void prepare(void)
{
    prctl(PR_SET_NAME, "envd");
    prctl(PR_SET_CHILD_SUBREAPER, 1); /* orphaned descendants of commands are reaped here */
    signal(SIGPIPE, ignore_signal); /* not SIG_IGN: commands would inherit it */
}

/* As the first process of a container: the root is already mounted, stdin is the channel. */
static int serve_standard_input(void)
{
    int fd = fcntl(0, F_DUPFD_CLOEXEC, 3);

    if (fd < 0)
        return 1;
    line_use(fd, fd);
    prepare();
    leave_standard_streams();
    serve();
    return 0;
}

/* `envd PORT DEVICE` (a microVM) exits once its daemon serves; `envd` alone serves standard input. */
int main(int argc, char **argv)
{
    int ready[2];
    char ok = 0;

    if (argc == 1)
        return serve_standard_input();
    if (argc != 3 || pipe(ready) != 0)
        return 64;
    if (fork() != 0) {
        close(ready[1]);
        return read(ready[0], &ok, 1) == 1 && ok ? 0 : 1;
    }
    setsid();
    prepare();
    for (int tries = 0; access(argv[1], F_OK) != 0 && tries < 2000; tries++)
        usleep(1000);
    if (line_open(argv[1]) < 0) {
        perror(argv[1]);
        return 1;
    }
    if (root_enter(argv[2]) != 0)
        return 1;
    close(ready[0]);
    ok = 1;
    if (write(ready[1], &ok, 1) != 1)
        return 1;
    close(ready[1]);
    leave_standard_streams();
    serve();
}
