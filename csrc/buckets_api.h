/* The C API of pictures: the values of a metric, counted in buckets of steps (buckets.c).
 * Bucket i of a block covers the steps s with s >> shift == first + i, so blocks of one shift share their edges, whoever
 * logged. A block is one piece of memory, ADVLOG_BUCKET_BYTES a bucket, column after column: an Arrow array lies at each
 * column's offset. Nothing here is shared between threads. */

#define ADVLOG_BUCKET_BYTES 88

enum advlog_bucket_column {
    ADVLOG_BUCKET_MIN = 0,        /* double: the least finite value; +infinity where there is none */
    ADVLOG_BUCKET_MAX = 1,        /* double: the greatest; -infinity where there is none */
    ADVLOG_BUCKET_SUM = 2,        /* double: of the finite values that are not large */
    ADVLOG_BUCKET_LARGE = 3,      /* double: of those from 2^960 on, 2^64 times smaller */
    ADVLOG_BUCKET_ARGMIN = 4,     /* int64: the step of the first value that is the least */
    ADVLOG_BUCKET_ARGMAX = 5,     /* int64 */
    ADVLOG_BUCKET_COUNT = 6,      /* uint64: finite values */
    ADVLOG_BUCKET_RECORDS = 7,    /* uint64: with this metric or without */
    ADVLOG_BUCKET_NAN = 8,        /* uint32, which stays at its greatest, as the three after it */
    ADVLOG_BUCKET_POSINF = 9,
    ADVLOG_BUCKET_NEGINF = 10,
    ADVLOG_BUCKET_UNRESOLVED = 11,
    ADVLOG_BUCKET_RANK_MIN = 12,  /* int32: the rank that had the least value; -1 where there is none */
    ADVLOG_BUCKET_RANK_MAX = 13,  /* int32 */
    ADVLOG_BUCKET_COLUMNS = 14
};

/* Where a column begins in a block of n buckets, in bytes. */
uint64_t advlog_bucket_offset(uint64_t n, int32_t column);
/* Makes n buckets empty. */
void advlog_buckets_clear(void *block, uint64_t n);
/* Counts rows of one rank. `valid` is an Arrow bitmap whose bit `offset` is the first row's, or NULL where every value is
 * there; a row without a value is a record all the same. Rows outside of the block are passed over. */
void advlog_buckets_add(void *block, uint64_t n, int64_t first, int32_t shift, int32_t rank, const int64_t *steps,
                        const double *values, const uint8_t *valid, uint64_t offset, uint64_t rows);
/* Counts values that never came, by their steps. */
void advlog_buckets_add_unresolved(void *block, uint64_t n, int64_t first, int32_t shift, const int64_t *steps, uint64_t rows);
/* Counts the buckets of another block, whose shift is not above this one's. Of two values that are equal, the one that
 * is there stays. Buckets outside of the block are passed over. */
void advlog_buckets_fold(void *block, uint64_t n, int64_t first, int32_t shift, const void *other, uint64_t other_n,
                         int64_t other_first, int32_t other_shift);
/* The mean of each bucket's finite values; 0 where there is none. */
void advlog_buckets_mean(const void *block, uint64_t n, double *mean);

/* The clock of a block: of each bucket, the times of its first and its last record in microseconds and their epochs.
 * ADVLOG_CLOCK_BYTES a bucket: int64 begins, int64 ends, int32 first and last epoch; INT64_MAX, INT64_MIN, INT32_MAX and
 * INT32_MIN where there is none. */
#define ADVLOG_CLOCK_BYTES 24
void advlog_clock_clear(void *block, uint64_t n);
void advlog_clock_add(void *block, uint64_t n, int64_t first, int32_t shift, const int64_t *steps, const int64_t *times,
                      const int32_t *epochs, const uint8_t *valid, uint64_t offset, uint64_t rows);
void advlog_clock_fold(void *block, uint64_t n, int64_t first, int32_t shift, const void *other, uint64_t other_n,
                       int64_t other_first, int32_t other_shift);
/* How often steps fall by more than half of their range so far, and the record after stays as low: steps that begin
 * again in each epoch do, one evaluation at a lower step does not. `range` has the least and the greatest step so far;
 * it begins as INT64_MAX and INT64_MIN. */
uint64_t advlog_steps_restarts(const int64_t *steps, uint64_t rows, int64_t range[2]);
