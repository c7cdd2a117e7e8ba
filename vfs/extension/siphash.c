/* A hash that tells nothing of what was hashed to those who lack the key. */
#include "litestream.h"

#include <string.h>

static uint64_t rotated(uint64_t value, int bits) { return value << bits | value >> (64 - bits); }

/* SipHash-2-4: https://www.aumasson.jp/siphash/siphash.pdf */
uint64_t siphash(uint64_t k0, uint64_t k1, const uint8_t *data, size_t size) {
  uint64_t v0 = k0 ^ 0x736f6d6570736575ULL, v1 = k1 ^ 0x646f72616e646f6dULL;
  uint64_t v2 = k0 ^ 0x6c7967656e657261ULL, v3 = k1 ^ 0x7465646279746573ULL;
  for (size_t start = 0; start <= size; start += 8) {
    uint64_t word = 0;
    size_t count = size - start < 8 ? size - start : 8;
    if (count) memcpy(&word, data + start, count);
    if (count < 8) word |= (uint64_t)(size & 0xff) << 56;
    v3 ^= word;
    int rounds = count < 8 ? 2 + 4 : 2;
    for (int round = 0; round < rounds; round++) {
      if (round == 2) {
        v0 ^= word;
        v2 ^= 0xff;
      }
      v0 += v1, v1 = rotated(v1, 13) ^ v0, v0 = rotated(v0, 32);
      v2 += v3, v3 = rotated(v3, 16) ^ v2;
      v0 += v3, v3 = rotated(v3, 21) ^ v0;
      v2 += v1, v1 = rotated(v1, 17) ^ v2, v2 = rotated(v2, 32);
    }
    if (count < 8) break;
    v0 ^= word;
  }
  return v0 ^ v1 ^ v2 ^ v3;
}
