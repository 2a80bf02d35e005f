/* The float kernels, compiled for neon, which every 64-bit ARM has: no target to name. */
#include "../edgellm.h"

#if EL_ARM64

#define EL_KERNEL(name) name##__neon
#include "../simd/v16_neon.h"

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

#endif
