/* A descriptor that children are not to have is closed in each of them, whoever forked it; any other stays open. */
#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "compiler.h"

static int opened(void) {
    char path[] = "/tmp/advlog-fd-XXXXXX";
    int fd = mkstemp(path);
    CHECK(fd >= 0);
    unlink(path);
    return fd;
}

static bool open_in_child(int fd) {
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) _exit(fcntl(fd, F_GETFD) >= 0);
    int status;
    CHECK_INT(pid, waitpid(pid, &status, 0));
    CHECK(WIFEXITED(status));
    return WEXITSTATUS(status);
}

int main(void) {
    int locked = opened(), other = opened();
    CHECK(open_in_child(locked));
    CHECK_INT(0, advlog_close_on_fork(locked));
    CHECK(!open_in_child(locked) && open_in_child(other));
    CHECK(fcntl(locked, F_GETFD) >= 0);
    advlog_keep_on_fork(locked);
    CHECK(open_in_child(locked));

    /* The number is another file's by now. */
    CHECK_INT(0, advlog_close_on_fork(locked));
    CHECK_INT(locked, dup2(other, locked));
    CHECK(open_in_child(locked));
    advlog_keep_on_fork(locked);
    CHECK_INT(-1, advlog_close_on_fork(-1));

    /* More than there is room for is said; room comes back. */
    int taken = 0;
    while (advlog_close_on_fork(other) == 0) taken++;
    CHECK(taken >= 1000);
    CHECK(!open_in_child(other));
    for (int i = 0; i < taken; i++) advlog_keep_on_fork(other);
    CHECK(open_in_child(other));
    CHECK_INT(0, advlog_close_on_fork(other));

    CHECK(advlog_file_system(other) != 0);
    CHECK_INT(-1, advlog_file_system(-1));
    return 0;
}
