/* The smallest possible echo, which `first-exec` runs in a guest. Without stdio, whose pages and
 * buffers would be touched needlessly. */
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#define ARGUMENTS_MAX 64

int main(int argc, char **argv)
{
    struct iovec line[2 * ARGUMENTS_MAX];
    ssize_t length = 0;
    int pieces = 0;

    if (argc > ARGUMENTS_MAX)
        return 1;
    for (int i = 1; i < argc; i++) {
        line[pieces++] = (struct iovec){argv[i], strlen(argv[i])};
        line[pieces++] = (struct iovec){i + 1 < argc ? " " : "\n", 1};
        length += (ssize_t)line[pieces - 2].iov_len + 1;
    }
    if (pieces == 0)
        return write(1, "\n", 1) != 1;
    return writev(1, line, pieces) != length;
}
