/* The C API of spools: raw slots into Arrow buffers (scan.c, columns.c).
 * A spool: one ADVLOG_KIND_SPOOL slot, then records and, before its first use,
 * a NAME record for each metric id. The SPOOL slot's fields: `count` = layout
 * version, `part` = stream, epoch = attempt, batch = rank, step = first seq,
 * time_ns = creation; extra[0..1] = run id (16 bytes). Any bytes may be fed:
 * nothing is believed before it is checked, and no alignment is needed. */

typedef struct advlog_columns advlog_columns;
typedef struct advlog_scan advlog_scan;

typedef struct {
    int32_t layout_version;
    int32_t stream;
    int32_t attempt;
    int32_t rank;
    int64_t first_seq;
    uint8_t run_id[16];
    uint64_t records; /* whole records of the stream */
    uint64_t slots;   /* whole slots consumed: what follows them is torn */
    uint32_t names;   /* one more than the largest id named */
    uint32_t ids;     /* one more than the largest id that a whole record has a value under */
    int32_t damaged;  /* a slot that no drain writes, or another layout version: the
                       * scan stopped before the record that it is in */
} advlog_spool_info;

/* First pass: what is in a spool. Fed with its slots in order, in pieces of
 * any size; a record may straddle two pieces. */
advlog_scan *advlog_scan_new(void); /* NULL where memory is short */
void advlog_scan_free(advlog_scan *scan);
void advlog_scan_feed(advlog_scan *scan, const void *slots, uint64_t count);
void advlog_scan_info(const advlog_scan *scan, advlog_spool_info *out);
/* Bytes of the name copied to out (at most ADVLOG_MAX_NAME_BYTES; as the spool
 * has them, so perhaps no UTF-8), or -1: an id without a name. */
int advlog_scan_name(const advlog_scan *scan, uint32_t id, char *out);
/* Whether a whole record has a value under that id. */
bool advlog_scan_uses(const advlog_scan *scan, uint32_t id);

/* Second pass: slots to Arrow buffers of at most `capacity` rows. column_of[id],
 * of `names` entries, is the column (0 ..< columns) of metric id, or -1 for the
 * map `extra`; an id beyond them goes to `extra` too. The first record gets seq
 * first_seq. NULL: memory is short, or an argument is out of range. */
advlog_columns *advlog_columns_new(uint32_t capacity, const int32_t *column_of, uint32_t names, uint32_t columns,
                                   int64_t first_seq);
void advlog_columns_free(advlog_columns *columns);
/* Why a feed consumed no more: `stop` of advlog_column_buffers. */
enum advlog_columns_stop {
    ADVLOG_COLUMNS_INPUT_END = 0, /* no whole record is left in the input */
    ADVLOG_COLUMNS_FULL = 1,      /* no row fits before a reset */
    ADVLOG_COLUMNS_NO_MEMORY = 2, /* for the next record; the rows held are whole */
    ADVLOG_COLUMNS_DAMAGED = 3    /* the next slots are no record that a drain writes */
};
/* Consumes whole records until the buffers are full or the input ends; the
 * slots consumed. The caller feeds the rest again. */
uint64_t advlog_columns_feed(advlog_columns *columns, const void *slots, uint64_t count);
/* Empties the buffers for the next rows; addresses stay or change. */
void advlog_columns_reset(advlog_columns *columns);

/* Arrow buffers of the rows held now; valid until the next feed, reset or free.
 * A `valid` bitmap is NULL-able: NULL where `nulls` is 0. Bitmaps are LSB first. */
typedef struct {
    uint32_t rows;
    int32_t stop; /* enum advlog_columns_stop: why the latest feed ended */
    const int64_t *time_us; /* floor(time_ns / 1000) */
    const int64_t *seq;
    const int32_t *worker;
    const int32_t *kind;
    const int32_t *epoch;
    const uint8_t *epoch_valid;
    const int32_t *batch;
    const uint8_t *batch_valid;
    const int32_t *total_batches;
    const uint8_t *total_valid;
    const int64_t *step;
    const uint8_t *step_valid;
    const int32_t *extra_offsets; /* rows + 1 */
    const int32_t *extra_ids;
    const double *extra_values;
    const uint8_t *extra_valid;   /* an extra that never came is a null value */
    const int32_t *unresolved_offsets; /* rows + 1 */
    const int32_t *unresolved_ids;     /* metric id; core metric i is -1 - i */
    const int32_t *unresolved_reasons; /* enum advlog_unresolved; 0: unreadable */
    uint64_t epoch_nulls;
    uint64_t batch_nulls;
    uint64_t total_nulls;
    uint64_t step_nulls;
    uint64_t extra_nulls;
} advlog_column_buffers;
void advlog_columns_buffers(const advlog_columns *columns, advlog_column_buffers *out);
/* One metric's column: values and bitmap; returns its nulls. column < 0 is core
 * metric -1 - column, others as in column_of; of any other: NULL and NULL. */
uint64_t advlog_columns_metric(const advlog_columns *columns, int32_t column, const double **values, const uint8_t **valid);
