/* Root-mean-square norm (Zhang and Sennrich, 2019) of each row, which then becomes int8 codes (K a multiple of 32), takes the place of
 * what it was, or is added to another. K is a multiple of 16. */
typedef struct {
    const float *x, *weight;
    float inverse_rms;
} normed_row;

static inline float inverse_rms(const float *x, int64_t cols, float eps)
{
    v16 squares = v_set1(0.0f);
    for (int64_t k = 0; k < cols; k += 16) {
        v16 v = v_load(x + k);
        squares = v_fma(v, v, squares);
    }
    return 1.0f / sqrtf(v_hsum(squares) / (float)cols + eps);
}

static inline v16 normed(const void *source, int64_t k)
{
    const normed_row *row = source;
    return v_mul(v_load(row->weight + k), v_mul(v_load(row->x + k), v_set1(row->inverse_rms)));
}

void EL_KERNEL(el_rmsnorm)(const el_args *args, const el_step *step, el_team team)
{
    const el_rmsnorm *a = &args->rmsnorm;
    el_range units = el_share((int64_t)step->n_tokens * a->heads, team);
    for (int64_t u = units.begin; u < units.end; u++) {
        float *x = a->x + u * a->head_dim;
        normed_row row = {x, a->weight, inverse_rms(x, a->head_dim, a->eps)};
        for (int64_t e = 0; e < a->head_dim; e += 16)
            v_store(x + e, normed(&row, e));
    }
}

void EL_KERNEL(el_rmsnorm_add)(const el_args *args, const el_step *step, el_team team)
{
    const el_rmsnorm_add *a = &args->rmsnorm_add;
    el_range rows = el_share(step->n_tokens, team);
    for (int64_t l = rows.begin; l < rows.end; l++) {
        const float *x = a->x + l * a->cols;
        float *out = a->out + l * a->cols;
        normed_row row = {x, a->weight, inverse_rms(x, a->cols, a->eps)};
        for (int64_t k = 0; k < a->cols; k += 16)
            v_store(out + k, v_add(v_load(out + k), normed(&row, k)));
    }
}

/* Threads share out rows: a row is finished sooner by one thread than by two that both need all of it. */
void EL_KERNEL(el_rmsnorm_quantize)(const el_args *args, const el_step *step, el_team team)
{
    const el_rmsnorm_quantize *a = &args->rmsnorm_quantize;
    int64_t cols = a->out.cols, rows = a->outputs_only ? step->n_outputs : step->n_tokens;
    const float *first = a->x + (step->n_tokens - rows) * cols;
    el_range share = el_share(rows, team);
    for (int64_t row = share.begin; row < share.end; row++) {
        const float *x = first + row * cols;
        normed_row source = {x, a->weight, inverse_rms(x, cols, a->eps)};
        quantize_blocks(a->out, row, (el_range){0, cols / EL_BLOCK}, normed, &source);
    }
}
