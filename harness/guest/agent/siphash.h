/* SipHash-2-4 (Aumasson and Bernstein, 2012), a keyed hash. */
#ifndef COPPICE_SIPHASH_H
#define COPPICE_SIPHASH_H

#include <stddef.h>
#include <stdint.h>

uint64_t siphash(const uint8_t key[16], const uint8_t *bytes, size_t count);

#endif
