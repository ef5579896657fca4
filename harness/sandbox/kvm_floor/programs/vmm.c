/* The VMM of kvm-floor: VMs without devices and without a kernel in them, many in one process.
 *
 * A VM is a private mapping of an image and one vCPU that runs the image's program in user mode.
 * There is no interrupt controller and no clock. The documented interface of KVM is used alone.
 *
 *   vmm make PROGRAM IMAGE     an image of a program (guest.c) that has not run yet
 *   vmm serve IMAGE CONTROL    serves requests on a socket (SOCK_SEQPACKET), until it is closed
 *
 * IMAGE and CONTROL are numbers of descriptors. An image is memory, then a page with the state of
 * the vCPU: a checkpoint is an image whose program has run. Each VM has a channel, a stream socket
 * that the harness gives it: its bytes are the guest's input, and the guest's answers go there. A
 * guest that fails loses its channel, and stderr says why. */
#define _GNU_SOURCE
#include "confine.h"
#include "control.h"
#include "vm.h"

#include <sys/resource.h>

#define CONTROL_EVENT UINT64_MAX

static struct vm **vms; /* by slot; NULL: free */
static uint32_t slots;

/* Gives a guest that waits for input these bytes. */
static int give(struct vm *vm, const void *bytes, size_t length)
{
    struct shared *shared = shared_of(vm);

    if (shared->in_length > sizeof shared->in || length > sizeof shared->in - shared->in_length)
        return -1;
    memcpy(shared->in + shared->in_length, bytes, length);
    shared->in_length += (uint32_t)length;
    return 0;
}

static void on_channel(uint32_t slot, uint32_t happened)
{
    struct vm *vm = slot < slots ? vms[slot] : NULL;
    struct shared *shared;
    ssize_t got;

    if (!vm || vm->life != RUNNING)
        return;
    if (vm->watched & EPOLLOUT) {
        int waited = vm->sent > 0 || shared_of(vm)->out_length > 0;

        if (happened & (EPOLLERR | EPOLLHUP))
            release(vm);
        else if (!waited || deliver(vm, slot))
            go(vm, slot); /* one that waits for input asks for it once more */
        return;
    }
    shared = shared_of(vm);
    got = shared->in_length < sizeof shared->in
              ? recv(vm->channel, shared->in + shared->in_length,
                     sizeof shared->in - shared->in_length, MSG_DONTWAIT)
              : 0;
    if (got < 0 && errno == EAGAIN)
        return;
    if (got <= 0) {
        watch(vm, slot, 0); /* the harness has closed its end, and will end the VM */
        return;
    }
    shared->in_length += (uint32_t)got;
    go(vm, slot);
}

/* Requests of the harness. */

static struct reply refused(const char *why, int error)
{
    struct reply reply = {.error = error ? error : EINVAL};

    snprintf(reply.why, sizeof reply.why, "%s", why);
    return reply;
}

static struct reply create(int channel)
{
    struct vm *vm = malloc(sizeof *vm);
    const char *failed;
    uint32_t slot = 0;

    if (!vm || channel == NONE) {
        free(vm);
        if (channel != NONE)
            close(channel);
        return refused("a sandbox without a channel or memory", EINVAL);
    }
    while (slot < slots && vms[slot])
        slot++;
    if (slot == slots) {
        uint32_t more = slots ? 2 * slots : 64;
        struct vm **grown = realloc(vms, more * sizeof *vms);

        if (!grown) {
            free(vm);
            close(channel);
            return refused("more sandboxes", ENOMEM);
        }
        vms = grown;
        memset(vms + slots, 0, (more - slots) * sizeof *vms);
        slots = more;
    }
    *vm = (struct vm){.life = EMPTY, .vm = NONE, .vcpu = NONE, .channel = channel};
    if ((failed = make(vm))) {
        struct reply reply = refused(failed, errno);

        release(vm);
        free(vm);
        return reply;
    }
    vms[slot] = vm;
    return (struct reply){.slot = slot};
}

static struct reply save(struct vm *vm, int file)
{
    struct state state = {.magic = MAGIC, .memory_bytes = MEMORY};

    if (vm->life != STOPPED || file == NONE)
        return refused("it is not stopped, or there is no file", EINVAL);
    /* The instruction that it has stopped in is complete only after the next entry. */
    vm->run->immediate_exit = 1;
    if (ioctl(vm->vcpu, KVM_RUN, 0) == 0 || errno != EINTR)
        return refused("KVM_RUN until the exit is complete", errno);
    vm->run->immediate_exit = 0;
    if (ioctl(vm->vcpu, KVM_GET_REGS, &state.registers) < 0)
        return refused("KVM_GET_REGS", errno);
    if (ioctl(vm->vcpu, KVM_GET_SREGS, &state.segments) < 0)
        return refused("KVM_GET_SREGS", errno);
    if (put_image(file, vm->memory, &state) < 0)
        return refused("writing the image", errno);
    return (struct reply){0};
}

