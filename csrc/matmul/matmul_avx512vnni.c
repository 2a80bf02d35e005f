/* Integer matrix multiplication, AVX-512 VNNI: a tile's 16 rows are the 16 lanes; vpdpbusd multiplies four unsigned codes a
 * lane with four signed activations, broadcast from memory. Codes unpacked once serve up to 8 tokens.
 *
 * Narrow codes are masked where they stand rather than shifted down: a quad masked at bit s contributes 2^s times its
 * product, and the sum, a multiple of 2^s, is shifted once instead. */
#include "../edgellm.h"

#if EL_X86
EL_TARGET_BEGIN("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")
#include <immintrin.h>

#define MAX_TOKENS 8
#define PREFETCH_BYTES 8192 /* ahead in the codes, for one token: far enough for memory to answer */

INLINE __m512i four(const int8_t *x)
{
    int32_t bytes;
    memcpy(&bytes, x, 4);
    return _mm512_set1_epi32(bytes);
}

INLINE __m512i masked(__m512i codes, int mask) { return _mm512_and_si512(codes, _mm512_set1_epi8((char)mask)); }

/* A plane's codes as unsigned bytes, a quad a register: unpacked[q] holds columns 4q .. 4q + 3 of the 16 rows, times
 * 2^s for int4 (s = 4 in odd quads), int2 and trits (s = 2 (q % 4)). */
INLINE void unpack(int bits, const uint8_t *plane, __m512i unpacked[8])
{
    if (bits == 8) {
        for (int q = 0; q < 8; q++)
            unpacked[q] = _mm512_loadu_si512(plane + q * 64);
    } else if (bits == 4) {
        for (int q = 0; q < 8; q++)
            unpacked[q] = masked(_mm512_loadu_si512(plane + q / 2 * 64), 15 << q % 2 * 4);
    } else if (bits == 2) {
        for (int q = 0; q < 8; q++)
            unpacked[q] = masked(_mm512_loadu_si512(plane + q / 4 * 64), 3 << q % 4 * 2);
    } else {
        __m512i high = _mm512_loadu_si512(plane + 128);
        for (int q = 0; q < 8; q++) {
            __m512i low = _mm512_srli_epi16(_mm512_loadu_si512(plane + q / 4 * 64), q % 4 * 2);
            __m512i bit = q < 2 ? _mm512_slli_epi16(high, 2 - q) : _mm512_srli_epi16(high, q - 2);
            unpacked[q] = _mm512_or_si512(masked(low, 3), masked(bit, 4));
        }
    }
}

/* before + the exact sums over a block of code * x; before: what the signed sum starts from. */
INLINE __m512i dot(int bits, const __m512i q[8], const int8_t *x, __m512i before)
{
    __m512i low, high = _mm512_setzero_si512();
    if (bits == 2) {
        low = _mm512_setzero_si512();
        for (int i = 0; i < 8; i += 4) {
            low = _mm512_dpbusd_epi32(low, q[i + 1], four(x + i * 4 + 4));
            high = _mm512_dpbusd_epi32(high, q[i + 3], four(x + i * 4 + 12));
        }
        low = _mm512_add_epi32(before, _mm512_srai_epi32(low, 2));
        high = _mm512_srai_epi32(high, 2);
        for (int i = 0; i < 8; i += 4) {
            low = _mm512_dpbusd_epi32(low, q[i], four(x + i * 4));
            high = _mm512_dpbusd_epi32(high, q[i + 2], four(x + i * 4 + 8));
        }
    } else {
        low = before;
        for (int i = 0; i < 8; i += 2) {
            low = _mm512_dpbusd_epi32(low, q[i], four(x + i * 4));
            high = _mm512_dpbusd_epi32(high, q[i + 1], four(x + i * 4 + 4));
        }
    }
    return _mm512_add_epi32(low, bits == 2 || bits == 4 ? _mm512_srai_epi32(high, 4) : high);
}

INLINE __m512 widen(const uint16_t *halves) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)halves)); }

/* Bytes that will be read a while from now, into the cache; where they lie beyond the matrix, nothing happens. */
INLINE void prefetch(const uint8_t *codes, int64_t nbytes)
{
    for (int64_t line = 0; line < nbytes; line += 64)
        _mm_prefetch((const char *)codes + PREFETCH_BYTES + line, _MM_HINT_T0);
}

