/* Rotary position embedding (Su et al., 2021), Hugging Face order: element i pairs with element i + E/2. */
static inline void rotate(const float *x, float *out, const float *cos, const float *sin, int64_t half)
{
    for (int64_t i = 0; i < half; i += 16) {
        int64_t n = half - i;
        v16 c = v_load_n(cos + i, n), s = v_load_n(sin + i, n);
        v16 low = v_load_n(x + i, n), high = v_load_n(x + half + i, n);
        v_store_n(out + i, v_sub(v_mul(low, c), v_mul(high, s)), n);
        v_store_n(out + half + i, v_add(v_mul(high, c), v_mul(low, s)), n);
    }
}

void EL_KERNEL(el_rope)(const el_args *args, const el_step *step, el_team team)
{
    const el_rope *a = &args->rope;
    int64_t half = a->head_dim / 2;
    el_range units = el_share((int64_t)step->n_tokens * a->heads, team);
    for (int64_t u = units.begin; u < units.end; u++) {
        int64_t position = step->position + u / a->heads;
        float *x = a->x + u * a->head_dim;
        rotate(x, x, a->cos + position * half, a->sin + position * half, half);
    }
}
