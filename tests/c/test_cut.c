/* A torn end is cut off; a file that somebody else has cut shorter meanwhile, as logrotate's copytruncate does, is not
 * made longer with zeros. */
#include "build_drain.h"

#include "../../csrc/sink.c"

static void check_cut(off_t before, uint64_t length, off_t after) {
    char path[] = "/tmp/advlog-cut-XXXXXX";
    int fd = mkstemp(path);
    struct stat found;
    CHECK(fd >= 0);
    CHECK_INT(0, ftruncate(fd, before));
    CHECK(cut_to(fd, length));
    CHECK_INT(0, fstat(fd, &found));
    CHECK_INT(after, found.st_size);
    close(fd);
    unlink(path);
}

int main(void) {
    check_cut(100, 40, 40);
    check_cut(100, 100, 100);
    check_cut(100, 4000, 100);
    check_cut(0, 4000, 0);
    return 0;
}
