/* echo, as small as a real program can be: what `first-exec` starts in a guest. Without stdio, whose
 * pages and buffers would be touched for nothing. */
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#define WORDS_MAX 64

int main(int count, char **words)
{
    struct iovec line[2 * WORDS_MAX];
    ssize_t length = 0;
    int pieces = 0;

    if (count > WORDS_MAX)
        return 1;
    for (int i = 1; i < count; i++) {
        line[pieces++] = (struct iovec){words[i], strlen(words[i])};
        line[pieces++] = (struct iovec){i + 1 < count ? " " : "\n", 1};
        length += (ssize_t)line[pieces - 2].iov_len + 1;
    }
    if (pieces == 0)
        return write(1, "\n", 1) != 1;
    return writev(1, line, pieces) != length;
}
