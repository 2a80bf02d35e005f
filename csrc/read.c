/* Plain reading, at the width of this processor's vectors: the bandwidth that kernels are compared with. */
#include "pool.h"

#include <stdatomic.h>

#define STREAMS 4 /* loads in flight that do not wait for each other's exclusive or */

/* The exclusive or of the 64-bit words in data[0 .. bytes), bytes a multiple of STREAMS vectors. */
#define DEFINE_READ(name, vector_bytes)                                                          \
    static uint64_t name(const uint8_t *data, int64_t bytes)                                     \
    {                                                                                            \
        typedef uint64_t vector __attribute__((vector_size(vector_bytes), aligned(8), may_alias)); \
        vector sums[STREAMS] = {0};                                                              \
        for (const vector *at = (const vector *)data, *end = (const vector *)(data + bytes); at < end; at += STREAMS) \
            for (int i = 0; i < STREAMS; i++)                                                    \
                sums[i] ^= at[i];                                                                \
        vector all = (sums[0] ^ sums[1]) ^ (sums[2] ^ sums[3]);                                  \
        uint64_t words = 0;                                                                      \
        for (int i = 0; i < vector_bytes / 8; i++)                                               \
            words ^= all[i];                                                                     \
        return words;                                                                            \
    }

DEFINE_READ(read__16, 16)
#if EL_X86
EL_TARGET_BEGIN("avx2")
DEFINE_READ(read__32, 32)
EL_TARGET_END
EL_TARGET_BEGIN("avx512f")
DEFINE_READ(read__64, 64)
EL_TARGET_END
#endif

struct reading {
    const uint8_t *data;
    int64_t blocks;
    uint64_t (*read)(const uint8_t *data, int64_t bytes);
    _Atomic uint64_t words;
};

static void read_share(void *context, el_team team)
{
    struct reading *r = context;
    el_range share = el_share(r->blocks, team);
    uint64_t words = r->read(r->data + share.begin * EL_READ_BLOCK, (share.end - share.begin) * EL_READ_BLOCK);
    atomic_fetch_xor(&r->words, words);
}

int el_read(el_pool *pool, const void *data, int64_t bytes, uint64_t *words)
{
    struct reading r = {data, bytes / EL_READ_BLOCK, read__16, 0};
#if EL_X86
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2"))
        r.read = read__32;
    if (__builtin_cpu_supports("avx512f"))
        r.read = read__64;
#endif
    int status = el_pool_run(pool, read_share, &r);
    *words = r.words;
    return status;
}
