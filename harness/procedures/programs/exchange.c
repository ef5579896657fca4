/* Round trips of one byte over TCP, each timed separately.
 *
 *   exchange serve ADDRESS PORT               answers forever
 *   exchange ask ADDRESS PORT COUNT KEEP      prints the nanoseconds of each kept exchange
 *
 * After COUNT/10 exchanges to warm up, COUNT are timed and every KEEPth is kept. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static uint64_t now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static int tcp_socket(const char *address, const char *port, struct sockaddr_in *to)
{
    int one = 1, fd = socket(AF_INET, SOCK_STREAM, 0);

    *to = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port))};
    if (fd < 0 || inet_pton(AF_INET, address, &to->sin_addr) != 1)
        fail("socket");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    return fd;
}

static void serve(const char *address, const char *port)
{
    struct sockaddr_in here;
    int fd = tcp_socket(address, port, &here), one = 1;
    char byte;

    if (bind(fd, (void *)&here, sizeof here) != 0 || listen(fd, 8) != 0)
        fail("listen");
    puts("ready");
    fflush(stdout);
    for (;;) {
        int peer = accept(fd, NULL, NULL);
        setsockopt(peer, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        while (read(peer, &byte, 1) == 1 && write(peer, &byte, 1) == 1) { }
        close(peer);
    }
}

static uint64_t once(int fd)
{
    uint64_t start = now();
    char byte = 'x';

    if (write(fd, &byte, 1) != 1 || read(fd, &byte, 1) != 1)
        fail("exchange");
    return now() - start;
}

static void ask(const char *address, const char *port, long count, long keep)
{
    struct sockaddr_in there;
    int fd = tcp_socket(address, port, &there);
    uint64_t *kept = malloc((size_t)(count / keep + 1) * sizeof *kept);

    if (!kept || connect(fd, (void *)&there, sizeof there) != 0)
        fail("connect");
    for (long i = 0; i < count / 10; i++)
        once(fd);
    for (long i = 0; i < count; i++)
        kept[i / keep] = once(fd); /* the last of each group is kept */
    for (long i = 0; i < count / keep; i++)
        printf("%llu\n", (unsigned long long)kept[i]);
}

int main(int argc, char **argv)
{
    signal(SIGPIPE, SIG_IGN);
    if (argc == 4 && strcmp(argv[1], "serve") == 0)
        serve(argv[2], argv[3]);
    else if (argc == 6 && strcmp(argv[1], "ask") == 0)
        ask(argv[2], argv[3], atol(argv[4]), atol(argv[5]));
    else
        return 64;
    return 0;
}
