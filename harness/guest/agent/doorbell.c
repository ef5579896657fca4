/* The doorbell: answers a nonce from a loop without interrupts, system calls or wake-ups.
 *
 * An armed guest is stopped or checkpointed in this loop, so that it looks for a nonce as soon as
 * it runs again. Under emulation, where code is translated again after a restore, this executes 60
 * blocks of code instead of 3,000. It polls the first UART (16550), which the kernel does not use
 * by default.
 *
 * Armed:  0xC0, and 'R' when interrupts are masked, else 'U'.
 * Ring:   u16 magic 0xC0BE, u16 check, u64 nonce.
 * Dated:  u16 magic 0xC0BF, u32 nonce, u64 wall clock in ns XOR the nonce (repeated), which is set
 *         before the answer. The UART accepts these 14 bytes while the guest is stopped; for one
 *         more, a running guest would have to wait until its VMM is scheduled.
 * check:  the sum of the nonce's four 16-bit words.
 * Answer: the lower 32 bits of SipHash(key, what followed the magic, without the check). Few bytes,
 *         because the VMM passes on each byte separately.
 *
 * No byte of a message is zero. QEMU's UART reads as zero when it has received nothing, so one
 * string instruction can ask for a whole message and tell what has come of it. Under KVM every
 * single access is an exit to the VMM, which takes longer than everything else here; a string is
 * one exit.
 */
#include "agent.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/io.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define PORT 0x3f8
#define FIFO_CONTROL (PORT + 2)
#define INTERRUPT_ENABLE (PORT + 1)
#define MODEM_CONTROL (PORT + 4)
#define LOOPBACK 0x10
#define LINE_STATUS (PORT + 5)
#define DATA_READY 0x01
#define ARMED 0xc0 /* in no message of a kernel, which are UTF-8 */
#define MASKED 'R'
#define UNMASKED 'U'
#define APIC 0xfee00000
#define TASK_PRIORITY (0x80 / 4)
#define MAGIC 0xC0BEu
#define MAGIC_DATED 0xC0BFu

struct __attribute__((packed)) ring {
    uint16_t magic, check;
    uint64_t nonce;
};

struct __attribute__((packed)) dated {
    uint16_t magic;
    uint32_t nonce;
    uint64_t wall;
};

union message {
    uint16_t magic;
    struct ring ring;
    struct dated dated;
};

static struct timespec rang;

uint64_t doorbell_age_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)(now.tv_sec - rang.tv_sec) * 1000000000u + (uint64_t)now.tv_nsec -
           (uint64_t)rang.tv_nsec;
}

static uint16_t check(uint64_t nonce)
{
    return (uint16_t)(nonce + (nonce >> 16) + (nonce >> 32) + (nonce >> 48));
}

/* Whether the UART reads as zero when it has received nothing. */
static int empty_is_zero;

static int has_data(void)
{
    return inb(LINE_STATUS) & DATA_READY;
}

static void wait_data(void)
{
    while (!has_data())
        for (int i = 0; i < 8000; i++) /* reading the port takes the lock that the VMM needs */
            __asm__ volatile("");
}

/* Reads what has come of `count` bytes; returns how many have. */
static size_t take(uint8_t *into, size_t count)
{
    uint8_t *at = into;
    size_t kept = 0, left = count;

    if (!empty_is_zero) {
        if (!has_data())
            return 0;
        *into = inb(PORT);
        return 1;
    }
    __asm__ volatile("rep insb" : "+D"(at), "+c"(left) : "d"((uint16_t)PORT) : "memory");
    for (size_t i = 0; i < count; i++)
        if (into[i])
            into[kept++] = into[i];
    return kept;
}

static void put(const void *bytes, size_t count)
{
    __asm__ volatile("rep outsb" : "+S"(bytes), "+c"(count) : "d"((uint16_t)PORT) : "memory");
}

/* Maps the local APIC, whose task priority masks every interrupt, as `cli` would if a process
 * could use it: a restored guest must not run the timer's tick first. NULL when not possible. */
static volatile uint32_t *open_apic(void)
{
    int fd = open("/dev/mem", O_RDWR | O_SYNC | O_CLOEXEC);
    void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, APIC);

    if (fd >= 0)
        close(fd);
    return page == MAP_FAILED ? NULL : page;
}

/* Whether interrupts are masked now. Without a local APIC at that address (x2APIC) they are not. */
static int mask(volatile uint32_t *apic)
{
    if (!apic)
        return 0;
    apic[TASK_PRIORITY] = 0xff;
    return apic[TASK_PRIORITY] == 0xff;
}

/* The length of the message that these bytes begin; 0 when they begin none. */
static size_t length_of(const union message *message)
{
    if (message->magic == MAGIC_DATED)
        return sizeof message->dated;
    if (message->magic == MAGIC && message->ring.check == check(message->ring.nonce))
        return sizeof message->ring;
    return 0;
}

static void wait_ring(union message *message)
{
    uint8_t *bytes = (uint8_t *)message;
    size_t have = 0, wanted = sizeof message->ring, got;

    wait_data();
    for (;;) {
        while ((got = take(bytes + have, wanted - have)) == 0)
            wait_data();
        have += got;
        if (have < wanted)
            continue;
        wanted = length_of(message);
        if (have == wanted)
            return;
        if (!wanted) { /* noise: look for the magic at the next byte */
            outb(0, MODEM_CONTROL);
            memmove(bytes, bytes + 1, --have);
            wanted = sizeof message->ring;
        }
    }
}

void doorbell_wait(const struct frame *request)
{
    static volatile uint32_t *apic;
    uint8_t armed[] = {ARMED, MASKED};
    union message message;
    uint32_t answer;
    int masked;

    if (ioperm(PORT, 8, 1) != 0) {
        line_error(request->id, errno, "doorbell");
        return;
    }
    outb(0, INTERRUPT_ENABLE);
    outb(0xc7, FIFO_CONTROL); /* enabled, cleared, with a trigger level of 14 bytes */
    empty_is_zero = !has_data() && inb(PORT) == 0;
    line_put(KIND_ANSWER, request->id, "", 0);
    line_flush();
    if (!apic)
        apic = open_apic();
    masked = mask(apic);
    if (!masked)
        armed[1] = UNMASKED;
    put(armed, sizeof armed);
    /* In loopback QEMU does not tell its main loop of every byte that is read, which then takes the
     * lock that the next byte needs. It still receives, but sends nothing. */
    outb(LOOPBACK, MODEM_CONTROL);
    wait_ring(&message);
    if (message.magic == MAGIC_DATED) {
        self_wall(message.dated.wall ^ (message.dated.nonce * 0x100000001ull));
        answer = (uint32_t)identity_sign((const uint8_t *)&message.dated.nonce,
                                         sizeof message.dated - sizeof message.magic);
    } else
        answer = (uint32_t)identity_sign((const uint8_t *)&message.ring.nonce,
                                         sizeof message.ring.nonce);
    outb(0, MODEM_CONTROL);
    put(&answer, sizeof answer);
    clock_gettime(CLOCK_MONOTONIC, &rang);
    if (masked)
        apic[TASK_PRIORITY] = 0;
}
