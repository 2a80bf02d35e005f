/* Integer matrix multiplication, NEON with the dot product extension: sdot adds four columns of four rows in 32 bits. */
#include "../edgellm.h"

#if EL_ARM64
EL_TARGET_BEGIN(EL_TARGET_DOTPROD)
#ifndef __ARM_FEATURE_DOTPROD
#define __ARM_FEATURE_DOTPROD 1 /* clang before 16 declares the intrinsics only then */
#endif
#include <arm_neon.h>

/* before + the sums of a block's codes * x, row by row. */
INLINE int32x4_t dot(int bits, const int8x16_t codes[8], const int8_t *x, int32x4_t before)
{
    (void)bits;
    int8x16_t first = vld1q_s8(x), second = vld1q_s8(x + 16);
    before = vdotq_laneq_s32(before, codes[0], first, 0);
    before = vdotq_laneq_s32(before, codes[1], first, 1);
    before = vdotq_laneq_s32(before, codes[2], first, 2);
    before = vdotq_laneq_s32(before, codes[3], first, 3);
    before = vdotq_laneq_s32(before, codes[4], second, 0);
    before = vdotq_laneq_s32(before, codes[5], second, 1);
    before = vdotq_laneq_s32(before, codes[6], second, 2);
    return vdotq_laneq_s32(before, codes[7], second, 3);
}

#define EL_KERNEL(name) name##__neon_dotprod
#define TOKENS_AT_ONCE 4
#include "matmul_neon.h"

EL_TARGET_END
#endif
