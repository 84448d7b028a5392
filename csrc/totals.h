/* What the drain counts of every record: the numbers behind the summary. */
#pragma once

#include "epochs.h"
#include "names.h"
#include "record.h"
#include "stats.h"

typedef struct {
    advlog_totals sum;
    advlog_stat *named[2];   /* by stream: metrics, system; a statistic for each name id */
    int64_t previous_ns[2];  /* time of the previous batch record: of the process, of any worker */
    int32_t previous_epoch;
    bool has_own_place;      /* a record of the process itself says where the training stands */
    epoch_course epochs;
    int64_t clock_ns;        /* the wall clock less the one that nobody sets; 0 before it was looked at */
    bool spans_jump[2];      /* the next interval, of the process or of a worker, spans a jump of the wall clock */
    bool jumps_now;          /* so does every one of this pass */
    advlog_finding jump;     /* the latest, not yet reported; kind 0: none */
    int32_t samples_id;      /* ids of the metrics `samples` and `tokens`; -1 until they are used */
    int32_t tokens_id;
    bool core_reported[ADVLOG_CORE_METRICS]; /* as not finite; of the metrics stream */
    uint64_t name_reported[ADVLOG_MAX_NAMES / 64 + 1];
    uint32_t next_name; /* where the search for findings goes on */
} running_totals;

bool totals_init(running_totals *totals, uint64_t position);
void totals_free(running_totals *totals);
/* Takes in names that are new in the ring. */
void totals_names(running_totals *totals, advlog_ring *ring);
/* Before the records of a pass are counted, and after they were published: looks whether the wall clock has jumped. */
void totals_look_at_clock(running_totals *totals);
/* After them. True where there is a new finding. */
bool totals_end_pass(running_totals *totals);
/* Counts one record. True where there is a new finding. */
bool totals_add(running_totals *totals, const advlog_view *view);
/* Takes the next finding, each once; false where there is none. */
bool totals_next_finding(running_totals *totals, advlog_finding *out);
