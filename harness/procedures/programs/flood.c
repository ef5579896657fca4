/* Sends datagrams to several ports in turn until end of file on stdin: RATE per second or, if RATE
 * is 0, as fast as one core can.
 *
 *   flood ADDRESS FILE RATE PORT...
 *
 * Each datagram has its number (u64) and its time (u64, nanoseconds of CLOCK_MONOTONIC), taken
 * directly before it is sent. FILE gets all times, in order. */
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

/* Waits until `gap` after the last datagram; delays are not made up for by bursts. */
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

int main(int argc, char **argv)
{
    static uint64_t times[BLOCK];
    uint64_t number = 0, rate, gap;
    int ports = argc - 4, file;
    int *fds = calloc((size_t)argc, sizeof *fds);

    if (ports < 1 || !fds)
        return 64;
    rate = strtoull(argv[3], NULL, 10);
    gap = rate ? BILLION / rate : 0;
    file = open(argv[2], O_WRONLY | O_CREAT | O_TRUNC, 0600);
    for (int i = 0; i < ports; i++) {
        struct sockaddr_in to = {.sin_family = AF_INET,
                                 .sin_port = htons((uint16_t)atoi(argv[4 + i]))};
        fds[i] = socket(AF_INET, SOCK_DGRAM, 0);
        if (inet_pton(AF_INET, argv[1], &to.sin_addr) != 1
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
        /* ICMP errors are ignored: only datagrams that arrive count. */
        (void)!send(fds[number % (uint64_t)ports], packet, sizeof packet, MSG_DONTWAIT);
        if (++number % BLOCK == 0 && write(file, times, sizeof times) != sizeof times)
            return 1;
    }
    size_t rest = number % BLOCK * sizeof *times;
    return write(file, times, rest) == (ssize_t)rest ? 0 : 1;
}
