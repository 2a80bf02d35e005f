/* Floats to int8: scale = max|x| / 127, code = round to nearest even (x * (127 / max|x|)), the maximum being over a block of 32
 * columns or, where a token's activations share one scale, over the row. Where it is below 1e-30 codes are 0, so that 127 / max|x|
 * never overflows; NaN gives -127. */
typedef v16 (*row_values)(const void *row, int64_t k); /* 16 elements from column k on: any op that ends in quantization has its own */

/* Up to 16 blocks of a row from block `first` on, each step for all of them: that keeps the divisions and the maxima, which take long,
 * from waiting for each other. row_largest is NULL where each block has its own scale. */
INLINE void quantize_16_blocks(el_activation out, int64_t row, int64_t first, int64_t count, row_values values, const void *source,
                               const float *row_largest)
{
    float x[16 * EL_BLOCK], largest[16] = {0}, scale[16], inverse[16];
    for (int64_t i = 0; i < count; i++) {
        v16 a = values(source, (first + i) * EL_BLOCK), b = values(source, (first + i) * EL_BLOCK + 16);
        v_store(x + i * EL_BLOCK, a);
        v_store(x + i * EL_BLOCK + 16, b);
        largest[i] = row_largest ? *row_largest : v_hmax(v_max(v_abs(a), v_abs(b)));
    }
    v_store(scale, v_div(v_load(largest), v_set1(127.0f)));
    v_store(inverse, v_div(v_set1(127.0f), v_load(largest)));
    v16 low = v_set1(-127.0f), high = v_set1(127.0f);
    int64_t at = row * (out.cols / EL_BLOCK) + first;
    for (int64_t i = 0; i < count; i++) {
        v16 factor = v_set1(largest[i] > 1e-30f ? inverse[i] : 0.0f);
        v16 a = v_rint(v_mul(v_load(x + i * EL_BLOCK), factor)), b = v_rint(v_mul(v_load(x + i * EL_BLOCK + 16), factor));
        int8_t *codes = out.codes + (at + i) * EL_BLOCK;
        int32_t sum = v_store_i8(codes, v_min(v_max(a, low), high), v_min(v_max(b, low), high));
        out.offsets[at + i] = -8 * sum;
        out.scaled_sums[at + i] = scale[i] * (float)sum;
        if (!row_largest)
            out.scales[at + i] = scale[i];
        if (row == 0)
            el_build_tables(out, first + i);
    }
    if (row_largest && first == 0)
        out.scales[row] = scale[0];
}

/* Some blocks of a row. Threads that have a row's blocks between them each find its maximum. */
INLINE void quantize_blocks(el_activation out, int64_t row, el_range blocks, row_values values, const void *source)
{
    v16 top = v_set1(0.0f);
    int per_token = out.group != EL_BLOCK;
    for (int64_t k = 0; per_token && k < out.cols; k += 16)
        top = v_max(v_abs(values(source, k)), top);
    float largest = v_hmax(top);
    for (int64_t first = blocks.begin; first < blocks.end; first += 16) {
        int64_t count = blocks.end - first < 16 ? blocks.end - first : 16;
        quantize_16_blocks(out, row, first, count, values, source, per_token ? &largest : NULL);
    }
}

/* Those of the thread's blocks, counted over all rows, that lie in a row. */
static inline el_range blocks_in_row(el_range share, int64_t row, int64_t blocks)
{
    int64_t begin = share.begin - row * blocks, end = share.end - row * blocks;
    return (el_range){begin > 0 ? begin : 0, end < blocks ? end : blocks};
}

static inline v16 loaded(const void *row, int64_t k) { return v_load((const float *)row + k); }

void EL_KERNEL(el_quantize)(const el_args *args, const el_step *step, el_team team)
{
    const el_quantize *a = &args->quantize;
    int64_t blocks = a->out.cols / EL_BLOCK;
    el_range share = el_share(step->n_tokens * blocks, team);
    for (int64_t row = share.begin / blocks; row * blocks < share.end; row++)
        quantize_blocks(a->out, row, blocks_in_row(share, row, blocks), loaded, a->x + row * a->out.cols);
}
