/* Integer matrix multiplication, NEON: products of 8 bits are summed in 16 as long as they fit, then pairwise in 32.
 *
 * A 16-bit lane adds one product for each four columns. Codes of up to 4 bits: the 8 of a block are at most 8 * 15 * 127 = 15240. Codes
 * of 8 bits: two are at most 2 * 128 * 127 = 32512, so that every second product is followed by a widening sum. */
#include "../edgellm.h"

#if EL_ARM64
#include <arm_neon.h>

/* Adds the products of columns 4i .., whose activations are one lane of `columns`, to two rows' 16-bit sums each. */
#define ADD_PRODUCTS(i, columns, lane)                                                            \
    four = vreinterpretq_s8_s32(vdupq_laneq_s32(vreinterpretq_s32_s8(columns), lane));            \
    low = vmlal_s8(low, vget_low_s8(codes[i]), vget_low_s8(four));                                \
    high = vmlal_high_s8(high, codes[i], four);

#define WIDEN_SUMS                       \
    sum01 = vpadalq_s16(sum01, low);     \
    sum23 = vpadalq_s16(sum23, high);    \
    low = high = vdupq_n_s16(0);

/* before + the sums of a block's codes * x, row by row. */
INLINE int32x4_t dot(int bits, const int8x16_t codes[8], const int8_t *x, int32x4_t before)
{
    int8x16_t first = vld1q_s8(x), second = vld1q_s8(x + 16), four;
    int16x8_t low = vdupq_n_s16(0), high = vdupq_n_s16(0);
    int32x4_t sum01 = vdupq_n_s32(0), sum23 = vdupq_n_s32(0); /* two halves of each row's sum side by side */
    ADD_PRODUCTS(0, first, 0)
    ADD_PRODUCTS(1, first, 1)
    if (bits == 8) {
        WIDEN_SUMS
    }
    ADD_PRODUCTS(2, first, 2)
    ADD_PRODUCTS(3, first, 3)
    if (bits == 8) {
        WIDEN_SUMS
    }
    ADD_PRODUCTS(4, second, 0)
    ADD_PRODUCTS(5, second, 1)
    if (bits == 8) {
        WIDEN_SUMS
    }
    ADD_PRODUCTS(6, second, 2)
    ADD_PRODUCTS(7, second, 3)
    WIDEN_SUMS
    return vaddq_s32(before, vpaddq_s32(sum01, sum23));
}

#define EL_KERNEL(name) name##__neon
#define TOKENS_AT_ONCE 1 /* unpacking anew for each takes fewer instructions than their many broadcast operands do */
#include "matmul_neon.h"

#endif
