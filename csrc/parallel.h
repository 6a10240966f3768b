// Many small jobs over several threads. The caller works too and waits only for jobs that were taken, so a worker that
// the system does not schedule holds nobody up (an OpenMP team would wait for it).
#pragma once
#include <cstdint>

namespace flowguide {

using Work = void (*)(const void* context, int64_t first, int64_t last);

// Calls work(context, first, last) for ranges that cover [0, jobs), on up to `threads` threads including this one.
void run_parallel(int64_t jobs, int threads, Work work, const void* context);

}  // namespace flowguide

namespace flowguide::FG_ISA {

// body(job) for each job; it must not throw.
template <class Body>
void parallel_for(int64_t jobs, int threads, const Body& body) {
  run_parallel(
      jobs, threads,
      [](const void* context, int64_t first, int64_t last) {
        const Body& call = *static_cast<const Body*>(context);
        for (int64_t job = first; job < last; ++job) call(job);
      },
      &body);
}

}  // namespace flowguide::FG_ISA
