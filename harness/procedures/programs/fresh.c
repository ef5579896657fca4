/* A program that a sandbox has never seen: it prints its argument backwards and removes its own
 * file. Each upload ends in other random bytes, so no cache of the host or the VMM knows it. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    if (argc != 2)
        return 1;
    for (size_t left = strlen(argv[1]); left > 0; left--)
        putchar(argv[1][left - 1]);
    putchar('\n');
    return unlink(argv[0]) != 0 || fflush(stdout) != 0;
}
