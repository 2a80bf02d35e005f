/* Integer matrix multiplication, AVX2: four tokens share unpacked codes, as many as 16 registers hold the sums of. */
#include "../edgellm.h"

#if EL_X86
EL_TARGET_BEGIN("avx2,fma,f16c")

#define EL_KERNEL(name) name##__avx2
#define TILES_AT_ONCE 1
#define TOKENS_AT_ONCE 4
#include "../simd/v16_avx2.h"
#include "../simd/q16_avx2.h"

#include "matmul_x86.h"
#include "maddubs.h"

EL_TARGET_END
#endif
