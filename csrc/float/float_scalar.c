/* The float kernels, compiled for scalar. */
#include "../edgellm.h"

#define EL_KERNEL(name) name##__scalar
#include "../simd/v16_scalar.h"

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
