/* The ablation lut8: T-MAC's tables of 8 bits (Wei et al., 2024, "table quantization"). A block's tables are rounded to int8 with one
 * scale, so that one shuffle looks a sum up and half the memory holds them, and what comes out is not what multiply-add gives: each sum is
 * off by half a step, largest |sum| of the block / 254, at most. No model runs on it; it says what the exact tables cost. */

/* sums * 127 / the block's largest, rounded to even: [64 bytes of codes][half of the byte][column % 4][16 entries], and what undoes it. */
static void round_tables(const el_lut8 *a, int64_t block)
{
    int scheme = a->matmul.w.scheme, bits = el_code_bits(scheme), codes = 4 / bits, tables = 8 * bits;
    const int8_t *x = a->matmul.x.codes + block * EL_BLOCK;
    float levels[2][EL_TILE]; /* of an index, what its codes are worth; a trit's fourth is never looked up */
    for (int i = 0; i < codes; i++)
        for (int index = 0; index < EL_TILE; index++) {
            int code = index >> bits * i & ((1 << bits) - 1);
            levels[i][index] = (float)(scheme >= EL_TERNARY && code == 3 ? 0 : code - el_zero(scheme));
        }
    v16 sums[32], largest = v_set1(0.0f);
    for (int t = 0; t < tables; t++) {
        sums[t] = v_set1(0.0f);
        for (int i = 0; i < codes; i++)
            sums[t] = v_fma(v_load(levels[i]), v_set1(x[(t / 4 * codes + i) * 4 + t % 4]), sums[t]);
        largest = v_max(v_abs(sums[t]), largest);
    }
    float most = v_hmax(largest);
    v16 inverse = v_set1(most > 0.0f ? 127.0f / most : 0.0f);
    a->scales[block] = a->matmul.x.scales[block] * (most / 127.0f);
    for (int t = 0; t < tables; t += 2)
        v_store_i8((int8_t *)a->tables + (block * tables + t) * EL_TILE, v_rint(v_mul(sums[t], inverse)),
                   v_rint(v_mul(sums[t + 1], inverse)));
}

void EL_KERNEL(el_lut8_tables)(const el_args *args, const el_step *step, el_team team)
{
    (void)step; /* of the first vector, whatever there are */
    el_range blocks = el_share(args->lut8.matmul.x.cols / EL_BLOCK, team);
    for (int64_t b = blocks.begin; b < blocks.end; b++)
        round_tables(&args->lut8, b);
}

void EL_KERNEL(el_lut8)(const el_args *args, const el_step *step, el_team team)
{
    el_matmul a = args->lut8.matmul;
    el_range tiles = el_share(el_tiles(a.w.rows), team);
    if ((a.outputs_only ? step->n_outputs : step->n_tokens) != 1) {
        EL_KERNEL(el_lookup)(&(el_args){.matmul = a}, step, team);
        return;
    }
    a.x.scales = args->lut8.scales;
    a.x.tables[el_code_bits(a.w.scheme) == 4 ? EL_SINGLES : EL_PAIRS] = args->lut8.tables;
#define MULTIPLY_VECTOR_ROUNDED(scheme) multiply_vector(&a, scheme, 0, 1, tiles)
    switch (a.w.scheme) { EL_LUT8_SCHEME_CASES(MULTIPLY_VECTOR_ROUNDED) }
}
