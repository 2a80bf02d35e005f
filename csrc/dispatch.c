/* The one place where an op and an instruction set become a kernel. */
#include "edgellm.h"

#define KERNEL(function) {function, #function}
#define ROW(integer, floating)                                              \
    {                                                                       \
        [EL_OP_EMBED] = KERNEL(el_embed__any),                              \
        [EL_OP_RMSNORM] = KERNEL(el_rmsnorm__##floating),                   \
        [EL_OP_RMSNORM_ADD] = KERNEL(el_rmsnorm_add__##floating),           \
        [EL_OP_RMSNORM_QUANTIZE] = KERNEL(el_rmsnorm_quantize__##floating), \
        [EL_OP_QUANTIZE] = KERNEL(el_quantize__##floating),                 \
        [EL_OP_MATMUL] = KERNEL(el_matmul__##integer),                      \
        [EL_OP_LOOKUP] = KERNEL(el_lookup__##integer),                      \
        [EL_OP_ADD_BIAS] = KERNEL(el_add_bias__##floating),                 \
        [EL_OP_ROPE] = KERNEL(el_rope__##floating),                         \
        [EL_OP_CACHE_APPEND] = KERNEL(el_cache_append__##floating),         \
        [EL_OP_ATTENTION] = KERNEL(el_attention__##floating),               \
        [EL_OP_GATE_QUANTIZE] = KERNEL(el_gate_quantize__##floating),       \
        [EL_OP_RELU2_GATE] = KERNEL(el_relu2_gate__##floating),             \
        [EL_OP_LUT8_TABLES] = KERNEL(el_lut8_tables__##integer),            \
        [EL_OP_LUT8] = KERNEL(el_lut8__##integer),                          \
        [EL_OP_CHECK_FINITE] = KERNEL(el_check_finite__##floating),         \
        [EL_OP_CHECK_CACHE] = KERNEL(el_check_cache__##floating),           \
    }

const el_named_kernel el_kernels[EL_ISA_COUNT][EL_OP_COUNT] = {
    [EL_ISA_SCALAR] = ROW(scalar, scalar),
#if EL_X86
    [EL_ISA_AVX2] = ROW(avx2, avx2),
    [EL_ISA_AVX512] = ROW(avx512, avx512),
    [EL_ISA_AVX512VNNI] = ROW(avx512vnni, avx512),
#elif EL_ARM64
    [EL_ISA_NEON] = ROW(neon, neon),
    [EL_ISA_NEON_DOTPROD] = ROW(neon_dotprod, neon),
#endif
};

const char *el_kernel_name(int isa, int op)
{
    const char *name = el_kernels[isa][op].name;
    return name ? name : "";
}

int el_exp(int isa, const float *x, float *out, int64_t n)
{
    static void (*const kernels[EL_ISA_COUNT])(const float *, float *, int64_t) = {
        [EL_ISA_SCALAR] = el_exp__scalar,
#if EL_X86
        [EL_ISA_AVX2] = el_exp__avx2,
        [EL_ISA_AVX512] = el_exp__avx512,
        [EL_ISA_AVX512VNNI] = el_exp__avx512,
#elif EL_ARM64
        [EL_ISA_NEON] = el_exp__neon,
        [EL_ISA_NEON_DOTPROD] = el_exp__neon,
#endif
    };
    if (!el_isa_supported(isa))
        return -1;
    kernels[isa](x, out, n);
    return 0;
}
