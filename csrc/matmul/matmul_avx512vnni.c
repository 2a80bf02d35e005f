/* Integer matrix multiplication, AVX-512 VNNI: vpdpbusd multiplies four unsigned codes of a lane with four signed activations, and adds. */
#include "../edgellm.h"

#if EL_X86
EL_TARGET_BEGIN("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")

#define EL_KERNEL(name) name##__avx512vnni
#define TILES_AT_ONCE 2
#define TOKENS_AT_ONCE 4
#include "../simd/v16_avx512.h"
#include "../simd/q16_avx512.h"

#include "matmul_x86.h"

INLINE int32_t start(int scheme, int32_t offset) { return el_start(scheme, offset); }

/* Quad q of codes of 2 bits where it stands in its bytes: 4^(q % 4) times the codes. */
INLINE quad in_place(const uint8_t *plane, int q) { return q_field(q_load(plane + q / 4 * 64), 0, 3 << q % 4 * 2); }

/* dot of codes of 2 bits: three sums are shifted rather than six quads. */
INLINE rows dot_in_place(const uint8_t *plane, const int8_t *x, rows before)
{
    rows low = r_set1(0), high = r_set1(0); /* of the quads 0, 1, 4, 5, and of the others, 16 times as much */
    for (int first = 1; first >= 0; first--) {
        for (int q = first; q < 8; q += 4) {
            low = _mm512_dpbusd_epi32(low, in_place(plane, q), q_set1(x + q * 4));
            high = _mm512_dpbusd_epi32(high, in_place(plane, q + 2), q_set1(x + q * 4 + 8));
        }
        if (first == 1) {
            low = r_add(before, _mm512_srai_epi32(low, 2));
            high = _mm512_srai_epi32(high, 2);
        }
    }
    return r_add(low, _mm512_srai_epi32(high, 4));
}

/* before + the sums of a block of one tile and one token. */
INLINE rows dot(int bits, const uint8_t *plane, const int8_t *x, rows before)
{
    if (bits == 2)
        return dot_in_place(plane, x, before);
    rows even = before, odd = r_set1(0);
    for (int q = 0; q < 8; q += 2) {
        even = _mm512_dpbusd_epi32(even, unpack(bits, plane, q), q_set1(x + q * 4));
        odd = _mm512_dpbusd_epi32(odd, unpack(bits, plane, q + 1), q_set1(x + q * 4 + 4));
    }
    return r_add(even, odd);
}

INLINE void add_block(int bits, const uint8_t *plane, int64_t tile_bytes, int tiles, const int8_t *x, int64_t cols, int tokens,
                      rows sums[SUMS_AT_ONCE])
{
    if (tokens == 1) {
        sums[0] = dot(bits, plane, x, sums[0]);
        return;
    }
#pragma GCC unroll 8
    for (int q = 0; q < 8; q++)
#pragma GCC unroll 8
        for (int i = 0; i < tokens; i++) {
            quad four = q_set1(x + i * cols + q * 4);
#pragma GCC unroll 2
            for (int t = 0; t < tiles; t++) {
                int j = t * tokens + i;
                sums[j] = _mm512_dpbusd_epi32(sums[j], unpack(bits, plane + t * tile_bytes, q), four);
                Q_KEEP(sums[j]);
            }
        }
}

EL_TARGET_END
#endif
