/* Measures what KVM costs on this host: one exit to user space from the guest's kernel mode, by port
 * and by memory, and from its user mode; and how much slower code of its kernel mode is than the
 * same code outside. A KVM that emulates kernel mode need not enter the guest for an exit from it.
 *
 * The argument is the path of KVM's device. A VM with one vCPU in 64-bit mode runs short programs;
 * it has no devices. Prints `name=value` lines: exit_io_s, exit_mmio_s and exit_user_s (seconds),
 * kernel_mode_slowdown (a ratio), and `reason=` with the step that KVM refused, after which the
 * rest is missing. An alarm ends it when a step hangs. */
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define LIMIT_S 5
#define MEMORY 0x10000u
#define TABLES 0x1000u /* three levels, a page each */
#define CODE 0x8000u
#define TASK 0x9000u /* which ports user mode may write to */
#define PORT 0x80
#define NOWHERE 0x200000u /* mapped by the guest, and no memory of the VM */
#define ROUNDS 301
#define WARM_UPS 20
#define LONG_ENOUGH_S 0.002
#define PAIRS 12 /* of the loop inside and outside; other work on the host slows some of them */
#define MOST_TURNS (1u << 30)

/* mov $0x80, %dx; again: out %al, %dx; jmp again */
static const uint8_t by_port[] = {0x66, 0xba, 0x80, 0x00, 0xee, 0xeb, 0xfd};
/* again: mov %al, NOWHERE; jmp again */
static const uint8_t by_memory[] = {0x88, 0x04, 0x25, 0x00, 0x00, 0x20, 0x00, 0xeb, 0xf7};
/* again: dec %rcx; jnz again; out %al, %dx: the loop of `outside` */
static const uint8_t counting[] = {0x48, 0xff, 0xc9, 0x75, 0xfb, 0xee};

static struct kvm_run *shared;
static uint8_t *memory;
static int vcpu;

static void refuse(const char *step)
{
    printf("reason=%s: %s\n", step, strerror(errno));
    exit(0);
}

static double read_clock(clockid_t clock)
{
    struct timespec at;

    clock_gettime(clock, &at);
    return (double)at.tv_sec + (double)at.tv_nsec / 1e9;
}

static double now(void)
{
    return read_clock(CLOCK_MONOTONIC);
}

/* Processor time: on a busy host it says more of a loop than the time of day. */
static double busy(void)
{
    return read_clock(CLOCK_THREAD_CPUTIME_ID);
}

