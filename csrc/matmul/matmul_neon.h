/* Integer matrix multiplication for 64-bit ARM, compiled once per instruction set: EL_KERNEL names it, and the file that includes
 * this gives `dot`. A tile's 16 rows are four registers of four rows, each lane of which holds a row's next four columns. One token takes
 * a tile's rows together, so that memory is read in order; several take four rows at a time, unpacked once for all of them. */
#define INLINE static inline __attribute__((always_inline))
#define MAX_TOKENS 4

/* Signed codes, or unsigned ones of fewer bits, of four rows of a group: unpacked[i] holds columns 4i .. 4i + 3. */
INLINE void unpack(int scheme, const uint8_t *codes, int8x16_t unpacked[8])
{
    if (scheme == EL_INT8) {
        for (int b = 0; b < 8; b++)
            unpacked[b] = vreinterpretq_s8_u8(veorq_u8(vld1q_u8(codes + b * 64), vdupq_n_u8(0x80)));
    } else {
        for (int b = 0; b < 4; b++) {
            uint8x16_t pair = vld1q_u8(codes + b * 64);
            unpacked[2 * b] = vreinterpretq_s8_u8(vandq_u8(pair, vdupq_n_u8(15)));
            unpacked[2 * b + 1] = vreinterpretq_s8_u8(vshrq_n_u8(pair, 4));
        }
    }
}

INLINE float32x4_t widen(const uint16_t *halves) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(halves))); }

/* acc[f][i] = rows 4 (four + f) .. of a tile times token first + i. */
INLINE void rows_times_tokens(const el_matmul *a, int scheme, int64_t tile, int four, int fours, int64_t first, int tokens,
                              float32x4_t acc[4][MAX_TOKENS])
{
    int64_t groups = a->w.cols / EL_GROUP, parts = el_scale_rows(scheme), group_bytes = el_group_bytes(scheme);
    const uint8_t *codes = a->w.codes + tile * groups * group_bytes + four * 16;
    const uint16_t *scales = a->w.scales + tile * groups * parts * EL_TILE + four * 4;
    for (int f = 0; f < fours; f++)
        for (int i = 0; i < tokens; i++)
            acc[f][i] = vdupq_n_f32(0.0f);
    for (int64_t g = 0; g < groups; g++, codes += group_bytes, scales += parts * EL_TILE)
        for (int f = 0; f < fours; f++) {
            int8x16_t unpacked[8];
            unpack(scheme, codes + f * 16, unpacked);
            float32x4_t scale = widen(scales + f * 4);
            for (int i = 0; i < tokens; i++) {
                int64_t at = (first + i) * groups + g;
                int32x4_t before = vdupq_n_s32(scheme == EL_INT4 ? a->x.offsets[at] : 0);
                float32x4_t isum = vcvtq_f32_s32(dot(scheme, unpacked, a->x.codes + at * EL_GROUP, before));
                acc[f][i] = vfmaq_f32(acc[f][i], vmulq_n_f32(scale, a->x.scales[at]), isum);
                if (scheme == EL_INT4_MIN)
                    acc[f][i] = vfmaq_n_f32(acc[f][i], widen(scales + EL_TILE + f * 4), a->x.scaled_sums[at]);
            }
        }
}

/* out[0 .. valid - 1] (+)= acc. */
INLINE void store(float *out, int accumulate, int64_t valid, float32x4_t acc)
{
    float lanes[4] = {0};
    int64_t n = valid < 4 ? valid : 4;
    if (accumulate)
        memcpy(lanes, out, (size_t)n * sizeof *lanes);
    vst1q_f32(lanes, vaddq_f32(vld1q_f32(lanes), acc));
    memcpy(out, lanes, (size_t)n * sizeof *lanes);
}

INLINE void multiply_block(const el_matmul *a, int scheme, int64_t tile, int four, int fours, int64_t first, int tokens)
{
    float32x4_t acc[4][MAX_TOKENS];
    rows_times_tokens(a, scheme, tile, four, fours, first, tokens, acc);
    int64_t row = tile * EL_TILE + four * 4;
    for (int f = 0; f < fours && row < a->w.rows; f++, row += 4)
        for (int i = 0; i < tokens; i++)
            store(a->out + (first + i) * a->w.rows + row, a->accumulate, a->w.rows - row, acc[f][i]);
}

INLINE void multiply(const el_matmul *a, int scheme, el_range tiles, int64_t tokens)
{
    for (int64_t tile = tiles.begin; tile < tiles.end; tile++) {
        int64_t token = 0;
        for (; token + MAX_TOKENS <= tokens; token += MAX_TOKENS)
            for (int four = 0; four < 4; four++)
                multiply_block(a, scheme, tile, four, 1, token, MAX_TOKENS);
        for (; token < tokens; token++)
            multiply_block(a, scheme, tile, 0, 4, token, 1);
    }
}

void EL_KERNEL(el_matmul)(const el_args *args, const el_step *step, el_team team)
{
    const el_matmul *a = &args->matmul;
    int64_t tokens = a->outputs_only ? step->n_outputs : step->n_tokens;
    el_range tiles = el_share(el_tiles(a->w.rows), team);
    switch (a->w.scheme) {
    case EL_INT4: multiply(a, EL_INT4, tiles, tokens); break;
    case EL_INT4_MIN: multiply(a, EL_INT4_MIN, tiles, tokens); break;
    case EL_INT8: multiply(a, EL_INT8, tiles, tokens); break;
    }
}
