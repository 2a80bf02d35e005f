/* exp(x) for 16 lanes: x = n ln 2 + r, |r| <= ln 2 / 2, exp(r) by its Taylor polynomial of degree 7 (its
 * truncation is below a tenth of an ulp), times 2^n. Arguments below -87 give exp(-87), above 88 exp(88), so that results
 * stay normal; NaN gives exp(-87). */
static inline v16 v_exp(v16 x)
{
    x = v_min(v_max(x, v_set1(-87.0f)), v_set1(88.0f));
    v16 n = v_rint(v_mul(x, v_set1(0x1.715476p+0f)));       /* log2 e */
    v16 r = v_fma(n, v_set1(-0x1.62e4p-1f), x);             /* ln 2 = high part (15 bits: n times it is exact) ... */
    r = v_fma(n, v_set1(-0x1.7f7d1cp-20f), r);              /* ... + low part */
    v16 p = v_set1(1.0f / 5040);
    p = v_fma(p, r, v_set1(1.0f / 720));
    p = v_fma(p, r, v_set1(1.0f / 120));
    p = v_fma(p, r, v_set1(1.0f / 24));
    p = v_fma(p, r, v_set1(1.0f / 6));
    p = v_fma(p, r, v_set1(0.5f));
    p = v_fma(p, r, v_set1(1.0f));
    p = v_fma(p, r, v_set1(1.0f));
    return v_mul(p, v_pow2(n));
}

void EL_KERNEL(el_exp)(const float *x, float *out, int64_t n)
{
    for (int64_t i = 0; i < n; i += 16)
        v_store_n(out + i, v_exp(v_load_n(x + i, n - i)), n - i);
}
