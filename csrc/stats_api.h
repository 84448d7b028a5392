/* The C API of statistics: of one metric, of times, of an epoch, and of everything that a drain has counted (stats.c,
 * epochs.c, totals.c). */

#define ADVLOG_SKETCHES 5

enum advlog_nonfinite { ADVLOG_NAN = 1, ADVLOG_POSINF = 2, ADVLOG_NEGINF = 3 };

/* Running statistics of one metric: moments over the finite values only. */
typedef struct {
    uint64_t count; /* finite values */
    double mean;
    double m2; /* sum of squared deviations from the mean */
    double min;
    double max;
    double last; /* the last value, finite or not */
    uint64_t nan;
    uint64_t posinf;
    uint64_t neginf;
    /* of the first value that was not finite: */
    int64_t bad_seq; /* -1 while there was none */
    int64_t bad_step;
    int64_t bad_time_ns;
    int32_t bad_epoch;
    int32_t bad_batch;
    uint32_t bad_present; /* ADVLOG_HAS_* bits that say which of these are known */
    int32_t bad_class;    /* enum advlog_nonfinite; 0 while there was none */
} advlog_stat;

/* A quantile sketch: buckets whose bounds grow by a constant factor, so that a
 * quantile is within 1 % of a true one (DDSketch, Masson et al., VLDB 2019).
 * For values from 1e-9 up to 5e8; outside, the nearest bucket. */
#define ADVLOG_SKETCH_BUCKETS 2048
typedef struct {
    uint64_t count;
    uint64_t below; /* negative values */
    uint64_t zero;
    uint64_t tiny; /* positive, and below the buckets */
    uint64_t bucket[ADVLOG_SKETCH_BUCKETS];
    uint64_t above;
} advlog_sketch;

enum advlog_sketch_of {
    ADVLOG_SKETCH_BATCH_TIME = 0,      /* of metric records */
    ADVLOG_SKETCH_DATA_TIME = 1,
    ADVLOG_SKETCH_STEP_INTERVAL = 2,   /* between batch records without batch_time */
    ADVLOG_SKETCH_SYSTEM_BATCH_TIME = 3, /* of performance records */
    ADVLOG_SKETCH_SYSTEM_DATA_TIME = 4
};

/* Epochs that are counted side by side. */
#define ADVLOG_EPOCHS 4

/* What came of one epoch, by its batch records; a number that comes again goes on counting. */
typedef struct {
    int32_t epoch;
    int32_t seen; /* 0 until its first batch record */
    int32_t total; /* batches of it, as its first record says; -1 where that says nothing */
    int32_t latest_stride; /* the distance of the last two batch numbers, if the second is the greater one; else 0 */
    uint64_t records;
    uint64_t batches;       /* by their numbers, where only every n-th is logged */
    uint64_t first_batches; /* of them, those that the first record stands for */
    uint64_t left;          /* batches between the last record and the end of the epoch, if fewer than lie between two */
    int64_t first_ns;
    int64_t last_ns;
    double samples; /* finite values of `samples` in its batch records, each as often as its record stands for batches */
    double tokens;
    double logged_samples; /* each once */
    double logged_tokens;
    advlog_stat loss;
    advlog_stat accuracy;
    int32_t moved;         /* the batch numbers differ: else they say nothing, and the records count */
    int32_t has_batch[2];  /* of the process, of any worker */
    int32_t last_batch[2];
} advlog_epoch;

/* Everything the drain has counted, as of one moment. */
typedef struct {
    uint64_t position; /* every record below it is counted here */
    uint64_t records[ADVLOG_STREAMS];
    uint64_t unresolved[ADVLOG_UNRESOLVED_REASONS]; /* values, by enum advlog_unresolved */
    int64_t last_ns;
    int64_t last_step;
    int64_t max_step; /* there is one where there is a last one */
    int32_t last_epoch;
    int32_t last_batch;
    int32_t last_total;
    uint32_t last_present; /* ADVLOG_HAS_* of the last batch or metrics record */
    uint32_t names;        /* metric ids below this have entries */
    advlog_stat core[ADVLOG_CORE_METRICS];
    advlog_stat system_core[ADVLOG_CORE_METRICS]; /* of performance records */
    advlog_stat step_interval;
    advlog_epoch epoch[ADVLOG_EPOCHS]; /* the latest first */
    advlog_sketch sketch[ADVLOG_SKETCHES]; /* by enum advlog_sketch_of */
} advlog_totals;

/* What the drain saw in the records and somebody may want to act on. */
enum advlog_finding_kind {
    ADVLOG_FINDING_NONFINITE = 1, /* a metric's first value that is not finite */
    ADVLOG_FINDING_CLOCK = 2      /* the wall clock has jumped */
};
typedef struct {
    int32_t kind;     /* enum advlog_finding_kind */
    int32_t stream;   /* enum advlog_stream */
    int32_t metric;   /* a name's id; core metric i is -1 - i */
    advlog_stat stat; /* of the metric, as of now */
    int64_t moved_ns; /* of the clock: forward is positive */
    int64_t first_seq; /* the records between whose times it may lie: from the one before this one on ... */
    int64_t last_seq;  /* ... to this one */
} advlog_finding;
/* The next finding, each once; false where there is none. For the thread that runs the drain. */
bool advlog_drain_next_finding(advlog_drain *drain, advlog_finding *out);
/* Copies the values that never came, by reason: out has ADVLOG_UNRESOLVED_REASONS. Any thread. */
void advlog_drain_unresolved(advlog_drain *drain, uint64_t *out);
/* Copies of the statistics. Any thread. */
void advlog_drain_totals(advlog_drain *drain, advlog_totals *out);
/* The process goes on from another one, whose last batch this was: batches are counted from there. total: -1 where it is
 * unknown. Any thread. */
void advlog_drain_resume(advlog_drain *drain, int32_t epoch, int32_t batch, int32_t total);
void advlog_drain_name_stats(advlog_drain *drain, int stream, uint32_t first, uint32_t count, advlog_stat *out);

/* ---- of a metric (stats.c) ---- */

void advlog_stat_init(advlog_stat *stat);
/* Welford's update (Knuth, TAOCP 2, 4.2.2) of a finite value; others are counted. */
void advlog_stat_add(advlog_stat *stat, double value);
/* Chan, Golub and LeVeque's pairwise merge: into += other. The earlier first
 * bad value, by time, is kept; `last` becomes other's unless other is empty. */
void advlog_stat_merge(advlog_stat *into, const advlog_stat *other);
void advlog_sketch_add(advlog_sketch *sketch, double value);
void advlog_sketch_add_all(advlog_sketch *sketch, const double *values, uint64_t count);
void advlog_sketch_merge(advlog_sketch *into, const advlog_sketch *other);
/* The q-quantile, 0 <= q <= 1, by nearest rank: the least value that at least the share q of all do not exceed. NaN for an
 * empty sketch, and where that value lies outside the buckets. */
double advlog_sketch_quantile(const advlog_sketch *sketch, double q);
