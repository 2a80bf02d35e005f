/* Integer matrix multiplication, AVX-512 VNNI: a tile's 16 rows are the 16 lanes; vpdpbusd multiplies four unsigned codes a
 * lane with four signed activations, broadcast from memory. Codes unpacked once serve up to 8 tokens. */
#include "../edgellm.h"

#if EL_X86
EL_TARGET_BEGIN("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")
#include <immintrin.h>

#define INLINE static inline __attribute__((always_inline))
#define MAX_TOKENS 8

INLINE __m512i four(const int8_t *x)
{
    int32_t bytes;
    memcpy(&bytes, x, 4);
    return _mm512_set1_epi32(bytes);
}

/* A group's codes as unsigned bytes, four columns a register: unpacked[i] holds columns 4i .. 4i + 3 of the 16 rows. */
INLINE void unpack(int scheme, const uint8_t *codes, __m512i unpacked[8])
{
    __m512i nibble = _mm512_set1_epi8(15);
    if (scheme == EL_INT8) {
        for (int b = 0; b < 8; b++)
            unpacked[b] = _mm512_loadu_si512(codes + b * 64);
    } else {
        for (int b = 0; b < 4; b++) {
            __m512i pair = _mm512_loadu_si512(codes + b * 64);
            unpacked[2 * b] = _mm512_and_si512(pair, nibble);
            unpacked[2 * b + 1] = _mm512_and_si512(_mm512_srli_epi16(pair, 4), nibble);
        }
    }
}

/* What the sum starts from, so that unsigned codes give the signed sum: -8 sum(x), -128 sum(x), or nothing. */
INLINE __m512i start(int scheme, int32_t offset)
{
    if (scheme == EL_INT4_MIN)
        return _mm512_setzero_si512();
    return _mm512_set1_epi32(scheme == EL_INT8 ? offset * 16 : offset);
}

INLINE __m512 widen(const uint16_t *halves) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)halves)); }

/* acc[i] = one tile times token first + i. */
INLINE void tile_times_tokens(const el_matmul *a, int scheme, int64_t tile, int64_t first, int tokens, __m512 acc[MAX_TOKENS])
{
    int64_t groups = a->w.cols / EL_GROUP, parts = el_scale_rows(scheme), group_bytes = el_group_bytes(scheme);
    const uint8_t *codes = a->w.codes + tile * groups * group_bytes;
    const uint16_t *scales = a->w.scales + tile * groups * parts * EL_TILE;
    for (int i = 0; i < tokens; i++)
        acc[i] = _mm512_setzero_ps();
    for (int64_t g = 0; g < groups; g++, codes += group_bytes, scales += parts * EL_TILE) {
        __m512i unpacked[8];
        unpack(scheme, codes, unpacked);
        __m512 scale = widen(scales), minimum = scheme == EL_INT4_MIN ? widen(scales + EL_TILE) : scale;
#pragma GCC unroll 8
        for (int i = 0; i < tokens; i++) {
            int64_t at = (first + i) * groups + g;
            const int8_t *x = a->x.codes + at * EL_GROUP;
            __m512i even = start(scheme, a->x.offsets[at]), odd = _mm512_setzero_si512();
            for (int b = 0; b < 8; b += 2) {
                even = _mm512_dpbusd_epi32(even, unpacked[b], four(x + b * 4));
                odd = _mm512_dpbusd_epi32(odd, unpacked[b + 1], four(x + b * 4 + 4));
            }
            __m512 isum = _mm512_cvtepi32_ps(_mm512_add_epi32(even, odd));
            acc[i] = _mm512_fmadd_ps(_mm512_mul_ps(scale, _mm512_set1_ps(a->x.scales[at])), isum, acc[i]);
            if (scheme == EL_INT4_MIN)
                acc[i] = _mm512_fmadd_ps(minimum, _mm512_set1_ps(a->x.scaled_sums[at]), acc[i]);
        }
    }
}

INLINE void multiply_block(const el_matmul *a, int scheme, int64_t tile, int64_t first, int tokens)
{
    __m512 acc[MAX_TOKENS];
    tile_times_tokens(a, scheme, tile, first, tokens, acc);
    int64_t valid = a->w.rows - tile * EL_TILE;
    __mmask16 mask = valid >= EL_TILE ? 0xffff : (__mmask16)((1u << valid) - 1);
    for (int i = 0; i < tokens; i++) {
        float *out = a->out + (first + i) * a->w.rows + tile * EL_TILE;
        __m512 before = a->accumulate ? _mm512_maskz_loadu_ps(mask, out) : _mm512_setzero_ps();
        _mm512_mask_storeu_ps(out, mask, _mm512_add_ps(before, acc[i]));
    }
}

INLINE void multiply(const el_matmul *a, int scheme, el_range tiles, int64_t tokens)
{
    for (int64_t tile = tiles.begin; tile < tiles.end; tile++) {
        int64_t token = 0;
        for (; token + 8 <= tokens; token += 8)
            multiply_block(a, scheme, tile, token, 8);
        for (; token + 4 <= tokens; token += 4)
            multiply_block(a, scheme, tile, token, 4);
        for (; token < tokens; token++)
            multiply_block(a, scheme, tile, token, 1);
    }
}

void el_matmul__avx512vnni(const el_args *args, const el_step *step, el_team team)
{
    const el_matmul *a = &args->matmul;
    int64_t tokens = a->outputs_only ? step->n_outputs : step->n_tokens;
    el_range tiles = el_share(el_tiles(a->w.rows), team);
    switch (a->w.scheme) {
    case EL_INT4: multiply(a, EL_INT4, tiles, tokens); break;
    case EL_INT4_MIN: multiply(a, EL_INT4_MIN, tiles, tokens); break;
    case EL_INT8: multiply(a, EL_INT8, tiles, tokens); break;
    }
}

EL_TARGET_END
#endif