/* acc[i] = one tile times token first + i, as matmul_scalar.c defines it. one_block: the weights' groups are single blocks. */
INLINE void tile_times_tokens(const el_matmul *a, int scheme, int per_token, int one_block, int64_t tile, int64_t first, int tokens,
                              __m512 acc[MAX_TOKENS])
{
    int bits = el_code_bits(scheme), planes = el_planes(scheme);
    int64_t blocks = a->w.cols / EL_BLOCK, group_blocks = one_block ? 1 : a->w.group / EL_BLOCK, group_begin = 0;
    const uint8_t *plane = a->w.codes + tile * blocks * el_block_bytes(scheme);
    const uint16_t *scales = a->w.scales + tile * el_groups(&a->w) * el_scale_rows(scheme) * EL_TILE;
    __m512 part[EL_MAX_PLANES][MAX_TOKENS];
    __m512i isum[EL_MAX_PLANES][MAX_TOKENS];
#pragma GCC unroll 8
    for (int i = 0; i < tokens; i++) {
        acc[i] = _mm512_setzero_ps();
        for (int p = 0; p < planes; p++) {
            part[p][i] = _mm512_setzero_ps();
            isum[p][i] = _mm512_setzero_si512();
        }
    }
    for (int64_t b = 0; b < blocks; b++) {
        for (int p = 0; p < planes; p++, plane += el_plane_bytes(scheme)) {
            __m512i unpacked[8];
            unpack(bits, plane, unpacked);
            if (tokens == 1)
                prefetch(plane, el_plane_bytes(scheme));
#pragma GCC unroll 8
            for (int i = 0; i < tokens; i++) {
                int64_t at = (first + i) * blocks + b;
                const int8_t *x = a->x.codes + at * EL_BLOCK;
                __m512i start = _mm512_set1_epi32(el_start(scheme, a->x.offsets[at]));
                if (per_token) {
                    isum[p][i] = dot(bits, unpacked, x, _mm512_add_epi32(isum[p][i], start));
                } else {
                    __m512 sum = _mm512_cvtepi32_ps(dot(bits, unpacked, x, start));
                    part[p][i] = _mm512_fmadd_ps(_mm512_set1_ps(a->x.scales[at]), sum, part[p][i]);
                }
            }
        }
        if (!one_block && b + 1 < blocks && b + 1 < group_begin + group_blocks)
            continue;
        for (int p = 0; p < planes; p++, scales += EL_TILE) {
            __m512 scale = widen(scales);
#pragma GCC unroll 8
            for (int i = 0; i < tokens; i++) {
                if (per_token)
                    part[p][i] = _mm512_mul_ps(_mm512_set1_ps(a->x.scales[first + i]), _mm512_cvtepi32_ps(isum[p][i]));
                acc[i] = _mm512_fmadd_ps(scale, part[p][i], acc[i]);
                part[p][i] = _mm512_setzero_ps();
                isum[p][i] = _mm512_setzero_si512();
            }
        }
        if (el_has_min(scheme)) {
            __m512 minimum = widen(scales);
            for (int64_t m = group_begin; m <= b; m++)
#pragma GCC unroll 8
                for (int i = 0; i < tokens; i++)
                    acc[i] = _mm512_fmadd_ps(minimum, _mm512_set1_ps(a->x.scaled_sums[(first + i) * blocks + m]), acc[i]);
            scales += EL_TILE;
        }
        group_begin = b + 1;
    }
}

INLINE void multiply_block(const el_matmul *a, int scheme, int per_token, int one_block, int64_t tile, int64_t first, int tokens)
{
    __m512 acc[MAX_TOKENS];
    tile_times_tokens(a, scheme, per_token, one_block, tile, first, tokens, acc);
    int64_t valid = a->w.rows - tile * EL_TILE;
    __mmask16 mask = valid >= EL_TILE ? 0xffff : (__mmask16)((1u << valid) - 1);
    for (int i = 0; i < tokens; i++) {
        float *out = a->out + (first + i) * a->out_cols + tile * EL_TILE;
        __m512 before = a->accumulate ? _mm512_maskz_loadu_ps(mask, out) : _mm512_setzero_ps();
        _mm512_mask_storeu_ps(out, mask, _mm512_add_ps(before, acc[i]));
    }
}

INLINE void multiply(const el_matmul *a, int scheme, int per_token, int one_block, el_range tiles, int64_t tokens)
{
    for (int64_t tile = tiles.begin; tile < tiles.end; tile++) {
        int64_t token = 0;
        for (; el_planes(scheme) == 1 && token + 8 <= tokens; token += 8)
            multiply_block(a, scheme, per_token, one_block, tile, token, 8);
        for (; token + 4 <= tokens; token += 4)
            multiply_block(a, scheme, per_token, one_block, tile, token, 4);
        for (; token < tokens; token++)
            multiply_block(a, scheme, per_token, one_block, tile, token, 1);
    }
}

void el_matmul__avx512vnni(const el_args *args, const el_step *step, el_team team)
{
    const el_matmul *a = &args->matmul;
    int64_t tokens = a->outputs_only ? step->n_outputs : step->n_tokens;
    el_range tiles = el_share(el_tiles(a->w.rows), team);
#define MULTIPLY(scheme)                             \
    if (a->x.group != EL_BLOCK)                      \
        multiply(a, scheme, 1, 0, tiles, tokens);    \
    else if (a->w.group != EL_BLOCK)                 \
        multiply(a, scheme, 0, 0, tiles, tokens);    \
    else                                             \
        multiply(a, scheme, 0, 1, tiles, tokens)
    switch (a->w.scheme) { EL_SCHEME_CASES(MULTIPLY) }
}

EL_TARGET_END
#endif
