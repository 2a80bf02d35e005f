/* Logits and the tokens that came -> how likely these were. Rows are shared out over the pool's threads; float/score.h has the equation. */
#include "pool.h"

/* fdlibm's e_log.c: x = 2^k (1 + f), sqrt(1/2) < 1 + f < sqrt(2), and with s = f / (2 + f), log(1 + f) = f - f^2/2 + s (f^2/2 + R(s^2)). */
#define LN2_HIGH 6.93147180369123816490e-01 /* its last 21 bits are zero, so that k * LN2_HIGH is exact */
#define LN2_LOW 1.90821492927058770002e-10
#define LG1 6.666666666666735130e-01
#define LG2 3.999999999940941908e-01
#define LG3 2.857142874366239149e-01
#define LG4 2.222219843214978396e-01
#define LG5 1.818357216161805012e-01
#define LG6 1.531383769920937332e-01
#define LG7 1.479819860511658591e-01

double el_log(double x)
{
    uint64_t bits;
    memcpy(&bits, &x, 8);
    bits += 0x3ff0000000000000 - 0x3fe6a09e667f3bcd; /* sqrt(1/2) becomes 1: now the exponent is k */
    double k = (double)((int64_t)(bits >> 52) - 1023), f;
    bits = (bits & 0xfffffffffffff) + 0x3fe6a09e667f3bcd;
    memcpy(&f, &bits, 8);
    f -= 1;
    double s = f / (2 + f), z = s * s, w = z * z, half = 0.5 * f * f;
    double r = w * (LG2 + w * (LG4 + w * LG6)) + z * (LG1 + w * (LG3 + w * (LG5 + w * LG7)));
    return k * LN2_HIGH - ((half - (s * (half + r) + k * LN2_LOW)) - f);
}

typedef void (*row_kernel)(const float *x, int64_t n, int64_t target, double *nll, uint8_t *greedy);

static const row_kernel kernels[EL_ISA_COUNT] = {
    [EL_ISA_SCALAR] = el_score__scalar,
#if EL_X86
    [EL_ISA_AVX2] = el_score__avx2,
    [EL_ISA_AVX512] = el_score__avx512,
    [EL_ISA_AVX512VNNI] = el_score__avx512,
#elif EL_ARM64
    [EL_ISA_NEON] = el_score__neon,
    [EL_ISA_NEON_DOTPROD] = el_score__neon,
#endif
};

struct scoring {
    row_kernel kernel;
    const el_scores *scores;
};

static void score_share(void *context, el_team team)
{
    const struct scoring *scoring = context;
    const el_scores *s = scoring->scores;
    el_range share = el_share(s->rows, team);
    for (int64_t l = share.begin; l < share.end; l++)
        scoring->kernel(s->logits + l * s->vocabulary, s->vocabulary, s->targets[l], s->nll + l, s->greedy + l);
}

int el_score(int isa, el_pool *pool, const el_scores *scores)
{
    if (!el_isa_supported(isa))
        return -2;
    struct scoring scoring = {kernels[isa], scores};
    return el_pool_run(pool, score_share, &scoring);
}
