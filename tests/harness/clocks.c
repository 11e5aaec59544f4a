/* Works around two defects of libfaketime 0.9.10 if the monotonic clock stays right. First, the system call of
   Python's `time.sleep` fails. Second, librdkafka computes a deadline from the wrong clock, and waits for it by the
   right clock. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <threads.h>
#include <time.h>
#include <unistd.h>

#define SECOND 1000000000L

int clock_nanosleep(clockid_t clock, int flags, const struct timespec *wanted, struct timespec *left) {
    return syscall(SYS_clock_nanosleep, clock, flags, wanted, left) == 0 ? 0 : errno;
}

/* Waits as long as the deadline is ahead of the clock that the caller sees. */
int cnd_timedwait(cnd_t *condition, mtx_t *mutex, const struct timespec *until) {
    struct timespec shown, deadline;
    clock_gettime(CLOCK_REALTIME, &shown);
    syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &deadline);
    deadline.tv_sec += until->tv_sec - shown.tv_sec;
    deadline.tv_nsec += until->tv_nsec - shown.tv_nsec;
    if (deadline.tv_nsec < 0) {
        deadline.tv_nsec += SECOND;
        deadline.tv_sec--;
    } else if (deadline.tv_nsec >= SECOND) {
        deadline.tv_nsec -= SECOND;
        deadline.tv_sec++;
    }
    /* In glibc, cnd_t and pthread_cond_t have the same layout. */
    int problem = pthread_cond_clockwait(
        (pthread_cond_t *)condition, (pthread_mutex_t *)mutex, CLOCK_MONOTONIC, &deadline);
    return problem == 0 ? thrd_success : problem == ETIMEDOUT ? thrd_timedout : thrd_error;
}
