/* Images: what a VM maps, and the state that its vCPU starts in. They are made of a program, and
 * read; the descriptors of KVM are here too, since both need them. */
#ifndef COPPICE_FLOOR_IMAGE_H
#define COPPICE_FLOOR_IMAGE_H

#include "layout.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAGIC 0x31524f4f4c465043u /* "CPFLOOR1" */
#define MIB (1u << 20)
#define HUGE (2 * MIB)

/* The page behind an image's memory. */
struct state {
    uint64_t magic, memory_bytes;
    struct kvm_regs registers;
    struct kvm_sregs segments;
};

static int kvm, image;
static size_t run_bytes;
static int synchronised; /* the state of a vCPU can be given and taken with KVM_RUN */
static struct state initial;

static void fail(const char *what)
{
    fprintf(stderr, "kvm-floor: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void open_kvm(void)
{
    if ((kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC)) < 0)
        fail("/dev/kvm cannot be opened");
    if (ioctl(kvm, KVM_GET_API_VERSION, 0) != KVM_API_VERSION)
        fail("/dev/kvm has another interface than KVM's");
    int length = ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
    if (length < (int)sizeof(struct kvm_run))
        fail("KVM_GET_VCPU_MMAP_SIZE");
    run_bytes = (size_t)length;
    if (ioctl(kvm, KVM_CHECK_EXTENSION, KVM_CAP_IMMEDIATE_EXIT) <= 0)
        fail("this KVM has no KVM_CAP_IMMEDIATE_EXIT");
    int can = ioctl(kvm, KVM_CHECK_EXTENSION, KVM_CAP_SYNC_REGS);
    int need = KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS;
    synchronised = can > 0 && (can & need) == need;
}

/* Writes all of it, or returns -1. */
static int put(int file, const void *bytes, size_t length)
{
    const uint8_t *at = bytes;

    while (length) {
        ssize_t done = write(file, at, length);

        if (done <= 0)
            return -1;
        at += done;
        length -= (size_t)done;
    }
    return 0;
}

static int put_image(int file, const void *memory, const struct state *state)
{
    uint8_t page[PAGE] = {0};

    memcpy(page, state, sizeof *state);
    return put(file, memory, MEMORY) < 0 ? -1 : put(file, page, sizeof page);
}

static struct kvm_segment segment(uint16_t selector, uint8_t type, uint8_t is_code)
{
    return (struct kvm_segment){.limit = 0xffffffff, .selector = selector | 3, .type = type,
                                .present = 1, .dpl = 3, .db = !is_code, .s = 1, .l = is_code,
                                .g = 1};
}

/* A task state with nothing but the map of ports: those that the guest asks by are allowed. The
 * flags allow all of them (IOPL 3), but a KVM that runs user mode natively looks here instead. */
static void allow_ports(uint8_t *task, struct kvm_segment *register_)
{
    const uint16_t map = 104;

    memcpy(task + 102, &map, sizeof map);
    memset(task + map, 0xff, 5);
    for (unsigned port = FOR_INPUT; port <= FOR_THE_END; port++)
        task[map + port / 8] &= (uint8_t)~(1u << port % 8);
    *register_ = (struct kvm_segment){.base = TASK, .limit = map + 4, .selector = 0x28, .type = 11,
                                      .present = 1};
}

/* 64-bit user mode, from a new vCPU's state; it may write to ports. */
static int make_image(const char *program, const char *path)
{
    static uint8_t memory[MEMORY] __attribute__((aligned(PAGE)));
    struct state state = {.magic = MAGIC, .memory_bytes = MEMORY};
    uint64_t *tables = (uint64_t *)(memory + TABLES - BASE);
    struct kvm_segment data = segment(0x20, 3, 0);
    /* Present, writable, for user mode; accessed and dirty, so that nothing writes to them. */
    const uint64_t table = 0x67, huge = 0xe7;
    int vm, vcpu, file = open(program, O_RDONLY | O_CLOEXEC);
    ssize_t length = file < 0 ? -1 : read(file, memory + PROGRAM - BASE, TASK - PROGRAM);

    if (length <= 0)
        fail(program);
    close(file);
    open_kvm();
    if ((vm = ioctl(kvm, KVM_CREATE_VM, 0)) < 0)
        fail("KVM_CREATE_VM");
    if ((vcpu = ioctl(vm, KVM_CREATE_VCPU, 0)) < 0)
        fail("KVM_CREATE_VCPU");
    if (ioctl(vcpu, KVM_GET_SREGS, &state.segments) < 0)
        fail("KVM_GET_SREGS");
    tables[0] = (TABLES + PAGE) | table;
    tables[512] = (TABLES + 2 * PAGE) | table;
    tables[512 + WORKING / (1u << 30)] = (TABLES + 3 * PAGE) | table;
    tables[1024] = huge;
    for (uint64_t i = 0; i < WORKING_MOST_MIB / 2; i++)
        tables[1536 + i] = (WORKING + i * HUGE) | huge;
    state.segments.cs = segment(0x18, 11, 1);
    state.segments.ds = state.segments.es = state.segments.fs = state.segments.gs =
        state.segments.ss = data;
    allow_ports(memory + TASK - BASE, &state.segments.tr);
    state.segments.cr0 = 0x80010033; /* PG, WP, NE, ET, MP, PE */
    state.segments.cr3 = TABLES;
    state.segments.cr4 = 0x20; /* PAE */
    state.segments.efer = 0x500; /* LME, LMA */
    state.registers = (struct kvm_regs){.rip = PROGRAM, .rsp = SHARED + PAGE - 8, .rflags = 0x3002};
    file = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (file < 0 || put_image(file, memory, &state) < 0 || close(file) < 0)
        fail(path);
    return 0;
}

static void open_image(int file)
{
    struct stat found;

    image = file;
    if (fstat(image, &found) < 0 || found.st_size != MEMORY + PAGE) {
        fprintf(stderr, "kvm-floor: the image has %lld bytes, not %u: it is truncated\n",
                (long long)found.st_size, MEMORY + PAGE);
        exit(1);
    }
    if (pread(image, &initial, sizeof initial, MEMORY) != sizeof initial ||
        initial.magic != MAGIC || initial.memory_bytes != MEMORY) {
        fprintf(stderr, "kvm-floor: the image is not one of kvm-floor\n");
        exit(1);
    }
}

#endif
