/* The C interface: read by cffi as it stands, and included by edgellm.h. Plain declarations only.
 *
 * Dimensions: L new tokens in a step, T tokens cached before it, D hidden, H query heads, G key/value heads,
 * E head size, F feed-forward, V vocabulary; a matrix has N rows and K columns, K = 32 B (B blocks).
 * Buffers need no more than their elements' alignment (64 bytes are faster), are owned by the caller and outlive every
 * plan that names them.
 * Outputs never alias inputs unless a line says so. */

/* ---- instruction sets ------------------------------------------------------------------------------------ */
enum { EL_ISA_SCALAR, EL_ISA_AVX2, EL_ISA_AVX512, EL_ISA_AVX512VNNI, EL_ISA_NEON, EL_ISA_NEON_DOTPROD, EL_ISA_COUNT };

const char *el_isa_name(int isa);    /* "scalar", "avx2", "avx512", "avx512vnni", "neon", "neon_dotprod" */
int el_isa_compiled(int isa);        /* 1: this build holds kernels for it */
int el_isa_supported(int isa);       /* 1: compiled, and this processor and operating system run it */

enum {
    EL_KEY_TILE = 64,            /* keys that lie side by side in the cache */
    EL_ATTENTION_KEYS = 128,     /* keys of a block of attention (attention.h) */
    EL_ATTENTION_ROWS = 16,      /* query rows, each a head of a token, that attention handles together */
    EL_MAX_HEAD_DIM = 256        /* of E */
};

/* ---- data ------------------------------------------------------------------------------------------------ */
enum {                           /* what a code is worth; edgellm/formats/matrix.py has the equations */
    EL_INT8, EL_INT4, EL_INT4_MIN, EL_INT3, EL_INT3_MIN, EL_INT2, EL_INT2_MIN,
    EL_TERNARY, EL_TRITPLANES2, EL_TRITPLANES3, EL_SCHEME_COUNT
};

enum { EL_MULTIPLY_ADD, EL_LOOKUP, EL_LAYOUT_COUNT };     /* how codes lie in memory: for which kernels (pack.c) */

typedef struct {                 /* a packed matrix [N, K], in tiles of 16 rows (pack.c says how) */
    const uint8_t *codes;
    const uint16_t *scales;      /* float16; for each tile and group 16 scales of each plane, then 16 minimums */
    int32_t scheme, layout;
    int32_t group;               /* columns that share a scale, 32 i or K */
    int32_t rows, cols;
} el_matrix;

enum { EL_LOOKUP_TILES = 4 };
enum { EL_QUADS, EL_PAIRS, EL_SINGLES, EL_TABLES_COUNT }; /* what the 4 bits of an index are: 4 codes of 1 bit, 2 of 2, 1 of 4 */

typedef struct {                 /* L vectors quantized to int8 in groups: x = scale * code */
    int8_t *codes;               /* [L, K], -127..127 */
    float *scales;               /* [L, K / group] */
    int32_t *offsets;            /* [L, B]: -8 * sum of the block's codes */
    float *scaled_sums;          /* [L, B]: scale * sum of the block's codes */
    int32_t cols, group;         /* group: columns that share a scale, 32 or K */
    uint8_t *tables[EL_TABLES_COUNT]; /* each NULL, or [B, 256 << EL_...]: the first vector's sums (lookup/tables.h) */
    uint8_t *tiles;              /* NULL, or [threads, tiles_bytes]: where EL_LOOKUP lays tiles out for several vectors */
    int64_t tiles_bytes;         /* EL_LOOKUP_TILES tiles of the codes of any matrix that the vectors are multiplied with */
} el_activation;

typedef struct {                 /* one layer's keys and values, float16 or float32 */
    void *keys;                  /* [G, context / EL_KEY_TILE, E, EL_KEY_TILE], so that a lane is a key */
    void *values;                /* [G, context, E] */
    int32_t heads, head_dim, context, is_f16;
} el_cache;

