/* Integer matrix multiplication, AVX-512 without VNNI. */
#include "../edgellm.h"

#if EL_X86
EL_TARGET_BEGIN("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")

#define EL_KERNEL(name) name##__avx512
#define TILES_AT_ONCE 2
#define TOKENS_AT_ONCE 4
#include "../simd/v16_avx512.h"
#include "../simd/q16_avx512.h"

#include "matmul_x86.h"
#include "maddubs.h"

EL_TARGET_END
#endif
