/* echo, as small as a real program can be: what `first-exec` starts in a guest. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

int main(int count, char **words)
{
    char line[4096];
    size_t length = 0;

    for (int i = 1; i < count; i++) {
        int wrote = snprintf(line + length, sizeof line - length, "%s%s", i > 1 ? " " : "", words[i]);
        if (wrote < 0 || length + (size_t)wrote >= sizeof line - 1)
            return 1;
        length += (size_t)wrote;
    }
    line[length++] = '\n';
    return write(1, line, length) != (ssize_t)length;
}
