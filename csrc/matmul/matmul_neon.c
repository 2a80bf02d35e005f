/* Integer matrix multiplication, NEON: products of 8 bits are summed in 16 as long as they fit, then pairwise in 32.
 *
 * A 16-bit lane adds one product for each four columns. Codes of up to 4 bits: the 8 of a block are at most 8 * 15 * 127 = 15240. Codes
 * of 8 bits: two are at most 2 * 128 * 127 = 32512, so that every second product is followed by a widening sum. */
#include "../edgellm.h"

#if EL_ARM64
#include <arm_neon.h>

/* before + the sums of a block's codes * x, row by row. */
static inline __attribute__((always_inline)) int32x4_t dot(int bits, const int8x16_t codes[8], const int8_t *x, int32x4_t before)
{
    int32x4_t sum01 = vdupq_n_s32(0), sum23 = vdupq_n_s32(0); /* two halves of each row's sum side by side */
    int step = bits == 8 ? 2 : 8;
    for (int b = 0; b < 8; b += step) {
        int16x8_t low = vdupq_n_s16(0), high = vdupq_n_s16(0);
        for (int i = b; i < b + step; i++) {
            int32_t columns;
            memcpy(&columns, x + i * 4, 4);
            int8x16_t four = vreinterpretq_s8_s32(vdupq_n_s32(columns));
            low = vmlal_s8(low, vget_low_s8(codes[i]), vget_low_s8(four));
            high = vmlal_high_s8(high, codes[i], four);
        }
        sum01 = vpadalq_s16(sum01, low);
        sum23 = vpadalq_s16(sum23, high);
    }
    return vaddq_s32(before, vpaddq_s32(sum01, sum23));
}

#define EL_KERNEL(name) name##__neon
#include "matmul_neon.h"

#endif
