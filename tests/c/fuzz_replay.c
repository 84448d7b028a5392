/* Runs a fuzz target over kept inputs, where the fuzzer itself is not there: the arguments are folders. */
#include "fuzz.h"

#include <dirent.h>
#include <sys/wait.h>
#include <unistd.h>

static void replay(const char *path) {
    FILE *f = fopen(path, "rb");
    CHECK(f != NULL);
    static uint8_t content[1 << 16];
    size_t size = fread(content, 1, sizeof content, f);
    fclose(f);
    /* Exactly as large as the input, so that ASan sees a read past it. */
    uint8_t *exact = malloc(size ? size : 1);
    CHECK(exact != NULL);
    memcpy(exact, content, size);
    LLVMFuzzerTestOneInput(exact, size);
    free(exact);
}

/* In a process of its own, so that the one that fails can be named. */
static bool survives(const char *path) {
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        alarm(60);
        replay(path);
        exit(0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child);
    if (status != 0) fprintf(stderr, "%s: failed\n", path);
    return status == 0;
}

int main(int argc, char **argv) {
    int inputs = 0, failed = 0;
    for (int i = 1; i < argc; i++) {
        DIR *folder = opendir(argv[i]);
        CHECK(folder != NULL);
        for (struct dirent *entry; (entry = readdir(folder)) != NULL;) {
            if (entry->d_name[0] == '.') continue;
            char path[512];
            snprintf(path, sizeof path, "%s/%s", argv[i], entry->d_name);
            failed += !survives(path);
            inputs++;
        }
        closedir(folder);
    }
    CHECK(inputs > 0);
    return failed != 0;
}
