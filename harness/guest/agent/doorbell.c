/* The doorbell: answers a nonce from a loop without interrupts, system calls or wake-ups.
 *
 * An armed guest is stopped or checkpointed in this loop, so that it looks for a nonce as soon as
 * it runs again. Under emulation, where code is translated again after a restore, this executes 60
 * blocks of code instead of 3,000. It polls the first UART (16550), which the kernel does not use
 * by default.
 *
 * Armed:  'R'.
 * Ring:   u16 magic 0xC0BE, u16 check, u64 nonce.
 * Dated:  u16 magic 0xC0BF, u32 nonce, u64 wall clock in ns, which is set before the answer. The
 *         UART accepts these 14 bytes while the guest is stopped; for one more, a running guest
 *         would have to wait until its VMM is scheduled.
 * check:  the sum of the nonce's four 16-bit words.
 * Answer: the lower 32 bits of SipHash(key, nonce), or of nonce and wall clock when dated. Few
 *         bytes, because the VMM passes on each byte separately.
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
#define LINE_STATUS (PORT + 5)
#define DATA_READY 0x01
#define READY 'R'
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

static void take(uint8_t *into)
{
    while (!(inb(LINE_STATUS) & DATA_READY))
        for (int i = 0; i < 8000; i++) /* reading the port takes the lock that the VMM needs */
            __asm__ volatile("");
    *into = inb(PORT);
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

static void wait_ring(union message *message)
{
    uint8_t *bytes = (uint8_t *)message;
    size_t have = 0;

    for (;;) {
        take(bytes + have++);
        if (have < sizeof message->ring)
            continue;
        if (message->magic == MAGIC_DATED) {
            while (have < sizeof message->dated)
                take(bytes + have++);
            return;
        }
        if (message->magic == MAGIC && message->ring.check == check(message->ring.nonce))
            return;
        memmove(bytes, bytes + 1, --have); /* noise: look for the magic at the next byte */
    }
}

void doorbell_wait(const struct frame *request)
{
    static volatile uint32_t *apic;
    union message message;
    uint32_t answer;

    if (ioperm(PORT, 8, 1) != 0) {
        line_error(request->id, errno, "doorbell");
        return;
    }
    outb(0, INTERRUPT_ENABLE);
    outb(0xc7, FIFO_CONTROL); /* enabled, cleared, with a trigger level of 14 bytes */
    line_put(KIND_ANSWER, request->id, "", 0);
    line_flush();
    if (!apic)
        apic = open_apic();
    if (apic)
        apic[TASK_PRIORITY] = 0xff;
    outb(READY, PORT);
    wait_ring(&message);
    if (message.magic == MAGIC_DATED) {
        self_wall(message.dated.wall);
        answer = (uint32_t)identity_sign((const uint8_t *)&message.dated.nonce,
                                         sizeof message.dated - sizeof message.magic);
    } else
        answer = (uint32_t)identity_sign((const uint8_t *)&message.ring.nonce,
                                         sizeof message.ring.nonce);
    for (int shift = 0; shift < 32; shift += 8)
        outb(answer >> shift & 0xff, PORT);
    clock_gettime(CLOCK_MONOTONIC, &rang);
    if (apic)
        apic[TASK_PRIORITY] = 0;
}
