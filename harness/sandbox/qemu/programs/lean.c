/* Keeps a VMM from writing memory that it does not need, preloaded into QEMU.
 *
 * QEMU makes a device tree of 1 MiB for a microVM, which is empty but for a few nodes, and libfdt
 * clears all of it: every page becomes the VMM's own. Here the tree is made in one page. QEMU
 * enlarges it at once (fdt_open_into), in memory that is zero already, and untouched. */
#define ENOUGH 4096

extern int fdt_create_with_flags(void *tree, int size, unsigned flags) __attribute__((weak));

int fdt_create(void *tree, int size)
{
    return fdt_create_with_flags(tree, size < ENOUGH ? size : ENOUGH, 0);
}
