/* SwiGLU (Shazeer, 2020): silu(gate) * up, then its int8 codes. */
static inline v16 swiglu(v16 gate, v16 up)
{
    v16 one = v_set1(1.0f);
    v16 denominator = v_add(one, v_exp(v_sub(v_set1(0.0f), gate)));
    return v_mul(v_div(gate, denominator), up);
}

void EL_KERNEL(el_swiglu_quantize)(const el_args *args, const el_step *step, el_team team)
{
    const el_swiglu_quantize *a = &args->swiglu_quantize;
    int64_t groups = a->out.cols / EL_BLOCK;
    el_range units = el_share(step->n_tokens * groups, team);
    for (int64_t u = units.begin; u < units.end; u++) {
        const float *gate = a->gate + u * EL_BLOCK, *up = a->up + u * EL_BLOCK;
        v16 low = swiglu(v_load(gate), v_load(up));
        v16 high = swiglu(v_load(gate + 16), v_load(up + 16));
        quantize_group(low, high, a->out, u / groups, u % groups);
    }
}
