/* Integer matrix multiplication, AVX2: a tile's 16 rows are two registers of 8 lanes.
 *
 * vpmaddubsw saturates at 16 bits, so the operands are kept small enough: int4 codes 0..15 against -127..127 give pair sums
 * of at most 3810, and the 8 of a group 30480; int8 uses |w| (at most 128) against sign(w) x, pairs of at most 32512. */
#include "../edgellm.h"

#if EL_X86
EL_TARGET_BEGIN("avx2,fma,f16c")
#include <immintrin.h>

static inline __m256i load(const void *p) { return _mm256_loadu_si256((const __m256i *)p); }

/* Four int8 activations, in every lane. */
static inline __m256i four(const int8_t *x)
{
    int32_t bytes;
    memcpy(&bytes, x, 4);
    return _mm256_set1_epi32(bytes);
}

/* Exact sums of code * x over a group, for 8 rows; int4 codes count from 0 up. */
static inline __m256i int4_group(const uint8_t *codes, const int8_t *x)
{
    __m256i nibble = _mm256_set1_epi8(15), sum = _mm256_setzero_si256();
    for (int b = 0; b < 4; b++) {
        __m256i pair = load(codes + b * 64);
        __m256i low = _mm256_and_si256(pair, nibble), high = _mm256_and_si256(_mm256_srli_epi16(pair, 4), nibble);
        sum = _mm256_add_epi16(sum, _mm256_maddubs_epi16(low, four(x + b * 8)));
        sum = _mm256_add_epi16(sum, _mm256_maddubs_epi16(high, four(x + b * 8 + 4)));
    }
    return _mm256_madd_epi16(sum, _mm256_set1_epi16(1));
}

static inline __m256i int8_group(const uint8_t *codes, const int8_t *x)
{
    __m256i sum = _mm256_setzero_si256(), bias = _mm256_set1_epi8(-128);
    for (int b = 0; b < 8; b++) {
        __m256i w = _mm256_xor_si256(load(codes + b * 64), bias);
        __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(four(x + b * 4), w));
        sum = _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
    }
    return sum;
}

static inline __m256 widen(const uint16_t *halves) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)halves)); }

/* acc[r] for rows 8 * half .. 8 * half + 7 of a tile, one token. */
static inline __attribute__((always_inline)) __m256 half_tile(const el_matmul *a, int scheme, int64_t tile, int half, int64_t token)
{
    int64_t groups = a->w.cols / EL_GROUP, parts = el_scale_rows(scheme), group_bytes = el_group_bytes(scheme);
    const uint8_t *codes = a->w.codes + tile * groups * group_bytes + half * 32;
    const uint16_t *scales = a->w.scales + tile * groups * parts * EL_TILE + half * 8;
    __m256 acc = _mm256_setzero_ps();
    for (int64_t g = 0; g < groups; g++, codes += group_bytes, scales += parts * EL_TILE) {
        int64_t at = token * groups + g;
        const int8_t *x = a->x.codes + at * EL_GROUP;
        __m256i isum = scheme == EL_INT8 ? int8_group(codes, x) : int4_group(codes, x);
        if (scheme == EL_INT4)
            isum = _mm256_add_epi32(isum, _mm256_set1_epi32(a->x.offsets[at]));
        __m256 scale = _mm256_mul_ps(widen(scales), _mm256_set1_ps(a->x.scales[at]));
        acc = _mm256_fmadd_ps(scale, _mm256_cvtepi32_ps(isum), acc);
        if (scheme == EL_INT4_MIN)
            acc = _mm256_fmadd_ps(widen(scales + EL_TILE), _mm256_set1_ps(a->x.scaled_sums[at]), acc);
    }
    return acc;
}

static inline void store_tile(const el_matmul *a, int64_t tile, int64_t token, const float acc[EL_TILE])
{
    float *out = a->out + token * a->w.rows;
    for (int64_t n = tile * EL_TILE; n < a->w.rows && n < (tile + 1) * EL_TILE; n++)
        out[n] = (a->accumulate ? out[n] : 0.0f) + acc[n % EL_TILE];
}

static inline __attribute__((always_inline)) void multiply(const el_matmul *a, int scheme, el_range tiles, int64_t tokens)
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
    switch (a->w.scheme) {
    case EL_INT4: multiply(a, EL_INT4, tiles, tokens); break;
    case EL_INT4_MIN: multiply(a, EL_INT4_MIN, tiles, tokens); break;
    case EL_INT8: multiply(a, EL_INT8, tiles, tokens); break;
    }
}

EL_TARGET_END
#endif
