/* Gives back what a VMM has needed for its start alone, preloaded into QEMU.
 *
 * QEMU makes a microVM's device tree when it has built the machine, in 1 MiB that libfdt clears, so
 * that every page becomes the VMM's own. Here the tree is made in one page: QEMU enlarges it at once
 * (fdt_open_into), in memory that is zero already, and untouched.
 *
 * Building has allocated some MiB more than is left, in pieces between those that are kept. They are
 * given back at this moment, before a guest or a caller waits. The builds of QEMU that trim their
 * heap by themselves have little left to give. */
#define ENOUGH 4096

extern int fdt_create_with_flags(void *tree, int size, unsigned flags) __attribute__((weak));
extern int malloc_trim(unsigned long kept) __attribute__((weak));

int fdt_create(void *tree, int size)
{
    if (malloc_trim)
        malloc_trim(0);
    return fdt_create_with_flags(tree, size < ENOUGH ? size : ENOUGH, 0);
}