static void make_vcpu(const char *device)
{
    int kvm = open(device, O_RDWR | O_CLOEXEC), vm, length;
    struct kvm_userspace_memory_region region = {.memory_size = MEMORY};

    if (kvm < 0)
        refuse(device);
    if (ioctl(kvm, KVM_GET_API_VERSION, 0) != KVM_API_VERSION)
        refuse("KVM_GET_API_VERSION");
    if ((vm = ioctl(kvm, KVM_CREATE_VM, 0)) < 0)
        refuse("KVM_CREATE_VM");
    memory = mmap(NULL, MEMORY, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        refuse("mmap of guest memory");
    region.userspace_addr = (uintptr_t)memory;
    if (ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region) < 0)
        refuse("KVM_SET_USER_MEMORY_REGION");
    if ((vcpu = ioctl(vm, KVM_CREATE_VCPU, 0)) < 0)
        refuse("KVM_CREATE_VCPU");
    length = ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
    if (length < (int)sizeof *shared)
        refuse("KVM_GET_VCPU_MMAP_SIZE");
    shared = mmap(NULL, (size_t)length, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
    if (shared == MAP_FAILED)
        refuse("mmap of the vCPU");
}

/* 64-bit mode in a ring, 0 or 3; the first 4 MiB are mapped as they are, by pages of 2 MiB. */
static void enter_mode(uint8_t ring)
{
    uint64_t *tables = (uint64_t *)(memory + TABLES);
    const uint16_t map = 104; /* where the map of ports begins in a task state */
    struct kvm_sregs state;
    struct kvm_segment code = {.limit = 0xffffffff, .selector = 8 | ring, .type = 11, .present = 1,
                               .dpl = ring, .s = 1, .l = 1, .g = 1};
    struct kvm_segment data = code;

    /* Present, writable, for user mode; accessed and dirty, so that nothing writes to them. */
    tables[0] = (TABLES + 0x1000) | 0x67;
    tables[512] = (TABLES + 0x2000) | 0x67;
    tables[1024] = 0xe7;
    tables[1025] = NOWHERE | 0xe7;
    memcpy(memory + TASK + 102, &map, sizeof map);
    memset(memory + TASK + map, 0, PORT / 8 + 2); /* every port up to PORT is allowed */
    if (ioctl(vcpu, KVM_GET_SREGS, &state) < 0)
        refuse("KVM_GET_SREGS");
    data.selector = 16 | ring;
    data.type = 3;
    data.l = 0;
    data.db = 1;
    state.cs = code;
    state.ds = state.es = state.fs = state.gs = state.ss = data;
    state.tr = (struct kvm_segment){.base = TASK, .limit = map + PORT / 8 + 1, .selector = 0x28,
                                    .type = 11, .present = 1};
    state.cr0 = 0x80010033; /* PG, WP, NE, ET, MP, PE */
    state.cr3 = TABLES;
    state.cr4 = 0x20; /* PAE */
    state.efer = 0x500; /* LME, LMA */
    if (ioctl(vcpu, KVM_SET_SREGS, &state) < 0)
        refuse("KVM_SET_SREGS");
}

static void start(const uint8_t *program, size_t length, uint64_t turns)
{
    struct kvm_regs registers = {.rip = CODE, .rflags = 0x3002, .rcx = turns, .rdx = PORT};

    memcpy(memory + CODE, program, length);
    if (ioctl(vcpu, KVM_SET_REGS, &registers) < 0)
        refuse("KVM_SET_REGS");
}

/* Enters the guest until its next exit, which must be of this kind; the seconds that it took. */
static double entered(uint32_t expected, const char *what)
{
    double began = now();
    int done = ioctl(vcpu, KVM_RUN, 0);
    double took = now() - began;

    if (done < 0)
        refuse(what);
    if (shared->exit_reason != expected) {
        printf("reason=%s: the vCPU stopped with KVM_EXIT %u\n", what, shared->exit_reason);
        exit(0);
    }
    return took;
}

static int by_size(const void *one, const void *other)
{
    double a = *(const double *)one, b = *(const double *)other;

    return (a > b) - (a < b);
}

/* The median time of an exit. */
static double exits(const uint8_t *program, size_t length, uint32_t kind, const char *what)
{
    static double took[ROUNDS];

    start(program, length, 0);
    for (int i = 0; i < WARM_UPS; i++)
        entered(kind, what);
    for (int i = 0; i < ROUNDS; i++)
        took[i] = entered(kind, what);
    qsort(took, ROUNDS, sizeof *took, by_size);
    return took[ROUNDS / 2];
}

static double exit_s;

static double inside(uint64_t turns)
{
    double began;

    start(counting, sizeof counting, turns);
    began = busy();
    entered(KVM_EXIT_IO, "a loop in kernel mode");
    return busy() - began - exit_s;
}

static double outside(uint64_t turns)
{
    double began = busy();

    __asm__ volatile("1: dec %0\n\tjnz 1b" : "+r"(turns) : : "cc");
    return busy() - began;
}

/* As many turns as take long enough to be timed. */
static uint64_t turns_for(double (*timed)(uint64_t turns))
{
    uint64_t turns = 1000;

    while (timed(turns) < LONG_ENOUGH_S && turns < MOST_TURNS)
        turns *= 4;
    return turns;
}

static double least(double one, double other)
{
    return one < other ? one : other;
}

/* The loop inside as a multiple of the loop outside. Both in turns, and of each the least: what
 * else the host does slows either, and never makes one quicker. */
static double slowdown(void)
{
    uint64_t in = turns_for(inside), out = turns_for(outside);
    double in_s = inside(in), out_s = outside(out);

    for (int pair = 1; pair < PAIRS; pair++) {
        in_s = least(in_s, inside(in));
        out_s = least(out_s, outside(out));
    }
    return in_s / (double)in / (out_s / (double)out);
}

int main(int count, char **argv)
{
    if (count != 2)
        return 2;
    setvbuf(stdout, NULL, _IOLBF, 0);
    alarm(LIMIT_S);
    make_vcpu(argv[1]);
    enter_mode(0);
    exit_s = exits(by_port, sizeof by_port, KVM_EXIT_IO, "an exit by port");
    printf("exit_io_s=%.9g\n", exit_s);
    printf("exit_mmio_s=%.9g\n",
           exits(by_memory, sizeof by_memory, KVM_EXIT_MMIO, "an exit by memory"));
    printf("kernel_mode_slowdown=%.9g\n", slowdown());
    enter_mode(3);
    printf("exit_user_s=%.9g\n",
           exits(by_port, sizeof by_port, KVM_EXIT_IO, "an exit from user mode"));
    return 0;
}
