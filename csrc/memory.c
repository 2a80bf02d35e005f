/* What the operating system is asked for on behalf of this process's memory. */
#include "edgellm.h"

#include <errno.h>
#include <sys/mman.h>

#if defined(__GLIBC__)
#include <malloc.h>
#endif

int el_lock(const void *data, int64_t bytes)
{
    return mlock(data, (size_t)bytes) ? errno : 0;
}

int el_lock_all(void)
{
    return mlockall(MCL_CURRENT | MCL_FUTURE) ? errno : 0;
}

void el_unlock_all(void)
{
    munlockall();
}

void el_trim(void)
{
#if defined(__GLIBC__)
    malloc_trim(0);
#endif
}
