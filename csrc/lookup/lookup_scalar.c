/* The lookup kernel, compiled for scalar. */
#include "../edgellm.h"

#define EL_KERNEL(name) name##__scalar
#include "../simd/v16_scalar.h"
#include "../simd/b16_scalar.h"

#include "lookup.h"
