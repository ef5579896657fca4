#include "siphash.h"

#include <string.h>

static uint64_t rotate(uint64_t value, int bits)
{
    return value << bits | value >> (64 - bits);
}

static void rounds(uint64_t v[4], int count)
{
    while (count--) {
        v[0] += v[1]; v[1] = rotate(v[1], 13) ^ v[0]; v[0] = rotate(v[0], 32);
        v[2] += v[3]; v[3] = rotate(v[3], 16) ^ v[2];
        v[0] += v[3]; v[3] = rotate(v[3], 21) ^ v[0];
        v[2] += v[1]; v[1] = rotate(v[1], 17) ^ v[2]; v[2] = rotate(v[2], 32);
    }
}

uint64_t siphash(const uint8_t key[16], const uint8_t *bytes, size_t count)
{
    uint64_t k[2], word, v[4];
    uint8_t tail[8] = {0};
    size_t whole = count & ~(size_t)7;

    memcpy(k, key, 16);
    v[0] = k[0] ^ 0x736f6d6570736575u;
    v[1] = k[1] ^ 0x646f72616e646f6du;
    v[2] = k[0] ^ 0x6c7967656e657261u;
    v[3] = k[1] ^ 0x7465646279746573u;
    for (size_t at = 0; at <= whole; at += 8) {
        if (at < whole)
            memcpy(&word, bytes + at, 8);
        else {
            memcpy(tail, bytes + whole, count - whole);
            tail[7] = (uint8_t)count;
            memcpy(&word, tail, 8);
        }
        v[3] ^= word;
        rounds(v, 2);
        v[0] ^= word;
    }
    v[2] ^= 0xff;
    rounds(v, 4);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}
