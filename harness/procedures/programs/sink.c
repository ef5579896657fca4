/* Receives the datagrams of `flood` on several ports until end of file on stdin.
 *
 *   sink FILE PORT...
 *
 * FILE gets the number (u64) of every datagram as it is read, which is in the order of arrival for
 * each port. Prints how many were dropped for lack of buffer space, where this is known (Linux). */
#ifdef __linux__
#define _GNU_SOURCE
#else
#define SO_RCVBUFFORCE SO_RCVBUF
#endif
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { ROOM = 256 << 20, BATCH = 64, PORTS = 16 };

static uint32_t lost[PORTS];

static ssize_t take(int fd, int port, FILE *file)
{
    static uint64_t packets[BATCH][2];
    static char controls[BATCH][64];
    struct mmsghdr messages[BATCH];
    struct iovec parts[BATCH];

    for (int i = 0; i < BATCH; i++) {
        parts[i] = (struct iovec){packets[i], sizeof packets[i]};
        messages[i].msg_hdr = (struct msghdr){.msg_iov = &parts[i], .msg_iovlen = 1,
                                              .msg_control = controls[i],
                                              .msg_controllen = sizeof controls[i]};
    }
    int got = recvmmsg(fd, messages, BATCH, MSG_DONTWAIT, NULL);
    for (int i = 0; i < got; i++) {
#ifdef SO_RXQ_OVFL
        struct cmsghdr *control = CMSG_FIRSTHDR(&messages[i].msg_hdr);
        if (control && control->cmsg_type == SO_RXQ_OVFL)
            memcpy(&lost[port], CMSG_DATA(control), sizeof lost[port]);
#else
        (void)port;
#endif
        fwrite(&packets[i][0], sizeof packets[i][0], 1, file);
    }
    return got;
}

int main(int argc, char **argv)
{
    struct pollfd set[PORTS + 1] = {{.fd = 0, .events = POLLIN}};
    int ports = argc - 2, room = ROOM, one = 1, open_end = 1;
    FILE *file = argc > 2 ? fopen(argv[1], "wb") : NULL;

    if (!file || ports > PORTS)
        return 64;
    for (int i = 0; i < ports; i++) {
        struct sockaddr_in here = {.sin_family = AF_INET,
                                   .sin_port = htons((uint16_t)atoi(argv[2 + i]))};
        int fd = socket(AF_INET, SOCK_DGRAM, 0);
        setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof room);
#ifdef SO_RXQ_OVFL
        setsockopt(fd, SOL_SOCKET, SO_RXQ_OVFL, &one, sizeof one);
#else
        (void)one;
#endif
        if (bind(fd, (void *)&here, sizeof here) != 0) {
            perror("bind");
            return 1;
        }
        set[i + 1] = (struct pollfd){.fd = fd, .events = POLLIN};
    }
    puts("ready");
    fflush(stdout);
    while (open_end) {
        char drop[16];
        poll(set, (nfds_t)ports + 1, 1000);
        if (set[0].revents && read(0, drop, sizeof drop) <= 0)
            open_end = 0;
        for (int i = 0; i < ports; i++)
            while (take(set[i + 1].fd, i, file) == BATCH) { }
    }
    uint64_t all = 0;
    for (int i = 0; i < ports; i++)
        all += lost[i];
    printf("%llu\n", (unsigned long long)all);
    return fclose(file) != 0;
}
