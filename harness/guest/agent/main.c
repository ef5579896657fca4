/* The agent: PID 1 of the guest. It serves the harness's requests on one channel. */
#include "agent.h"

#include <errno.h>
#include <signal.h>
#include <unistd.h>

#ifdef __linux__
#include <sched.h>
#include <sys/syscall.h>
#endif

static void dispatch(const struct frame *request)
{
    switch (request->kind) {
    case KIND_PING: identity_ping(request); break;
    case KIND_HELLO: identity_hello(request); break;
    case KIND_IDENTITY: identity_take(request); break;
    case KIND_EXEC: process_start(request); break;
    case KIND_STDIN: process_stdin(request); break;
    case KIND_SIGNAL: process_signal(request); break;
    case KIND_READ: files_read(request); break;
    case KIND_WRITE: files_write(request); break;
    case KIND_TOUCH: memory_touch(request); break;
    case KIND_MEMORY: memory_report(request); break;
    case KIND_ARM: doorbell_wait(request); break;
    case KIND_SHUTDOWN:
        line_put(KIND_ANSWER, request->id, "", 0);
        line_flush();
        system_halt();
        break;
    default: line_error(request->id, ENOSYS, "unknown request");
    }
}

/* SCHED_BATCH, so that the agent does not preempt a process that writes to it: under emulation
 * every switch flushes the TLB. Children get the usual policy. */
static void yield_to_children(void)
{
#ifdef __linux__
    struct sched_param none = {0};
    syscall(SYS_sched_setscheduler, 0, SCHED_BATCH | SCHED_RESET_ON_FORK, &none);
#endif
}

static void ignore(int number)
{
    (void)number;
}

int main(void)
{
    struct pollfd set[1 + 3 * CHILDREN_MAX];

    system_mount();
    system_quiet();
    system_load_modules();
    signal(SIGPIPE, ignore); /* not SIG_IGN, which processes would inherit */
    yield_to_children();
    if (system_open_line() < 0)
        system_halt();
    line_put(KIND_HELLO, 0, "", 0); /* the harness may be waiting for the guest to start */
    line_flush();

    for (;;) {
        struct frame request;
        int timeout_ms;
        int children = process_poll_set(set + 1, &timeout_ms);
        int ready = 1;

        if (children) {
            set[0] = (struct pollfd){.fd = line_fd(), .events = POLLIN};
            poll(set, (nfds_t)(1 + children), timeout_ms);
            ready = set[0].revents & POLLIN;
        }
        /* Without children, a blocking read is enough. */
        if (ready && line_fill(1) < 0)
            system_hung_up();
        while (line_next(&request))
            dispatch(&request);
        if (children)
            process_pump();
        line_flush();
    }
}