typedef struct {                 /* what changes from step to step; everything else is fixed when recorded */
    int32_t position;            /* T */
    int32_t n_tokens;            /* L */
    int32_t n_outputs;           /* logits are wanted for the last n_outputs tokens */
} el_step;

/* ---- operations ------------------------------------------------------------------------------------------ */
enum {
    EL_OP_EMBED, EL_OP_RMSNORM, EL_OP_RMSNORM_ADD, EL_OP_RMSNORM_QUANTIZE, EL_OP_QUANTIZE, EL_OP_MATMUL, EL_OP_LOOKUP,
    EL_OP_ADD_BIAS, EL_OP_ROPE, EL_OP_CACHE_APPEND, EL_OP_ATTENTION, EL_OP_GATE_QUANTIZE, EL_OP_RELU2_GATE,
    EL_OP_CHECK_FINITE, EL_OP_CHECK_CACHE, EL_OP_LUT8_TABLES, EL_OP_LUT8, EL_OP_COUNT
};

typedef struct {                 /* out[l, :] = scale * table[tokens[l], :] */
    const int32_t *tokens;       /* [L], each in 0..N-1 */
    el_matrix table;
    float *out;                  /* [L, K] */
    float scale;
} el_embed;

typedef struct {                 /* x[l, h, :] = weight * (x[l, h, :] / sqrt(mean(x[l, h, :]^2) + eps)), in place */
    float *x;                    /* [L, heads, E] */
    const float *weight;         /* [E] */
    int32_t heads, head_dim;
    float eps;
} el_rmsnorm;

typedef struct {                 /* out[l, :] += weight * (x[l, :] / sqrt(mean(x[l, :]^2) + eps)) */
    const float *x;              /* [L, K], K a multiple of 16 */
    const float *weight;         /* [K] */
    float *out;                  /* [L, K] */
    int32_t cols;
    float eps;
} el_rmsnorm_add;

typedef struct {                 /* out[l, :] = quantize(weight * (x[l, :] / sqrt(mean(x[l, :]^2) + eps))) */
    const float *x;              /* [L, K] */
    const float *weight;         /* [K] */
    el_activation out;
    float eps;
    int32_t outputs_only;        /* 1: only the step's last n_outputs rows of x, written to rows 0.. of out */
} el_rmsnorm_quantize;

typedef struct {                 /* out[l, :] = quantize(x[l, :]) */
    const float *x;              /* [L, K] */
    el_activation out;
} el_quantize;

typedef struct {                 /* of EL_OP_MATMUL, and of EL_OP_LOOKUP where w has that layout and x its tables:
                                  * out[l, n] = sum_k w[n, k] * x[l, k], or, accumulating, out[l, n] += that sum;
                                  * matmul/matmul_scalar.c says in which order */
    el_matrix w;
    el_activation x;
    float *out;                  /* [L, N] */
    int32_t out_cols;            /* floats from a row of out to the next: N, or more where w is some rows of a larger matrix */
    int32_t accumulate;
    int32_t outputs_only;        /* 1: n_outputs rows instead of n_tokens */
} el_matmul;

typedef struct {                 /* x[l, k] += bias[k], in place */
    float *x;                    /* [L, K] */
    const float *bias;           /* [K] */
    int32_t cols;
} el_add_bias;

typedef struct {                 /* rotates x[l, h, :] by position T + l, in place; pairs are (i, i + E/2) */
    float *x;                    /* [L, heads, E] */
    const float *cos, *sin;      /* [context, E/2] */
    int32_t heads, head_dim;
} el_rope;

typedef struct {                 /* stores rope(k) and v of the L new tokens at positions T.. */
    const float *k, *v;          /* [L, G, E] each */
    const float *cos, *sin;      /* [context, E/2] */
    el_cache cache;
} el_cache_append;

typedef struct {                 /* out[l, h, :] = softmax(scale * q[l, h, :] . keys[h / (H/G), t]) . values, t the last `window` of 0..T+l */
    const float *q;              /* [L, H, E] */
    el_cache cache;
    float *out;                  /* [L, H, E] */
    float *partials;             /* scratch, [U, context / EL_ATTENTION_KEYS, EL_ATTENTION_ROWS * (2 + E)], divisions rounded up; */
    int32_t *arrived;            /* [U], zeros before and after; U = G * (H/G / EL_ATTENTION_ROWS) */
    int32_t heads, window;       /* window: positions that a token sees, 1 or more, its own the last of them */
    float scale;
} el_attention;

