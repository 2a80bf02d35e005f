/* One group of 32 floats -> int8: scale = max|x| / 127, code = round to nearest even (x * (127 / max|x|)).
 * A group whose largest magnitude is below 1e-30 gets codes 0, so that 127 / max|x| never overflows; NaN gives -127. */
static inline void quantize_group(v16 a, v16 b, el_activation out, int64_t row, int64_t group)
{
    int64_t groups = out.cols / EL_BLOCK, at = row * groups + group;
    float largest = v_hmax(v_max(v_abs(a), v_abs(b)));
    float scale = largest / 127.0f;
    v16 inverse = v_set1(largest > 1e-30f ? 127.0f / largest : 0.0f);
    v16 low = v_set1(-127.0f), high = v_set1(127.0f);
    int8_t *codes = out.codes + row * out.cols + group * EL_BLOCK;
    int32_t sum = v_store_i8(codes, v_min(v_max(v_rint(v_mul(a, inverse)), low), high));
    sum += v_store_i8(codes + 16, v_min(v_max(v_rint(v_mul(b, inverse)), low), high));
    out.scales[at] = scale;
    out.offsets[at] = -8 * sum;
    out.scaled_sums[at] = scale * (float)sum;
    if (row == 0)
        el_build_tables(out, group);
}

void EL_KERNEL(el_quantize)(const el_args *args, const el_step *step, el_team team)
{
    const el_quantize *a = &args->quantize;
    int64_t groups = a->out.cols / EL_BLOCK;
    el_range units = el_share(step->n_tokens * groups, team);
    for (int64_t u = units.begin; u < units.end; u++) {
        const float *x = a->x + u * EL_BLOCK;
        quantize_group(v_load(x), v_load(x + 16), a->out, u / groups, u % groups);
    }
}
