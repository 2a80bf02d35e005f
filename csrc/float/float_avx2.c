/* The float kernels, compiled for avx2. */
#include "../edgellm.h"

#if EL_X86
EL_TARGET_BEGIN("avx2,fma,f16c")

#define EL_KERNEL(name) name##__avx2
#include "../simd/v16_avx2.h"

#include "exp.h"
#include "../lookup/tables.h"
#include "quantize.h"
#include "rmsnorm.h"
#include "gate.h"
#include "bias.h"
#include "rope.h"
#include "cache.h"
#include "attention.h"
#include "check.h"
#include "score.h"

EL_TARGET_END
#endif
