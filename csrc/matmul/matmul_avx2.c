/* Integer matrix multiplication, AVX2: a tile's 16 rows are two registers of 8 lanes.
 *
 * vpmaddubsw saturates at 16 bits, so the operands are kept small enough: codes 0..15 against -127..127 give pair sums of
 * at most 3810, and the 8 of a block 30480; int8 uses |w| (at most 128) against sign(w) x, pairs of at most 32512. */
#include "../edgellm.h"

#if EL_X86
EL_TARGET_BEGIN("avx2,fma,f16c")
#include <immintrin.h>

#define INLINE static inline __attribute__((always_inline))

INLINE __m256i load(const void *p) { return _mm256_loadu_si256((const __m256i *)p); }

/* Four int8 activations, in every lane. */
INLINE __m256i four(const int8_t *x)
{
    int32_t bytes;
    memcpy(&bytes, x, 4);
    return _mm256_set1_epi32(bytes);
}

INLINE __m256i shifted(__m256i codes, int right, int mask)
{
    __m256i moved = right < 0 ? _mm256_slli_epi16(codes, -right) : _mm256_srli_epi16(codes, right);
    return _mm256_and_si256(moved, _mm256_set1_epi8((char)mask));
}

/* Quad q of a plane, for 8 rows, as unsigned bytes. */
INLINE __m256i quad(int bits, const uint8_t *plane, int q)
{
    if (bits == 4)
        return shifted(load(plane + q / 2 * 64), q % 2 * 4, 15);
    __m256i low = shifted(load(plane + q / 4 * 64), q % 4 * 2, 3);
    return bits == 2 ? low : _mm256_or_si256(low, shifted(load(plane + 128), q - 2, 4));
}

/* before + the exact sums of code * x over a block, for 8 rows; codes count from 0 up, but int8's are signed. */
INLINE __m256i dot(int bits, const uint8_t *plane, const int8_t *x, __m256i before)
{
    __m256i sum = _mm256_setzero_si256(), ones = _mm256_set1_epi16(1);
    if (bits == 8) {
        for (int q = 0; q < 8; q++) {
            __m256i w = _mm256_xor_si256(load(plane + q * 64), _mm256_set1_epi8(-128));
            __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(four(x + q * 4), w));
            before = _mm256_add_epi32(before, _mm256_madd_epi16(pairs, ones));
        }
        return before;
    }
    for (int q = 0; q < 8; q++)
        sum = _mm256_add_epi16(sum, _mm256_maddubs_epi16(quad(bits, plane, q), four(x + q * 4)));
    return _mm256_add_epi32(before, _mm256_madd_epi16(sum, ones));
}

INLINE __m256 widen(const uint16_t *halves) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)halves)); }

/* What a group's plane gives for 8 rows of one token, as matmul_scalar.c defines it; blocks begin..end - 1. */
INLINE __m256 group_part(const el_matmul *a, int scheme, const uint8_t *plane, int64_t begin, int64_t end, int64_t token)
{
    int per_token = a->x.group != EL_BLOCK;
    int64_t blocks = a->w.cols / EL_BLOCK;
    __m256 part = _mm256_setzero_ps();
    __m256i isum = _mm256_setzero_si256();
    for (int64_t b = begin; b < end; b++) {
        int64_t at = token * blocks + b;
        int32_t start = scheme == EL_INT8 ? 0 : el_start(scheme, a->x.offsets[at]);
        isum = dot(el_code_bits(scheme), plane + b * el_block_bytes(scheme), a->x.codes + at * EL_BLOCK,
                   _mm256_add_epi32(isum, _mm256_set1_epi32(start)));
        if (per_token && b + 1 < end)
            continue;
        __m256 scale = _mm256_set1_ps(a->x.scales[per_token ? token : at]);
        part = _mm256_fmadd_ps(scale, _mm256_cvtepi32_ps(isum), part);
        isum = _mm256_setzero_si256();
    }
    return part;
}

/* acc[r] for rows 8 * half .. 8 * half + 7 of a tile, one token. */
INLINE __m256 half_tile(const el_matmul *a, int scheme, int64_t tile, int half, int64_t token)
{
    int planes = el_planes(scheme);
    int64_t blocks = a->w.cols / EL_BLOCK, group_blocks = a->w.group / EL_BLOCK;
    const uint8_t *codes = a->w.codes + tile * blocks * el_block_bytes(scheme) + half * 32;
    const uint16_t *scales = a->w.scales + tile * el_groups(&a->w) * el_scale_rows(scheme) * EL_TILE + half * 8;
    __m256 acc = _mm256_setzero_ps();
    for (int64_t begin = 0; begin < blocks; begin += group_blocks, scales += el_scale_rows(scheme) * EL_TILE) {
        int64_t end = begin + group_blocks < blocks ? begin + group_blocks : blocks;
        for (int p = 0; p < planes; p++) {
            __m256 part = group_part(a, scheme, codes + p * el_plane_bytes(scheme), begin, end, token);
            acc = _mm256_fmadd_ps(widen(scales + p * EL_TILE), part, acc);
        }
        if (el_has_min(scheme))
            for (int64_t b = begin; b < end; b++)
                acc = _mm256_fmadd_ps(widen(scales + planes * EL_TILE), _mm256_set1_ps(a->x.scaled_sums[token * blocks + b]), acc);
    }
    return acc;
}

static inline void store_tile(const el_matmul *a, int64_t tile, int64_t token, const float acc[EL_TILE])
{
    float *out = a->out + token * a->out_cols;
    for (int64_t n = tile * EL_TILE; n < a->w.rows && n < (tile + 1) * EL_TILE; n++)
        out[n] = (a->accumulate ? out[n] : 0.0f) + acc[n % EL_TILE];
}

INLINE void multiply(const el_matmul *a, int scheme, el_range tiles, int64_t tokens)
{
    for (int64_t tile = tiles.begin; tile < tiles.end; tile++)
        for (int64_t token = 0; token < tokens; token++) {
            float acc[EL_TILE];
            _mm256_storeu_ps(acc, half_tile(a, scheme, tile, 0, token));
            _mm256_storeu_ps(acc + 8, half_tile(a, scheme, tile, 1, token));
            store_tile(a, tile, token, acc);
        }
}

void el_matmul__avx2(const el_args *args, const el_step *step, el_team team)
{
    const el_matmul *a = &args->matmul;
    int64_t tokens = a->outputs_only ? step->n_outputs : step->n_tokens;
    el_range tiles = el_share(el_tiles(a->w.rows), team);
#define MULTIPLY(scheme) multiply(a, scheme, tiles, tokens)
    switch (a->w.scheme) { EL_SCHEME_CASES(MULTIPLY) }
}

EL_TARGET_END
#endif
