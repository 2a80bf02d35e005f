/* A bias for each column, added to every row. */
void EL_KERNEL(el_add_bias)(const el_args *args, const el_step *step, el_team team)
{
    const el_add_bias *a = &args->add_bias;
    int64_t vectors = (a->cols + 15) / 16;
    el_range share = el_share(step->n_tokens * vectors, team);
    for (int64_t u = share.begin; u < share.end; u++) {
        int64_t k = u % vectors * 16, n = a->cols - k;
        float *x = a->x + u / vectors * a->cols + k;
        v_store_n(x, v_add(v_load_n(x, n), v_load_n(a->bias + k, n)), n);
    }
}
