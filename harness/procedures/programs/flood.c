/* Datagrams to several ports in turn, until end of file on stdin: RATE a second, or, when that is 0,
 * as fast as one core sends them.
 *
 *   flood ADDRESS FILE RATE PORT...
 *
 * Each carries its number (u64) and, in nanoseconds of CLOCK_MONOTONIC, when it was made, directly
 * before the call that sends it (u64). FILE gets the time of every one, in order. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { BLOCK = 1 << 14, LOOK = 64, BILLION = 1000000000 };

static uint64_t now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * BILLION + (uint64_t)t.tv_nsec;
}

/* Until a gap after the last one: who comes late sends no burst to make up for it. */
static uint64_t paced(uint64_t last, uint64_t gap)
{
    uint64_t next = last + gap, at = now();

    while (at < next) {
        struct timespec left = {.tv_sec = (time_t)((next - at) / BILLION),
                                .tv_nsec = (long)((next - at) % BILLION)};
        nanosleep(&left, NULL);
        at = now();
    }
    return at;
}

static int ended(void)
{
    struct pollfd in = {.fd = 0, .events = POLLIN};
    char drop[16];

    return poll(&in, 1, 0) > 0 && read(0, drop, sizeof drop) <= 0;
}

int main(int count, char **words)
{
    static uint64_t times[BLOCK];
    uint64_t number = 0, rate, gap;
    int ports = count - 4, file;
    int *fds = calloc((size_t)count, sizeof *fds);

    if (ports < 1 || !fds)
        return 64;
    rate = strtoull(words[3], NULL, 10);
    gap = rate ? BILLION / rate : 0;
    file = open(words[2], O_WRONLY | O_CREAT | O_TRUNC, 0600);
    for (int i = 0; i < ports; i++) {
        struct sockaddr_in to = {.sin_family = AF_INET,
                                 .sin_port = htons((uint16_t)atoi(words[4 + i]))};
        fds[i] = socket(AF_INET, SOCK_DGRAM, 0);
        if (inet_pton(AF_INET, words[1], &to.sin_addr) != 1
            || connect(fds[i], (void *)&to, sizeof to) != 0) {
            perror("connect");
            return 1;
        }
    }
    puts("ready");
    fflush(stdout);
    for (uint64_t last = now(); (number % LOOK && !gap) || !ended();) {
        uint64_t packet[2] = {number, gap ? paced(last, gap) : now()};
        times[number % BLOCK] = last = packet[1];
        /* A refusal by ICMP is not for us: what counts is what arrives. */
        (void)!send(fds[number % (uint64_t)ports], packet, sizeof packet, MSG_DONTWAIT);
        if (++number % BLOCK == 0 && write(file, times, sizeof times) != sizeof times)
            return 1;
    }
    size_t rest = number % BLOCK * sizeof *times;
    return write(file, times, rest) == (ssize_t)rest ? 0 : 1;
}
