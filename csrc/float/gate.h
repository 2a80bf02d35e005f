/* Gated feed-forward (Shazeer, 2020): activation(gate) * up, then its int8 codes.
 *
 * SiLU is g / (1 + exp(-g)). The tanh form of GELU (Hendrycks and Gimpel, 2016) is g / (1 + exp(-y)) as well, y = 2 sqrt(2 / pi)
 * (g + 0.044715 g^3): (1 + tanh(y / 2)) / 2 = 1 / (1 + exp(-y)), which cancels nowhere. */
typedef struct {
    const float *gate, *up;
} gated_row;

/* gate / (1 + exp(-y)) * up */
static inline v16 gated(v16 gate, v16 y, v16 up)
{
    v16 denominator = v_add(v_set1(1.0f), v_exp(v_sub(v_set1(0.0f), y)));
    return v_mul(v_div(gate, denominator), up);
}

static inline v16 silu_gated(const void *source, int64_t k)
{
    const gated_row *row = source;
    v16 gate = v_load(row->gate + k);
    return gated(gate, gate, v_load(row->up + k));
}

static inline v16 gelu_gated(const void *source, int64_t k)
{
    const gated_row *row = source;
    v16 gate = v_load(row->gate + k);
    v16 slope = v_fma(v_mul(gate, gate), v_set1(0x1.2444f2p-4f), v_set1(0x1.988454p+0f)); /* 2 sqrt(2 / pi): 0.044715 times, and once */
    return gated(gate, v_mul(gate, slope), v_load(row->up + k));
}

INLINE void gate_quantize(const el_gate_quantize *a, const el_step *step, el_team team, row_values values)
{
    int64_t cols = a->out.cols, blocks = cols / EL_BLOCK;
    el_range share = el_share(step->n_tokens * blocks, team);
    for (int64_t row = share.begin / blocks; row * blocks < share.end; row++) {
        gated_row source = {a->gate + row * cols, a->up + row * cols};
        quantize_blocks(a->out, row, blocks_in_row(share, row, blocks), values, &source);
    }
}

void EL_KERNEL(el_gate_quantize)(const el_args *args, const el_step *step, el_team team)
{
    const el_gate_quantize *a = &args->gate_quantize;
    if (a->activation == EL_GELU_PYTORCH_TANH)
        gate_quantize(a, step, team, gelu_gated);
    else
        gate_quantize(a, step, team, silu_gated);
}

/* Squared ReLU (So et al., 2021); NaN stays NaN. */
void EL_KERNEL(el_relu2_gate)(const el_args *args, const el_step *step, el_team team)
{
    const el_relu2_gate *a = &args->relu2_gate;
    int64_t elements = (int64_t)step->n_tokens * a->cols;
    el_range share = el_share((elements + 15) / 16, team);
    for (int64_t u = share.begin; u < share.end; u++) {
        int64_t at = u * 16, n = elements - at;
        v16 positive = v_max(v_set1(0.0f), v_load_n(a->gate + at, n));
        v_store_n(a->up + at, v_mul(v_mul(positive, positive), v_load_n(a->up + at, n)), n);
    }
}
