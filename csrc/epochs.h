/* What the drain counts of each epoch: its batches, where perhaps only some of them are logged. */
#pragma once

#include "slot.h"

#include <stdbool.h>

/* The epochs that records came from lately: an evaluation may come between two records of one. The latest stands first. */
typedef struct {
    advlog_epoch *of; /* ADVLOG_EPOCHS of them */
    int32_t stride;   /* the latest distance between the batch numbers of two records; 0 before there were two */
    bool from_zero;   /* a batch has the number 0 */
    uint64_t weight;  /* for how many batches the latest record stands */
} epoch_course;

/* Counts a batch record: returns the epoch that it belongs to. */
advlog_epoch *epochs_add(epoch_course *course, const advlog_slot *header);
/* The wall clock has moved by `ns`: what has begun goes on as if it had begun by the new clock. */
void epochs_move(epoch_course *course, int64_t ns);
