/* Which instruction sets this build holds and this processor runs. */
#include "edgellm.h"

#if EL_X86
#include <cpuid.h>

/* Compilers before clang 16 can't name this feature in __builtin_cpu_supports. */
static int has_f16c(void)
{
    unsigned eax, ebx, ecx, edx;
    return __get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx & bit_F16C);
}
#elif EL_ARM64 && defined(__linux__)
#include <sys/auxv.h>

static int has_dotprod(void)
{
    return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
}
#elif EL_ARM64 && defined(__APPLE__)
#include <sys/sysctl.h>

static int has_dotprod(void)
{
    int present = 0;
    size_t size = sizeof present;
    return sysctlbyname("hw.optional.arm.FEAT_DotProd", &present, &size, NULL, 0) == 0 && present;
}
#elif EL_ARM64
static int has_dotprod(void)
{
    return 0; /* no way to ask this system is known */
}
#endif

const char *el_isa_name(int isa)
{
    static const char *const names[EL_ISA_COUNT] = {"scalar", "avx2", "avx512", "avx512vnni", "neon", "neon_dotprod"};
    return isa >= 0 && isa < EL_ISA_COUNT ? names[isa] : "unknown";
}

int el_isa_compiled(int isa)
{
    return isa >= 0 && isa < EL_ISA_COUNT && el_kernels[isa][EL_OP_MATMUL].run;
}

int el_isa_supported(int isa)
{
#if EL_X86
    __builtin_cpu_init();
    int avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
    int avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                 __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
    if (isa == EL_ISA_AVX2)
        return avx2;
    if (isa == EL_ISA_AVX512)
        return avx512;
    if (isa == EL_ISA_AVX512VNNI)
        return avx512 && __builtin_cpu_supports("avx512vnni");
#elif EL_ARM64
    if (isa == EL_ISA_NEON)
        return 1;
    if (isa == EL_ISA_NEON_DOTPROD)
        return has_dotprod();
#endif
    return isa == EL_ISA_SCALAR;
}