enum { EL_SILU, EL_GELU_PYTORCH_TANH };

typedef struct {                 /* out[l, :] = quantize(activation(gate[l, :]) * up[l, :]) */
    const float *gate, *up;      /* [L, K] each */
    el_activation out;
    int32_t activation;
} el_gate_quantize;

typedef struct {                 /* up[l, k] = max(gate[l, k], 0)^2 * up[l, k], in place */
    const float *gate;           /* [L, K] */
    float *up;                   /* [L, K] */
    int32_t cols;
} el_relu2_gate;

typedef struct {                 /* *first = min(*first, op << 48 | l << 32 | k) for every x[l, k] that is NaN or infinite; with
                                  * outputs_only row 0 is not l = 0 but the first of the step's last n_outputs tokens */
    const float *x;              /* [L, K] */
    int64_t *first;
    int32_t op, cols;            /* op: up to 32767, whatever tells the caller what wrote x */
    int32_t outputs_only;
} el_check_finite;

typedef struct {                 /* the same for positions T.. of the cache; k counts [G, 2, E]: a head's key, then its value */
    el_cache cache;
    int64_t *first;
    int32_t op;
} el_check_cache;

typedef struct {                 /* an ablation (lookup/lut8.h), of EL_OP_LUT8_TABLES, which writes tables and scales, and of EL_OP_LUT8:
                                  * EL_OP_LOOKUP, of one vector by these tables. No EL_INT3, and x.group is 32 */
    el_matmul matmul;
    uint8_t *tables;             /* [B, 128 times a code's bits], of x's first vector, as w's scheme needs them */
    float *scales;               /* [B], theirs times x's */
} el_lut8;

typedef union {
    el_embed embed;
    el_rmsnorm rmsnorm;
    el_rmsnorm_add rmsnorm_add;
    el_rmsnorm_quantize rmsnorm_quantize;
    el_quantize quantize;
    el_matmul matmul;
    el_add_bias add_bias;
    el_rope rope;
    el_cache_append cache_append;
    el_attention attention;
    el_gate_quantize gate_quantize;
    el_relu2_gate relu2_gate;
    el_check_finite check_finite;
    el_check_cache check_cache;
    el_lut8 lut8;
} el_args;

typedef struct {
    int32_t kind;                /* EL_OP_... */
    int32_t barrier;             /* 1: every thread finishes the ops before this one first */
    el_args args;
} el_op;

const char *el_kernel_name(int isa, int op);    /* the function that runs it, "el_matmul__avx2"; "" where this build has none */

/* ---- packing, at load -------------------------------------------------------------------------------------- */
/* Of the matrix that `shape` describes; its pointers are not looked at. */
int64_t el_packed_codes_bytes(const el_matrix *shape);
int64_t el_packed_scales_bytes(const el_matrix *shape);

/* Row-major file layout (edgellm/formats/matrix.py) -> tiles. scales is [N, J, P], J groups a row and P planes;
 * minimums is [N, J], or NULL where the scheme has none. Rows missing from the last tile become zeros. */
void el_pack(const el_matrix *shape, const uint8_t *codes, const uint16_t *scales, const uint16_t *minimums,
             uint8_t *packed_codes, uint16_t *packed_scales);

/* ---- threads and plans --------------------------------------------------------------------------------------- */
typedef struct el_pool el_pool;
typedef struct el_plan el_plan;

el_pool *el_pool_new(int threads);      /* NULL: the threads could not be started */
void el_pool_let_shrink(el_pool *pool); /* from now on runs have fewer threads while others keep some from running */
int el_pool_team(const el_pool *pool);  /* threads of the next run */
int el_pool_thread_ids(el_pool *pool, int32_t *ids);    /* [threads]: Linux's ids, the caller's first; 0 or -1 as el_plan_run */
void el_pool_free(el_pool *pool);