static void wake(struct vm *vm, uint32_t slot, const struct control *request)
{
    if (vm->life == EMPTY && load(vm) < 0)
        dies(vm, slot, "KVM refuses the state of the image", (uint64_t)errno);
    else if (give(vm, request->bytes, request->length) < 0)
        dies(vm, slot, "it has no room for a request", request->length);
    else {
        vm->life = RUNNING;
        vm->resumed_ns = now_ns();
        go(vm, slot);
    }
}

static struct reply serve(const struct control *request, int passed, int *answered)
{
    uint32_t slot = request->slot;
    struct vm *vm;

    *answered = 1;
    if (request->what == CREATE)
        return create(passed);
    vm = slot < slots ? vms[slot] : NULL;
    if (!vm)
        return refused("no such sandbox", ENOENT);
    switch (request->what) {
    case WAKE:
        *answered = 0; /* the guest answers */
        if (vm->life == EMPTY || vm->life == STOPPED)
            wake(vm, slot, request);
        return (struct reply){0};
    case STOP:
        if (vm->life != RUNNING)
            return refused("it does not run", ESRCH);
        if (vm->watched & EPOLLOUT)
            return refused("it has not finished its answer", EBUSY);
        watch(vm, slot, 0);
        vm->life = STOPPED;
        return (struct reply){0};
    case RESUMED: return (struct reply){.value = vm->resumed_ns};
    case SAVE: return save(vm, passed);
    case DESTROY:
        release(vm);
        free(vm);
        vms[slot] = NULL;
        return (struct reply){0};
    default: return refused("no such request", ENOSYS);
    }
}

/* A request with the descriptor that came with it; 0 when the harness is gone. */
static int on_control(int control)
{
    struct control request;
    union {
        struct cmsghdr header;
        char room[CMSG_SPACE(sizeof(int))];
    } with;
    struct iovec into = {&request, sizeof request};
    struct msghdr message = {.msg_iov = &into, .msg_iovlen = 1, .msg_control = &with,
                             .msg_controllen = CMSG_LEN(sizeof(int))}; /* for one, not two */
    ssize_t got = recvmsg(control, &message, MSG_CMSG_CLOEXEC);
    struct cmsghdr *first = got > 0 ? CMSG_FIRSTHDR(&message) : NULL;
    int passed = NONE, answered;
    struct reply reply;

    if (got < 0 && (errno == EINTR || errno == EAGAIN))
        return 1;
    if (got <= 0)
        return 0;
    if (first && first->cmsg_level == SOL_SOCKET && first->cmsg_type == SCM_RIGHTS)
        memcpy(&passed, CMSG_DATA(first), sizeof passed);
    if ((size_t)got < CONTROL_HEADER || request.length != (size_t)got - CONTROL_HEADER) {
        if (passed != NONE)
            close(passed);
        return 1; /* not a request as control.h has them */
    }
    reply = serve(&request, passed, &answered);
    if (passed != NONE && request.what != CREATE)
        close(passed);
    return !answered || send(control, &reply, sizeof reply, MSG_NOSIGNAL) == sizeof reply;
}

static int serve_all(int control)
{
    struct epoll_event found[32], ours = {.events = EPOLLIN, .data.u64 = CONTROL_EVENT};
    struct rlimit files;
    struct sigaction action = {.sa_handler = hurry};
    /* Stays: the first vCPU on a host, and the last one, cost KVM a change of its own code. */
    struct vm anchor = {.life = EMPTY, .vm = NONE, .vcpu = NONE, .channel = NONE};
    const char *failed = make(&anchor);

    if (failed)
        fail(failed);
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    sigaction(SIGALRM, &action, NULL); /* without SA_RESTART */
    events = epoll_create1(EPOLL_CLOEXEC);
    if (events < 0 || epoll_ctl(events, EPOLL_CTL_ADD, control, &ours) < 0)
        fail("epoll");
    if (confine() < 0)
        fail("the seccomp filter");
    if (send(control, &(struct reply){0}, sizeof(struct reply), MSG_NOSIGNAL) < 0)
        return 0;
    for (;;) {
        int count = epoll_wait(events, found, sizeof found / sizeof *found, -1);

        if (count < 0 && errno != EINTR)
            fail("epoll_wait");
        for (int i = 0; i < count; i++)
            if (found[i].data.u64 != CONTROL_EVENT)
                on_channel((uint32_t)found[i].data.u64, found[i].events);
            else if (!on_control(control))
                return 0; /* the harness is gone: its sandboxes end with this process */
    }
}

int main(int count, char **words)
{
    if (count == 4 && strcmp(words[1], "make") == 0)
        return make_image(words[2], words[3]);
    if (count != 4 || strcmp(words[1], "serve") != 0)
        return 2;
    open_kvm();
    open_image(atoi(words[2]));
    return serve_all(atoi(words[3]));
}
