/* Root-mean-square norm (Zhang and Sennrich, 2019) of each row, then its int8 codes. K is a multiple of 32. */
static inline float inverse_rms(const float *x, int64_t cols, float eps)
{
    v16 squares = v_set1(0.0f);
    for (int64_t k = 0; k < cols; k += 16) {
        v16 v = v_load(x + k);
        squares = v_fma(v, v, squares);
    }
    return 1.0f / sqrtf(v_hsum(squares) / (float)cols + eps);
}

void EL_KERNEL(el_rmsnorm_quantize)(const el_args *args, const el_step *step, el_team team)
{
    const el_rmsnorm_quantize *a = &args->rmsnorm_quantize;
    int64_t cols = a->out.cols;
    int64_t rows = a->outputs_only ? step->n_outputs : step->n_tokens;
    const float *first = a->x + (step->n_tokens - rows) * cols;
    el_range share = el_share(rows, team);
    for (int64_t row = share.begin; row < share.end; row++) {
        const float *x = first + row * cols;
        v16 inverse = v_set1(inverse_rms(x, cols, a->eps));
        for (int64_t k = 0; k < cols; k += EL_BLOCK) {
            v16 low = v_mul(v_load(a->weight + k), v_mul(v_load(x + k), inverse));
            v16 high = v_mul(v_load(a->weight + k + 16), v_mul(v_load(x + k + 16), inverse));
            quantize_group(low, high, a->out, row, k / EL_BLOCK);
        }
    }
}
