/* The lookup kernel, compiled for neon. */
#include "../edgellm.h"

#if EL_ARM64
#define EL_KERNEL(name) name##__neon
#include "../simd/v16_neon.h"
#include "../simd/b16_neon.h"

#include "lookup.h"

#endif
