/* SwiGLU (Shazeer, 2020): silu(gate) * up, then its int8 codes. */
typedef struct {
    const float *gate, *up;
} gated_row;

static inline v16 gated(const void *source, int64_t k)
{
    const gated_row *row = source;
    v16 gate = v_load(row->gate + k);
    v16 denominator = v_add(v_set1(1.0f), v_exp(v_sub(v_set1(0.0f), gate)));
    return v_mul(v_div(gate, denominator), v_load(row->up + k));
}

void EL_KERNEL(el_swiglu_quantize)(const el_args *args, const el_step *step, el_team team)
{
    const el_swiglu_quantize *a = &args->swiglu_quantize;
    int64_t cols = a->out.cols, blocks = cols / EL_BLOCK;
    el_range share = el_share(step->n_tokens * blocks, team);
    for (int64_t row = share.begin / blocks; row * blocks < share.end; row++) {
        gated_row source = {a->gate + row * cols, a->up + row * cols};
        quantize_blocks(a->out, row, blocks_in_row(share, row, blocks), gated, &source);
    }
}