el_plan *el_plan_new(int isa);          /* NULL: no memory, or the isa is not supported here */
void el_plan_free(el_plan *plan);
int el_plan_append(el_plan *plan, const el_op *op);     /* copies the op. 0; -1: no memory; -2: the isa has no kernel for it */
int el_plan_count(const el_plan *plan);

/* Runs every op once on all the pool's threads. op_ns is NULL, or an array of el_plan_count() that receives each
 * op's wall time in nanoseconds (and then a barrier follows each op). 0, or -1: a forked child could start no threads. */
int el_plan_run(const el_plan *plan, el_pool *pool, const el_step *step, int64_t *op_ns);

/* ---- sampling ------------------------------------------------------------------------------------------------ */
typedef struct {                 /* a value and where it stood */
    double value;
    int32_t at;
} el_ranked;

typedef struct {                 /* how a token is drawn of V (edgellm/runtime/sampling.py), and the room for it */
    int32_t isa;                 /* supported here */
    int32_t vocabulary, top_k;
    double temperature, top_p, min_p, repetition_penalty;
    double *weights;             /* [V]: afterwards, the candidates' weights added up */
    int32_t *ids;                /* [V]: the candidates */
    int32_t candidates;          /* how many were left to draw from */
    double *sums;                /* [V], scratch */
    el_ranked *ranked, *room;    /* [V] each, scratch */
} el_sampler;

/* The id of the token that `uniform`, in [0, 1), falls on; the most probable one at temperature 0. -1 - id where that one's logit is
 * NaN or infinite, and so nothing can be drawn; -1 - V where the history, ids that the repetition penalty is for, has others than 0..V-1. */
int32_t el_sample(el_sampler *sampler, const float *logits, const int64_t *history, int32_t n_history, double uniform);

/* ---- scoring ------------------------------------------------------------------------------------------------- */
typedef struct {                 /* of L tokens, each by its row of logits */
    const float *logits;         /* [L, V] */
    const int32_t *targets;      /* [L], each in 0..V-1 */
    double *nll;                 /* [L]: -log p of the token; NaN where a logit is NaN or infinite */
    uint8_t *greedy;             /* [L]: 1 where it was the most probable one, of equals the first */
    int64_t rows, vocabulary;    /* L, V */
} el_scores;

/* Fills nll and greedy, on the pool's threads. 0 or -1 as el_plan_run; -2: the isa is not supported here. */
int el_score(int isa, el_pool *pool, const el_scores *scores);

/* ---- memory ---------------------------------------------------------------------------------------------------- */
int el_lock(const void *data, int64_t bytes);   /* brings the pages in and keeps them; 0, or errno: refused */
int el_lock_all(void);                  /* the same for all that the process has mapped and will map */
void el_unlock_all(void);
void el_trim(void);                     /* gives free heap memory back to the system, where the C library can */

/* ---- for measurements ----------------------------------------------------------------------------------------- */
enum { EL_READ_BLOCK = 256 };

/* Reads data[0 .. bytes) once, each of the pool's threads its contiguous share; bytes is a multiple of EL_READ_BLOCK, data aligned
 * to 8. *words is the exclusive or of all 64-bit words, so that no compiler can leave the reading out. 0 or -1 as el_plan_run. */
int el_read(el_pool *pool, const void *data, int64_t bytes, uint64_t *words);

/* The same work, `iterations` dependent multiplications in registers, `chunks` times on every thread at once. chunk_ns, [threads, chunks],
 * receives what each time took. 0 or -1 as el_plan_run. */
int el_spin(el_pool *pool, int64_t iterations, int64_t chunks, int64_t *chunk_ns);

/* ---- for tests ------------------------------------------------------------------------------------------------ */
/* The kernels' own exp, element by element. 0, or -1: the isa is not supported here. */
int el_exp(int isa, const float *x, float *out, int64_t n);

const char *el_csrc_hash(void);         /* hash of csrc/ that this build was compiled from */
const char *el_compiler(void);
