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

/* Quad q of a plane where it stands in its bytes: 2^s times the codes, s = 4 (q % 2) of 4 bits, 2 (q % 4) of 2 bits, 0 else. */
INLINE quad masked(int bits, const uint8_t *plane, int q)
{
    if (bits == 4)
        return q_field(q_load(plane + q / 2 * 64), 0, 15 << q % 2 * 4);
    if (bits == 2)
        return q_field(q_load(plane + q / 4 * 64), 0, 3 << q % 4 * 2);
    return unpack(bits, plane, q);
}

/* One tile, one token: shifting a sum, a multiple of 2^s, takes less than shifting the codes that it is of. */
INLINE rows dot(int bits, const uint8_t *plane, const int8_t *x, rows before)
{
    rows low = bits == 2 ? r_set1(0) : before, high = r_set1(0);
    if (bits == 2) {
        for (int q = 1; q < 8; q += 4) {
            low = _mm512_dpbusd_epi32(low, masked(2, plane, q), q_set1(x + q * 4));
            high = _mm512_dpbusd_epi32(high, masked(2, plane, q + 2), q_set1(x + q * 4 + 8));
        }
        low = r_add(before, _mm512_srai_epi32(low, 2));
        high = _mm512_srai_epi32(high, 2);
    }
    for (int q = 0; q < 8; q += bits == 2 ? 4 : 2) {
        int next = bits == 2 ? 2 : 1;
        low = _mm512_dpbusd_epi32(low, masked(bits, plane, q), q_set1(x + q * 4));
        high = _mm512_dpbusd_epi32(high, masked(bits, plane, q + next), q_set1(x + (q + next) * 4));
    }
    return r_add(low, bits == 2 || bits == 4 ? _mm512_srai_epi32(high, 4) : high);
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
